"""The benchmarks check what they measure, refuse a transport that lies, leave nothing behind. No speed is asserted."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rtvla.errors import ConfigError, RtvlaError
from rtvla.shm.hub import Hub
from rtvla.tools import bench_machine, bench_shm, bench_udp
from rtvla.tools.bench_jobs import WINDOW
from rtvla.tools.bench_lock import LockPeer
from rtvla.tools.bench_pair import Pair
from rtvla.tools.bench_peers import CHECKED, WORDS, BenchError, Peer, RingPeer, RingTaker, check, copy_newest
from rtvla.tools.bench_taker import is_whole


def record(index: int) -> np.ndarray:
    return np.full(WORDS, index, np.uint64)


def last_line(module: ModuleType, capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert module.run(parser.parse_args(flags)) == 0
    lines = capsys.readouterr().out.splitlines()
    return json.loads(lines[-1]) | {"lines": len(lines)}


def left_behind() -> list[Path]:
    return Hub(f"bench-{os.getpid()}").segments()


def test_a_whole_newer_record_passes_and_gives_its_index() -> None:
    assert check(record(7), 6) == 7


@pytest.mark.parametrize("last", [7, 8])
def test_a_record_that_came_before_is_refused(last: int) -> None:
    with pytest.raises(BenchError):
        check(record(7), last)


@pytest.mark.parametrize("at", CHECKED)
def test_a_torn_record_is_refused(at: int) -> None:
    words = record(7)
    words[at] = 6
    with pytest.raises(BenchError):
        check(words, 6)


@pytest.mark.parametrize("head", [5, 8, 9, 12, 15])
def test_the_floor_copies_the_newest_slots_across_the_wrap(head: int) -> None:
    slots, into = np.zeros((8, 1), np.uint8), np.zeros((5, 1), np.uint8)
    for index in range(head):
        slots[index % 8] = index
    copy_newest(slots, head, into)
    assert into[:, 0].tolist() == list(range(head - 5, head))


def test_a_window_with_one_foreign_word_is_torn() -> None:
    window = np.repeat(np.arange(3, 3 + WINDOW, dtype=np.uint64)[:, None], WORDS, axis=1)
    window[:, 1] = 99  # the stamp is nobody's business
    assert is_whole(window)
    window[40, 500] += 1
    assert not is_whole(window)


def test_a_ring_that_holds_something_else_is_found_out(hub: Hub) -> None:
    peer = RingPeer("ring", hub.namespace)
    data = record(0)
    sender, taker = peer.sender(data.view(np.uint8).data), peer.taker()
    sender.send()
    assert taker.count() == 1
    sender.send()  # index 1, but its words say 0
    with pytest.raises(BenchError):
        taker.count()
    sender.close()
    taker.close()


class ForgetfulPeer(RingPeer):
    """Delivers the first record for ever."""

    def taker(self) -> RingTaker:
        taker = super().taker()
        taker.take = lambda: record(0)  # type: ignore[method-assign]
        return taker


@pytest.mark.parametrize("job", ["paced", "back_to_back"])
def test_a_lying_transport_ends_the_run_instead_of_winning_it(hub: Hub, job: str) -> None:
    context = multiprocessing.get_context("spawn")
    pair = Pair(context, bench_machine.two_cores(None), [ForgetfulPeer("liar", hub.namespace)], fenced=False)
    try:
        with pytest.raises(BenchError):
            pair.run(job, "liar", 0.1)
    finally:
        pair.close()


def test_a_pair_measures_each_job_of_a_ring_with_fences(hub: Hub) -> None:
    context = multiprocessing.get_context("spawn")
    locked = LockPeer(context)
    peers: list[Peer] = [RingPeer("ring", hub.namespace), locked]
    pair = Pair(context, bench_machine.two_cores(None), peers, fenced=True)
    try:
        for name in ("ring", "shm_lock"):
            paced = pair.run("paced", name, 0.2)
            assert paced["taken"] == 130 and paced["latency_us"]["p50"] > 0
            assert pair.run("back_to_back", name, 0.1)["taken"] > 0
            assert pair.run("throughput", name, 0.1)["taken"] > 0
            assert pair.run("snapshot", name, 0.3, hz=0)["floor_us"]["p50"] > 0
        assert pair.run("publish", "ring", 0.1)["publish_us"]["p50"] > 0
        assert pair.run("futex", "ring", 0.1)["round_trip_us"]["p50"] > 0
        assert pair.run("paced", "ring", 0.2)["taken"] == 130  # nothing of the other jobs is left in it
    finally:
        pair.close()
        locked.close()


def test_two_cores_must_be_two_that_we_may_use() -> None:
    first, last = bench_machine.two_cores(None)
    assert first != last
    for wanted in ("0", "0,0", "a,b", "0,99999"):
        with pytest.raises(ConfigError):
            bench_machine.two_cores(wanted)


def test_bench_shm_prints_tables_then_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = last_line(bench_shm, capsys, "--seconds", "3", "--repetitions", "1")
    assert report["lines"] > 30 and set(bench_shm.TARGETS) <= set(report["ratios"])
    assert report["ratios"]["idle_reader_cpu_percent"] >= 0
    ring = report["results"]["throughput"][bench_shm.SPIN]
    assert ring["read_per_s"] > 0 and ring["written_per_s"] > 0
    assert not left_behind()


def test_bench_udp_accounts_for_every_datagram(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ([], ["--headerless"]):
        report = last_line(bench_udp, capsys, "--json", "--seconds", "0.3", "--rates", "500", "1000", *form)
        assert report["lines"] == 1
        for row in report["rates"]:
            assert row["counters_agree"] and row["sent"] == row["records"] + row["lost"]
    assert not left_behind()


def test_bench_udp_knows_where_a_lost_datagram_was_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: drops after the last datagram that the kernel kept were reported to nobody."""
    small = "sensor_ingest.receive_buffer_bytes=65536"
    report = last_line(bench_udp, capsys, "--json", "--seconds", "0.3", "--rates", "200000", "--set", small)
    row = report["rates"][0]
    assert row["counters_agree"] and row["lost"] == row["kernel_dropped"]
    assert (report["highest_loss_free_per_s"] == 0) == (row["lost"] > 0)


def test_bench_udp_says_why_the_process_did_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RtvlaError, match="receive_buffer_bytes"):
        last_line(bench_udp, capsys, "--set", "sensor_ingest.receive_buffer_bytes=1")
