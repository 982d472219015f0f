"""`rtvla analyze`: the figures of a black box, against what was put into it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtvla import schema
from rtvla.clock import MS, SECOND, now_ns
from rtvla.dump_file import Dump
from rtvla.shm import blackbox
from rtvla.shm.hub import Hub
from rtvla.streams import STREAMS
from rtvla.tools import analyze
from rtvla.tools.analysis import analysis
from rtvla.tools.analyze import in_words
from rtvla.tools.exits import OK, USAGE

KIND, REASON = schema.COMMAND_KINDS.index, schema.HOLD_REASONS.index


def run(*argv: str | Path) -> int:
    parser = argparse.ArgumentParser()
    analyze.add_arguments(parser)
    return analyze.run(parser.parse_args([str(word) for word in argv]))


def put(hub: Hub, stream: str, rows: list[dict[str, Any]]) -> None:
    writer = hub.writer(stream)
    for row in rows:
        record = np.zeros((), STREAMS[stream].dtype)
        for name, value in row.items():
            record[name] = value
        writer.put(record)
    writer.close()


@pytest.fixture
def box(hub: Hub, tmp_path: Path) -> Path:
    """Robot states each 10 ms with one hole of 1 s, one command of each kind, one chunk, two processes."""
    end_ns = now_ns()
    robot = hub.writer("robot")
    state = np.zeros((), schema.ROBOT)
    for at in range(101):
        state["received_ns"] = end_ns - (100 - at) * 10 * MS - (SECOND if at < 50 else 0)
        robot.put(state)
    robot.close()
    ages = {"sensor_age_ns": 51 * MS, "robot_age_ns": 60 * MS, "vl_age_ns": 540 * MS, "chunk_age_ns": 50 * MS}
    none = dict.fromkeys(ages, -1)
    sent = [0.05, -0.1, 0.0, 0.01, 0.0, -0.02]
    put(
        hub,
        "command",
        [
            {"decided_ns": end_ns - 400 * MS, "kind": KIND("hold"), "reason": REASON("no_chunk"), "step": -1, **none},
            {"decided_ns": end_ns - 300 * MS, "kind": KIND("start"), "chunk_index": 6, **ages},
            {
                "decided_ns": end_ns - 200 * MS,
                "kind": KIND("dpose"),
                "step": 2,
                "chunk_index": 7,
                "clamped": 1,
                "sent_mm_deg": sent,
                **ages,
            },
            {"decided_ns": end_ns - 100 * MS, "reason": REASON("policy_dead"), "step": 3, "chunk_index": 7, **ages},
        ],
    )
    actions = np.zeros((schema.MAX_HORIZON, schema.ACTION_DIM))
    actions[:2] = 0.25
    put(hub, "action_chunk", [{"observed_ns": end_ns - 250 * MS, "horizon": 2, "actions": actions, "total_ns": 9 * MS}])
    ingest, policy = hub.health_row("robot_ingest"), hub.health_row("policy")
    ingest.count("lost.restart.robot", 12)
    ingest.count("lost.kernel.sensor", 5)
    policy.count("chunks", 3)
    policy.count("deadline_miss", 0)
    policy.state("ready")
    policy.beat()
    policy.close()
    blackbox.dump(hub.namespace, tmp_path / "box", "policy killed by SIGKILL")
    ingest.close()
    return tmp_path / "box"


def test_figures_of_a_stream(box: Path) -> None:
    with Dump(box) as opened:
        found = analysis(opened)
    robot = found["streams"]["robot"]
    assert (robot["records"], robot["gaps"], robot["lost"]) == (101, 1, 12)
    assert robot["span_s"] == pytest.approx(2.0) and robot["hz"] == pytest.approx(50.0)
    assert robot["p50_ms"] == pytest.approx(10.0) and robot["max_ms"] == pytest.approx(1010.0)
    assert 0 < robot["age_ms"] < 60_000
    assert set(found["streams"]) == {"robot", "action_chunk", "command"}
    assert found["because"] == "policy killed by SIGKILL"


def test_who_lived_and_what_was_counted(box: Path) -> None:
    with Dump(box) as opened:
        rows = analysis(opened)["processes"]
    assert rows["robot_ingest"]["writer"] == "alive" and rows["policy"]["writer"] == "closed"
    assert (rows["policy"]["state"], rows["policy"]["counters"]) == ("ready", {"chunks": 3})
    assert rows["policy"]["heartbeat_age_ms"] > 0


def test_commands_in_words(box: Path) -> None:
    with Dump(box) as opened:
        found = analysis(opened)
        read_ns, decided_ns = opened.read_ns("command"), opened.records("command")["decided_ns"]
    words = [in_words(command) for command in found["commands"]]
    ages = "; ages ms: sensor 51, robot 60, vl 540, chunk 50"
    assert [line.partition(" ms: ")[2] for line in words] == [
        "hold, nothing sent: no_chunk",
        f"start: to the start pose, step 0 of chunk 6{ages}",
        f"dpose +0.0500 -0.1000 +0.0000 mm +0.0100 +0.0000 -0.0200 deg (shortened), step 2 of chunk 7{ages}",
        f"hold, nothing sent: policy_dead, step 3 of chunk 7{ages}",
    ]
    assert [command["before_dump_ms"] for command in found["commands"]] == [(read_ns - t) / 1e6 for t in decided_ns]
    assert found["chunk"]["actions"] == [[0.25] * schema.ACTION_DIM] * 2 and found["chunk"]["total_ms"] == 9.0


def test_the_page_and_the_document(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(box) == OK
    page = capsys.readouterr().out
    for text in (
        "because: policy killed by SIGKILL",
        "dpose +0.0500",
        "hold, nothing sent: policy_dead",
        "last chunk 0",
    ):
        assert text in page
    assert "deadline_miss" not in page and "chunks 3" in page
    assert run(box, "--json") == OK
    document = json.loads(capsys.readouterr().out)
    assert document["commands"][-1]["reason"] == "policy_dead" and document["chunk"]["horizon"] == 2


def test_a_dump_of_nothing_but_a_row(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.health_row("monitor").close()
    hub.reader("command").close()
    blackbox.dump(hub.namespace, tmp_path / "box")
    assert run(tmp_path / "box") == OK
    page = capsys.readouterr().out
    assert "no command was decided" in page and "no action chunk was made" in page and "because" not in page


def test_what_is_no_black_box_gives_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "none", tmp_path):
        assert run(path) == USAGE
        assert "no black box" in capsys.readouterr().err
