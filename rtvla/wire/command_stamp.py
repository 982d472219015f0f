"""What a command may say about itself beside its contents: `session`, `seq`, `issued_s` with `ttl_ms`. All optional.

The old senders write none of it, and the old robot PC ignores it. `session` is a text that names one run of a sender,
also over a restart of its process; `seq` grows with every command of a session; a command is worth executing only until
`issued_s` (epoch seconds on the sender's clock) plus `ttl_ms`, which needs clocks that agree to a fraction of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtvla.errors import WireError
from rtvla.wire.command import MAX_COMMAND_BYTES
from rtvla.wire.json_object import finite_number, parse
from rtvla.wire.stamp import is_stamp

MAX_SESSION_CHARS = 64
MAX_SEQ = 2**63


@dataclass(frozen=True, slots=True)
class CommandStamp:
    """None where the command says nothing. `ttl_ms` is there if and only if `issued_s` is."""

    session: str | None = None
    seq: int | None = None
    issued_s: float | None = None
    ttl_ms: float | None = None


def fields(session: str, seq: int, issued_s: float, ttl_ms: float) -> dict[str, Any]:
    """What goes beside the old keys of a command. `ttl_ms` 0: nothing about time."""
    said: dict[str, Any] = {"session": session, "seq": seq}
    return said | ({"issued_s": issued_s, "ttl_ms": ttl_ms} if ttl_ms else {})


def decode(payload: bytes | memoryview) -> CommandStamp:
    """Of a command that wire/command.py has taken. Raises WireError with cause bad_json or bad_stamp, nothing else."""
    message = parse(payload, MAX_COMMAND_BYTES)
    session, seq = message.get("session"), message.get("seq")
    if session is not None and not (isinstance(session, str) and 0 < len(session) <= MAX_SESSION_CHARS):
        raise WireError("bad_stamp", f"session is not a text of 1 to {MAX_SESSION_CHARS} characters")
    if seq is not None and (isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq < MAX_SEQ):
        raise WireError("bad_stamp", "seq is not a whole number from 0")
    issued_s, ttl_ms = _number(message, "issued_s"), _number(message, "ttl_ms")
    if (issued_s is None) != (ttl_ms is None):
        raise WireError("bad_stamp", "issued_s and ttl_ms come together")
    if (issued_s is not None and not is_stamp(issued_s)) or (ttl_ms is not None and ttl_ms <= 0):
        raise WireError("bad_stamp", f"issued_s {issued_s}, ttl_ms {ttl_ms}")
    return CommandStamp(session, seq, issued_s, ttl_ms)


def _number(message: Mapping[str, Any], name: str) -> float | None:
    if message.get(name) is None:
        return None
    number = finite_number(message[name])
    if number is None:
        raise WireError("bad_stamp", f"{name} is not a finite number")
    return number
