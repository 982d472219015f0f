"""finish_run: bring a run folder to its end when its recorder did not (killed, power cut, disk full)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rtvla.record.folder import Paths, stamp_of
from rtvla.record.sensor_npz import Progress
from rtvla.record.summary_file import read_summary
from rtvla.record.writer import RunWriter


@dataclass(frozen=True)
class Finished:
    """What a finished folder holds. `repaired_bytes`: the unfinished ends that were cut off now, by sink."""

    stamp: str
    recorded: dict[str, int]
    repaired_bytes: dict[str, int]


def finish_run(folder: Path, progress: Progress | None = None) -> Finished:
    """Repair all files, renew the summary, turn raw samples into the npz. Doing it again changes nothing.

    Raises RtvlaError for a folder that is no run, that is being recorded into, or whose disk has no space for the npz.
    """
    stamp = stamp_of(folder)
    paths = Paths(folder, stamp)
    with_data = any(path.exists() for path in (paths.robot, paths.sensor_raw, paths.sensor_npz, paths.images))
    before = read_summary(paths.summary)
    writer = RunWriter(folder, stamp, with_data, _no_clock)
    writer.summary(before.get("restarts", {}), before.get("counters", {}), before.get("lost", {}))
    writer.finish(progress)
    return Finished(stamp, writer.recorded, writer.repaired_bytes)


def _no_clock(monotonic_ns: int) -> float:
    raise AssertionError("finishing appends no records, so no time of this boot is converted")
