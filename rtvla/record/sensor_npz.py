"""Sensor samples: appended as they are while the run goes on, turned into an npz when it is finished.

The npz has what the old recordings have (timestamps, send_timestamps f64, forces f32, alines f32 N x 1025) and four
arrays that would be lost with the raw file: `indices` (u64; a gap is a loss), `received_ns` and `captured_ns` (i64,
arrival and capture on this host's CLOCK_MONOTONIC), `clock_uncertainty_ns` (i64, of the capture). It is written in
blocks, so memory does not grow with the run: 2.7 MB/s, 9.7 GB an hour.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from rtvla.errors import RtvlaError
from rtvla.record.append_file import AppendFile
from rtvla.schema import SENSOR

Progress = Callable[[int, int], object]  # (samples done, samples in all), called at least every few 100 MB
BLOCK = 512  # samples, 2 MB
_SYNC_BLOCKS = 64  # a disk that is slow shows itself in steps, not in one long wait at the end

# All but the A-lines: 52 bytes of 4152, collected on the way through so that the raw file is read once.
_SMALL = np.dtype(
    [
        ("timestamps", "<f8"),
        ("send_timestamps", "<f8"),
        ("forces", "<f4"),
        ("indices", "<u8"),
        ("received_ns", "<i8"),
        ("captured_ns", "<i8"),
        ("clock_uncertainty_ns", "<i8"),
    ]
)


class SensorRaw(AppendFile):
    """schema.SENSOR records, one after the other."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.recorded = self.size // SENSOR.itemsize
        if self.size % SENSOR.itemsize:
            self.keep(self.recorded * SENSOR.itemsize)
        if self.recorded:
            last = self.read(SENSOR.itemsize, self.size - SENSOR.itemsize)
            self.next_index = int(np.frombuffer(last, SENSOR)[0]["index"]) + 1

    def append_samples(self, samples: np.ndarray) -> bool:
        return self.append_block(samples.tobytes(), len(samples))


class FinishedSamples:
    """The npz of a finished run, which takes no more. The count is in the header of any of its arrays."""

    def __init__(self, npz: Path) -> None:
        self.write_failed, self.error = 0, ""
        with zipfile.ZipFile(npz) as archive, archive.open("timestamps.npy") as member:
            np.lib.format.read_magic(member)
            (self.recorded,), _, _ = np.lib.format.read_array_header_1_0(member)


def raw_to_npz(raw: Path, npz: Path, progress: Progress | None = None) -> int:
    """Turn a whole raw file into an npz and remove it. Returns the number of samples.

    The npz appears complete or not at all. Raises RtvlaError with the raw file untouched, as when the disk is full:
    it needs as much space again.
    """
    temp = npz.with_name(f".{npz.name}.tmp")
    count = raw.stat().st_size // SENSOR.itemsize
    try:
        with open(raw, "rb") as source, open(temp, "wb") as target:
            _write_archive(source, target, count, progress or (lambda done, total: None))
            target.flush()
            os.fsync(target.fileno())
        os.replace(temp, npz)
        raw.unlink()
    except OSError as error:
        temp.unlink(missing_ok=True)
        why = f"{npz.name}: {error.strerror}; the samples stay in {raw.name}, make space and finish the run again"
        raise RtvlaError(why) from error
    return count


def _write_archive(source: IO[bytes], target: IO[bytes], count: int, progress: Progress) -> None:
    with tempfile.TemporaryFile(dir=os.path.dirname(target.name)) as small, zipfile.ZipFile(target, "w") as archive:
        aline = SENSOR["wire"]["aline"]
        with _member(archive, "alines", aline.base, (count, *aline.shape)) as member:
            for number, done in enumerate(range(0, count, BLOCK)):
                samples = np.fromfile(source, SENSOR, min(BLOCK, count - done))
                member.write(np.ascontiguousarray(samples["wire"]["aline"]).data)
                small.write(_small(samples).data)
                if number % _SYNC_BLOCKS == _SYNC_BLOCKS - 1:
                    target.flush()
                    os.fdatasync(target.fileno())
                progress(done + len(samples), count)
        for name in _SMALL.names or ():
            small.seek(0)
            with _member(archive, name, _SMALL[name], (count,)) as member:
                while len(part := np.fromfile(small, _SMALL, BLOCK * 64)):
                    member.write(np.ascontiguousarray(part[name]).data)
            progress(count, count)


def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
    """Open one array of the npz for writing, its header written. Over 2 GiB it needs zip64, known only later."""
    member = archive.open(f"{name}.npy", "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


def _small(samples: np.ndarray) -> np.ndarray:
    small = np.empty(len(samples), _SMALL)
    wire = samples["wire"]
    small["timestamps"], small["send_timestamps"], small["forces"] = wire["sampled_s"], wire["sent_s"], wire["force"]
    small["indices"] = samples["index"]
    for name in ("received_ns", "captured_ns", "clock_uncertainty_ns"):
        small[name] = samples[name]
    return small
