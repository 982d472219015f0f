"""`rtvla doctor` beside a pipeline that runs: it sees it, reads its rings, and disturbs nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import Pipeline

from rtvla.schema import VIEWS

pytestmark = pytest.mark.e2e


def test_doctor_looks_at_a_running_pipeline_and_disturbs_nothing(pipeline: Pipeline) -> None:
    pipeline.start("--sim", "--seconds", "600")
    pipeline.until(pipeline.moving, "the arm moves")
    before = {name: row["pid"] for name, row in pipeline.rows().items()}
    segments, chunks = pipeline.hub.segments(), pipeline.counter("policy", "chunks")
    ports = [word for name, port in pipeline.ports.items() for word in (f"--{name}-port", str(port))]
    flags = ["--config", "sim", "--checkpoint", str(pipeline._checkpoint), "--test-data-reception", "3"]
    command = [sys.executable, "-m", "rtvla", "doctor", "--json", *flags, *ports]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    document = json.loads(done.stdout)
    said = {row["check"]: row for row in document["checks"]}
    assert document["running"]
    for check, process in (("port.sensor", "sensor_ingest"), ("port.camera", "camera_ingest")):
        assert said[check]["status"] == "PASS", said[check]
        assert f"had by {process}, pid {before[process]}" in said[check]["found"]
    for stream in ("sensor", "robot", *(f"frame.{view}" for view in VIEWS)):
        assert said[f"data.{stream}.rate"]["value"] > 0
    assert "rings" in said["data.reception"]["found"]
    assert "not loaded again" in said["model.policy"]["found"]
    assert said["shm.leftover"]["status"] == said["shm.owner"]["status"] == "PASS"
    assert {name: row["pid"] for name, row in pipeline.rows().items()} == before  # nobody was restarted
    assert pipeline.hub.segments() == segments
    assert pipeline.counter("policy", "chunks") > chunks
    refused = [name for row in pipeline.rows().values() for name in row["counters"] if name.startswith("refused.")]
    assert refused == []
    assert pipeline.stop() == 0
