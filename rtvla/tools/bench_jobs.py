"""The sender's half of each job of `rtvla bench shm`; the taker's half is in bench_taker.py.

A stamp is taken just before the record is handed over and just after it was received, so a latency holds both copies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtvla.clock import SECOND, now_ns
from rtvla.schema import SENSOR_HZ
from rtvla.shm.atomics import Counter
from rtvla.shm.wakeup import Waiter, waker
from rtvla.tools.bench_peers import CHECKED, BenchError, Sender

MEETING_WORDS = 128
GO, DONE, TAKEN, PING, PONG = 0, 16, 32, 48, 64  # in words, two cache lines apart
WINDOW = 65
_PATIENCE_NS = 5 * SECOND
_BATCH = 64
_SPUN_NS = 200_000  # of each period: else it is the core waking up that is measured, for every transport alike
Answer = dict[str, Any]


def spread_us(values_ns: Sequence[int]) -> dict[str, float]:
    if not values_ns:
        raise BenchError("nothing was measured")
    found = np.asarray(values_ns, np.float64) / 1000
    return {"p50": float(np.median(found)), "p99": float(np.percentile(found, 99)), "max": float(found.max())}


class SenderJobs:
    """`record` is the buffer that every sender was opened with: its words are the index, but word 1, the stamp."""

    def __init__(self, meeting: Any, record: np.ndarray) -> None:
        self._meeting, self._record = memoryview(meeting).cast("B").cast("Q"), record
        self._words = record.data

    def _leave_whole(self, side: Sender) -> None:
        """For who takes a snapshot next and looks at every word: at full speed only those are written that are checked
        there, or filling the record would be most of what is measured."""
        for _ in range(WINDOW):
            self._record.fill(side.next_index)
            side.send()
            side.next_index += 1

    def give_up(self) -> None:
        self._meeting[DONE] = 1

    def _await_taker(self) -> int:
        deadline = now_ns() + _PATIENCE_NS
        while not self._meeting[GO]:
            if now_ns() > deadline:
                raise BenchError("the taker did not get ready")
            time.sleep(0.001)
        return now_ns()

    def paced(self, side: Sender, seconds: float, hz: float = SENSOR_HZ) -> Answer:
        costs, period_ns, due_ns = [], round(SECOND / hz), self._await_taker()
        for _ in range(max(1, round(seconds * hz))):
            self._record.fill(side.next_index)
            due_ns = max(due_ns + period_ns, now_ns())
            time.sleep(max(0, due_ns - _SPUN_NS - now_ns()) / SECOND)
            while now_ns() < due_ns:
                pass
            self._words[1] = before_ns = now_ns()
            side.send()
            costs.append(now_ns() - before_ns)
            side.next_index += 1
        self._meeting[DONE] = 1
        return {"send_us": spread_us(costs)}

    def back_to_back(self, side: Sender, seconds: float) -> Answer:
        """The next record as soon as the last was taken."""
        until_ns = self._await_taker() + round(seconds * SECOND)
        meeting, words, send, now = self._meeting, self._words, side.send, now_ns
        (a, b, c), index, stamp_ns = CHECKED, side.next_index, 0
        while stamp_ns < until_ns:
            words[0] = words[a] = words[b] = words[c] = index
            words[1] = stamp_ns = now()
            send()
            index += 1
            while meeting[TAKEN] != index:
                time.sleep(0)  # lets go of the interpreter: a Queue sends in a thread
                if now() > stamp_ns + _PATIENCE_NS:
                    raise BenchError(f"record {index - 1} never came out")
        side.next_index = index
        meeting[DONE] = 1
        return {}

    def throughput(self, side: Sender, seconds: float) -> Answer:
        """As fast as the sender can."""
        started_ns = self._await_taker()
        until_ns = started_ns + round(seconds * SECOND)
        words, (a, b, c), send, index = self._words, CHECKED, side.send, side.next_index
        while now_ns() < until_ns:
            for _ in range(_BATCH):
                words[0] = words[a] = words[b] = words[c] = index
                send()
                index += 1
        took_ns, written, side.next_index = now_ns() - started_ns, index - side.next_index, index
        self._leave_whole(side)
        self._meeting[DONE] = 1
        return {"written_per_s": written * SECOND / took_ns}

    def snapshot(self, side: Sender, seconds: float, hz: float) -> Answer:
        return self.paced(side, seconds)

    def publish(self, side: Any, seconds: float) -> Answer:
        """Nobody reads: cost of a publication, and of numpy copying the same bytes into slots of its own."""
        until_ns = self._await_taker() + round(seconds * SECOND)
        source, slots = self._record.view(np.uint8), np.zeros_like(side.slots)
        times: tuple[list[int], list[int]] = ([], [])
        at = 0
        while (started_ns := now_ns()) < until_ns:
            for _ in range(_BATCH):
                side.send()
            between_ns = now_ns()
            for slot in slots[at : at + _BATCH]:
                np.copyto(slot, source)
            times[1].append(round((now_ns() - between_ns) / _BATCH))
            times[0].append(round((between_ns - started_ns) / _BATCH))
            side.next_index += _BATCH
            at = (at + _BATCH) % len(slots)
        self._leave_whole(side)
        self._meeting[DONE] = 1
        return {"publish_us": spread_us(times[0]), "floor_us": spread_us(times[1])}

    def idle(self, side: Sender, seconds: float) -> Answer:
        self._await_taker()
        time.sleep(seconds)
        self._meeting[DONE] = 1
        return {}

    def futex(self, side: Sender, seconds: float) -> Answer:
        """Round trips of a wake-up with nothing to carry: what any transport with a sleeping reader costs at least."""
        until_ns = self._await_taker() + round(seconds * SECOND)
        ping, wake = Counter(self._meeting, PING * 8), waker(self._meeting, PING * 8)
        waiter, times, k = Waiter(self._meeting, PONG * 8), [], 0
        while (started_ns := now_ns()) < until_ns:
            k += 1
            ping.store(k)
            wake()
            while self._meeting[PONG] != k:
                waiter.wait(k - 1, 1.0)
            times.append(now_ns() - started_ns)
        self._meeting[DONE] = 1
        ping.store(k + 1)
        wake()
        return {"round_trip_us": spread_us(times)}
