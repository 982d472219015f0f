"""`rtvla bench shm`: the ring beside other transports and beside the floor, in real processes on two cores.

All contestants take turns within each repetition, so a neighbour's load meets everybody; what is shown is the median
over the repetitions of each one's median, 99th percentile and so on. A ratio is the median of the repetitions' ratios:
each compares what ran side by side. Percentiles above the 99th show the neighbours
and the hypervisor, not the transport. Every record that is read is checked by its words. Prints tables; the last line
is one JSON document, whose `ratios` are held against TARGETS.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable
from statistics import median
from typing import Any

from rtvla.tools.bench_libraries import library_peers
from rtvla.tools.bench_lock import LockPeer
from rtvla.tools.bench_machine import Bystanders, describe, progress, two_cores
from rtvla.tools.bench_pair import Answer, Pair
from rtvla.tools.bench_peers import RECORD_BYTES, Peer, RingPeer
from rtvla.tools.bench_tables import show

SPIN, FUTEX, FENCED = "ring_spin", "ring_futex", "ring_fenced_spin"
WAITING = (FUTEX, "mp_queue", "zmq_ipc")
SNAPSHOTS = (SPIN, FENCED, "shm_lock")
# ratio -> the bound that we want it to keep
TARGETS = {
    "latency_p50_vs_iceoryx2": ("<=", 0.5),
    "throughput_vs_iceoryx2": (">=", 3.0),
    "snapshot_vs_memcpy": ("<=", 2.0),
    "publish_vs_memcpy": ("<=", 3.0),
    "fenced_vs_plain": ("<=", 3.0),
    "idle_reader_cpu_percent": ("<", 1.0),
}
_DEFAULT_S = 99.0  # of measuring; starting and ending turns adds about 10 s
_REPETITIONS = 5
# job -> seconds of one turn at the default length
_TURN_S = {
    "paced": 1.2,
    "back_to_back": 0.2,
    "throughput": 0.25,
    "hot": 0.25,
    "at_10_hz": 1.8,
    "publish": 0.3,
    "idle": 0.9,
    "futex": 0.3,
}
Results = dict[str, dict[str, Answer]]  # job -> contestant -> what it saw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=_DEFAULT_S, help="about how long in all (%(default)g)")
    parser.add_argument("--repetitions", type=int, default=_REPETITIONS, help="turns of each contestant (%(default)s)")
    parser.add_argument("--cores", metavar="A,B", help="where sender and reader are pinned (first and last allowed)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")


def run(args: argparse.Namespace) -> int:
    cores = two_cores(args.cores)
    context = multiprocessing.get_context("spawn")
    namespace, bystanders = f"bench-{os.getpid()}", Bystanders()
    libraries, missing = library_peers(context, namespace)
    peers: list[Peer] = [RingPeer(SPIN, namespace), RingPeer(FUTEX, namespace, waits=True), LockPeer(context)]
    fenced = RingPeer(FENCED, namespace)
    pairs: dict[str, Pair] = {}
    try:
        plain_pair = Pair(context, cores, peers + libraries, fenced=False)
        pairs = {peer.name: plain_pair for peer in (*peers, *libraries)}
        pairs[FENCED] = Pair(context, cores, [fenced], fenced=True)
        rounds = measure(pairs, args.seconds / _DEFAULT_S, args.repetitions)
    finally:
        for pair in set(pairs.values()):
            pair.close()
        for peer in (*peers, *libraries, fenced):
            peer.close()
    report = {
        "benchmark": "shm",
        "machine": describe("numpy", "iceoryx2", "pyzmq") | {"pinned": cores},
        "run": bystanders.look(),
        "record_bytes": RECORD_BYTES,
        "left_out": missing,
        "results": medians(rounds),
        "ratios": medians([ratios(results) for results in rounds]),
    }
    if not args.json:
        show(report, TARGETS)
    print(json.dumps(report))
    return 0


def measure(pairs: dict[str, Pair], scale: float, repetitions: int) -> list[Results]:
    """Of each repetition: job -> contestant -> answer."""
    rounds: list[Results] = []

    def turn(title: str, job: str, names: Iterable[str], **numbers: float) -> None:
        for name in names:
            if name in pairs:
                progress(f"repetition {len(rounds)} of {repetitions}: {title}, {name}")
                seconds = _TURN_S[title] * scale * _REPETITIONS / repetitions
                rounds[-1].setdefault(title, {})[name] = pairs[name].run(job, name, seconds, **numbers)

    for repetition in range(repetitions):
        rounds.append({})
        order = list(pairs)[:: 1 if repetition % 2 else -1]
        turn("paced", "paced", order)
        turn("back_to_back", "back_to_back", order)
        turn("throughput", "throughput", order)
        turn("hot", "snapshot", SNAPSHOTS, hz=0)
        turn("at_10_hz", "snapshot", SNAPSHOTS, hz=10)
        turn("publish", "publish", (SPIN, FENCED))
        turn("idle", "idle", WAITING)
        turn("futex", "futex", (FUTEX,))
    progress("")
    return rounds


def medians(found: list[Any]) -> Any:
    """Of each number by itself, also inside dictionaries. None stays: a peer is missing."""
    if isinstance(found[0], dict):
        return {key: medians([one[key] for one in found]) for key in found[0]}
    return None if found[0] is None else median(found)


def ratios(results: Results) -> dict[str, float | None]:
    """What the targets are about, and the same once more by the other reasonable measure. None: a peer is missing."""

    def over(title: str, name: str, other: str, *keys: str) -> float | None:
        both = [results[title].get(who) for who in (name, other)]
        if None in both:
            return None
        values = [_at(found, keys) for found in both]
        return values[0] / values[1]

    def floor(title: str, value: str) -> float:
        found = results[title][SPIN]
        return float(found[value]["p50"] / found["floor_us"]["p50"])

    latency, reads = ("latency_us", "p50"), ("read_per_s",)
    fenced = {
        "back_to_back": over("back_to_back", FENCED, SPIN, *latency),
        "snapshot": over("hot", FENCED, SPIN, "snapshot_us", "p50"),
        "publish": over("publish", FENCED, SPIN, "publish_us", "p50"),
    }
    return {
        "latency_p50_vs_iceoryx2": over("paced", SPIN, "iceoryx2", *latency),
        "latency_p50_back_to_back_vs_iceoryx2": over("back_to_back", SPIN, "iceoryx2", *latency),
        "latency_p50_vs_iceoryx2_in_place": over("paced", SPIN, "iceoryx2_in_place", *latency),
        "throughput_vs_iceoryx2": over("throughput", SPIN, "iceoryx2", *reads),
        "throughput_vs_iceoryx2_in_place": over("throughput", SPIN, "iceoryx2_in_place", *reads),
        "snapshot_vs_memcpy": floor("hot", "snapshot_us"),
        "snapshot_at_10_hz_vs_memcpy": floor("at_10_hz", "snapshot_us"),
        "publish_vs_memcpy": floor("publish", "publish_us"),
        "fenced_vs_plain": max(value for value in fenced.values() if value is not None),
        **{f"fenced_{title}_vs_plain": value for title, value in fenced.items()},
        "idle_reader_cpu_percent": float(results["idle"][FUTEX]["cpu_percent"]),
    }


def _at(found: Any, keys: Iterable[str]) -> float:
    for key in keys:
        found = found[key]
    return float(found)
