"""The taker's half of each job of `rtvla bench shm`: reads, checks, and says how late it was."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from rtvla.clock import SECOND, now_ns
from rtvla.shm.atomics import Counter
from rtvla.shm.wakeup import Waiter, waker
from rtvla.tools.bench_jobs import DONE, GO, PING, PONG, TAKEN, WINDOW, Answer, spread_us
from rtvla.tools.bench_peers import WORDS, BenchError, Taker, check, copy_newest


class TakerJobs:
    def __init__(self, meeting: Any) -> None:
        self._meeting = memoryview(meeting).cast("B").cast("Q")

    def give_up(self) -> None:
        self._meeting[DONE] = 1

    def paced(self, side: Taker, seconds: float) -> Answer:
        """Until the sender is done and nothing is left."""
        meeting, take, now, latencies = self._meeting, side.take, now_ns, []
        cpu_s, started_ns = time.process_time(), now_ns()
        meeting[GO] = 1
        while True:
            is_done = meeting[DONE]
            taken = take()
            if taken is not None:
                at_ns = now()
                words = side.words(taken)
                side.last = check(words, side.last)
                latencies.append(at_ns - int(words[1]))
                meeting[TAKEN] = side.last + 1
            elif is_done:
                break
        cpu = (time.process_time() - cpu_s) * SECOND / (now_ns() - started_ns)
        warm = latencies[len(latencies) // 10 :]
        return {"latency_us": spread_us(warm), "taken": len(latencies), "cpu_percent": 100 * cpu}

    back_to_back = paced  # each record that is taken is also told to the sender

    def throughput(self, side: Taker, seconds: float) -> Answer:
        meeting, count, taken, first_ns, last_ns = self._meeting, side.count, 0, 0, 1
        meeting[GO] = 1
        while True:
            is_done = meeting[DONE]
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
        self._meeting[GO] = 1
        while side.head < WINDOW:
            time.sleep(0.001)
        turn = 0
        while not self._meeting[DONE]:
            if hz:
                time.sleep(1 / hz)
            before_ns = now_ns()
            if turn:
                copy_newest(side.slots, side.head, plain)
                window = plain
            else:
                window = side.snapshot(WINDOW)
            times[turn].append(now_ns() - before_ns)
            if not is_whole(window) and not turn:
                raise BenchError("a snapshot is torn")
            turn ^= 1
        side.skip()
        return {"snapshot_us": spread_us(times[0]), "floor_us": spread_us(times[1])}

    def publish(self, side: Any, seconds: float) -> Answer:
        self._meeting[GO] = 1
        while not self._meeting[DONE]:
            time.sleep(0.01)
        side.skip()
        return {}

    def idle(self, side: Taker, seconds: float) -> Answer:
        self._meeting[GO] = 1
        cpu_s, started_ns = time.process_time(), now_ns()
        while not self._meeting[DONE]:
            if side.take() is not None:
                raise BenchError("a record came that nobody sent")
        return {"cpu_percent": 100 * (time.process_time() - cpu_s) * SECOND / (now_ns() - started_ns)}

    def futex(self, side: Taker, seconds: float) -> Answer:
        pong, wake = Counter(self._meeting, PONG * 8), waker(self._meeting, PONG * 8)
        waiter, k = Waiter(self._meeting, PING * 8), 0
        self._meeting[GO] = 1
        while not self._meeting[DONE]:
            waiter.wait(k, 0.1)
            if self._meeting[PING] != k:
                k = self._meeting[PING]
                pong.store(k)
                wake()
        return {}


def is_whole(window: np.ndarray) -> bool:
    words = window.view(np.uint64).reshape(WINDOW, -1)[:, :WORDS]
    indices = words[0, 0] + np.arange(WINDOW, dtype=np.uint64)
    return bool((words[:, 0] == indices).all() and (words[:, 2:] == indices[:, None]).all())
