"""`rtvla shm` as a person at night uses it: what it prints, what it returns, and that looking leaves no trace."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rtvla import schema
from rtvla.clock import now_ns
from rtvla.shm.hub import Hub
from rtvla.shm.segment import FOLDER, path_of
from rtvla.tools import shm_cli

WRITER = """
import sys, time
import numpy as np
from rtvla import schema
from rtvla.clock import now_ns
from rtvla.shm.hub import Hub
hub = Hub(sys.argv[1])
sensor, row = hub.writer("sensor"), hub.health_row("policy")
row.state("ready")
row.count("chunks", 7)
row.note("SCHED_FIFO 50: REFUSED")
for at in range(2000):
    record = sensor.record()
    record["received_ns"], record["wire"]["force"], record["wire"]["sampled_s"] = now_ns(), at, 1.75e9
    record["wire"]["aline"] = at % 7
    sensor.commit()
print("up", flush=True)
while True:
    sensor.record()["received_ns"] = now_ns()
    sensor.commit()
    row.beat()
    time.sleep(0.01)
"""


@pytest.fixture
def writer(hub: Hub) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", WRITER, hub.namespace], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"up\n"
    yield child
    child.kill()
    child.communicate()


def killed(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()


def shm(*argv: str | Path) -> int:
    parser = argparse.ArgumentParser()
    shm_cli.add_arguments(parser)
    args = parser.parse_args([str(word) for word in argv])
    return int(args.verb(args))


def state_of(*namespaces: str) -> dict[str, tuple[int, ...]]:
    """Everything of these namespaces in /dev/shm; other test runs on this machine have their own names."""
    paths = [path for name in namespaces for path in FOLDER.glob(f"*{name}*")]
    return {path.name: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def test_looking_leaves_no_trace(hub: Hub, tmp_path: Path, writer: subprocess.Popen[bytes]) -> None:
    nobody = f"{hub.namespace}-nobody"
    killed(writer)
    before = state_of(hub.namespace)
    contents = {path.name: path.read_bytes() for path in hub.segments()}
    for where in (hub.namespace, nobody):
        for verb in (
            ("ls",),
            ("ls", "--json"),
            ("show", "sensor", "--namespace", where),
            ("show", "robot", "--namespace", where),
            ("show", "health.policy", "--namespace", where),
            ("watch", "--seconds", "0.3", "--namespace", where),
            ("verify", "--namespace", where),
            ("dump", tmp_path / f"{where}.box", "--namespace", where),
            ("show", "sensor", "--file", tmp_path / f"{hub.namespace}.box"),
            ("ls", "--file", tmp_path / f"{hub.namespace}.box"),
        ):
            shm(*verb)
    assert state_of(hub.namespace, nobody) == before
    assert {path.name: path.read_bytes() for path in hub.segments()} == contents


def test_ls_says_who_lives(hub: Hub, writer: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    shm("ls", "--json")
    row = next(
        row
        for row in json.loads(capsys.readouterr().out)["segments"]
        if (row["namespace"], row["stream"]) == (hub.namespace, "sensor")
    )
    assert (row["writer"], row["pid"], row["epoch"], row["fill"]) == ("alive", writer.pid, 1, 1.0)
    assert row["records"] > 2000 and row["hz"] > 1 and row["age_ms"] >= 0
    killed(writer)
    path_of(hub.namespace, "robot").write_bytes(b"x" * 5000)
    assert shm("ls") == shm_cli.WRONG
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if hub.namespace in line and " sensor " in line)
    assert " dead " in line and f" {writer.pid} " in line
    assert f"! rtvla.{hub.namespace}.robot: misfit, has magic" in out


def test_show_prints_records_with_units_and_shortens_arrays(
    hub: Hub, writer: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(writer)
    assert shm("show", "sensor", "--last", "2") == shm_cli.OK
    out = capsys.readouterr().out
    assert "writer dead" in out and out.count("received_ns") == 2 and "ms old)" in out
    assert "wire.sampled_s" in out and "(2025-06-15 15:06:40.000 UTC)" in out
    assert len(re.findall(r"wire\.aline +shape 1025 min ", out)) == 2
    assert shm("show", "health.policy") == shm_cli.OK
    out = capsys.readouterr().out
    assert "chunks 7" in out and "SCHED_FIFO 50: REFUSED" in out and "counter_names" not in out
    shm("show", "sensor", "--json", "--last", "3")
    live = json.loads(capsys.readouterr().out)
    assert len(live["records"]) == 3 and live["records"][0]["wire.aline"]["shape"] == [1025]
    shm("dump", tmp_path / "box")
    capsys.readouterr()
    shm("show", "sensor", "--json", "--last", "3", "--full", "--file", tmp_path / "box")
    dumped = json.loads(capsys.readouterr().out)
    assert [len(record["wire.aline"]) for record in dumped["records"]] == [1025] * 3
    assert [record["index"] for record in dumped["records"]] == [record["index"] for record in live["records"]]
    assert dumped["writer"] == "dead" and dumped["now_ns"] <= now_ns()


def test_ls_of_a_file_shows_what_was_there(
    hub: Hub, writer: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(writer)
    shm("ls", "--json")
    live = {row["stream"]: row for row in json.loads(capsys.readouterr().out)["segments"] if row["pid"] == writer.pid}
    shm("dump", tmp_path / "box")
    hub.purge()
    capsys.readouterr()
    assert shm("ls", "--json", "--file", tmp_path / "box") == shm_cli.OK
    rows = {row["stream"]: row for row in json.loads(capsys.readouterr().out)["segments"]}
    assert set(rows) == set(live) == {"sensor", "health.policy"}
    for name, row in rows.items():
        for key in ("namespace", "writer", "pid", "epoch", "records"):
            assert row[key] == live[name][key], key
    assert rows["sensor"]["hz"] > 1 and rows["sensor"]["age_ms"] >= live["sensor"]["age_ms"]
    assert shm("ls", "--file", tmp_path / "box") == shm_cli.OK
    assert " dead " in next(line for line in capsys.readouterr().out.splitlines() if " sensor " in line)


def test_show_of_what_is_not_there_says_what_is(
    hub: Hub, writer: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shm("show", "sensr") == shm_cli.ABSENT
    assert "no stream sensr" in (err := capsys.readouterr().err) and "health.policy, sensor" in err
    hub.reader("robot").close()
    assert shm("show", "robot") == shm_cli.ABSENT
    assert "holds no record yet" in capsys.readouterr().out
    shm("dump", tmp_path / "box")
    assert shm("show", "sensr", "--file", tmp_path / "box") == shm_cli.ABSENT


def test_what_is_not_finite_is_said_and_is_valid_json(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    writer = hub.writer("sensor")
    record = writer.record()
    record["received_ns"], record["wire"]["force"], record["wire"]["aline"] = now_ns(), np.inf, 1
    record["wire"]["aline"][:5] = np.nan
    writer.commit()
    shm("show", "sensor")
    assert "shape 1025 min 1 mean 1 max 1 not_finite 5" in capsys.readouterr().out
    shm("show", "sensor", "--json", "--full")
    out = capsys.readouterr().out
    assert json.loads(out)["records"][0]["wire.aline"][:6] == ["NaN"] * 5 + [1.0]
    assert json.loads(out)["records"][0]["wire.force"] == "Infinity"
    frames = hub.writer("frame.View1")
    frame = np.zeros((), schema.FRAME)
    frame["n_bytes"], frame["jpeg"][:4] = 3, 65
    frames.put(frame)
    shm("show", "frame.View1", "--json", "--full")
    assert json.loads(capsys.readouterr().out)["records"][0]["jpeg"] == "QUFB"


def test_watch_measures_rate_loss_and_spacing(
    hub: Hub, writer: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shm("watch", "--seconds", "0.8") == shm_cli.OK
    line = next(line for line in capsys.readouterr().out.splitlines() if "sensor" in line).split()
    assert line[:2] == ["sensor", "alive"] and float(line[2]) > 1 and line[3] == "650"
    assert float(line[7]) >= 10.0  # the writer sleeps 10 ms between two records
    killed(writer)
    shm("watch", "--seconds", "0.1")
    assert "gone" in capsys.readouterr().out


def test_verify_gives_a_line_and_a_remedy_for_each_finding(
    hub: Hub, writer: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shm("verify", "--namespace", hub.namespace) == shm_cli.OK
    assert "2 files" in capsys.readouterr().out
    killed(writer)
    os.truncate(path_of(hub.namespace, "health.policy"), 4096)
    assert shm("verify", "--namespace", hub.namespace) == shm_cli.WRONG
    (line, _) = capsys.readouterr().out.splitlines()
    assert "4096 bytes, its header says" in line and f"remedy: rtvla shm rm rtvla.{hub.namespace}.health" in line


def test_rm_keeps_what_lives_and_says_why(
    hub: Hub, writer: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.writer("robot").close()  # a stream whose writer is gone, in a namespace that is up
    leftover = path_of(hub.namespace, "command.999999999.tmp")
    leftover.write_bytes(b"")
    assert shm("rm", "--namespace", hub.namespace) == shm_cli.WRONG
    out = capsys.readouterr().out
    assert f"kept rtvla.{hub.namespace}.sensor: its writer lives" in out
    assert f"kept rtvla.{hub.namespace}.robot: the namespace is up" in out
    assert f"removed {leftover.name}" in out
    assert len(hub.segments()) == 3
    assert shm("rm", "--force", f"rtvla.{hub.namespace}.robot") == shm_cli.OK
    assert len(hub.segments()) == 2
    killed(writer)
    assert shm("rm", "--namespace", hub.namespace) == shm_cli.OK
    assert hub.segments() == []


def test_what_is_absent_gives_3_and_wrong_usage_2(namespace: str, tmp_path: Path) -> None:
    for verb in (("show", "sensor"), ("watch",), ("dump", tmp_path / "box"), ("verify", "--namespace", namespace)):
        assert shm(*verb) == shm_cli.ABSENT
    assert shm("rm", "--namespace", namespace) == shm_cli.ABSENT
    assert shm("rm", "rtvla.nobody.sensor") == shm_cli.ABSENT
    assert shm("rm", "/etc/passwd") == shm_cli.ABSENT
    assert shm("rm") == shm_cli.USAGE
    for words in ((), ("show",), ("show", "sensor", "--last", "0"), ("rm", "--namespace", "a.*")):
        with pytest.raises(SystemExit) as ended:
            shm(*words)
        assert ended.value.code == shm_cli.USAGE
    assert not (tmp_path / "box").exists()


def test_a_reader_that_has_seen_enough_ends_the_tool_quietly(hub: Hub) -> None:
    """Regression: `rtvla shm ls | head -1` ended with a complaint about a broken pipe."""
    hub.create([])
    script = f"{sys.executable} -m rtvla shm ls | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
