"""recorder: every stream -> the run's files on disk.

Reads   every stream, every health row
Writes  the run folder; nothing in shared memory but its own row
Late    the rings hold 1.5 s of samples and more of the rest; what it misses is counted as lost by stream

It is never in the control path, and may be killed at any time: it goes on in the same folder where the files end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtvla.clock import WallOffset, wall_s
from rtvla.config import Config
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.record.folder import new_run_folder
from rtvla.record.writer import RunWriter
from rtvla.shm.ring import RingReader, packed
from rtvla.shm.survey import process_rows
from rtvla.streams import FRAME_STREAMS, STREAMS

_DRAIN_HZ, _SUMMARY_EVERY = 10, 10
_BATCH = {"sensor": 256, "robot": 256}  # records copied at once; 16 where a record is small, 4 where it is a picture


class Follower:
    """Follows one ring and hands its records to a sink, once each; remembers in the health row how far it is."""

    def __init__(self, me: Me, stream: str, sink: Callable[[Any], None], start: int | None) -> None:
        self._me, self._stream, self._sink = me, stream, sink
        self._reader: RingReader = me.reader(stream)
        self._dtype = STREAMS[stream].dtype
        self._batch = _BATCH.get(stream, 4 if stream in FRAME_STREAMS else 16)
        self._cursor = self._reader.oldest if start is None else start

    def drain(self) -> None:
        """Take all that is there. One batch after another: a flood is bounded by the ring."""
        while True:
            records, lost, self._cursor = self._reader.since(self._cursor, self._batch)
            if lost:
                self._me.count(f"lost.overrun.{self._stream}", lost)
                self._me.events.warn(
                    f"lost.overrun.{self._stream}", f"{lost} records were overwritten before they were read"
                )
            if len(records) == 0:
                return
            self._sink(packed(records, self._dtype))
            self._me.gauge(f"cursor.{self._stream}", self._cursor)
            if len(records) < self._batch:
                return


class Recorder:
    def __init__(self, me: Me, cfg: Config, folder: Path, stamp: str) -> None:
        self._me = me
        self._wall = WallOffset()
        self.writer = RunWriter(folder, stamp, cfg.recorder.save_data, self._wall.to_wall_s)
        in_the_same_run = bool(cfg.recorder.run_folder)
        sinks: dict[str, Callable[[Any], None]] = {"action_chunk": self.writer.chunks, "command": self.writer.commands}
        if cfg.recorder.save_data:
            sinks |= {"robot": self.writer.robot, "sensor": self.writer.sensor}
            sinks |= {name: self._frames(name.removeprefix("frame.")) for name in FRAME_STREAMS}
        self._followers = [Follower(me, name, sink, self._start(name, in_the_same_run)) for name, sink in sinks.items()]

    def _frames(self, view: str) -> Callable[[Any], None]:
        def sink(records: Any) -> None:
            for record in records:
                self.writer.frame(view, record)

        return sink

    def _start(self, stream: str, in_the_same_run: bool) -> int | None:
        """Where to go on in a run that was begun before us: by the files where they can say, else by our old row."""
        if not in_the_same_run:
            return None
        on_disk = self.writer.next_index.get(stream)
        cursor = self._me.health.gauge_value(f"cursor.{stream}")
        known = [at for at in (on_disk, cursor) if at is not None]
        return int(max(known)) if known else None

    def drain(self) -> None:
        for follower in self._followers:
            follower.drain()
        self._count_what_was_written()

    def _count_what_was_written(self) -> None:
        """By the files' own account: a full disk must show in `rtvla status`, which needs no disk."""
        for prefix, now in (("recorded", self.writer.recorded), ("write_failed", self.writer.write_failed)):
            for sink, total in now.items():
                name = f"{prefix}.{sink}"
                self._me.count(name, max(0, total - self._me.health.counter(name)))

    def summarize(self) -> None:
        rows = process_rows(self._me.hub)
        counters = {name: dict(row["counters"]) for name, row in rows.items()}
        restarts = {name: row["restarts"] for name, row in rows.items() if row["restarts"]}
        lost: dict[str, dict[str, int]] = {}
        for row in counters.values():
            for name, count in row.items():
                if name.startswith("lost.") and count:  # lost.<cause>.<stream>
                    _, cause, stream = name.split(".", 2)
                    lost.setdefault(stream, {})[cause] = lost.get(stream, {}).get(cause, 0) + count
        self.writer.summary(restarts, counters, lost)
        self._report_errors()

    def _report_errors(self) -> None:
        for error in self.writer.errors:
            self._me.events.warn("write_failed", error)


def main(cfg: Config) -> None:
    with lifecycle("recorder", cfg) as me:
        if cfg.recorder.run_folder:
            folder = Path(cfg.recorder.run_folder)
            stamp = folder.name.removeprefix("async_inference_")
        else:
            folder, stamp = new_run_folder(Path(cfg.recorder.out_dir), wall_s())
        recorder = Recorder(me, cfg, folder, stamp)
        me.log.info("recording to %s", folder)
        me.ready()
        for round_number, _ in enumerate(me.ticks(_DRAIN_HZ)):
            recorder.drain()
            if round_number % _SUMMARY_EVERY == 0:
                recorder.summarize()
        recorder.drain()  # whoever writes has stopped before us, so this is the end of the run
        recorder.summarize()
        recorder.writer.finish(lambda *_progress: me.beat())
