"""The ring against a model of four lines, by random programs: whatever the writer does between any two bytes of a
reader's copy, what the reader is given is what was published."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rtvla.shm.ring import Records, RingReader, RingWriter
from rtvla.shm.segment import Layout, Segment, ensure, path_of

pytestmark = pytest.mark.stress
DTYPE = np.dtype([("index", "<u8"), ("body", "<u8", (7,))])
NUMBERS = itertools.count()

# A step of the writer: (what, how many slots or which one, how many bytes of it).
STEP = st.tuples(st.sampled_from(["begin", "commit", "put", "crash"]), st.integers(0, 3), st.integers(1, 64))
# What the writer does at each successive point of a copy: before it, in the middle of it, behind it, before the next...
PROGRAM = st.lists(st.lists(STEP, max_size=5), max_size=9)


def body_of(index: int) -> int:
    return index * 0x9E3779B97F4A7C15 % 2**64


class NotPublished(AssertionError):
    """A reader was given something that was never published like that."""


class Memory:
    """Slots as a reader sees them, where copying takes time: the writer runs before, within and after each piece."""

    def __init__(self, slots: Any, pause: Callable[[], None], cut: Callable[[], int]) -> None:
        self._slots, self._pause, self._cut = slots, pause, cut

    def __getitem__(self, key: Any) -> bytearray:
        view = self._slots[key]
        copied, cut = bytearray(len(view)), self._cut() % len(view)
        self._pause()
        copied[:cut] = view[:cut]
        self._pause()
        copied[cut:] = view[cut:]
        self._pause()
        return copied


class Ring(RuleBasedStateMachine):
    too_generous = 0  # by how much the reader's lap check is off

    @initialize(
        capacity=st.sampled_from([2, 4, 8]),
        burst=st.integers(1, 4),
        start=st.sampled_from([0, 1, 2**32 - 3, 2**53 - 2, 2**63 - 3]),
    )
    def open(self, capacity: int, burst: int, start: int) -> None:
        self.layout = Layout(DTYPE, capacity, min(burst, capacity // 2))
        self.safe = capacity - self.layout.burst
        self.path = path_of(f"test-stateful-{os.getpid()}", f"n{next(NUMBERS)}")
        ensure(self.path, self.layout)
        segment = Segment(self.path, self.layout, writable=True)
        segment["head"] = self.head = start
        self.writer = RingWriter(segment)
        self.reader = RingReader(Segment(self.path, self.layout, writable=False))
        assert self.reader._safe == self.safe, "the lap check is made elsewhere now"
        self.reader._safe += self.too_generous
        self.reader._slots = Memory(self.reader._slots, self.pause, lambda: self.cut)  # type: ignore[assignment]
        self.reader._bytes = Memory(self.reader._bytes, self.pause, lambda: self.cut)  # type: ignore[assignment]
        self.program: deque[list[tuple[str, int, int]]] = deque()
        self.cut = self.cursor = self.pauses = 0
        if start:  # what lies before the start was never written
            for _ in range(capacity):
                self.do("put", 0, 0)
            self.cursor = self.head - self.safe

    def do(self, what: str, number: int, size: int) -> None:
        ahead = number % self.layout.burst
        if what == "begin":  # a slot that is not published yet, in part
            self.writer.slot(ahead)[:size] = b"\xee" * size
        elif what == "crash":
            self.writer.slot(ahead)[:size] = b"\xee" * size
            self.writer.close()  # the kernel frees its lock
            self.writer = RingWriter(Segment(self.path, self.layout, writable=True))
            assert self.writer.next_index == self.head
        elif what == "commit":
            for at in range(ahead + 1):
                self.writer.slot(at)[8:] = np.full(7, body_of(self.head + at), "<u8").tobytes()
            self.writer.commit(ahead + 1)
            self.head += ahead + 1
        else:
            record = np.zeros((), DTYPE)
            record["body"] = body_of(self.head)
            assert self.writer.put(record) == self.head
            self.head += 1

    def pause(self) -> None:
        self.pauses += 1
        for step in self.program.popleft() if self.program else ():
            self.do(*step)

    def check(self, records: Records) -> None:
        """The model: record i holds body_of(i), nothing else, and follows i - 1."""
        first, end = int(records["index"][0]), int(records["index"][0]) + len(records)
        if end > self.head or records["index"].tolist() != list(range(first, end)):
            raise NotPublished(records["index"])
        if records["body"].tolist() != [[body_of(index)] * 7 for index in range(first, end)]:
            raise NotPublished(records)

    @rule(step=STEP, times=st.integers(1, 6))
    def write(self, step: tuple[str, int, int], times: int) -> None:
        for _ in range(times):
            self.do(*step)

    @rule(count=st.integers(1, 8), program=PROGRAM, cut=st.integers(0, 700))
    def latest(self, count: int, program: list[list[tuple[str, int, int]]], cut: int) -> None:
        count = min(count, self.safe + self.too_generous)
        before, retries, pauses = self.head, self.reader.retries, self.pauses
        self.program, self.cut = deque(program), cut
        window = self.reader.latest(count)
        if window is None:
            assert before < count
            return
        assert self.pauses >= pauses + 3, "the copy went another way: the writer did not run inside it"
        self.check(window)
        assert len(window) == count and int(window["index"][-1]) + 1 >= before
        assert self.head > before or self.reader.retries == retries, "refused in vain"

    @rule(at_most=st.integers(1, 8), program=PROGRAM, cut=st.integers(0, 700))
    def since(self, at_most: int, program: list[list[tuple[str, int, int]]], cut: int) -> None:
        before, self.program, self.cut = self.head, deque(program), cut
        records, lost, cursor = self.reader.since(self.cursor, at_most)
        assert cursor == self.cursor + lost + len(records) and lost >= 0
        assert bool(len(records)) == (before > self.cursor) and len(records) <= at_most
        if len(records):
            self.check(records)
            assert int(records["index"][0]) == self.cursor + lost
        if lost:  # only what was really overwritten, and the eighth of a ring that is left as a margin
            assert self.cursor + lost <= self.head - self.safe + self.safe // 8
        self.cursor = cursor

    @invariant()
    def head_is_what_was_published(self) -> None:
        if hasattr(self, "reader"):
            assert self.reader.head == self.head

    def teardown(self) -> None:
        if hasattr(self, "path"):
            self.path.unlink()


class TooGenerous(Ring):
    too_generous = 1


# Without shrinking: it takes minutes here, and the steps of a program are printed one by one as it is.
PROGRAMS = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_whatever_the_writer_does_inside_a_copy_the_reader_is_given_what_was_published() -> None:
    run_state_machine_as_test(Ring, settings=PROGRAMS)


def test_a_lap_check_that_is_off_by_one_is_found() -> None:
    with pytest.raises(NotPublished):
        run_state_machine_as_test(TooGenerous, settings=settings(PROGRAMS, max_examples=400))
