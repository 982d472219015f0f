"""Which commands count: new, in time, and of the sender that has the robot. `stop` always counts, from anyone.

A `start` gives the robot to its sender's session (an old sender has none, which is a session too). Others are refused
until it is silent, and then they too need a `start`. Within a session that numbers its commands each must have a higher
number than the last.
"""

from __future__ import annotations

from rtvla.wire.command_stamp import CommandStamp


class CommandGate:
    """No clock and no sockets: times are given."""

    def __init__(self) -> None:
        self._session: str | None = None
        self._last_seq: int | None = None

    def refusal(self, kind: str, stamp: CommandStamp, wall_s: float, owner_is_active: bool) -> str:
        """Why this command is dropped, in one word, or "" if it counts; then its number is taken."""
        if kind == "stop":
            return ""
        if untimely := _untimely(stamp, wall_s):
            return untimely
        if stamp.session != self._session:
            if kind != "start" or owner_is_active:
                return "other_session"
            self._session, self._last_seq = stamp.session, None
        if self._last_seq is not None and stamp.seq is None:
            return "no_seq"
        if stamp.seq is not None:
            if self._last_seq is not None and stamp.seq <= self._last_seq:
                return "old_seq"
            self._last_seq = stamp.seq
        return ""


def _untimely(stamp: CommandStamp, wall_s: float) -> str:
    if stamp.issued_s is None or stamp.ttl_ms is None:
        return ""
    age_ms = (wall_s - stamp.issued_s) * 1e3
    if age_ms < -stamp.ttl_ms:
        return "from_the_future"  # its end could not be told
    return "expired" if age_ms > stamp.ttl_ms else ""
