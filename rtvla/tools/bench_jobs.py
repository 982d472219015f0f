"""What the two measuring processes of `rtvla bench shm` do: each job has a half for the sender and one for the taker.

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
from rtvla.tools.bench_peers import WORDS, BenchError, Sender, Taker, check, copy_newest

MEETING_WORDS = 128
_GO, _DONE, _TAKEN, _PING, _PONG = 0, 16, 32, 48, 64  # in words, two cache lines apart
WINDOW = 65
_PATIENCE_NS = 5 * SECOND
_BATCH = 64
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

    def give_up(self) -> None:
        self._meeting[_DONE] = 1

    def _await_taker(self) -> int:
        deadline = now_ns() + _PATIENCE_NS
        while not self._meeting[_GO]:
            if now_ns() > deadline:
                raise BenchError("the taker did not get ready")
            time.sleep(0.001)
        return now_ns()

    def paced(self, side: Sender, seconds: float, hz: float = SENSOR_HZ) -> Answer:
        costs, period_ns, due_ns = [], round(SECOND / hz), self._await_taker()
        for _ in range(max(1, round(seconds * hz))):
            self._record.fill(side.next_index)
            due_ns = max(due_ns + period_ns, now_ns())
            time.sleep((due_ns - now_ns()) / SECOND if due_ns > now_ns() else 0)
            self._words[1] = before_ns = now_ns()
            side.send()
            costs.append(now_ns() - before_ns)
            side.next_index += 1
        self._meeting[_DONE] = 1
        return {"send_us": spread_us(costs)}

    def back_to_back(self, side: Sender, seconds: float) -> Answer:
        """The next record as soon as the last was taken."""
        until_ns = self._await_taker() + round(seconds * SECOND)
        meeting, words, send, now = self._meeting, self._words, side.send, now_ns
        index, stamp_ns = side.next_index, 0
        while stamp_ns < until_ns:
            self._record.fill(index)
            words[1] = stamp_ns = now()
            send()
            index += 1
            while meeting[_TAKEN] != index:
                time.sleep(0)  # lets go of the interpreter: a Queue sends in a thread
                if now() > stamp_ns + _PATIENCE_NS:
                    raise BenchError(f"record {index - 1} never came out")
        side.next_index = index
        meeting[_DONE] = 1
        return {}

    def throughput(self, side: Sender, seconds: float) -> Answer:
        """As fast as the sender can."""
        started_ns = self._await_taker()
        until_ns = started_ns + round(seconds * SECOND)
        fill, send, index = self._record.fill, side.send, side.next_index
        while now_ns() < until_ns:
            for _ in range(_BATCH):
                fill(index)
                send()
                index += 1
        written, side.next_index = index - side.next_index, index
        self._meeting[_DONE] = 1
        return {"written_per_s": written * SECOND / (now_ns() - started_ns)}

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
        for _ in range(WINDOW):  # leave whole records behind for who takes a snapshot next
            self._record.fill(side.next_index)
            side.send()
            side.next_index += 1
        self._meeting[_DONE] = 1
        return {"publish_us": spread_us(times[0]), "floor_us": spread_us(times[1])}

    def idle(self, side: Sender, seconds: float) -> Answer:
        self._await_taker()
        time.sleep(seconds)
        self._meeting[_DONE] = 1
        return {}

    def futex(self, side: Sender, seconds: float) -> Answer:
        """Round trips of a wake-up with nothing to carry: what any transport with a sleeping reader costs at least."""
        until_ns = self._await_taker() + round(seconds * SECOND)
        ping, wake = Counter(self._meeting, _PING * 8), waker(self._meeting, _PING * 8)
        waiter, times, k = Waiter(self._meeting, _PONG * 8), [], 0
        while (started_ns := now_ns()) < until_ns:
            k += 1
            ping.store(k)
            wake()
            while self._meeting[_PONG] != k:
                waiter.wait(k - 1, 1.0)
            times.append(now_ns() - started_ns)
        self._meeting[_DONE] = 1
        ping.store(k + 1)
        wake()
        return {"round_trip_us": spread_us(times)}


class TakerJobs:
    def __init__(self, meeting: Any) -> None:
        self._meeting = memoryview(meeting).cast("B").cast("Q")

    def give_up(self) -> None:
        self._meeting[_DONE] = 1

    def paced(self, side: Taker, seconds: float) -> Answer:
        """Until the sender is done and nothing is left."""
        meeting, take, now, latencies = self._meeting, side.take, now_ns, []
        cpu_s, started_ns = time.process_time(), now_ns()
        meeting[_GO] = 1
        while True:
            is_done = meeting[_DONE]
            taken = take()
            if taken is not None:
                at_ns = now()
                words = side.words(taken)
                side.last = check(words, side.last)
                latencies.append(at_ns - int(words[1]))
                meeting[_TAKEN] = side.last + 1
            elif is_done:
                break
        cpu = (time.process_time() - cpu_s) * SECOND / (now_ns() - started_ns)
        warm = latencies[len(latencies) // 10 :]
        return {"latency_us": spread_us(warm), "taken": len(latencies), "cpu_percent": 100 * cpu}

    back_to_back = paced  # each record that is taken is also told to the sender

    def throughput(self, side: Taker, seconds: float) -> Answer:
        meeting, count, taken, first_ns, last_ns = self._meeting, side.count, 0, 0, 1
        meeting[_GO] = 1
        while True:
            is_done = meeting[_DONE]
            found = count()
            if found:
                taken, last_ns = taken + found, now_ns()
                first_ns = first_ns or last_ns
            elif is_done:
                break
        return {"read_per_s": taken * SECOND / max(last_ns - first_ns, 1), "taken": taken}

    def snapshot(self, side: Any, seconds: float, hz: float) -> Answer:
        """The newest WINDOW records, by turns with numpy copying the same slots unasked; at `hz`, or with 0 at once."""
        plain = np.zeros((WINDOW, side.slots.shape[1]), np.uint8)
        times: tuple[list[int], list[int]] = ([], [])
        self._meeting[_GO] = 1
        while side.head < WINDOW:
            time.sleep(0.001)
        turn = 0
        while not self._meeting[_DONE]:
            if hz:
                time.sleep(1 / hz)
            before_ns = now_ns()
            if turn:
                copy_newest(side.slots, side.head, plain)
                window = plain
            else:
                window = side.snapshot(WINDOW)
            times[turn].append(now_ns() - before_ns)
            if not _is_whole(window) and not turn:
                raise BenchError("a snapshot is torn")
            turn ^= 1
        side.skip()
        return {"snapshot_us": spread_us(times[0]), "floor_us": spread_us(times[1])}

    def publish(self, side: Any, seconds: float) -> Answer:
        self._meeting[_GO] = 1
        while not self._meeting[_DONE]:
            time.sleep(0.01)
        side.skip()
        return {}

    def idle(self, side: Taker, seconds: float) -> Answer:
        self._meeting[_GO] = 1
        cpu_s, started_ns = time.process_time(), now_ns()
        while not self._meeting[_DONE]:
            if side.take() is not None:
                raise BenchError("a record came that nobody sent")
        return {"cpu_percent": 100 * (time.process_time() - cpu_s) * SECOND / (now_ns() - started_ns)}

    def futex(self, side: Taker, seconds: float) -> Answer:
        pong, wake = Counter(self._meeting, _PONG * 8), waker(self._meeting, _PONG * 8)
        waiter, k = Waiter(self._meeting, _PING * 8), 0
        self._meeting[_GO] = 1
        while not self._meeting[_DONE]:
            waiter.wait(k, 0.1)
            if self._meeting[_PING] != k:
                k = self._meeting[_PING]
                pong.store(k)
                wake()
        return {}


def _is_whole(window: np.ndarray) -> bool:
    words = window.view(np.uint64).reshape(WINDOW, -1)[:, :WORDS]
    indices = words[0, 0] + np.arange(WINDOW, dtype=np.uint64)
    return bool((words[:, 0] == indices).all() and (words[:, 2:] == indices[:, None]).all())
