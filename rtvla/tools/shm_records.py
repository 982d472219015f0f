"""`rtvla shm show`: the newest records of a stream, decoded, out of shared memory or out of a black box."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rtvla.config import namespace
from rtvla.dump_file import Dump, Records
from rtvla.shm import decode, inspect
from rtvla.shm.segment import path_of
from rtvla.tools.exits import ABSENT, OK
from rtvla.tools.values import plain, record_lines, utc

JSON_VALUES = 64  # longer arrays are shortened, without --full
Shown = tuple[dict[str, Any], Records, int, str | None]  # origin, records, now, time field


def show(args: argparse.Namespace) -> int:
    shown = _from_file(args.file, args.stream, args.last) if args.file else _from_segment(args)
    if isinstance(shown, str):
        print(shown, file=sys.stderr)
        return ABSENT
    origin, records, now_ns, field = shown
    decoded = [decode.decoded(args.stream, record) for record in records]
    if args.json:
        most = sys.maxsize if args.full else JSON_VALUES
        values = [{name: plain(value, most) for name, value in fields.items()} for fields in decoded]
        print(json.dumps(origin | {"stream": args.stream, "now_ns": now_ns, "records": values}, indent=1))
        return OK if decoded else ABSENT
    print(", ".join(f"{key} {value}" for key, value in ({"stream": args.stream} | origin).items()))
    for fields in decoded:
        print()
        for line in record_lines(fields, field, now_ns):
            print(line)
    if not decoded:
        print("it holds no record yet")
    return OK if decoded else ABSENT


def _from_segment(args: argparse.Namespace) -> Shown | str:
    where = args.namespace or namespace()
    found = inspect.examine(path_of(where, args.stream))
    if found is None:
        there = ", ".join(one.stream for one in inspect.files(where)) or "nothing; rtvla shm ls shows every namespace"
        return f"no stream {args.stream} in namespace {where}; there is {there}"
    one = inspect.Mapped(found)
    records, now_ns = one.last(args.last), found.now_ns
    # not the count of a moment later, or the newest records would seem to be missing
    published = int(records["index"][-1]) + 1 if len(records) and "index" in (records.dtype.names or ()) else one.count
    origin = {"namespace": where, "writer": one.writer(), "pid": one.claim()["writer_pid"], "published": published}
    field = one.time_field
    one.close()
    return origin | ({"loaded_from": found.loaded["namespace"]} if found.loaded else {}), records, now_ns, field


def _from_file(file: Path, stream: str, last: int) -> Shown | str:
    with Dump(file) as box:
        if stream not in box.streams:
            return f"{file} has no stream {stream}; it has {', '.join(box.streams)}"
        about, records = box.streams[stream], box.records(stream)[-last:]
        origin = {"file": str(file), "namespace": box.manifest["namespace"], "published": about["count"]}
        origin |= {"writer": about["writer"], "dumped": utc(box.manifest["wall_s"])}
        return origin, records, box.read_ns(stream), box.time_field(stream)
