"""rtvla/shm/README.md is the protocol in prose. Here it is held to the code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import rtvla.shm
from rtvla.shm.hub import layout_of
from rtvla.shm.segment import HEADER_BYTES, LAYOUT_VERSION, OFFSETS, TEXT_AT
from rtvla.streams import FRAME_STREAMS, STREAMS

FOLDER = Path(rtvla.shm.__file__).parent
README = (FOLDER / "README.md").read_text()
STEPS = ("Create", "Attach", "Take over", "Publish", "Read latest", "Follow", "Wait", "Writer alive", "Close")
ORDERED = ("load", "store", "_load", "_store", "_fence", "_wake")


def table(text: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose head begins with this column, without the marks of code."""
    lines = text[text.index(f"| {first_column} |") :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("| ").split(" | ")] for line in lines]


def named(text: str) -> list[tuple[str, str]]:
    """(file, name) of each "`file.py` `name`"; what follows as ", `Class.name`" is of that file too."""
    found = []
    for file, names in re.findall(r"`(\w+\.py)` ((?:`(?!\w+\.py`)[\w.]+`(?:, | and | is )?)+)", text):
        found += [(file, name) for name in re.findall(r"`([\w.]+)`", names)]
    return found


def leads_somewhere(file: str, name: str) -> bool:
    where = importlib.import_module(f"rtvla.shm.{file.removesuffix('.py')}")
    for part in name.split("."):
        if not hasattr(where, part):
            return False
        where = getattr(where, part)
    return True


def ordered_accesses() -> dict[tuple[str, str], str]:
    """(function, file) -> its loads, stores, fences and wake-ups of `Counter`s, as they stand in the code."""
    found: dict[tuple[str, str], str] = {}
    for path in FOLDER.glob("*.py"):
        if "Counter(" not in path.read_text() or path.name in ("atomics.py", "blackbox.py"):
            continue
        for owner in [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]:
            for function in [node for node in owner.body if isinstance(node, ast.FunctionDef)]:
                calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and is_ordered(node.func)]
                calls.sort(key=lambda call: (call.end_lineno, call.end_col_offset))  # an argument ends before its call
                if calls:
                    names = " ".join(ast.unparse(call.func).removeprefix("self.") for call in calls)
                    found[f"{owner.name}.{function.name}", path.name] = names
    return found


def is_ordered(called: ast.expr) -> bool:
    return isinstance(called, ast.Attribute) and (called.attr in ORDERED or ast.unparse(called) == "self._waiter.wait")


def test_the_header_is_as_the_prose_has_it() -> None:
    assert {field: int(offset) for offset, field, *_ in table(README, "offset")} == OFFSETS
    assert f"(layout version {LAYOUT_VERSION}, " in README
    assert f"A header of {HEADER_BYTES} bytes" in README and f"From {TEXT_AT} on" in README
    assert [name for name, at in OFFSETS.items() if 256 <= at < TEXT_AT] == ["head"], "head is not alone in its lines"


def test_the_streams_are_as_the_prose_has_them() -> None:
    said = {name: numbers for name, *numbers in table(README, "stream")}
    said |= dict.fromkeys(FRAME_STREAMS, said.pop("frame.*"))
    layouts = {name: layout_of(stream) for name, stream in STREAMS.items()}
    assert said == {
        name: [
            *map(str, (layout.dtype.itemsize, layout.stride, layout.capacity, layout.burst)),
            "yes" if layout.wakes else "no",
            f"{layout.size / 1e6:.2f}",
        ]
        for name, layout in layouts.items()
    }


@pytest.mark.parametrize("operation", STEPS)
def test_each_operation_has_numbered_steps_that_name_functions_which_exist(operation: str) -> None:
    section = re.search(rf"^## {operation}.*?(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert section, f"there is no section on {operation}"
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section[0], re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 3
    assert named(section[0]), f"{operation} names no function"
    assert [name for name in named(section[0]) if not leads_somewhere(*name)] == []


def test_every_class_and_method_that_is_named_exists() -> None:
    classes = {"Segment": "segment.py", "RingWriter": "ring.py", "RingReader": "ring.py", "Hub": "hub.py"}
    methods = re.findall(r"`((\w+)\.\w+)`", README)
    lost = [name for name, owner in methods if owner in classes and not leads_somewhere(classes[owner], name)]
    assert lost == []


def test_steps_that_are_referred_to_exist() -> None:
    """ "Publish 6" must be the sixth step of Publish."""
    steps = {
        title: len(re.findall(r"^\d+\. ", body, re.MULTILINE))
        for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    }
    steps["Read"] = steps.pop("Read latest, read window")
    for name, number in re.findall(r"(Create|Attach|Take over|Publish|Read|Wait|Writer alive|Close) (\d+)", README):
        title = next(title for title in steps if title.startswith(name))
        assert 1 <= int(number) <= steps[title], f"{name} {number}"


def test_every_ordered_access_of_the_code_is_in_the_prose() -> None:
    """A fence, a load or a store of head or epoch that comes, goes or moves changes the protocol: the prose, the model
    in verification/ and this table change with it."""
    assert {(function, file): accesses for function, file, accesses in table(README, "function")} == ordered_accesses()
