"""The formal model of the ring: every property holds, every mutant of the protocol is caught, its text is current."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rtvla.shm import atomics, ring, segment

FOLDER = Path(__file__).parents[2] / "verification"
RUN, README = FOLDER / "run", (FOLDER / "README.md").read_text()
LITMUS = sorted((FOLDER / "litmus").glob("*.litmus"))
RESULTS = FOLDER.parent / "benchmarks" / "results"
SKIPPED = 77


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """verification/litmus/check.py, which is a program and no part of the package."""
    spec = importlib.util.spec_from_file_location("litmus_check", FOLDER / "litmus" / "check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_the_protocol_holds_and_each_mutant_of_it_is_caught() -> None:
    if shutil.which("spin") is None:
        pytest.skip("spin is not installed: apt-get install spin gcc")
    halves = [
        subprocess.Popen(
            [RUN],
            env={**os.environ, "PART": part, "QUICK": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for part in ("1/2", "2/2")
    ]
    printed = [half.communicate()[0] for half in halves]
    if halves[0].returncode == SKIPPED:
        pytest.skip(printed[0].strip())
    assert [half.returncode for half in halves] == [0, 0], "".join(printed)
    rows = "".join(printed).splitlines()
    mutants = [row for row in rows if row.startswith("mutant:")]
    probes = [row for row in rows if row.startswith("probe:")]
    assert len(mutants) >= 50 and len(probes) >= 6
    assert [row for row in mutants if "  caught: " not in row] == []
    assert [row for row in probes if not row.endswith("reached")] == []


def test_a_missing_checker_is_a_skip_and_says_so(tmp_path: Path) -> None:
    for tool in ("dirname", "bash"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    done = subprocess.run([str(RUN)], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == SKIPPED
    assert done.stdout.startswith("skipped: spin is not installed")


def run_a_copy(folder: Path, pattern: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("spin") is None:
        pytest.skip("spin is not installed: apt-get install spin gcc")
    shutil.copy(RUN, folder / "run")
    done = subprocess.run([str(folder / "run"), pattern], capture_output=True, text=True, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    return done


@pytest.mark.stress
def test_a_mutant_that_slips_through_is_a_failure(tmp_path: Path) -> None:
    """The runner itself: a mutant that changes nothing must turn the result red."""
    for path in FOLDER.glob("*.pml"):
        (tmp_path / path.name).write_text(path.read_text().replace("M_LOST_UNCOUNTED", "M_NOTHING"))
    done = run_a_copy(tmp_path, "M_LOST_UNCOUNTED")
    assert done.returncode == 1 and "NOT CAUGHT" in done.stdout


def test_a_litmus_test_of_the_code_that_becomes_possible_is_a_failure(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "litmus", tmp_path / "litmus")
    (tmp_path / "litmus" / "B5-lap-as-coded.litmus").write_text((FOLDER / "litmus" / "B1-lap-plain.litmus").read_text())
    done = run_a_copy(tmp_path, "B5-lap-as-coded")
    assert done.returncode == 1 and "VIOLATED: possible" in done.stdout


def test_the_readme_shows_the_run_that_lies_in_the_results() -> None:
    shown = README.partition("## A run")[2].split("```")[1].strip()
    newest = max(RESULTS.glob("*-verification.txt"))
    assert newest.read_text().split("\n", 2)[2].strip() == shown


def test_the_readme_shows_every_row_of_the_run_and_no_other() -> None:
    script = RUN.read_text()
    asked = re.findall(r'^ *(?:big )?row (?:\w+|"[^"]+") "([^"]+)"', script, re.MULTILINE)
    asked += re.findall(r'^litmus \w+ "([^"]+)"', script, re.MULTILINE)
    fences = ("F_w", "release", "acquire", "F_r")
    asked = [text.replace("${fence#*:}", fence) for text in asked for fence in (fences if "${" in text else ("",))]
    table = README.partition("## A run")[2].split("```")[1].strip().splitlines()
    shown = [row[:66].strip() for row in table[1:-1] if re.match(r".{66} (SC|weak|AArch64|x86-64) ", row)]
    assert sorted(shown) == sorted(asked)


def test_the_code_that_the_readme_names_exists() -> None:
    classes = {"RingWriter": ring, "RingReader": ring, "Segment": segment, "Counter": atomics}
    named = set(re.findall(r"`(\w+)\.(\w+)`", README))
    methods = [(owner, name) for owner, name in named if owner in classes]
    assert len(methods) > 15
    source = {owner: Path(str(module.__file__)).read_text() for owner, module in classes.items()}
    missing = [
        f"{owner}.{name}"
        for owner, name in methods
        if not hasattr(getattr(classes[owner], owner), name) and f"self.{name}" not in source[owner]
    ]
    assert missing == []


@pytest.mark.parametrize("path", LITMUS, ids=[path.stem for path in LITMUS])
def test_each_litmus_test_gives_what_its_list_says(check: ModuleType, path: Path) -> None:
    """Those with a star were decided by herd7 too: that is the test of our own checker."""
    listed = dict(
        re.findall(r"^\| ([\w-]+)(?: \*)? \|.*\| (\w+) \|$", (path.parent / "README.md").read_text(), re.MULTILINE)
    )
    assert check.verdict(check.parse(path.read_text()))[0] == listed[path.stem]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("LDAPR W0,[X1]", "LDAPR W0,.X1.: not known"),
        ("DMB ISHST", "DMB ISHST: not known"),
        ("exists (1:X0=1 \\/ 1:X2=0)", "only a conjunction"),
    ],
)
def test_a_litmus_test_that_is_not_understood_is_refused(check: ModuleType, line: str, problem: str) -> None:
    text = (FOLDER / "litmus" / "B4-lap-fences-both.litmus").read_text()
    text = (
        text.replace("exists (1:X0=1 /\\ 1:X2=0)", line)
        if line.startswith("exists")
        else text.replace("DMB ISHLD", line)
    )
    with pytest.raises(ValueError, match=problem):
        check.parse(text)
