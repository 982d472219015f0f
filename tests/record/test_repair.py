"""What a kill or a full disk leaves: files that are whole again, every record once."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from record import make
from rtvla.record.finish import finish_run
from rtvla.record.json_list import JsonList
from rtvla.record.lines import JsonLines
from rtvla.schema import SENSOR

FILES = ("performance_timings_*.jsonl", "inference_results_*.json", "commands_*.jsonl", "robot_state_*.csv", "*.raw")


def fill(folder: Path, first: int, count: int) -> None:
    writer = make.open_writer(folder, save_data=True)
    writer.chunks(make.chunks(first, count, horizon=1))
    writer.commands(make.commands(first, count))
    writer.robot(make.robot(first, count))
    writer.sensor(make.sensor(first, count))
    writer.close()


@pytest.mark.parametrize("pattern", FILES)
def test_cut_at_every_byte_of_the_last_block(tmp_path: Path, pattern: str) -> None:
    """Whatever prefix of the last block is there: its whole records stay, the rest comes again, each once."""
    folder, _ = make.run_folder(tmp_path)
    fill(folder, 0, 2)
    path = make.only(folder, pattern)
    before = path.stat().st_size - (2 if pattern.startswith("inference") else 0)  # the next block overwrites "\n]"
    fill(folder, 2, 2)
    whole = path.read_bytes()
    step = 97 if pattern == "*.raw" else 1  # 8 KB of one record after the other; the borders are in it
    borders = {before + SENSOR.itemsize + at for at in (-1, 0, 1)} if pattern == "*.raw" else set()
    for size in sorted({*range(before, len(whole), step), *borders}):
        path.write_bytes(whole[:size])
        writer = make.open_writer(folder, save_data=True)
        at = min(writer.next_index.values())
        assert at in (2, 3, 4)
        writer.chunks(make.chunks(at, 4 - at, horizon=1))
        writer.commands(make.commands(at, 4 - at))
        writer.robot(make.robot(2, 2))  # the caller's cursor is one call old
        writer.sensor(make.sensor(at, 4 - at))
        assert writer.write_failed == dict.fromkeys(writer.write_failed, 0)
        writer.close()
        assert path.read_bytes() == whole, f"cut at {size} of {len(whole)}"


@pytest.mark.parametrize("size", range(1, 200))
def test_a_csv_cut_inside_its_header_begins_again(tmp_path: Path, size: int) -> None:
    folder, _ = make.run_folder(tmp_path)
    make.open_writer(folder, save_data=True).close()
    path = make.only(folder, "robot_state_*.csv")
    header = path.read_bytes()
    path.write_bytes(header[:size])
    make.open_writer(folder, save_data=True).close()
    assert path.read_bytes() == header


@pytest.mark.parametrize("content", [b"", b"[", b"[\n", b"[\n]", b'[\n{"id": 1', b"\0\0\0"])
def test_a_list_without_a_whole_element_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(content)
    opened = JsonList(path, lambda row: row["id"])
    assert json.loads(path.read_text()) == [] and opened.next_index == 0
    opened.append_elements(['{"id": 7}'])
    assert json.loads(path.read_text()) == [{"id": 7}]


@pytest.mark.parametrize(
    "end", [b"", b"\n", b",", b",\n", b",]", b"\n]", b"]", b"\n]\0\0", b',\n{"id": 9, "a": [[', b"\n]\n"]
)
def test_a_list_keeps_its_whole_elements(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'[\n{"id": 7},\n{"id": 8, "t": "a]}"}' + end)
    opened = JsonList(path, lambda row: row["id"])
    assert path.read_bytes() == b'[\n{"id": 7},\n{"id": 8, "t": "a]}"}\n]'
    assert (opened.next_index, opened.recorded) == (9, 2)


def test_zeros_at_the_end_are_cut_as_after_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": 2}\n' + bytes(300_000) + b"\n" + bytes(200_000))
    lines = JsonLines(path, lambda row: row["id"])
    assert path.read_bytes() == b'{"id": 1}\n{"id": 2}\n'
    assert (lines.next_index, lines.recorded, lines.repaired_bytes) == (3, 2, 500_001)


def test_records_that_come_again_are_left_out_and_counted(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    fill(folder, 0, 4)
    writer = make.open_writer(folder, save_data=True)
    assert writer.next_index == {"action_chunk": 4, "command": 4, "sensor": 4}
    assert writer.recorded["robot"] == writer.recorded["sensor"] == writer.recorded["inference_results"] == 4
    writer.chunks(make.chunks(2, 4))
    writer.commands(make.commands(0, 6))
    writer.sensor(make.sensor(3, 3))
    writer.sensor(make.sensor(3, 3))
    assert writer.repeated == {"action_chunk": 2, "inference_results": 2, "command": 4, "sensor": 4}
    assert make.action_ids(folder) == ([1, 2, 3, 4, 5, 6],) * 2
    assert np.fromfile(make.only(folder, "*.raw"), SENSOR)["index"].tolist() == list(range(6))


def test_timings_and_results_are_repaired_each_by_itself(tmp_path: Path) -> None:
    """A kill between the two writes: only the one that misses the block gets it."""
    folder, _ = make.run_folder(tmp_path)
    fill(folder, 0, 3)
    results = make.only(folder, "inference_results_*.json")
    old = results.read_bytes()
    fill(folder, 3, 3)
    results.write_bytes(old)
    writer = make.open_writer(folder, save_data=True)
    assert writer.next_index["action_chunk"] == 3
    writer.chunks(make.chunks(3, 5))
    assert make.action_ids(folder) == (list(range(1, 9)),) * 2


def test_vl_update_time_is_given_once_across_a_restart(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    fill(folder, 0, 6)
    writer = make.open_writer(folder)
    writer.chunks(make.chunks(6, 3))
    rows = make.json_lines(make.only(folder, "performance_timings_*.jsonl"))
    assert [row["action_id"] for row in rows if row["vl_update_time"]] == [1, 5, 9]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from record import make
writer = make.open_writer(Path(sys.argv[1]), save_data=True)
at = min(writer.next_index.values())
print("ready", flush=True)
while True:
    writer.chunks(make.chunks(at, 3))
    writer.commands(make.commands(at, 3))
    writer.sensor(make.sensor(at, 3))
    writer.robot(make.robot(at, 3))
    writer.frame("View2", make.frame(at, sampled_s=at / 10, jpeg=bytes(50_000)))
    writer.summary({}, {}, {})
    at += 3
    print(at, flush=True)
"""


