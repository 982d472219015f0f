"""`rtvla explain [COMMAND_ID]`: one command from photons to motion: which pictures, samples and states it was made of,
how old each was, how long everything took, what the degrade table and the guard said, what went out.

Of the running pipeline, or of a black box (--file). Without an id: the newest command. Times are in ms before (-) or
after (+) the decision, on this host's clock; +- is what the sender's clock may be wrong by, where one is trusted.

Exit codes: 0; 2 for a file that is no black box; 3 if there is no such command, or no longer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rtvla.clock import MS, SECOND, realtime_minus_monotonic_ns
from rtvla.config import namespace
from rtvla.dump_file import Dump
from rtvla.errors import DumpError
from rtvla.schema import GUARD_CHECKS, INPUTS, VIEWS
from rtvla.shm import decode
from rtvla.shm.hub import Hub
from rtvla.shm.ring import Records, RingReader
from rtvla.tools.exits import ABSENT, OK, USAGE
from rtvla.tools.values import plain, utc

Fields = dict[str, Any]
_STAGES = ("sensor_encode_ns", "robot_encode_ns", "action_ns", "total_ns")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command_id", nargs="?", type=int, metavar="COMMAND_ID", help="(the newest)")
    parser.add_argument("--file", type=Path, metavar="BLACKBOX", help="a black box instead of the running pipeline")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    try:
        with Dump(args.file) if args.file else Live(Hub(namespace())) as source:
            return _run(args, InBox(source) if isinstance(source, Dump) else source)
    except DumpError as error:
        print(f"rtvla: {error}", file=sys.stderr)
        return USAGE


class Live:
    """Records of the running pipeline by their index, while the rings still hold them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._readers: dict[str, RingReader | None] = {}
        self.name = f"namespace {hub.namespace}"
        self.wall_minus_monotonic_ns = realtime_minus_monotonic_ns()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers.values():
            if reader is not None:
                reader.close()

    def find(self, stream: str, index: int | None) -> Fields | None:
        if stream not in self._readers:
            self._readers[stream] = self._hub.existing_reader(stream)
        reader = self._readers[stream]
        if reader is None or not reader.head:
            return None
        window, _lost, _next = reader.since(reader.head - 1 if index is None else index, 1)
        found = len(window) and (index is None or int(window[0]["index"]) == index)
        return decode.decoded(stream, window[0]) if found else None


class InBox:
    """The same of a black box."""

    def __init__(self, box: Dump) -> None:
        self._box = box
        self._records: dict[str, Records] = {}
        self.name = str(box.file)
        self.wall_minus_monotonic_ns = int(box.manifest["wall_s"] * SECOND) - int(box.manifest["monotonic_ns"])

    def find(self, stream: str, index: int | None) -> Fields | None:
        if stream not in self._box.streams:
            return None
        if stream not in self._records:
            self._records[stream] = self._box.records(stream)
        records = self._records[stream]
        found = records[-1:] if index is None else records[records["index"] == index]
        return decode.decoded(stream, found[0]) if len(found) else None


def _run(args: argparse.Namespace, source: Live | InBox) -> int:
    command = source.find("command", args.command_id)
    if command is None:
        which = "a command" if args.command_id is None else f"command {args.command_id} any more, or yet"
        print(f"rtvla: {source.name} does not hold {which}", file=sys.stderr)
        return ABSENT
    chain = explained(source, command)
    print(json.dumps(plain(chain, 64), indent=1) if args.json else "\n".join(_page(chain)))
    return OK


def explained(source: Live | InBox, command: Fields) -> Fields:
    """The command with all that it came from; None where a ring has moved on since."""
    has_chunk = command["chunk_age_ns"] >= 0
    chunk = source.find("action_chunk", command["chunk_index"]) if has_chunk else None
    chain: Fields = {"from": source.name, "wall_s": 0.0, "command": command, "has_chunk": has_chunk, "chunk": chunk}
    chain["wall_s"] = (command["decided_ns"] + source.wall_minus_monotonic_ns) / SECOND
    chain["violations"] = [name for bit, name in enumerate(GUARD_CHECKS) if command["violations"] >> bit & 1]
    chain["input_age_ms"] = {
        name: age / MS for name, age in zip(INPUTS, command["input_age_ns"].tolist(), strict=True) if age >= 0
    }
    if chunk is None:
        return chain
    chain["sensor"] = _without(source.find("sensor", chunk["sensor_index"]), "wire.aline")
    chain["robot"] = source.find("robot", chunk["robot_index"])
    chain["vl_feature"] = _without(source.find("vl_feature", chunk["vl_index"]), "feature")
    chain["views"] = {
        view: {
            "index": int(chunk["view_index"][at]),
            "captured_ns": int(chunk["view_captured_ns"][at]),
            "frame": _without(source.find(f"frame.{view}", int(chunk["view_index"][at])), "jpeg"),
        }
        for at, view in enumerate(VIEWS)
        if chunk["view_captured_ns"][at] > 0
    }
    return chain


def _without(fields: Fields | None, name: str) -> Fields | None:
    return None if fields is None else {key: value for key, value in fields.items() if key != name}


