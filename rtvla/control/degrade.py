"""What each age of each input leads to: the one table between fresh and gone.

    age         0 ...... late ...... stale ...... gone
    what it is  fresh  |  late     |  stale     |  gone
    what we do  act    |  at_late  |  at_stale  |  at_gone

act     as the chunk says
slow    at `SLOW` of its speed
finish  what is left of the chunk, ever slower: from full speed where the age became stale to none where it is gone
hold    send nothing; the robot stops by itself, and motion resumes when everything is fresh again
latch   hold until an operator says `rtvla resume`

The worst of all inputs decides. A dead process is gone at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rtvla.schema import AGE_LEVELS as LEVELS
from rtvla.schema import DEGRADE_ACTIONS as ACTIONS

SLOW = 0.5
GONE_NS = 2**62  # the age of what never came, or of whose writer has died


@dataclass(frozen=True)
class Row:
    """Of one input: where its age becomes late, stale and gone, and what each leads to."""

    late_ns: int
    stale_ns: int
    gone_ns: int
    at_late: str = "act"
    at_stale: str = "finish"
    at_gone: str = "hold"

    def __post_init__(self) -> None:
        if not 0 < self.late_ns <= self.stale_ns <= self.gone_ns:
            raise ValueError(f"late {self.late_ns}, stale {self.stale_ns}, gone {self.gone_ns} ns: must not fall")
        actions = [ACTIONS.index(action) for action in (self.at_late, self.at_stale, self.at_gone)]
        if actions != sorted(actions) or actions[-1] < ACTIONS.index("hold"):
            raise ValueError(f"{self.at_late}, {self.at_stale}, {self.at_gone}: must not get better, and end in a hold")

    def level(self, age_ns: int) -> str:
        return LEVELS[(age_ns > self.late_ns) + (age_ns > self.stale_ns) + (age_ns > self.gone_ns)]


@dataclass(frozen=True)
class Verdict:
    """`speed` is the share of the chunk's speed; `cause` the input and its level, "" while all are fresh enough."""

    action: str
    speed: float
    cause: str


def judge(table: Mapping[str, Row], ages_ns: Mapping[str, int], period_ns: int = 0) -> Verdict:
    """The worst of what the ages lead to; among equals the slower, then the first of the table. The speed is the mean
    over the next `period_ns`, so that also a slow commander is slower in its last command than in the one before. An
    input that has no age is not in use."""
    return max(
        _verdicts(table, ages_ns, period_ns), key=lambda verdict: (ACTIONS.index(verdict.action), -verdict.speed)
    )


def _verdicts(table: Mapping[str, Row], ages_ns: Mapping[str, int], period_ns: int) -> Iterable[Verdict]:
    yield Verdict("act", 1.0, "")
    for name, row in table.items():
        if name not in ages_ns:
            continue
        age_ns = ages_ns[name]
        level = row.level(age_ns)
        action = {"fresh": "act", "late": row.at_late, "stale": row.at_stale, "gone": row.at_gone}[level]
        if action != "act":
            yield Verdict(action, _speed(row, action, age_ns + period_ns // 2), f"{name}_{level}")


def _speed(row: Row, action: str, age_ns: int) -> float:
    if action == "slow":
        return SLOW
    if action != "finish":
        return 0.0
    since_ns = row.late_ns if row.at_late == "finish" else row.stale_ns
    return max(0.0, 1.0 - (age_ns - since_ns) / max(1, row.gone_ns - since_ns))
