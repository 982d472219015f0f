"""`rtvla bench udp`: how many one-sample datagrams a second one sensor_ingest process takes into the ring without loss.

The process is the real one (`rtvla run sensor_ingest`, kernel time stamps and drop counts on) in a namespace of its
own; a sender on another core sends at rising rates over loopback. Lost is what was sent and did not become a record of
the ring; the process's own counters must tell the same story. A rate that loses is tried twice, because a stall of
the machine loses too. Prints a table; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rtvla.clock import SECOND, now_ns
from rtvla.errors import RtvlaError
from rtvla.schema import SENSOR_WIRE
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows
from rtvla.tools.bench_machine import Bystanders, describe, progress, two_cores
from rtvla.wire import sensor as wire

TARGET_PER_S = 50_000
_RATES = (1_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000, 100_000, 130_000, 160_000, 200_000)
_GIVE_UP_S = 20.0
_KERNEL_DROPPED = "lost.kernel.sensor"  # sensor_ingest's counter of what the kernel dropped before it
_QUEUE_S = 0.5  # by then a full receive buffer is empty
_REACHED = 0.95  # of the rate asked for; below it the sender is the limit
_NAMESPACE_VARIABLE = "RTVLA_NAMESPACE"
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=2.0, help="how long at each rate (%(default)g)")
    parser.add_argument("--rates", type=int, nargs="+", default=list(_RATES), metavar="HZ", help="datagrams a second")
    parser.add_argument("--headerless", action="store_true", help="the later form: a bare record without its count")
    parser.add_argument("--cores", metavar="A,B", help="of sensor_ingest and of the sender (first and last allowed)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="a setting of sensor_ingest")
    parser.add_argument("--json", action="store_true", help="only the JSON line")


def run(args: argparse.Namespace) -> int:
    cores, bystanders = two_cores(args.cores), Bystanders()
    hub, port = Hub(f"bench-{os.getpid()}"), free_port()
    ingest = start_ingest(hub, port, cores[0], args.set)
    try:
        wait_for(lambda: _state(hub) == "ready", ingest)
        rows = climb(hub, port, cores[1], args)
        note = process_rows(hub)["sensor_ingest"]["note"]
    finally:
        ingest.send_signal(signal.SIGTERM)
        ingest.wait(_GIVE_UP_S)
        hub.purge()
    report = {
        "benchmark": "udp",
        "machine": describe("numpy") | {"pinned": cores, "sensor_ingest": note},
        "run": bystanders.look(),
        "datagram_bytes": wire.RECORD_BYTES + (0 if args.headerless else wire.HEADER_BYTES),
        "rates": rows,
        "highest_loss_free_per_s": max((row["sent_per_s"] for row in rows if not row["lost"]), default=0.0),
        "target_per_s": TARGET_PER_S,
    }
    if not args.json:
        show(report)
    print(json.dumps(report))
    return 0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ingest(hub: Hub, port: int, core: int, more: list[str]) -> subprocess.Popen[bytes]:
    fixed = ['network.bind_ip="127.0.0.1"', f"network.sensor_port={port}", f"realtime.cores.sensor_ingest=[{core}]"]
    command = [sys.executable, "-m", "rtvla", "run", "sensor_ingest"]
    for setting in fixed + more:
        command += ["--set", setting]
    environment = os.environ | {_NAMESPACE_VARIABLE: hub.namespace}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], ingest: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _GIVE_UP_S
    while not condition():
        if ingest.poll() is not None or time.monotonic() > deadline:
            ingest.kill()
            said = ingest.communicate()[1].decode(errors="replace").strip()
            raise RtvlaError(f"sensor_ingest did not start: {said[-1000:]}")
        time.sleep(0.02)


def _state(hub: Hub) -> object:
    return process_rows(hub).get("sensor_ingest", {}).get("state")


def climb(hub: Hub, port: int, core: int, args: argparse.Namespace) -> list[Row]:
    """One row a rate, up to the first that loses twice or that the sender cannot reach."""
    rows = []
    for rate in args.rates:
        progress(f"{rate} datagrams a second")
        row = trial(hub, port, core, rate, args)
        if row["lost"]:
            row = min(row, trial(hub, port, core, rate, args), key=lambda tried: tried["lost"])
        rows.append(row)
        if row["lost"] or row["sent_per_s"] < _REACHED * rate:
            break
    progress("")
    return rows


def trial(hub: Hub, port: int, core: int, rate: int, args: argparse.Namespace) -> Row:
    reader = hub.reader("sensor")
    before, head_before = process_rows(hub)["sensor_ingest"], reader.head
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    sender = context.Process(target=send, args=(theirs, port, core, rate, args.seconds, args.headerless), daemon=True)
    sender.start()
    sent, took_s, last_s = ours.recv()
    sender.join()
    head = _settled(lambda: reader.head)
    after = process_rows(hub)["sensor_ingest"]
    counted = {name: value - before["counters"].get(name, 0) for name, value in after["counters"].items()}
    records = head - head_before - 1  # without the one that fetched the drop count
    newest = reader.newest()
    is_last = newest is not None and float(newest["wire"]["sampled_s"]) == last_s
    reader.close()
    dropped = counted.get(_KERNEL_DROPPED, 0)
    return {
        "asked_per_s": rate,
        "sent_per_s": sent / took_s,
        "sent": sent,
        "records": records,
        "lost": sent - records,
        "kernel_dropped": dropped,
        "refused": sum(value for name, value in counted.items() if name.startswith("dropped.")),
        "counters_agree": is_last and counted["samples"] == records + 1 and dropped == sent - records,
        "cpu_percent": 100 * (after["cpu_seconds"] - before["cpu_seconds"]) / took_s,
    }


def _settled(value: Callable[[], int]) -> int:
    """What it comes to once the queue is empty."""
    seen = -1
    while seen != (seen := value()):
        time.sleep(0.3)
    return seen


def send(answers: Connection, port: int, core: int, rate: int, seconds: float, headerless: bool) -> None:
    """A process: datagrams on an even schedule from a connected socket; a late one leaves at once, none is left out."""
    os.sched_setaffinity(0, {core})
    record = np.zeros(1, SENSOR_WIRE)
    record["aline"] = np.random.default_rng(0).normal(size=record["aline"].shape)
    datagram = bytearray(wire.encode_single(record[0]) if headerless else wire.encode_batch(record))
    stamp_at, pack = len(datagram) - wire.RECORD_BYTES, struct.Struct("<d").pack_into
    total, period_ns, origin_s, sampled_s = max(1, round(rate * seconds)), SECOND / rate, time.time(), 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        put = sock.send
        time.sleep(0.2)
        started_ns = now_ns()
        for k in range(total):
            sampled_s = origin_s + k / rate
            pack(datagram, stamp_at, sampled_s)
            due_ns = started_ns + k * period_ns
            while (early_ns := due_ns - now_ns()) > 0:
                if early_ns > 200_000:
                    time.sleep((early_ns - 100_000) / SECOND)
            put(datagram)
        took_s = (now_ns() - started_ns) / SECOND
        time.sleep(_QUEUE_S)
        sampled_s += 1 / rate
        pack(datagram, stamp_at, sampled_s)
        put(datagram)  # the kernel reports a drop with the next datagram that it keeps
    answers.send((total, took_s, sampled_s))


def show(report: Row) -> None:
    title = f"Datagrams of {report['datagram_bytes']} bytes, one sample each, over loopback"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in (
        "asked/s",
        "sent/s",
        "sent",
        "records",
        "lost",
        "kernel dropped",
        "counters agree",
        "CPU",
    ):
        table.add_column(column, justify="right")
    numbers = ("asked_per_s", "sent_per_s", "sent", "records", "lost", "kernel_dropped")
    for row in report["rates"]:
        table.add_row(
            *(f"{row[name]:,.0f}" for name in numbers),
            "yes" if row["counters_agree"] else "NO",
            f"{row['cpu_percent']:.0f} %",
        )
    console, found = Console(width=120), report["highest_loss_free_per_s"]
    console.print(f"{report['machine']['cpu']}, {report['machine']['cores']} cores, {report['machine']['system']}")
    console.print(f"other programs used {report['run']['foreign_cpu_percent']:.0f} % of a core meanwhile")
    console.print(table)
    verdict = "met" if found >= report["target_per_s"] else "MISSED"
    console.print(f"highest loss-free rate {found:,.0f}/s; wanted {report['target_per_s']:,}/s: {verdict}")
    last = report["rates"][-1]
    if not last["lost"] and last["sent_per_s"] < _REACHED * last["asked_per_s"]:
        console.print("the sender could not send faster: the receiver's limit was not reached")