def _page(chain: Mapping[str, Any]) -> Iterator[str]:
    command, chunk = chain["command"], chain["chunk"]
    at = _At(command["decided_ns"])
    sent = f", seq {command['seq']} of session {command['session']}" if command["sent_ns"] else ", nothing was sent"
    reason = "" if command["reason"] == "none" else f", {command['reason']}"
    yield f"command {command['index']} of {chain['from']}, {utc(chain['wall_s'])}"
    yield f"  {command['kind']}{reason}{sent}"
    if chunk is not None:
        yield from _inputs(chain, chunk, at)
        yield from _chunk(chunk, at)
    elif chain["has_chunk"]:
        yield f"chunk      {command['chunk_index']}, no longer in its ring: what it was made from is not known"
    yield from _decision(chain, command, at)


class _At:
    """A time as ms before or after the decision."""

    def __init__(self, decided_ns: int) -> None:
        self._decided_ns = decided_ns

    def __call__(self, time_ns: int) -> str:
        return f"{(time_ns - self._decided_ns) / MS:+9.2f}" if time_ns else f"{'-':>9}"


def _inputs(chain: Mapping[str, Any], chunk: Fields, at: _At) -> Iterator[str]:
    yield f"{'':<19}{'captured':>9} {'arrived':>9}"
    for view, seen in chain["views"].items():
        yield _input(view, seen["index"], seen["captured_ns"], seen["frame"], at)
    yield _input("sensor", chunk["sensor_index"], chunk["sensor_captured_ns"], chain["sensor"], at, chunk)
    yield _input("robot", chunk["robot_index"], chunk["robot_captured_ns"], chain["robot"], at, chunk)
    feature = chain["vl_feature"]
    made = "no longer in its cell; "
    if feature is not None:
        made = f"published {at(feature['published_ns']).strip()}, encoded in {feature['encode_ns'] / MS:.1f} ms; "
    yield f"VL feature {chunk['vl_index']}: {made}used for {chunk['vl_reuse']} chunks before this one"


def _input(name: str, index: int, captured_ns: int, record: Fields | None, at: _At, chunk: Fields | None = None) -> str:
    line = f"{name:<7}{index:>11} {at(captured_ns)} "
    if record is None:
        line += f"{'-':>9}  no longer in its ring"
    else:
        clock = record["clock_uncertainty_ns"]
        line += f"{at(record['received_ns'])}  {'by arrival' if clock < 0 else f'+-{clock / MS:.2f} ms'}"
    if chunk is not None:
        missing = chunk[f"{name}_missing"]
        line += f", {missing} of {chunk[f'{name}_count'] + missing} missing in its window"
    if record is not None and "pose_mm_deg" in record:
        line += f", pose {_six(record['pose_mm_deg'])}"
    return line


def _chunk(chunk: Fields, at: _At) -> Iterator[str]:
    sensor, robot, action, total = (chunk[name] / MS for name in _STAGES)
    yield (
        f"chunk {chunk['index']}: observed {at(chunk['observed_ns']).strip()}, published "
        f"{at(chunk['published_ns']).strip()}; inference {total:.1f} ms (sensor {sensor:.1f}, robot {robot:.1f}, "
        f"action {action:.1f}), {chunk['horizon']} steps"
    )


def _decision(chain: Mapping[str, Any], command: Fields, at: _At) -> Iterator[str]:
    ages = ", ".join(f"{name} {age:.0f}" for name, age in chain["input_age_ms"].items())
    cause = "" if command["cause"] == "none" else f" because of {command['cause']}"
    yield f"ages ms at the decision: {ages}"
    yield f"degrade    {command['action']}{cause}, speed {command['speed']:.2f}"
    yield f"guard      {', '.join(chain['violations']) or 'nothing'}{', shortened' if command['clamped'] else ''}"
    yield f"force      {command['force']:.4g}, rising {command['force_rate']:.4g} a second"
    if command["latched"] != "none":
        yield f"latched    by {command['latched']} since {at(command['latched_ns']).strip()}; rtvla resume ends it"
    if command["step"] >= 0:
        span = f"{at(command['start_ns']).strip()} to {at(command['end_ns']).strip()}"
        yield f"motion     of {span}: from step {command['step']} of chunk {command['chunk_index']}"
        yield f"  requested {_six(command['requested_mm_deg'])}"
    if command["sent_ns"]:
        what = "start" if command["kind"] == "start" else _six(command["sent_mm_deg"])
        yield f"  sent      {what}, {at(command['sent_ns']).strip()}"
    oldest = min((seen["captured_ns"] for seen in chain.get("views", {}).values()), default=0)
    if oldest and command["kind"] == "dpose":
        yield f"photons to motion: {(command['sent_ns'] - oldest) / MS:.1f} ms from the oldest picture to the socket"


def _six(values: Any) -> str:
    x, y, z, a, b, c = (float(value) for value in values)
    return f"{x:+.4f} {y:+.4f} {z:+.4f} mm {a:+.4f} {b:+.4f} {c:+.4f} deg"
