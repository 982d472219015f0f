"""RunWriter: the one door from records to the files of a run folder.

Opening a folder that a killed writer left repairs its files and goes on behind their last record: give it every record
from `next_index` on and each is on disk once. Not real-time safe (it writes files); one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rtvla.errors import RtvlaError
from rtvla.record import rows
from rtvla.record.append_file import AppendFile
from rtvla.record.folder import Paths, lock
from rtvla.record.images import ViewFolder
from rtvla.record.json_list import JsonList
from rtvla.record.json_text import to_json
from rtvla.record.lines import JsonLines
from rtvla.record.robot_csv import RobotCsv
from rtvla.record.sensor_npz import FinishedSamples, Progress, SensorRaw, raw_to_npz
from rtvla.record.summary_file import SummaryFile, read_summary
from rtvla.schema import SENSOR, VIEWS

Counts = Mapping[str, Mapping[str, int]]


class Sink(Protocol):
    """What a file and a folder of images have in common."""

    recorded: int
    write_failed: int
    error: str


class RunWriter:
    """Files of one run. No append raises OSError: what a full disk takes is counted in `write_failed`, by sink.

    Sinks are named as their streams (`action_chunk` for the timings, `command`, `robot`, `sensor`, `frame.<view>`),
    and `inference_results`, which is made of the chunks as well. `mono_to_wall_s`: CLOCK_MONOTONIC ns to epoch s.
    """

    def __init__(self, folder: Path, stamp: str, save_data: bool, mono_to_wall_s: Callable[[int], float]) -> None:
        self._paths, self._to_wall_s = Paths(folder, stamp), mono_to_wall_s
        self._lock: int | None = lock(folder)
        self._timings = JsonLines(self._paths.timings, lambda row: int(row["action_id"]) - 1)
        self._results = JsonList(self._paths.results, lambda row: int(row["action_id"]) - 1)
        self._commands = JsonLines(self._paths.commands, lambda row: int(row["index"]))
        self._files: dict[str, AppendFile] = {
            "action_chunk": self._timings,
            "inference_results": self._results,
            "command": self._commands,
        }
        self._sinks: dict[str, Sink] = dict(self._files)
        self._views: dict[str, ViewFolder] = {}
        self._robot: RobotCsv | None = None
        self._sensor: SensorRaw | None = None
        # A finished run has its samples in the npz; a new raw file would replace them at the next finish.
        self.is_finished = self._paths.sensor_npz.exists() and not self._paths.sensor_raw.exists()
        if save_data:
            self._open_data()
        self._summary = SummaryFile(self._paths.summary, self._timings)
        self._vl_update = self._timings.last_row["vl_update_number"] if self._timings.last_row else None
        self._failed_before = _failed_before(read_summary(self._paths.summary))

    def _open_data(self) -> None:
        self._files["robot"] = self._robot = RobotCsv(self._paths.robot, self._to_wall_s)
        if not self.is_finished:
            self._files["sensor"] = self._sensor = SensorRaw(self._paths.sensor_raw)
        self._views = {view: ViewFolder(self._paths.images, view) for view in VIEWS}
        self._sinks["robot"], self._sinks["sensor"] = (
            self._robot,
            self._sensor or FinishedSamples(self._paths.sensor_npz),
        )
        self._sinks |= {f"frame.{name}": view for name, view in self._views.items()}

    def chunks(self, records: np.ndarray) -> None:
        """schema.CHUNK records in order; those that are already on disk are left out, file by file."""
        if len(fresh := _fresh(self._timings, records)):
            self._timings.append_lines([self._timing(record) for record in fresh])
        if len(fresh := _fresh(self._results, records)):
            self._results.append_elements([to_json(rows.result_row(record)) for record in fresh])

    def commands(self, records: np.ndarray) -> None:
        """schema.COMMAND records in order."""
        if len(fresh := _fresh(self._commands, records)):
            self._commands.append_lines([to_json(rows.command_row(record, self._to_wall_s)) for record in fresh])

    def robot(self, records: np.ndarray) -> None:
        """schema.ROBOT records in order; nothing without save_data. After a restart: from a cursor of the caller's
        that is at most one call old, then no row is double.
        """
        if self._robot is not None and len(fresh := _fresh(self._robot, records)):
            self._robot.append_states(fresh)

    def sensor(self, records: np.ndarray) -> None:
        """schema.SENSOR records in order; nothing without save_data. Raises RtvlaError if the run is finished."""
        if records.dtype != SENSOR:
            raise RtvlaError(f"sensor records are {records.dtype}, not schema.SENSOR: writer and recorder differ")
        if self._sensor is not None and len(fresh := _fresh(self._sensor, records)):
            self._sensor.append_samples(fresh)
        elif self._views and self._sensor is None:
            raise RtvlaError(f"{self._paths.sensor_npz}: this run is finished; start a new folder")

    def frame(self, view: str, record: np.void) -> None:
        """One schema.FRAME record; nothing without save_data. The same frame again changes nothing."""
        if self._views:
            self._views[view].save(record)

    def summary(self, restarts: Mapping[str, int], counters: Counts, lost: Counts) -> None:
        """Rewrite performance_summary as one atomic replacement. `lost` is by stream and cause; what could not be
        written here is added as cause `write_failed`.

        After a restart in a long run the old summary stays until all timings have been read again: 1 hour takes 10
        calls. close() and finish() wait for that.
        """
        self._summary.rewrite(partial(self._beside_statistics, restarts, counters, lost))

    def _beside_statistics(self, restarts: Mapping[str, int], counters: Counts, lost: Counts) -> dict[str, Any]:
        all_lost = {stream: dict(causes) for stream, causes in lost.items()}
        for sink, failed in self.write_failed.items():
            if failed:
                all_lost.setdefault(sink, {})["write_failed"] = failed
        known = {"recorded": self.recorded, "repeated": self.repeated, "lost": all_lost}
        return known | {"restarts": restarts, "counters": counters}

    def flush(self) -> None:
        """Wait until the disk has it, against a power cut. Against a kill nothing is needed: nothing is held back."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Close all files and let others write in the folder; the run can be opened again. Twice is once."""
        if self._lock is None:
            return
        self._summary.close()
        self.flush()
        for file in self._files.values():
            file.close()
        for view in self._views.values():
            view.close()
        os.close(self._lock)
        self._lock = None

    def finish(self, progress: Progress | None = None) -> None:
        """Turn the raw samples into the npz, which takes seconds per GB, and close. For good: no append after it.

        Raises RtvlaError if the npz cannot be written (disk full): the raw file stays, `finish_run` does it later.
        """
        try:
            if self._sensor is not None:
                self._sensor.close()
                raw_to_npz(self._paths.sensor_raw, self._paths.sensor_npz, progress)
                self.is_finished = True
        finally:
            self.close()

    @property
    def next_index(self) -> dict[str, int]:
        """The first index still wanted, of the streams whose files carry it; a record that was lost to a full disk
        is not wanted again. Robot states and frames: the caller's cursor, see `robot` and `frame`.
        """
        wanted = {"action_chunk": min(self._timings.next_index, self._results.next_index)}
        wanted["command"] = self._commands.next_index
        return wanted | ({"sensor": self._sensor.next_index} if self._sensor is not None else {})

    @property
    def recorded(self) -> dict[str, int]:
        """Records on disk by sink, over all restarts of the writer."""
        return {name: sink.recorded for name, sink in self._sinks.items()}

    @property
    def write_failed(self) -> dict[str, int]:
        """Records that could not be written by sink, over all restarts; `performance_summary`: its rewrites."""
        now = {name: sink.write_failed for name, sink in self._sinks.items()}
        now["performance_summary"] = self._summary.write_failed
        return {name: now.get(name, 0) + self._failed_before.get(name, 0) for name in now | self._failed_before}

    @property
    def repeated(self) -> dict[str, int]:
        """Records left out because their index was on disk already, by sink, since this writer was opened: a few after
        a restart. Many mean that a stream was made anew under a run that goes on.
        """
        return {name: file.repeated for name, file in self._files.items() if file.repeated}

    @property
    def errors(self) -> list[str]:
        """Why each sink that fails at present does, for the log."""
        errors = (*(sink.error for sink in self._sinks.values()), self._summary.error)
        return [error for error in errors if error]

    @property
    def repaired_bytes(self) -> dict[str, int]:
        """What was cut off on opening, by sink; empty after a clean end."""
        return {name: file.repaired_bytes for name, file in self._files.items() if file.repaired_bytes}

    def _timing(self, record: np.void) -> str:
        update = int(record["vl_update_number"])
        row = rows.timing_row(record, first_of_update=update != self._vl_update)
        self._vl_update = update
        return to_json(row)


def _fresh(file: AppendFile, records: np.ndarray) -> np.ndarray:
    """Those that this file has not been given yet; from now on it has been given all of these."""
    fresh: np.ndarray = records[records["index"] >= file.next_index]
    file.repeated += len(records) - len(fresh)
    if len(fresh):
        file.next_index = int(fresh["index"][-1]) + 1
    return fresh


def _failed_before(document: dict[str, Any]) -> dict[str, int]:
    lost: dict[str, dict[str, int]] = document.get("lost", {})
    return {sink: causes["write_failed"] for sink, causes in lost.items() if "write_failed" in causes}
