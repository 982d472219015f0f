"""A latched hold in the whole pipeline: it outlives the commander, and only an operator ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from conftest import Pipeline

from rtvla.schema import COMMAND_KINDS, HOLD_REASONS

pytestmark = pytest.mark.e2e

# A box so small that the model's motion soon wants to leave it.
BOX = ("guard.workspace_min_mm=[190.95,0.95,308.95]", "guard.workspace_max_mm=[191.05,1.05,309.05]")
DPOSE = COMMAND_KINDS.index("dpose")


def resume() -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "rtvla", "resume", "--json", "--timeout", "30"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_repeated_violation_latches_over_a_kill_until_an_operator_resumes(pipeline: Pipeline) -> None:
    settings = [word for setting in (*BOX, "guard.latch_after=3") for word in ("--set", setting)]
    pipeline.start("--sim", *settings)
    pipeline.until(lambda: pipeline.counter("commander", "hold.latched") > 0, "the latch")
    row = pipeline.rows()["commander"]
    os.kill(row["pid"], signal.SIGKILL)
    pipeline.until(lambda: pipeline.rows()["commander"]["generation"] > row["generation"], "a new commander")
    held = pipeline.counter("commander", "hold.latched")
    pipeline.until(lambda: pipeline.counter("commander", "hold.latched") > held + 5, "the latch being kept")
    commands = pipeline.hub.reader("command")
    window = commands.latest(6)
    assert window is not None and not (window["kind"] == DPOSE).any()
    assert {HOLD_REASONS[int(why)] for why in window["latched"]} == {"outside_workspace"}
    code, said = resume()
    assert (code, said["result"], said["latched"]) == (0, "resumed", "outside_workspace"), said
    assert pipeline.counter("commander", "resumed") == 1
    pipeline.until(lambda: pipeline.counter("commander", "hold.resuming") > 0, "the end of the hold")
    commands.close()
    assert pipeline.stop() == 0, pipeline.output
    robot = next(json.loads(line) for line in pipeline.output.splitlines() if line.startswith('{"sender": "robot"'))
    low, high = 190.95, 191.05
    assert low - 0.01 <= robot["final_pose_mm_deg"][0] <= high + 0.01 and robot["commands"]["start"] == 1
