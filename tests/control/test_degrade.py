from __future__ import annotations

import pytest

from rtvla.clock import MS
from rtvla.control.degrade import GONE_NS, Row, judge

TABLE = {
    "sensor": Row(50 * MS, 150 * MS, 250 * MS),
    "vl": Row(800 * MS, 1500 * MS, 1600 * MS, at_late="slow"),
    "robot": Row(50 * MS, 150 * MS, 150 * MS, at_stale="hold", at_gone="latch"),
}
FRESH = dict.fromkeys(TABLE, 0)


@pytest.mark.parametrize(
    ("ages_ms", "action", "speed", "cause"),
    [
        ({}, "act", 1.0, ""),
        ({"sensor": 50}, "act", 1.0, ""),
        ({"sensor": 149}, "act", 1.0, ""),
        ({"sensor": 175}, "finish", 0.75, "sensor_stale"),
        ({"sensor": 250}, "finish", 0.0, "sensor_stale"),
        ({"sensor": 251}, "hold", 0.0, "sensor_gone"),
        ({"vl": 801}, "slow", 0.5, "vl_late"),
        ({"vl": 801, "sensor": 160}, "finish", 0.9, "sensor_stale"),
        ({"robot": 151}, "latch", 0.0, "robot_gone"),
        ({"robot": 151, "sensor": 400}, "latch", 0.0, "robot_gone"),
        ({"sensor": 400, "vl": 5000}, "hold", 0.0, "sensor_gone"),
        ({"vl": 1520, "sensor": 190}, "finish", 0.6, "sensor_stale"),
    ],
)
def test_the_worst_input_decides(ages_ms: dict[str, int], action: str, speed: float, cause: str) -> None:
    verdict = judge(TABLE, FRESH | {name: age * MS for name, age in ages_ms.items()})
    assert (verdict.action, verdict.cause) == (action, cause)
    assert verdict.speed == pytest.approx(speed)


def test_what_never_came_is_gone() -> None:
    assert judge(TABLE, FRESH | {"vl": GONE_NS}).cause == "vl_gone"


def test_a_row_that_gets_better_with_age_or_does_not_end_in_a_hold_is_refused() -> None:
    for wrong in ({"at_late": "hold", "at_stale": "act"}, {"at_gone": "slow"}, {"at_stale": "latch"}):
        with pytest.raises(ValueError, match="must not get better"):
            Row(1, 2, 3, **wrong)
    with pytest.raises(ValueError, match="must not fall"):
        Row(3, 2, 4)
