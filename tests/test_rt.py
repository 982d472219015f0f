"""Real-time requests, in a process of their own: what is said to be granted is read back from the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

CASES = {
    "pin": "core = min(os.sched_getaffinity(0)); g = rt.pin((core,)); real = os.sched_getaffinity(0) == {core}",
    "a core that does not exist": "g = rt.pin((4095,)); real = False",
    "timer slack": "g = rt.timer_slack(1); real = libc.prctl(30, 0, 0, 0, 0) == 1",
    "fifo": "g = rt.fifo(10); real = os.sched_getscheduler(0) & 7 == os.SCHED_FIFO",
    "fifo of every thread": (
        "import threading; end = threading.Event(); threading.Thread(target=end.wait).start(); g = rt.fifo(10)\n"
        "kinds = [os.sched_getscheduler(int(t)) & 7 for t in os.listdir('/proc/self/task')]\n"
        "end.set(); real = kinds == [os.SCHED_FIFO] * 2"
    ),
    "huge pages": (
        "import mmap; memory = mmap.mmap(-1, 2**25, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "memory.write(bytes(2**25))\n"
        "g = rt.huge_pages(); lines = open('/proc/self/smaps_rollup').read().splitlines()\n"
        "kb = next(int(line.split()[1]) for line in lines if line.startswith('AnonHugePages'))\n"
        "real = g.granted and kb >= 2**15 - 2**12"
    ),
    "nice": "g = rt.nice(3); real = os.getpriority(os.PRIO_PROCESS, 0) == 3",
    "locked memory": "g = rt.lock_memory(True); real = 'VmLck:\\t       0 kB' not in open('/proc/self/status').read()",
    "garbage collector": "g = rt.freeze_gc(); real = not gc.isenabled() and gc.get_freeze_count() > 0",
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_granted_for_real_or_refused_with_a_reason(name: str) -> None:
    code = (
        "import ctypes, gc, os; from rtvla import rt; libc = ctypes.CDLL(None)\n"
        f"{CASES[name]}\n"
        "assert g.granted == real, (g, real)\n"
        "assert g.granted or (g.why and 'REFUSED' in str(g))\n"
        "print(g)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_are_limited_before_torch_is_loaded() -> None:
    code = (
        "from rtvla import rt; rt.set_thread_environment(1)\n"
        "import os, torch; print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "PASSIVE"]
