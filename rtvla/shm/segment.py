"""One POSIX shared-memory segment: created whole or not at all, checked at attach, written by one process at a time.

Not `multiprocessing.shared_memory`: on Python 3.11 any reader that exits unlinks the segment under everyone.
The layout and every step are in README.md beside this file.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import mmap
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import posix_ipc

from rtvla.errors import ShmError
from rtvla.shm.atomics import Counter

FOLDER = Path("/dev/shm")
PREFIX = "rtvla."
MAGIC = int.from_bytes(b"RTVLASEG", "little")
LAYOUT_VERSION = 1
HEADER_BYTES = 4096
TEXT_AT = 1024  # where the record type stands as JSON
_CLAIM_TRIES = 20
_REMEDY = "rtvla down --purge"
_LEFT_BY = {"magic": "it is no segment of rtvla", "boot_id": "it is from before this machine was started"}

# name -> byte offset of a u64. 0..: written once by the creator; 128..: by each new writer; 256: alone in its lines.
OFFSETS = {
    "magic": 0,
    "layout_version": 8,
    "schema_hash": 24,
    "capacity": 32,
    "stride": 40,
    "record_bytes": 48,
    "burst": 56,
    "boot_id": 64,
    "writer_pid": 128,
    "writer_start_ticks": 136,
    "epoch": 144,
    "epoch_first_index": 152,
    "head": 256,
}


@dataclass(frozen=True)
class Layout:
    """What a segment must look like. `capacity` slots of `dtype`, `burst` of which may be in the writer's hands."""

    dtype: np.dtype[np.void]
    capacity: int
    burst: int = 1
    wakes: bool = False  # whether the writer wakes readers that sleep; no part of the layout on disk

    def __post_init__(self) -> None:
        first = (self.dtype.names or ("",))[0]
        if self.capacity > 1 and (first != "index" or self.dtype[first] != np.dtype("<u8")):
            raise ValueError(f"{self.dtype}: a record begins with its index (u64)")
        if not 1 <= self.burst <= max(1, self.capacity // 2):
            raise ValueError(f"burst {self.burst}: must leave half of the {self.capacity} slots to readers")
        if self.capacity < 1 or self.capacity & (self.capacity - 1):
            raise ValueError(f"capacity {self.capacity}: must be a power of two")

    @property
    def stride(self) -> int:
        """Slot distance: whole cache lines, never a multiple of 4096 (slots would share a cache set)."""
        stride = (self.dtype.itemsize + 63) // 64 * 64
        return stride + 64 if stride % 4096 == 0 else stride

    @property
    def size(self) -> int:
        return HEADER_BYTES + self.capacity * self.stride

    def text(self) -> bytes:
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "itemsize": self.dtype.itemsize}
        return json.dumps(described, default=str).encode()

    def header(self) -> dict[str, int]:
        digest = hashlib.blake2b(self.text(), digest_size=8).digest()
        return {
            "magic": MAGIC,
            "layout_version": LAYOUT_VERSION,
            "schema_hash": int.from_bytes(digest, "little"),
            "capacity": self.capacity,
            "stride": self.stride,
            "record_bytes": self.dtype.itemsize,
            "burst": self.burst,
            "boot_id": boot_id(),
        }


@functools.cache
def boot_id() -> int:
    """Names this boot: monotonic times and process numbers of another one mean nothing here."""
    return int(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:16], 16)


def path_of(namespace: str, stream: str) -> Path:
    return FOLDER / f"{PREFIX}{namespace}.{stream}"


