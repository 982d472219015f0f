import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from record import make
from rtvla.errors import RtvlaError
from rtvla.record import sensor_npz
from rtvla.record.finish import finish_run
from rtvla.record.sensor_npz import BLOCK, raw_to_npz
from rtvla.schema import SENSOR


def test_npz_is_what_was_recorded(tmp_path: Path) -> None:
    folder, stamp = make.run_folder(tmp_path)
    writer, count = make.open_writer(folder, save_data=True), 2 * BLOCK + 17
    samples, seen = make.sensor(0, count), []
    for first in range(0, count, 65):
        writer.sensor(samples[first : first + 65])
    writer.finish(lambda done, total: seen.append((done, total)))
    with np.load(folder / f"sensor_data_{stamp}.npz", allow_pickle=False) as data:
        wire = samples["wire"]
        expected = {
            **{"timestamps": wire["sampled_s"], "send_timestamps": wire["sent_s"], "forces": wire["force"]},
            **{"alines": wire["aline"], "indices": samples["index"], "received_ns": samples["received_ns"]},
            **{name: samples[name] for name in ("captured_ns", "clock_uncertainty_ns")},
        }
        assert set(data) == set(expected)
        for name, array in expected.items():
            assert data[name].dtype == array.dtype and np.array_equal(data[name], array), name
    assert not list(folder.glob("*.raw")) and not list(folder.glob(".*"))
    assert seen[-1] == (count, count) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_run_without_samples_has_an_empty_npz(tmp_path: Path) -> None:
    folder, stamp = make.run_folder(tmp_path)
    make.open_writer(folder, save_data=True).finish()
    with np.load(folder / f"sensor_data_{stamp}.npz") as data:
        assert data["alines"].shape == (0, 1025) and data["timestamps"].shape == (0,)


def test_finishing_takes_constant_memory(tmp_path: Path) -> None:
    raw, peaks = tmp_path / "a.raw", []
    for count in (5_000, 10_000):  # 20 and 40 MB
        with open(raw, "wb") as file:
            for first in range(0, count, 1000):
                file.write(make.sensor(first, 1000).tobytes())
        tracemalloc.start()
        assert raw_to_npz(raw, tmp_path / "a.npz") == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 4 * BLOCK * SENSOR.itemsize
    assert peaks[1] < 1.1 * peaks[0]


def test_a_killed_run_is_finished_and_finishing_again_changes_nothing(tmp_path: Path) -> None:
    folder, stamp = make.run_folder(tmp_path)
    writer = make.open_writer(folder, save_data=True)
    writer.chunks(make.chunks(0, 3))
    writer.sensor(make.sensor(0, 3))
    writer.robot(make.robot(0, 3))
    writer.frame("View3", make.frame(0))
    writer.summary({"policy": 1}, {"policy": {"chunks": 3}}, {"sensor": {"overrun": 2}})
    writer.chunks(make.chunks(3, 1))  # not in the summary yet
    writer.close()
    with open(folder / f"sensor_data_{stamp}.raw", "ab") as raw:
        raw.write(b"half a record")
    with open(folder / f"performance_timings_{stamp}.jsonl", "ab") as timings:
        timings.write(b'{"half')

    finished = finish_run(folder)
    assert finished.repaired_bytes == {"sensor": 13, "action_chunk": 6}
    assert finished.recorded["sensor"] == finished.recorded["robot"] == 3 and finished.recorded["frame.View3"] == 1
    summary = make.strict_json((folder / f"performance_summary_{stamp}.json").read_text())
    assert summary["total_actions"] == 4 and summary["restarts"] == {"policy": 1}
    assert summary["lost"] == {"sensor": {"overrun": 2}} and summary["counters"] == {"policy": {"chunks": 3}}

    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = finish_run(folder)
    assert (again.recorded, again.repaired_bytes) == (finished.recorded, {})
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents


def test_killed_between_npz_and_the_end_of_raw(tmp_path: Path) -> None:
    """Both are there: the raw file has everything, so the npz is made from it once more."""
    folder, stamp = make.run_folder(tmp_path)
    raw = folder / f"sensor_data_{stamp}.raw"
    writer = make.open_writer(folder, save_data=True)
    writer.sensor(make.sensor(0, 4))
    writer.close()
    content = raw.read_bytes()
    finish_run(folder)
    raw.write_bytes(content)
    finish_run(folder)
    assert not raw.exists()
    with np.load(folder / f"sensor_data_{stamp}.npz") as data:
        assert len(data["forces"]) == 4


def test_a_finished_run_takes_no_more_samples(tmp_path: Path) -> None:
    """A new raw file would replace the samples of the finished npz."""
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder, save_data=True)
    writer.sensor(make.sensor(0, 4))
    writer.finish()
    writer = make.open_writer(folder, save_data=True)
    assert writer.is_finished and writer.recorded["sensor"] == 4
    with pytest.raises(RtvlaError, match="this run is finished"):
        writer.sensor(make.sensor(4, 4))


def test_no_space_for_the_npz_keeps_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, stamp = make.run_folder(tmp_path)
    writer = make.open_writer(folder, save_data=True)
    writer.sensor(make.sensor(0, 4))

    def full(_samples: np.ndarray) -> np.ndarray:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sensor_npz, "_small", full)
        with pytest.raises(RtvlaError, match="No space left on device; the samples stay in sensor_data_"):
            writer.finish()
    assert [path.name for path in folder.glob("sensor_*")] == [f"sensor_data_{stamp}.raw"]
    assert not list(folder.glob(".*"))
    assert finish_run(folder).recorded["sensor"] == 4  # the lock was given back, too


def test_refuses_a_folder_that_is_no_run_and_one_in_use(tmp_path: Path) -> None:
    with pytest.raises(RtvlaError, match="a run folder has one"):
        finish_run(tmp_path)
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder, save_data=True)
    with pytest.raises(RtvlaError, match="another process is recording"):
        finish_run(folder)
    writer.close()
