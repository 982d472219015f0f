"""One look at everything: what it shows belongs together."""

from __future__ import annotations

import numpy as np

from rtvla import schema
from rtvla.clock import MS, SECOND, now_ns
from rtvla.shm.hub import Hub
from rtvla.shm.survey import Survey, notes


def test_the_ages_of_a_command_are_those_of_the_newest(hub: Hub) -> None:
    """Regression: from the second look on they were those of the command 20 before it. The check whether the robot
    follows reads 20 commands from the same ring, and so wrote over the newest before its ages were taken."""
    commands, states = hub.writer("command"), hub.writer("robot")
    command, state = np.zeros((), schema.COMMAND), np.zeros((), schema.ROBOT)
    command["kind"] = schema.COMMAND_KINDS.index("dpose")
    survey = Survey(hub, {})
    for look in range(3):
        for number in range(30):
            command["sensor_age_ns"] = (100 * look + number) * MS
            commands.put(command)
            states.put(state)
        assert survey.take()["commands"]["sensor_age_ms"] == 100 * look + 29


def test_the_ages_of_inputs_are_percentiles_over_the_last_chunks(hub: Hub) -> None:
    chunks, chunk = hub.writer("action_chunk"), np.zeros((), schema.CHUNK)
    survey = Survey(hub, {})
    assert survey.take()["ages"] == {}
    for number in range(200):
        chunk["sensor_age_ns"] = (5 if number % 10 else 45) * MS if number >= 150 else SECOND  # longer ago
        chunk["robot_age_ns"], chunk["view_age_ns"] = 9 * MS, [100 * MS, 200 * MS, -1, 300 * MS, 400 * MS]
        chunks.put(chunk)
    ages = survey.take()["ages"]
    assert (ages["sensor"]["p50_ms"], ages["sensor"]["p99_ms"], ages["sensor"]["max_ms"]) == (5, 45, 45)
    assert ages["robot"]["p50_ms"] == 9 and ages["View4"]["p50_ms"] == 300
    assert "View3" not in ages, "a view that is not in the feature has no age"


def test_the_clock_of_each_sender_is_shown_and_what_it_did_is_a_note(hub: Hub) -> None:
    row = hub.health_row("camera_ingest")
    for name, value in {"trusted": 1.0, "drift_ppm": -12.5, "uncertainty_us": 80.0}.items():
        row.gauge(f"clock.frame.View1.{name}", value)
    row.count("clock_steps.frame.View1", 2)
    row.count("frozen.frame.View2", 7)
    look = Survey(hub, {}).take()
    assert look["clocks"] == {"frame.View1": {"trusted": 1, "drift_ppm": -12.5, "uncertainty_us": 80, "steps": 2}}
    assert {"camera_ingest: clock_steps.frame.View1 2", "camera_ingest: frozen.frame.View2 7"} <= set(notes(look))
    row.close()


def test_a_frozen_camera_is_stale_although_it_sends(hub: Hub) -> None:
    writer, frame = hub.writer("frame.View1"), np.zeros((), schema.FRAME)
    frame["received_ns"], frame["captured_ns"] = now_ns(), now_ns() - 2 * SECOND
    writer.put(frame)
    assert Survey(hub, {}).take()["streams"]["frame.View1"]["state"] == "stale"
