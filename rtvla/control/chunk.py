"""Which step of an action chunk is due, by time alone.

chunk 7   observed at 0       |step 0|step 1|step 2| ...        each step covers 100 ms from the observation
commander ticks at 50, 150, ...  ^ 0     ^ 1     ^ 2            (its phase puts it in the middle of a step)
chunk 8   observed at 100            |step 0|step 1| ...        replaces the rest of chunk 7 as soon as it is there
"""

from __future__ import annotations


def due_step(observed_ns: int, horizon: int, step_ns: int, now_ns: int) -> int:
    """Index of the step that covers `now_ns`; -1 before the first; `horizon` once the chunk is finished."""
    if now_ns < observed_ns:
        return -1
    return min((now_ns - observed_ns) // step_ns, horizon)
