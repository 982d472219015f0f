"""Two processes on two cores that do the measuring of `rtvla bench shm`: one sends, one takes, job after job.

A job is a method of SenderJobs and of TakerJobs; both are started at once and each answers with what it saw. They meet
in a few words of shared memory that belong to no transport, so every transport is driven in the same way.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np

from rtvla.rt import timer_slack
from rtvla.shm.atomics import FENCES_VARIABLE
from rtvla.tools.bench_jobs import MEETING_WORDS, SenderJobs
from rtvla.tools.bench_peers import WORDS, BenchError, Peer
from rtvla.tools.bench_taker import TakerJobs

_GIVE_UP_S = 20.0
Answer = dict[str, Any]


class Pair:
    """The parent's side. `fenced`: both processes load rtvla.shm with the fences of other CPUs switched on."""

    def __init__(self, context: SpawnContext, cores: Sequence[int], peers: Sequence[Peer], *, fenced: bool) -> None:
        self._meeting = RawArray("Q", MEETING_WORDS)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        before = os.environ.get(FENCES_VARIABLE)
        os.environ[FENCES_VARIABLE] = "1" if fenced else "0"  # read by the children at import
        try:
            for serve, core in ((_serve_sender, cores[0]), (_serve_taker, cores[1])):
                ours, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, self._meeting, core, list(peers)), daemon=True)
                process.start()
                self._connections.append(ours)
                self._processes.append(process)
        finally:
            del os.environ[FENCES_VARIABLE]
            os.environ |= {} if before is None else {FENCES_VARIABLE: before}
        for connection in self._connections:
            _answer(connection, _GIVE_UP_S)

    def run(self, job: str, peer: str, seconds: float, **numbers: float) -> Answer:
        """Both sides' answers in one dictionary."""
        self._meeting[:] = [0] * MEETING_WORDS
        for connection in self._connections:
            connection.send((job, peer, seconds, numbers))
        answers = [_answer(connection, seconds + _GIVE_UP_S) for connection in self._connections]
        return answers[0] | answers[1]

    def close(self) -> None:
        for connection, process in zip(self._connections, self._processes, strict=True):
            if process.is_alive():
                connection.send(None)
        for process in self._processes:
            process.join(_GIVE_UP_S)
            process.kill()


def _answer(connection: Connection, within_s: float) -> Answer:
    if not connection.poll(within_s):
        raise BenchError("a measuring process does not answer")
    answer = connection.recv()
    if isinstance(answer, str):
        raise BenchError(answer)
    return dict(answer)


def _serve_sender(connection: Connection, meeting: Any, core: int, peers: list[Peer]) -> None:
    record = np.zeros(WORDS, np.uint64)
    sides = {peer.name: peer.sender(record.view(np.uint8).data) for peer in peers}
    _serve(connection, core, sides, SenderJobs(meeting, record))


def _serve_taker(connection: Connection, meeting: Any, core: int, peers: list[Peer]) -> None:
    _serve(connection, core, {peer.name: peer.taker() for peer in peers}, TakerJobs(meeting))


def _serve(connection: Connection, core: int, sides: dict[str, Any], jobs: SenderJobs | TakerJobs) -> None:
    os.sched_setaffinity(0, {core})
    timer_slack(1)
    gc.freeze()
    gc.disable()
    connection.send({})
    while (job := connection.recv()) is not None:
        name, peer, seconds, numbers = job
        try:
            connection.send(getattr(jobs, name)(sides[peer], seconds, **numbers))
        except BenchError as error:
            jobs.give_up()
            connection.send(f"{peer}, {name}: {error}")
    for side in sides.values():
        side.close()
