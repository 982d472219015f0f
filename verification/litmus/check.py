#!/usr/bin/env python3
"""Is the bad outcome of a litmus test allowed by the memory model of its CPU? Prints `Never N` or `Sometimes N`, where
N is the number of candidate executions looked at. It does what herd7 does, for the few instructions that our tests use.

A candidate execution says which store each load reads from (rf) and in which order the stores to one word come (co); a
load then comes before the stores that follow the one it read (fr). It is allowed if

    each word by itself is consistent         program order on it, rf, co and fr have no cycle
    AArch64 (Arm ARM, section B2.3)           what threads observe of each other, and `bob`, have no cycle
    x86-64 (TSO: Owens, Sarkar, Sewell 2009)  rf between threads, co, fr, and program order without store -> load

`bob` is the order that fences, acquire and release give: DMB ISH orders all before it with all after it, DMB ISHLD the
loads before it with all after it; an acquire load comes before all that follows, a release store after all that went
before. No instruction of our tests depends on another; one that is not known here is an error.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Edge = tuple[int, int]
AARCH64 = {"STR": "store", "STLR": "store", "LDR": "load", "LDAR": "load", "DMB": "fence"}
ORDERED = ("STLR", "LDAR")


@dataclass(frozen=True)
class Event:
    """A load, store or fence of a thread; thread -1 are the stores that set the memory up."""

    thread: int
    kind: str
    word: str = ""
    value: int = 0  # of a store
    register: str = ""  # of a load
    order: str = ""  # STLR, LDAR, or the kind of fence


@dataclass(frozen=True)
class Test:
    is_arm: bool
    events: tuple[Event, ...]  # in program order within each thread
    bad: tuple[tuple[int, str, int], ...]  # (thread, register, value) that together must not happen


def parse(text: str) -> Test:
    """ValueError for what is not understood: a test that is read wrongly would prove nothing."""
    architecture = text.split(maxsplit=1)[0]
    if architecture not in ("AArch64", "X86_64"):
        raise ValueError(f"{architecture}: only AArch64 and X86_64 are known")
    setup, rest = text.split("{", 1)[1].split("}", 1)
    program, condition = rest.split("exists", 1)
    values: dict[tuple[int, str], int | str] = {}  # what a register holds: a number, or the word it points to
    words: dict[str, int] = {}
    for name, value in re.findall(r"([\w:]+)=(\w+)", setup):
        if ":" in name:
            thread, register = name.split(":")
            values[int(thread), register] = value
        else:
            words[name] = int(value)
    columns = list(zip(*([cell.strip() for cell in row.split("|")] for row in program.split(";")[1:-1]), strict=True))
    read = _arm if architecture == "AArch64" else _x86
    events = [event for at, column in enumerate(columns) for line in column for event in read(at, line, values)]
    words = {event.word: 0 for event in events if event.word} | words
    first = [Event(-1, "store", word, value) for word, value in words.items()]
    clauses = re.findall(r"(\d+):(\w+)=(\d+)", condition)
    if not clauses or "\\/" in condition or "~" in condition:
        raise ValueError(f"exists {condition.strip()}: only a conjunction of registers is known")
    bad = tuple((int(thread), register, int(value)) for thread, register, value in clauses)
    return Test(architecture == "AArch64", (*first, *events), bad)


def _arm(thread: int, line: str, values: dict[tuple[int, str], int | str]) -> Iterator[Event]:
    if not line:
        return
    name, _, operands = line.partition(" ")
    if move := re.fullmatch(r"W(\d+),#(\d+)", operands) if name == "MOV" else None:
        values[thread, f"X{move[1]}"] = int(move[2])
    elif name == "DMB" and operands in ("ISH", "ISHLD"):
        yield Event(thread, "fence", order=operands)
    elif (access := re.fullmatch(r"W(\d+),\[(X\d+)\]", operands)) and AARCH64.get(name) in ("store", "load"):
        word, register = str(values[thread, access[2]]), f"X{access[1]}"
        order = name if name in ORDERED else ""
        if AARCH64[name] == "store":
            yield Event(thread, "store", word, int(values[thread, register]), order=order)
        else:
            yield Event(thread, "load", word, register=register, order=order)
    else:
        raise ValueError(f"{line}: not known here")


def _x86(thread: int, line: str, _values: object) -> Iterator[Event]:
    if store := re.fullmatch(r"movl \$(\d+),\((\w+)\)", line):
        yield Event(thread, "store", store[2], int(store[1]))
    elif load := re.fullmatch(r"movl \((\w+)\),%e(\w+)", line):
        yield Event(thread, "load", load[1], register=f"r{load[2]}")
    elif line == "mfence":
        yield Event(thread, "fence", order="ISH")
    elif line:
        raise ValueError(f"{line}: not known here")


def candidates(events: tuple[Event, ...]) -> Iterator[tuple[dict[int, int], list[Edge]]]:
    """(load -> the store it reads, co) of every candidate execution."""
    stores: dict[str, list[int]] = {}
    for at, event in enumerate(events):
        if event.kind == "store":
            stores.setdefault(event.word, []).append(at)
    loads = [at for at, event in enumerate(events) if event.kind == "load"]
    orders = [[(ats[0], *later) for later in itertools.permutations(ats[1:])] for ats in stores.values()]
    for chosen in itertools.product(*orders):  # the store that sets a word up is its first
        co = [pair for order in chosen for pair in itertools.combinations(order, 2)]
        for sources in itertools.product(*(stores[events[at].word] for at in loads)):
            yield dict(zip(loads, sources, strict=True)), co


def is_allowed(test: Test, sources: dict[int, int], co: list[Edge]) -> bool:
    events = test.events
    po = [(a, b) for a, b in itertools.combinations(range(len(events)), 2) if _same_thread(events[a], events[b])]
    rf = [(store, load) for load, store in sources.items()]
    fr = [(load, later) for load, store in sources.items() for earlier, later in co if earlier == store]
    same_word = [(a, b) for a, b in po if events[a].word and events[a].word == events[b].word]
    if _has_cycle([*same_word, *rf, *co, *fr]):
        return False
    if test.is_arm:
        seen = [(a, b) for a, b in [*rf, *co, *fr] if events[a].thread != events[b].thread]
        return not _has_cycle([*seen, *bob(events, po)])
    kept = [(a, b) for a, b in po if (events[a].kind, events[b].kind) != ("store", "load")]
    rfe = [(a, b) for a, b in rf if events[a].thread != events[b].thread]
    return not _has_cycle([*kept, *rfe, *co, *fr])


def _same_thread(one: Event, other: Event) -> bool:
    return one.thread == other.thread >= 0


def bob(events: tuple[Event, ...], po: list[Edge]) -> list[Edge]:
    """Barrier-ordered-before, with the fences themselves as events in between."""

    def orders(one: Event, other: Event) -> bool:
        return (
            "ISH" in (one.order, other.order)
            or (other.order == "ISHLD" and one.kind == "load")
            or one.order in ("ISHLD", "LDAR")
            or other.order == "STLR"
            or (one.order == "STLR" and other.order == "LDAR")
        )

    return [(a, b) for a, b in po if orders(events[a], events[b])]


def _has_cycle(edges: list[Edge]) -> bool:
    left = set(edges)
    while True:  # take away what leads nowhere until nothing changes: what stays is on the way to a cycle
        starts = {a for a, _ in left}
        kept = {(a, b) for a, b in left if b in starts}
        if kept == left:
            return bool(left)
        left = kept


def verdict(test: Test) -> tuple[str, int]:
    """("Never" or "Sometimes", candidate executions)."""
    looked, verdict = 0, "Never"
    for sources, co in candidates(test.events):
        looked += 1
        got = {
            (test.events[load].thread, test.events[load].register): test.events[store].value
            for load, store in sources.items()
        }
        if all(got[thread, register] == value for thread, register, value in test.bad):
            verdict = "Sometimes" if is_allowed(test, sources, co) else verdict
    return verdict, looked


def main(paths: list[str]) -> int:
    for path in paths:
        print(*verdict(parse(Path(path).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