def process_start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat: with the pid it names a process for good. 0 if there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(b")")[2].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Segment:
    """A mapped segment. `view` is all of it as bytes, `words` as u64."""

    def __init__(self, path: Path, layout: Layout, *, writable: bool) -> None:
        self.path, self.layout = path, layout
        self._fd = _open(path, writable)
        try:
            self._check(os.fstat(self._fd))
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(self._fd, layout.size, access=access)
            self.view = memoryview(self._map)
            self.words = self.view.cast("Q")
            self._check_header()
        except Exception:
            os.close(self._fd)
            raise

    def __getitem__(self, name: str) -> int:
        return int(self.words[OFFSETS[name] >> 3])

    def __setitem__(self, name: str, value: int) -> None:
        self.words[OFFSETS[name] >> 3] = value

    def array(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """The slots as (capacity, stride) bytes."""
        shape = (self.layout.capacity, self.layout.stride)
        return np.ndarray(shape, np.uint8, self._map, HEADER_BYTES)

    def claim(self) -> None:
        """Become the one writer. The kernel frees the lock when this process dies, however it dies."""
        for attempts_left in range(_CLAIM_TRIES, 0, -1):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # a tool that probes holds the lock for microseconds, a writer for good
                if attempts_left == 1:
                    raise ShmError(f"{self.path.name} already has a writer {self._holder()}") from None
                time.sleep(0.005)
        if not self._is_in_place():
            raise ShmError(f"{self.path} was removed while it was being opened: start this process again")
        self["writer_start_ticks"] = process_start_ticks(os.getpid())
        self["writer_pid"] = os.getpid()
        self["epoch_first_index"] = self["head"]
        epoch = Counter(self.words, OFFSETS["epoch"])
        epoch.store(epoch.load() + 1)  # release: who sees the new epoch sees the new pid (pairs with _watch in ring.py)

    def _holder(self) -> str:
        pid = self["writer_pid"]
        if process_start_ticks(pid):
            return f"(pid {pid}); stop it first: rtvla down"
        # fork shares the lock, and a mapping alone keeps it
        has_it = "a process that it forked, or one in another container, still has it open"
        return f"(pid {pid}, which does not run here): {has_it}; end that one (fuser -v {self.path})"

    def _is_in_place(self) -> bool:
        """Whether the name still leads to this segment. Who writes to a removed one is seen by nobody."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release the lock. The pages stay mapped until the last array over them is gone."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # by name: mmap keeps a duplicate of the descriptor open
            os.close(self._fd)
            self._fd = -1

    def _check(self, stat: os.stat_result) -> None:
        if stat.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
            raise ShmError(f"{self.path} belongs to user {stat.st_uid}, not to us: use another RTVLA_NAMESPACE")
        if stat.st_size != self.layout.size:
            raise self._misfit(f"is {stat.st_size} bytes, this version needs {self.layout.size}")

    def _check_header(self) -> None:
        for name, wanted in self.layout.header().items():
            if self[name] != wanted:
                raise self._misfit(f"has {name} {self[name]:#x}, this version needs {wanted:#x}", name)

    def _misfit(self, detail: str, field: str = "size") -> ShmError:
        return ShmError(f"{self.path} {detail}; {_LEFT_BY.get(field, 'it was left by another version')}: {_REMEDY}")


def _open(path: Path, writable: bool) -> int:
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        raise ShmError(f"{path} does not exist: the pipeline is not up in this namespace") from None
    except PermissionError:
        raise ShmError(f"{path} belongs to another user: use another RTVLA_NAMESPACE") from None
    except OSError as error:
        raise ShmError(f"{path}: {error.strerror}: not a segment of ours; remove it") from error


def ensure(path: Path, layout: Layout) -> bool:
    """Create the segment unless it is there; whether it was we who did. Readers never see a half-made one: it is filled
    under a private name and then linked to its public one, which fails if somebody was faster."""
    if path.exists():
        return False
    try:
        return _make(path, layout)
    except (OSError, posix_ipc.Error) as error:
        what = f"cannot allocate {layout.size} bytes for {path}: {getattr(error, 'strerror', None) or error}"
        raise ShmError(f"{what}; free /dev/shm, or let us write there") from error


def _make(path: Path, layout: Layout) -> bool:
    # the random part: a killed process may have left one, and in a container the next has the same number
    private = f"/{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp"
    memory = posix_ipc.SharedMemory(private, posix_ipc.O_CREX, mode=0o600)
    try:
        os.posix_fallocate(memory.fd, 0, layout.size)  # no space: an error now, not a SIGBUS later
        with mmap.mmap(memory.fd, layout.size) as mapping:
            text = layout.text()
            mapping[TEXT_AT : TEXT_AT + len(text)] = text
            with memoryview(mapping) as view, view.cast("Q") as words:
                for name, value in layout.header().items():
                    words[OFFSETS[name] >> 3] = value
        try:
            os.link(FOLDER / private[1:], path)
        except FileExistsError:
            return False  # another process was faster; its segment is as good as ours
        return True
    finally:
        memory.close_fd()
        posix_ipc.unlink_shared_memory(private)


def writer_holds(path: Path) -> bool:
    """Whether a live process is the writer: its lock is held. For tools and clean-up, never on a data path."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:  # removed since it was found
        return False
    except PermissionError:
        raise ShmError(f"{path} belongs to another user: use another RTVLA_NAMESPACE") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
