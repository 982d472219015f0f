"""Motion that was sent and may not show yet in the measured pose."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rtvla.schema import STEP_NS

# A robot side collects for up to 100 ms, executes for 100 ms, and has then to be measured.
UNSEEN_NS = 2 * STEP_NS + STEP_NS // 2
_KEPT = 256  # of 100 Hz over the age that any state may have


class Pending:
    def __init__(self) -> None:
        self._sent: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=_KEPT)

    def add(self, sent_ns: int, delta_mm_deg: Sequence[float]) -> None:
        self._sent.append((sent_ns, tuple(delta_mm_deg[:3])))

    def farthest_mm(self, pose_captured_ns: int, direction: Sequence[float]) -> tuple[float, float, float]:
        """How far from the measured position the arm may be when all is done, on each axis the way that `direction`
        goes: how much of what was sent the pose shows already is not known, so it is the worst of all that can be."""
        worst = [0.0, 0.0, 0.0]
        total = [0.0, 0.0, 0.0]
        for sent_ns, delta in reversed(self._sent):
            if sent_ns <= pose_captured_ns - UNSEEN_NS:
                break
            for axis in range(3):
                total[axis] += delta[axis]
                sign = 1.0 if direction[axis] > 0 else -1.0
                if direction[axis] and total[axis] * sign > worst[axis] * sign:
                    worst[axis] = total[axis]
        return worst[0], worst[1], worst[2]
