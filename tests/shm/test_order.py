"""The order of stores, loads and fences in the real code, as the protocol in rtvla/shm/README.md has it.

The fenced path with a libatomic that tells us of each call before it is made: on x86-64 a fence too few or a store too
early would do no harm that a test could see, so here the calls themselves are looked at.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rtvla.shm import atomics, wakeup
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader, RingWriter
from rtvla.shm.segment import OFFSETS, Layout, Segment, ensure, path_of, process_start_ticks

DTYPE = np.dtype([("index", "<u8"), ("value", "<i8")])
LAYOUT = Layout(DTYPE, 4, 2, wakes=True)
ACQUIRE, RELEASE, SEQ_CST = 2, 3, 5
HEAD, EPOCH = OFFSETS["head"], OFFSETS["epoch"]


class Function:
    def __init__(self, name: str, real: Any, tell: Callable[..., None]) -> None:
        self.name, self.real, self.tell = name, real, tell
        self.argtypes: list[Any] = []
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        self.tell(self.name, *(getattr(argument, "value", argument) for argument in arguments))
        self.real.argtypes, self.real.restype = self.argtypes, self.restype
        return self.real(*arguments)


class Machine:
    """What the ring asks of the CPU and of the kernel: (what, ...) of each call in `calls`. `before` is asked first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.before: Callable[[tuple[Any, ...]], None] = lambda _call: None
        library = ctypes.PyDLL("libatomic.so.1")
        kinds = {"atomic_thread_fence": self._fence, "__atomic_load_8": self._load, "__atomic_store_8": self._store}
        functions = {name: Function(name, getattr(library, name), tell) for name, tell in kinds.items()}
        monkeypatch.setattr(atomics, "IS_FENCED", True)
        monkeypatch.setattr(atomics, "_libatomic", lambda: SimpleNamespace(**functions))
        libc = wakeup._libc
        monkeypatch.setattr(wakeup, "_libc", SimpleNamespace(syscall=self._syscall))
        self._real_syscall = libc.syscall

    def _tell(self, *call: Any) -> None:
        self.before(call)
        self.calls.append(call)

    def _fence(self, _name: str, order: int) -> None:
        self._tell("fence", order)

    def _load(self, _name: str, address: int, order: int) -> None:
        self._tell("load", address % 4096, order)  # a mapping begins on a page, and the words lie in its first

    def _store(self, _name: str, address: int, value: int, order: int) -> None:
        self._tell("store", address % 4096, order, value)

    def _syscall(self, *arguments: Any) -> int:
        self._tell("futex", arguments[1].value % 4096, arguments[2].value)
        return int(self._real_syscall(*arguments))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    try:
        return Machine(monkeypatch)
    except OSError:
        pytest.skip("libatomic.so.1 is not installed: apt-get install libatomic1")


@pytest.fixture
def segments(hub: Hub, machine: Machine) -> Callable[[bool], Segment]:
    """A function that maps the same segment again, writable or not. `machine` comes first: the path is chosen there."""
    path = path_of(hub.namespace, "order")
    ensure(path, LAYOUT)
    return lambda writable: Segment(path, LAYOUT, writable=writable)


def record(value: int) -> np.ndarray:
    return np.array((0, value), DTYPE)


def by_put(writer: RingWriter) -> None:
    writer.put(record(77))


def by_slot(writer: RingWriter) -> None:
    writer.slot()[:] = record(77).tobytes()
    writer.commit()


def by_begin(writer: RingWriter) -> None:
    writer.records[writer.begin()] = record(77)
    writer.commit()


@pytest.mark.parametrize("publish", [by_put, by_slot, by_begin])
def test_a_publish_is_fence_slot_release_and_wake(
    machine: Machine, segments: Callable[[bool], Segment], publish: Callable[[RingWriter], None]
) -> None:
    writer = RingWriter(segments(True))
    for value in range(5):
        writer.put(record(value))
    machine.calls.clear()
    slot, seen = writer.slots[5 % 4], []
    machine.before = lambda _call: seen.append((*np.frombuffer(slot, DTYPE)[0].tolist(), writer.next_index))
    publish(writer)
    assert machine.calls == [("fence", SEQ_CST), ("store", HEAD, RELEASE, 6), ("futex", HEAD, 1)]
    assert seen[0] == (1, 1, 5), "a store into the slot came before F_w"
    assert seen[1] == (5, 77, 5), "head was stored before the record was whole, or next_index before head"
    assert seen[2] == (5, 77, 6)
    assert writer.next_index == 6


