"""Wake-ups on the head itself: a reader sleeps in the kernel until the low half of head is no longer what it saw.

futex(2), shared between processes. FUTEX_WAIT compares under the kernel's lock and sleeps only if the value is still
the old one, and the writer wakes after its store: so no wake-up is lost. It needs no write access to the mapping.
Waking when nobody sleeps is one system call (0.6 us through ctypes); the writer never waits.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Callable

from rtvla.errors import ShmError
from rtvla.shm.atomics import address_of

_NUMBERS = {"x86_64": 202, "AMD64": 202, "aarch64": 98, "arm64": 98, "riscv64": 98}
_WAIT, _WAKE = 0, 1
_EVERYBODY = 2**31 - 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _call_number() -> ctypes.c_long:
    if platform.machine() not in _NUMBERS:
        raise ShmError(f"the number of futex(2) on {platform.machine()} is not known: add it in wakeup.py")
    return ctypes.c_long(_NUMBERS[platform.machine()])


def waker(words: memoryview, offset_bytes: int) -> Callable[[], object]:
    """A function that wakes every reader that sleeps on this word. Call after the store."""
    number, address = _call_number(), ctypes.c_void_p(address_of(words, offset_bytes))
    wake, everybody, nothing = ctypes.c_int(_WAKE), ctypes.c_int(_EVERYBODY), ctypes.c_void_p(0)
    zero, call = ctypes.c_int(0), _libc.syscall
    return lambda: call(number, address, wake, everybody, nothing, nothing, zero)


class Waiter:
    """Sleeps on one word of a mapping, which may be read-only."""

    def __init__(self, words: memoryview, offset_bytes: int) -> None:
        self._number, self._keep_mapped = _call_number(), words
        self._address = ctypes.c_void_p(address_of(words, offset_bytes))
        self._timespec = _Timespec()
        self._wait, self._nothing, self._zero = ctypes.c_int(_WAIT), ctypes.c_void_p(0), ctypes.c_int(0)

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Sleep until somebody wakes, the word's low 32 bits differ from `seen`, a signal comes or the time is over.
        True if it is worth looking again: a wake-up may also be a late one, for a record that was already seen."""
        span = self._timespec
        timeout_s = max(0.0, timeout_s)
        span.seconds, span.nanoseconds = int(timeout_s), int(timeout_s % 1 * 1e9)
        low = ctypes.c_uint(seen & 0xFFFFFFFF)
        rc = _libc.syscall(self._number, self._address, self._wait, low, ctypes.byref(span), self._nothing, self._zero)
        if not rc:
            return True
        error = ctypes.get_errno()
        if error not in (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR):
            raise OSError(error, "futex wait")
        return error == errno.EAGAIN
