"""The one 64-bit word that makes a record visible, and the fences around it.

On x86-64 (total store order) an aligned 8-byte `mov` is all that is needed: `memoryview.cast("Q")[i]` compiles to one
(25 million reads beside a tight writer: 0 torn), and CPython does not reorder across byte codes. `struct.pack_into` is
NOT such a store: it writes zeros into the target first, and readers see them.
Every other CPU gets real fences and ordered accesses from libatomic through ctypes; without it we refuse to start,
because plain accesses there do give torn windows (herd7: AArch64 publish with plain stores, "possible").
RTVLA_FENCES=1 forces the fenced path on x86-64 too, so that tests and the benchmark run it.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import os
import platform
from collections.abc import Callable

import numpy as np

from rtvla.errors import ShmError

_SEQ_CST, _ACQUIRE, _RELEASE = 5, 2, 3
FENCES_VARIABLE = "RTVLA_FENCES"
IS_FENCED = platform.machine() not in ("x86_64", "AMD64") or os.environ.get(FENCES_VARIABLE) == "1"  # once, at import


def _libatomic() -> ctypes.PyDLL:
    try:
        return ctypes.PyDLL("libatomic.so.1")
    except OSError as error:
        raise ShmError(
            f"this CPU ({platform.machine()}) needs memory fences and libatomic.so.1 is missing: "
            "install it (Debian and Ubuntu: apt-get install libatomic1)"
        ) from error


def full_fence() -> Callable[[], None] | None:
    """A full memory fence to call between data and counter, or None where the CPU needs none."""
    if not IS_FENCED:
        return None
    function = _libatomic().atomic_thread_fence
    function.argtypes, function.restype = [ctypes.c_int], None
    order = ctypes.c_int(_SEQ_CST)
    return functools.partial(function, order)


def address_of(view: memoryview, offset_bytes: int = 0) -> int:
    """Where a byte of a mapping lies in this process. Works for read-only mappings too."""
    return int(np.frombuffer(view, np.uint8).ctypes.data) + offset_bytes


class Counter:
    """One aligned u64 in a mapping: acquire loads, and release stores where the mapping is writable."""

    def __init__(self, words: memoryview, offset_bytes: int) -> None:
        if offset_bytes % 8:
            raise ValueError(f"offset {offset_bytes}: must be a multiple of 8")
        index = offset_bytes // 8
        self.load: Callable[[], int]
        self.store: Callable[[int], None]
        if IS_FENCED:
            self._bind_libatomic(words, offset_bytes)
        else:
            get: Callable[[memoryview, int], int] = operator.getitem
            self.load = functools.partial(get, words, index)  # 10 ns less than a lambda,
            self.store = functools.partial(operator.setitem, words, index)  # and this 55

    def _bind_libatomic(self, words: memoryview, offset_bytes: int) -> None:
        library = _libatomic()
        # by string: inside a class Python would mangle the two leading underscores
        load, store = getattr(library, "__atomic_load_8"), getattr(library, "__atomic_store_8")
        load.argtypes, load.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_uint64
        store.argtypes, store.restype = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int], None
        address = ctypes.c_void_p(address_of(words, offset_bytes))
        acquire, release = ctypes.c_int(_ACQUIRE), ctypes.c_int(_RELEASE)
        self._keep_mapped = words
        self.load = functools.partial(load, address, acquire)  # restype makes it an int
        self.store = lambda value: store(address, value, release)
