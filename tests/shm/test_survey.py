"""One look at everything: what it shows belongs together."""

from __future__ import annotations

import numpy as np

from rtvla import schema
from rtvla.clock import MS
from rtvla.shm.hub import Hub
from rtvla.shm.survey import Survey


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