def test_a_batch_has_one_fence_before_all_its_slots_and_one_release(
    machine: Machine, segments: Callable[[bool], Segment]
) -> None:
    writer = RingWriter(segments(True))
    machine.calls.clear()
    for ahead in range(2):
        writer.slot(ahead)[:] = record(ahead).tobytes()
    writer.commit(2)
    assert machine.calls == [("fence", SEQ_CST), ("store", HEAD, RELEASE, 2), ("futex", HEAD, 1)]


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.latest(1)["value"],
        lambda reader: reader.latest(2)["value"],  # slots 3 and 0: across the wrap
        lambda reader: reader.since(4, 8)[0]["value"],
    ],
)
def test_a_read_is_acquire_copy_fence_and_a_second_look(
    machine: Machine, segments: Callable[[bool], Segment], read: Callable[[RingReader], np.ndarray]
) -> None:
    writer, reader = RingWriter(segments(True)), RingReader(segments(False))
    for value in range(5):
        writer.put(record(value))
    machine.calls.clear()

    def number_the_calls(_call: object) -> None:
        writer.records["value"] = len(machine.calls) + 1  # what the copy holds says after which call it was made

    machine.before = number_the_calls
    copied = set(read(reader).tolist())
    assert len(copied) == 1, "the copy was made in parts"
    first, after = machine.calls[0], machine.calls[copied.pop() :]
    assert first == ("load", HEAD, ACQUIRE)
    assert ("load", HEAD, ACQUIRE) not in machine.calls[1 : -len(after)], "the second look came before the copy"
    assert after == [("fence", SEQ_CST), ("load", HEAD, ACQUIRE)], "after the copy: F_r, then head again"


def test_a_claim_stores_the_epoch_last_and_with_release(machine: Machine, segments: Callable[[bool], Segment]) -> None:
    seen: list[dict[str, int]] = []
    segment = segments(True)
    segment["head"] = 9
    names = ("writer_pid", "writer_start_ticks", "epoch_first_index", "epoch")
    machine.before = lambda _call: seen.append({name: segment[name] for name in names})
    RingWriter(segment)
    stores = [at for at, call in enumerate(machine.calls) if call[0] == "store"]
    assert [machine.calls[at] for at in stores] == [("store", EPOCH, RELEASE, 1)]
    claimed = {"writer_pid": os.getpid(), "writer_start_ticks": process_start_ticks(os.getpid())}
    assert seen[stores[0]] == claimed | {"epoch_first_index": 9, "epoch": 0}
    assert machine.calls[-1] == ("futex", HEAD, 1), "the predecessor may have died before its wake-up"


def test_who_is_the_writer_is_read_after_the_epoch(machine: Machine, segments: Callable[[bool], Segment]) -> None:
    segment, reader = segments(True), RingReader(segments(False))
    segment["epoch"], segment["writer_pid"], segment["writer_start_ticks"] = 1, os.getppid(), 1
    machine.calls.clear()

    def claim(_call: object) -> None:  # its stores become visible just before the epoch is loaded
        segment["writer_pid"], segment["writer_start_ticks"] = os.getpid(), process_start_ticks(os.getpid())

    machine.before = claim
    assert reader.writer_alive()
    assert machine.calls == [("load", EPOCH, ACQUIRE)]
    reader.close()


def test_a_sleeper_has_looked_before_and_looks_again(machine: Machine, segments: Callable[[bool], Segment]) -> None:
    reader = RingReader(segments(False))
    machine.calls.clear()
    assert not reader.wait(0, 0.0)
    looks = [call for call in machine.calls if call[0] == "load"]
    sleeps = [call for call in machine.calls if call[0] == "futex"]
    assert machine.calls[0] == machine.calls[-1] == ("load", HEAD, ACQUIRE)
    assert sleeps == [("futex", HEAD, 0)] and len(looks) >= 2


def test_nothing_is_paid_for_where_the_cpu_needs_no_fence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomics, "IS_FENCED", False)
    monkeypatch.setattr(atomics, "_libatomic", lambda: pytest.fail("libatomic was asked for"))
    path = path_of(hub.namespace, "order")
    ensure(path, LAYOUT)
    writer, reader = (
        RingWriter(Segment(path, LAYOUT, writable=True)),
        RingReader(Segment(path, LAYOUT, writable=False)),
    )
    writer.put(record(3))
    newest = reader.newest()
    assert newest is not None and newest["value"] == 3
    assert atomics.full_fence() is None
