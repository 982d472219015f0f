"""What the commander decides in one tick, from ages, chunks and what is measured. No process, no clock, no socket.

latched        nothing, until an operator says `rtvla resume`
degrade table  an input too old, or its process dead: slower, or hold
resuming       after a hold: all inputs good for `resume_after_ms`, and a chunk that was observed after it
execution      the motion of this command's own stretch of time
guard          nothing over a limit; a force over its limit may be answered by a retract

A hold is nothing sent: the robot side stops by itself. What was planned before it is forgotten, and the guard lets the
next motion begin from rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rtvla.clock import MS, SECOND
from rtvla.config import Config
from rtvla.control.degrade import GONE_NS, Verdict, judge
from rtvla.control.execution import Six
from rtvla.control.guard import Guard, Measured, Ruling
from rtvla.control.pending import Pending
from rtvla.control.settings import degrade_table, execution_of, guard_limits, latch_of
from rtvla.schema import STEP_NS

_GOOD = ("act", "slow")
_REASON_OF = {"workspace": "outside_workspace"}  # checks that have another name as a reason to hold


@dataclass(frozen=True)
class Seen:
    """The inputs at a tick. `ages_ns` of those in use, counted from capture; `dead` ones with the process that was to
    write them; what robot and sensor measure, None before the first."""

    ages_ns: Mapping[str, int]
    dead: Mapping[str, str] = field(default_factory=dict)
    measured: Measured | None = None
    pose_captured_ns: int = 0


@dataclass(frozen=True)
class Decision:
    """`kind` as in schema.COMMAND_KINDS; of a dpose `delta` is what may be sent. A dpose with a reason is a retract."""

    kind: str
    reason: str
    verdict: Verdict
    start_ns: int
    end_ns: int
    chunk: int = -1
    step: int = -1
    requested: Six | None = None
    delta: Six | None = None
    violated: tuple[str, ...] = ()
    clamped: bool = False


class Decider:
    """One caller, once a tick: `take` the new chunks, `decide`, then `sent` or `not_sent`."""

    def __init__(self, cfg: Config) -> None:
        self._table, self._guard = degrade_table(cfg), Guard(guard_limits(cfg))
        self._execution, self.latch, self.pending = execution_of(cfg), latch_of(cfg), Pending()
        self._period_ns, self._phase_ns = round(SECOND / cfg.commander.rate_hz), int(cfg.commander.phase_ms * MS)
        self._resume_after_ns = int(cfg.degrade.resume_after_ms * MS)
        self._retract: tuple[float, ...] = cfg.guard.retract_mm if cfg.guard.on_force == "retract" else ()
        self._retract_limit_mm, self._retracted_mm = cfg.guard.retract_limit_mm, 0.0
        self._is_holding, self._good_since_ns = True, -1
        self._not_before_ns = -1  # a chunk that was observed before the last hold is not executed
        self._has_chunk = False  # since the last hold
        self.done_ns = -1  # the end of what was last sent

    def take(self, chunk: int, observed_ns: int, deltas: Sequence[Sequence[float]], now_ns: int) -> str:
        """A new chunk. "" or why it is not executed: late, backwards, before_hold, from_the_future."""
        if observed_ns < self._not_before_ns:
            return "before_hold"
        if observed_ns > now_ns:
            return "from_the_future"
        refusal = self._execution.add(chunk, observed_ns, deltas, now_ns)
        self._has_chunk |= not refusal
        return refusal

    def decide(self, now_ns: int, seen: Seen, *, starting: bool = False) -> Decision:
        """`starting`: the arm is still to be brought to the start pose, so that no motion is made of the chunks."""
        verdict = self._verdict(seen)
        start_ns, end_ns = self._interval(now_ns)
        hold = Decision("hold", "", verdict, start_ns, end_ns)
        if reason := self._why_hold(now_ns, verdict):
            return replace(hold, reason=reason)
        if starting:
            self._guard.stopped()
            return replace(hold, kind="start")
        if end_ns - start_ns < self._period_ns // 10:
            return replace(hold, reason="step_done")
        if start_ns - self.done_ns > self._period_ns:
            self._guard.stopped()  # nothing was sent for so long that the arm stands
        return self._move(now_ns, seen, hold)

    def sent(self, decision: Decision, now_ns: int) -> None:
        assert decision.delta is not None
        self.done_ns, self._is_holding = decision.end_ns, False
        self.pending.add(now_ns, decision.delta)

    def not_sent(self, now_ns: int) -> None:
        """Nobody was there to take it: it is gone, and so is what was planned."""
        self._hold(now_ns)

    def release(self, latched_ns: int, now_ns: int) -> bool:
        """An operator ends the latch that was set at `latched_ns`. Motion then resumes as after any hold."""
        released = self.latch.release(latched_ns)
        if released:
            self._hold(now_ns)
        return released

    def _verdict(self, seen: Seen) -> Verdict:
        verdict = judge(self._table, seen.ages_ns, self._period_ns)
        cause = verdict.cause
        if process := seen.dead.get(cause.rpartition("_")[0]):
            cause = f"{process}_dead"
        elif cause == "chunk_gone" and seen.ages_ns["chunk"] == GONE_NS:
            cause = "no_chunk"
        return replace(verdict, cause=cause)

    def _why_hold(self, now_ns: int, verdict: Verdict) -> str:
        is_good = verdict.action in _GOOD
        self._good_since_ns = (self._good_since_ns if self._good_since_ns >= 0 else now_ns) if is_good else -1
        if verdict.action == "latch" and self.done_ns >= 0:  # what has never moved only waits for its inputs
            self.latch.set(verdict.cause, now_ns)
        if self.latch.cause:
            self._hold(now_ns)
            return "latched"
        if not is_good and (verdict.action != "finish" or self._is_holding or verdict.speed <= 0):
            # a newer chunk is fresh by itself; after any other input the next chunk must have seen it be well again
            is_of_chunks = verdict.cause.startswith(("chunk_", "policy_", "no_chunk"))
            self._hold(self._not_before_ns if is_of_chunks else now_ns)
            return verdict.cause
        if self._is_holding and now_ns - self._good_since_ns < self._resume_after_ns:
            return "resuming"
        return ""

    def _hold(self, not_before_ns: int) -> None:
        self._execution.clear()
        self._guard.stopped()
        self._is_holding, self._has_chunk, self._not_before_ns = True, False, not_before_ns

    def _interval(self, now_ns: int) -> tuple[int, int]:
        """From the end of the last command to the end of this tick's own period; what a late tick missed is past."""
        due_ns = now_ns - (now_ns - self._phase_ns) % self._period_ns
        begin_ns = due_ns if now_ns - due_ns <= self._period_ns // 10 else now_ns
        return max(begin_ns, self.done_ns), due_ns + self._period_ns

    def _move(self, now_ns: int, seen: Seen, hold: Decision) -> Decision:
        motion = self._execution.motion(hold.start_ns, hold.end_ns)
        if motion is None or seen.measured is None:
            self._guard.stopped()
            return replace(hold, reason="chunk_finished" if self._has_chunk else "no_chunk")
        requested = _scaled(motion.delta, hold.verdict.speed)
        found = replace(hold, chunk=motion.chunk, step=motion.step, requested=requested)
        if (cause := self._guard.force_cause(seen.measured)) and self._retract:
            return self._back_off(now_ns, seen, found, cause)
        self._retracted_mm = 0.0
        ruling = self._check(requested, found, seen, backing_off=False)
        if ruling.delta is None:
            return self._refused(now_ns, replace(found, violated=ruling.violated))
        return replace(found, kind="dpose", delta=ruling.delta, violated=ruling.violated, clamped=ruling.clamped)

    def _back_off(self, now_ns: int, seen: Seen, found: Decision, cause: str) -> Decision:
        share = (found.end_ns - found.start_ns) / STEP_NS
        x, y, z = (value * share for value in self._retract)
        if not self._retracted_mm:
            self.latch.refused(cause, now_ns)
            self._guard.stopped()  # or the limit of acceleration would let it push on for a while
        if self._retracted_mm + math.hypot(x, y, z) > self._retract_limit_mm * (1 + 1e-9):
            self._guard.stopped()
            return self._refused(now_ns, replace(found, violated=(cause,)))
        ruling = self._check((x, y, z, 0.0, 0.0, 0.0), found, seen, backing_off=True)
        violated = tuple(dict.fromkeys((cause, *ruling.violated)))
        if ruling.delta is None:
            return self._refused(now_ns, replace(found, violated=violated))
        self._retracted_mm += math.hypot(*ruling.delta[:3])
        return replace(found, kind="dpose", reason=cause, delta=ruling.delta, violated=violated, clamped=ruling.clamped)

    def _check(self, wanted: Six, found: Decision, seen: Seen, *, backing_off: bool) -> Ruling:
        assert seen.measured is not None
        pending_mm = self.pending.farthest_mm(seen.pose_captured_ns, wanted)
        measured = replace(seen.measured, pending_mm=pending_mm)
        period_s = (found.end_ns - found.start_ns) / SECOND
        return self._guard.check(wanted, period_s, measured, backing_off=backing_off)

    def _refused(self, now_ns: int, found: Decision) -> Decision:
        """The guard said no: hold, and only a chunk that was observed from now on may move again."""
        reason = _REASON_OF.get(found.violated[-1], found.violated[-1])
        self.latch.refused(reason, now_ns)
        was_holding = self._is_holding
        self._hold(now_ns)
        self._is_holding = was_holding  # the inputs are good: it need not be waited for them
        return replace(found, reason=reason)


def _scaled(delta: Six, speed: float) -> Six:
    x, y, z, a, b, c = delta
    return (x * speed, y * speed, z * speed, a * speed, b * speed, c * speed)