def test_a_killed_writer_loses_at_most_the_block_in_hand(tmp_path: Path) -> None:
    folder, stamp = make.run_folder(tmp_path)
    tests = str(Path(__file__).parents[1])
    done = 0
    for round_number in range(4):
        command = [sys.executable, "-c", CHILD, str(folder), tests]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(tests).parent)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(10 + round_number):
            done = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        done = int(rest[-1]) if rest else done

        summary = json.loads((folder / f"performance_summary_{stamp}.json").read_text())
        assert done - 3 <= summary["total_actions"] <= done + 3
        writer = make.open_writer(folder, save_data=True)
        assert all(done <= at <= done + 3 for at in writer.next_index.values())
        writer.close()
    finish_run(folder)
    timings, results = make.action_ids(folder)
    assert timings == list(range(1, len(timings) + 1)) and results == list(range(1, len(results) + 1))
    with np.load(folder / f"sensor_data_{stamp}.npz") as data:
        assert np.array_equal(data["indices"], np.arange(len(data["indices"]))) and len(data["indices"]) >= done
    assert {path.stat().st_size for path in (folder / "images" / "View2").iterdir()} == {50_000}
    assert not list(folder.rglob(".*"))


def test_a_disk_that_fills_up_costs_records_but_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes a part of a block, then nothing; later there is space again."""
    folder, _ = make.run_folder(tmp_path)
    writer = make.open_writer(folder, save_data=True)
    writer.chunks(make.chunks(0, 2))
    writer.sensor(make.sensor(0, 2))
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: _fill_up(real, fd, data, at))
        writer.chunks(make.chunks(2, 3))
        writer.sensor(make.sensor(2, 3))
        writer.robot(make.robot(0, 1))
        writer.frame("View1", make.frame(0, jpeg=bytes(1000)))
        writer.summary({}, {}, {})
        assert make.action_ids(folder) == ([1, 2], [1, 2])
        assert "No space left" in writer.errors[0]
    writer.chunks(make.chunks(5, 2))
    writer.sensor(make.sensor(5, 2))
    writer.summary({}, {}, {"sensor": {"overrun": 1}})
    assert make.action_ids(folder) == ([1, 2, 6, 7],) * 2
    failed = {name: n for name, n in writer.write_failed.items() if n}
    assert failed == {
        **{"action_chunk": 3, "inference_results": 3, "sensor": 3, "robot": 1, "frame.View1": 1},
        "performance_summary": 1,
    }
    writer.close()
    reopened = make.open_writer(folder, save_data=True)  # what was lost stays on record
    reopened.summary({}, {}, {"sensor": {"overrun": 1}})
    lost = json.loads(make.only(folder, "performance_summary_*").read_text())["lost"]
    assert lost["sensor"] == {"overrun": 1, "write_failed": 3} and lost["robot"] == {"write_failed": 1}
    assert reopened.recorded["sensor"] == 4 and not reopened.repaired_bytes


def _fill_up(real, fd: int, data: memoryview, at: int) -> int:
    """A disk with 100 bytes left for each write, that still takes what goes over bytes that are there."""
    left = max(os.fstat(fd).st_size, at + 100 if len(data) > 100 else 0) - at
    if left < min(len(data), 100):
        raise OSError(28, "No space left on device")
    return real(fd, data[:left], at)


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from record import make
writer = make.open_writer(Path(sys.argv[1]), save_data=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for at in range(60):
    writer.chunks(make.chunks(at, 1))
    writer.commands(make.commands(at, 1))
    writer.robot(make.robot(at, 1))
    writer.sensor(make.sensor(at, 1))
print(*(f"{name}={count}" for name, count in writer.write_failed.items()))
"""


def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    folder, _ = make.run_folder(tmp_path)
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", LIMITED, str(folder), str(tests)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tests.parent, check=True).stdout
    failed = {name: int(count) for name, count in (pair.split("=") for pair in out.split())}
    timings, results = make.action_ids(folder)
    raw = np.fromfile(make.only(folder, "*.raw"), SENSOR)
    assert len(raw) == 9 and failed["sensor"] == 51 and make.only(folder, "*.raw").stat().st_size == 9 * SENSOR.itemsize
    assert len(timings) + failed["action_chunk"] == len(results) + failed["inference_results"] == 60
    assert failed["inference_results"] > 0
    assert not make.open_writer(folder, save_data=True).repaired_bytes  # nothing half was left behind


def test_a_folder_can_be_copied_and_finished_elsewhere(tmp_path: Path) -> None:
    folder, stamp = make.run_folder(tmp_path)
    fill(folder, 0, 3)
    other = tmp_path / "renamed"
    shutil.copytree(folder, other)
    assert finish_run(other).stamp == stamp
