"""`rtvla explain`: the chain of one command, from real rings and from a black box of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtvla import schema
from rtvla.cli import main
from rtvla.clock import MS
from rtvla.shm import blackbox
from rtvla.shm.hub import Hub

NOW = 50_000 * MS
WALL = schema.HOLD_REASONS.index("outside_workspace")


def put(hub: Hub, stream: str, dtype: np.dtype, **values: Any) -> int:
    record = np.zeros((), dtype)
    for name, value in values.items():
        record[name] = value
    writer = hub.writer(stream)
    index = writer.put(record)
    writer.close()
    return index


@pytest.fixture
def chain(hub: Hub) -> Hub:
    """Two commands, of which the first was made of what lies in the rings."""
    for _ in range(3):
        frame = put(hub, "frame.View2", schema.FRAME, captured_ns=NOW - 300 * MS, received_ns=NOW - 280 * MS, n_bytes=4)
    put(hub, "sensor", schema.SENSOR, captured_ns=NOW - 52 * MS, received_ns=NOW - 51 * MS, clock_uncertainty_ns=MS)
    pose = (1, 2, 3, 4, 5, 6)
    robot = {"captured_ns": NOW - 55 * MS, "received_ns": NOW - 55 * MS, "clock_uncertainty_ns": -1}
    put(hub, "robot", schema.ROBOT, **robot, pose_mm_deg=pose)
    put(hub, "vl_feature", schema.VL_FEATURE, published_ns=NOW - 100 * MS, encode_ns=40 * MS, dim=3)
    views = {"view_index": [0, frame, 0, 0, 0], "view_captured_ns": [0, NOW - 300 * MS, 0, 0, 0]}
    times = {"observed_ns": NOW - 50 * MS, "published_ns": NOW - 20 * MS, "total_ns": 30 * MS, "action_ns": 17 * MS}
    seen = {"sensor_captured_ns": NOW - 52 * MS, "robot_captured_ns": NOW - 55 * MS, "sensor_missing": 2}
    put(hub, "action_chunk", schema.CHUNK, **views, **times, **seen, horizon=8, sensor_count=63, vl_reuse=3)
    sent = {"kind": 1, "sent_ns": NOW + MS, "seq": 7, "session": b"abc", "sent_mm_deg": 0.1, "clamped": 1, "speed": 0.5}
    said = {"action": 1, "cause": schema.HOLD_REASONS.index("vl_feature_late"), "violations": 1 << 4}
    span = {"decided_ns": NOW, "start_ns": NOW, "end_ns": NOW + 100 * MS, "chunk_age_ns": 50 * MS}
    put(hub, "command", schema.COMMAND, **sent, **said, **span, input_age_ns=np.arange(9) * MS)
    latched = {"kind": 0, "reason": 16, "latched": WALL, "latched_ns": NOW, "step": -1, "chunk_age_ns": 150 * MS}
    put(hub, "command", schema.COMMAND, **latched, decided_ns=NOW + 100 * MS, chunk_index=99, input_age_ns=-1)
    return hub


@pytest.mark.parametrize("where", ["live", "box"])
def test_the_chain_of_a_command_goes_from_photons_to_motion(
    chain: Hub, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "box.zip"
    blackbox.dump(chain.namespace, file, "a test")
    options = ["--file", str(file)] if where == "box" else []
    assert main(["explain", "0", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"]["kind"] == "dpose" and found["command"]["cause"] == "vl_feature_late"
    assert found["violations"] == ["step"] and found["input_age_ms"]["View1"] == 4
    assert found["chunk"]["index"] == 0 and found["vl_feature"]["encode_ns"] == 40 * MS
    assert found["views"]["View2"]["index"] == 2 and found["views"]["View2"]["frame"]["received_ns"] == NOW - 280 * MS
    assert list(found["views"]) == ["View2"] and found["robot"]["pose_mm_deg"] == [1, 2, 3, 4, 5, 6]
    assert main(["explain", "0", *options]) == 0
    text = capsys.readouterr().out
    for said in (
        "dpose, seq 7 of session abc",
        "-300.00   -280.00",
        "-52.00    -51.00  +-1.00 ms, 2 of 65 missing in its window",
        "-55.00    -55.00  by arrival",
        "encoded in 40.0 ms; used for 3 chunks before this one",
        "observed -50.00, published -20.00; inference 30.0 ms",
        "slow because of vl_feature_late, speed 0.50",
        "guard      step, shortened",
        "of +0.00 to +100.00: from step 0 of chunk 0",
        "301.0 ms from the oldest picture to the socket",
    ):
        assert said in text, text


def test_without_an_id_it_is_the_newest_and_what_a_ring_no_longer_holds_is_said(
    chain: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain"]) == 0
    text = capsys.readouterr().out
    assert "hold, latched, nothing was sent" in text and "chunk      99, no longer in its ring" in text
    assert "latched    by outside_workspace since -100.00; rtvla resume ends it" in text


def test_what_is_not_there_is_an_exit_code(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 3
    put(hub, "command", schema.COMMAND)
    assert main(["explain", "5"]) == 3
    assert "does not hold command 5" in capsys.readouterr().err
    (tmp_path / "no.zip").write_text("no box")
    assert main(["explain", "--file", str(tmp_path / "no.zip")]) == 2
