"""The formal model of the ring: every property holds, and every mutant of the protocol is caught."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "verification" / "run"
SKIPPED = 77


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_the_protocol_holds_and_each_mutant_of_it_is_caught() -> None:
    if shutil.which("spin") is None:
        pytest.skip("spin is not installed: apt-get install spin gcc")
    done = subprocess.run([str(RUN)], capture_output=True, text=True, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()
    mutants = [row for row in rows if row.startswith("mutant:")]
    probes = [row for row in rows if row.startswith("probe:")]
    assert len(mutants) >= 30 and len(probes) >= 4
    assert [row for row in mutants if "  caught: " not in row] == []
    assert [row for row in probes if not row.endswith("reached")] == []


def test_a_missing_checker_is_a_skip_and_says_so(tmp_path: Path) -> None:
    for tool in ("dirname", "bash"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    done = subprocess.run([str(RUN)], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == SKIPPED
    assert done.stdout.startswith("skipped: spin is not installed")


@pytest.mark.stress
def test_a_mutant_that_slips_through_is_a_failure(tmp_path: Path) -> None:
    """The runner itself: a mutant that changes nothing must turn the result red."""
    if shutil.which("spin") is None:
        pytest.skip("spin is not installed: apt-get install spin gcc")
    for path in RUN.parent.glob("*.pml"):
        (tmp_path / path.name).write_text(path.read_text().replace("M_LOST_UNCOUNTED", "M_NOTHING"))
    shutil.copy(RUN, tmp_path / "run")
    done = subprocess.run([str(tmp_path / "run"), "M_LOST_UNCOUNTED"], capture_output=True, text=True, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 1 and "NOT CAUGHT" in done.stdout
