"""The optional keyed tag of sensor datagrams: who sent it, unchanged, and not a second time.

After the datagram of wire/sensor.py come 28 bytes:
    magic    4 bytes  "RVT1"
    number   `<Q`     the sender's clock in ns since 1970, but always higher than the last one, also after a restart
    tag      16 bytes BLAKE2b (RFC 7693), digest of 16 bytes, key of 32 bytes, over all that comes before the tag
Nothing is encrypted. A number that is not higher than the last good one is refused: a replay, a duplicate, or a
datagram overtaken on its way. What a receiver that has just been started cannot know is the last number: until the true
sender's first datagram it would take an old recording, in its order. It needs no clock in common with the sender.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence

from rtvla.clock import SECOND, wall_s

MAGIC = b"RVT1"
_NUMBER = struct.Struct("<Q")
TAG_BYTES = 16
TRAILER_BYTES = len(MAGIC) + _NUMBER.size + TAG_BYTES


class Tagger:
    """The sending side. `wall` gives epoch seconds."""

    def __init__(self, key: bytes, wall: Callable[[], float] = wall_s) -> None:
        self._state, self._wall = hashlib.blake2b(key=key, digest_size=TAG_BYTES), wall
        self._number = 0

    def tagged(self, datagram: bytes) -> bytes:
        """The datagram with its trailer."""
        self._number = max(self._number + 1, int(self._wall() * SECOND))
        message = datagram + MAGIC + _NUMBER.pack(self._number)
        state = self._state.copy()
        state.update(message)
        return message + state.digest()


class TagCheck:
    """The receiving side. `last` is the number of the last good datagram, if one is known from before a restart."""

    def __init__(self, key: bytes, last: int = 0) -> None:
        self._state = hashlib.blake2b(key=key, digest_size=TAG_BYTES)
        self.last = last

    def fault(self, parts: Sequence[bytes | bytearray | memoryview], n_bytes: int) -> str:
        """Why a datagram of `n_bytes`, scattered over the beginning of `parts`, is refused, or "".

        Causes: no_tag, bad_tag, replayed. The bytes are copied once to be hashed; what is in `parts` stays. Measured:
        12 us with one sample, 52 us with 5, 93 us with 15, so at 650 samples a second under 1 % of a core.
        """
        message = b"".join(_first(parts, n_bytes))
        if len(message) != n_bytes or n_bytes < TRAILER_BYTES or message[-TRAILER_BYTES:][: len(MAGIC)] != MAGIC:
            return "no_tag"
        state = self._state.copy()
        state.update(memoryview(message)[:-TAG_BYTES])
        if not hmac.compare_digest(state.digest(), message[-TAG_BYTES:]):
            return "bad_tag"
        number = int(_NUMBER.unpack_from(message, n_bytes - TAG_BYTES - _NUMBER.size)[0])
        if number <= self.last:
            return "replayed"
        self.last = number
        return ""


def _first(parts: Sequence[bytes | bytearray | memoryview], n_bytes: int) -> list[bytes | bytearray | memoryview]:
    taken = []
    for part in parts:
        if n_bytes <= 0:
            break
        taken.append(part if len(part) <= n_bytes else memoryview(part)[:n_bytes])
        n_bytes -= len(part)
    return taken
