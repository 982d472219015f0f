"""One pipeline with its senders behind a relay, and every decision of its commander followed without a gap."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from conftest import Pipeline
from relay import LINKS, Relay

from rtvla.clock import MS, now_ns
from rtvla.schema import COMMAND_KINDS, HOLD_REASONS

DPOSE = COMMAND_KINDS.index("dpose")
STEADY = 8  # motions in a row: the case before is over
TABLE_VARIABLE = "RTVLA_SAFETY_TABLE"


def free_ports() -> dict[str, int]:
    """One for each link, all held until the last is found."""
    held, ports = [], {}
    for link in LINKS:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.bind(("127.0.0.1", 0))
        held.append(made)
        ports[link] = int(made.getsockname()[1])
    for made in held:
        made.close()
    return ports


def senders_of(ports: dict[str, int]) -> list[list[str]]:
    """The command lines of the three simulated machines."""
    return [
        ["sensor", "--port", str(ports["sensor"])],
        ["camera", "--server-port", str(ports["camera"])],
        ["robot", "--state-port", str(ports["robot"]), "--command-port", str(ports["command"])],
    ]


@dataclass(frozen=True)
class Seen:
    """What happened since `begun_ns`: all decisions, those that moved, why not, what came out on the wire."""

    begun_ns: int
    records: list[np.void]
    wire: list[tuple[int, dict[str, Any]]]

    @property
    def moved(self) -> list[np.void]:
        return [record for record in self.records if record["kind"] == DPOSE]

    @property
    def held(self) -> list[np.void]:
        return [record for record in self.records if record["kind"] != DPOSE]

    @property
    def causes(self) -> set[str]:
        """Of holds, and of motion that was slower than asked for."""
        named = {HOLD_REASONS[int(record["reason"])] for record in self.held}
        return (named | {HOLD_REASONS[int(record["cause"])] for record in self.records}) - {"none"}

    @property
    def gap_ns(self) -> int:
        """The longest time from the start of the fault without a motion on the wire."""
        times = [self.begun_ns, *(at for at, command in self.wire if command["cmd"] == "dpose")]
        return max(np.diff([*times, now_ns()]).tolist(), default=0)


class Live:
    """`robot`: more words for `rtvla send robot`."""

    def __init__(
        self, namespace: str, checkpoint: Path, out: Path, settings: Iterable[str], robot: Iterable[str] = ()
    ) -> None:
        near, far = free_ports(), free_ports()
        self.pipeline = Pipeline(namespace, checkpoint, out, near)
        self._settings = [flag for setting in settings for flag in ("--set", setting)]
        self._commands_of_senders = senders_of(far)
        self._commands_of_senders[-1] += robot
        self._senders: list[subprocess.Popen[bytes]] = []
        self.relay = Relay(near, far)
        self.cuts: list[tuple[int, int]] = []
        self._records: list[np.void] = []
        self._cursor = 0

    def start(self) -> None:
        for command in self._commands_of_senders:
            self._senders.append(
                subprocess.Popen([sys.executable, "-m", "rtvla", "send", *command], stdout=subprocess.DEVNULL)
            )
        self.pipeline.start(*self._settings)
        self.pipeline.until(lambda: self.pipeline.is_ready("commander"), "readiness")
        self._commands = self.pipeline.hub.reader("command")
        self.moves()

    def _look(self) -> None:
        records, lost, self._cursor = self._commands.since(self._cursor, 60)
        assert not lost, f"{lost} decisions were missed by the test"
        self._records += [record.copy() for record in records]

    def until(self, what: Callable[[], bool], why: str) -> None:
        def looked() -> bool:
            self._look()
            return what()

        self.pipeline.until(looked, why)

    def wait(self, seconds: float) -> None:
        ends_ns = now_ns() + int(seconds * 1e9)
        while now_ns() < ends_ns:
            self._look()
            time.sleep(0.05)

    def moves(self) -> None:
        """Wait for STEADY motions in a row from now on."""
        at = len(self._records)
        self.until(
            lambda: len(tail := self._records[at:][-STEADY:]) == STEADY and all(r["kind"] == DPOSE for r in tail),
            "motion",
        )

    def last(self) -> np.void:
        self._look()
        return self._records[-1]

    def back(self, name: str, pid: int) -> None:
        self.until(lambda: self.pipeline.rows()[name]["pid"] != pid and self.pipeline.is_ready(name), f"{name} back")

    def gone(self) -> None:
        """Wait until every process of the pipeline has ended."""
        ends_ns = now_ns() + 30_000 * MS
        while any(row["alive"] for row in self.pipeline.rows().values()) and now_ns() < ends_ns:
            self._look()
            time.sleep(0.05)
        assert not any(row["alive"] for row in self.pipeline.rows().values())

    def follow(self) -> tuple[int, int, int]:
        """From here on: for `seen`."""
        self._look()
        return now_ns(), len(self._records), len(self.relay.commands)

    def seen(self, begun: tuple[int, int, int]) -> Seen:
        self._look()
        return Seen(begun[0], self._records[begun[1] :], self.relay.commands[begun[2] :])

    def report(self, fault: str, seen: Seen) -> None:
        """One row of the table of docs/safety.md."""
        held, moved = seen.held, seen.moved
        causes = ", ".join(sorted(seen.causes - {"resuming", "step_done"})) or "-"
        after = f"{(int(held[0]['decided_ns']) - seen.begun_ns) / MS:.0f}" if held else "-"
        largest = max((float(np.abs(record["sent_mm_deg"]).max()) for record in moved), default=0.0)
        row = (fault, causes, after, f"{seen.gap_ns / MS:.0f}", str(len(moved)), str(len(held)), f"{largest:.4f}")
        print(" | ".join(row))
        if path := os.environ.get(TABLE_VARIABLE):
            with open(path, "a") as file:
                file.write(f"| {' | '.join(row)} |\n")

    def close(self) -> None:
        self.pipeline.kill_everything()
        for sender in self._senders:
            sender.kill()
            sender.wait()
        self.relay.close()
        left = psutil.Process().children(recursive=True)
        for child in left:
            child.kill()
        self.pipeline.hub.purge()
