"""The rules of the house, held against the code: who may import whom, and that the map of the house is true."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rtvla
from rtvla.procs.table import PROCESSES

ROOT = Path(rtvla.__file__).parent
# From the top down: a room may import rooms of lower rows and itself, nothing beside or above it.
ROWS = (
    ("cli", "cli_flags", "cli_verbs"),
    ("procs", "tools", "train", "senders"),
    ("control", "models", "record", "security", "shm", "wire"),
    ("streams", "schema", "config", "config_motion", "config_sections", "dump_file"),
    ("clock", "rt", "stats", "log", "errors"),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
# `streams` is made of the records in `schema`; `rt` and the rest of the ground floor stand alone.
ALSO_ALLOWED = {("streams", "schema"), ("config", "config_sections"), ("config", "config_motion")}
ALSO_ALLOWED |= {("config_motion", "config_sections")}
ALSO_ALLOWED |= {("cli", "cli_flags"), ("cli", "cli_verbs"), ("cli_flags", "cli_verbs")}
TORCH_ROOMS = {"models", "train"}
TORCH_PROCESSES = {"procs/policy.py", "procs/vl_encoder.py", "procs/model_setup.py"}
TORCH_TOOLS = {f"tools/{name}.py" for name in ("model_source", "bench_gpu_child", "bench_gpu_device", "bench_vl_child")}
TORCH_TOOLS |= {f"tools/bench_gpu_{name}.py" for name in ("encode", "plain")}
THIRD_PARTY_BELOW = {"numpy", "posix_ipc", "simplejpeg"}  # what rows 2 to 4 may use, models aside


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_arrows_point_down_only() -> None:
    wrong = []
    for path in files():
        here = room_of(path)
        if here in ("__init__", "__main__"):
            continue
        assert here in ROW_OF, f"{here} has no row in the house"
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "rtvla" or len(parts) < 2 or parts[1] not in ROW_OF:
                continue
            there = parts[1]
            if there != here and ROW_OF[there] <= ROW_OF[here] and (here, there) not in ALSO_ALLOWED:
                wrong.append(f"{path.relative_to(ROOT)} imports rtvla.{there}")
    assert not wrong, wrong


def test_nobody_imports_a_process() -> None:
    processes = {f"rtvla.procs.{name}" for name in PROCESSES}
    wrong = [f"{path.relative_to(ROOT)}: {name}" for path in files() for name in imports(path) & processes]
    assert not wrong, wrong


def test_only_the_models_and_what_runs_or_measures_them_import_torch() -> None:
    for path in files():
        heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"}
        where = str(path.relative_to(ROOT))
        allowed = room_of(path) in TORCH_ROOMS or where in TORCH_PROCESSES | TORCH_TOOLS
        assert not heavy or allowed, f"{where} imports {heavy}"


def test_only_processes_and_senders_open_sockets() -> None:
    for path in files():
        if "zmq" in {name.split(".")[0] for name in imports(path)}:
            # the benchmark measures a peer, in a process of its own
            # security is handed the sockets of others; its own are inside the process
            assert room_of(path) in ("procs", "senders", "security") or path.name == "bench_libraries.py", path


def test_an_ingest_process_does_not_load_torch() -> None:
    for name in ("sensor_ingest", "robot_ingest", "camera_ingest", "commander", "recorder", "monitor"):
        code = (
            f"import sys, rtvla.cli, rtvla.procs.{name}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, name


def test_the_map_of_the_house_names_every_file() -> None:
    text = (ROOT / "README.md").read_text()
    missing = [str(p.relative_to(ROOT)) for p in files() if p.name != "__init__.py" and f"`{p.name}`" not in text]
    assert not missing, missing


@pytest.mark.parametrize("folder", ["rtvla", "tests", "scripts", "benchmarks", "verification"])
def test_no_path_of_a_developer_machine_is_in_the_project(folder: str) -> None:
    forbidden = ("/wo" + "rk/", "/ro" + "ot/", "10.13" + "0.")
    for path in sorted((ROOT.parent / folder).rglob("*")):
        if path.is_file() and path.suffix in (".py", ".toml", ".md", "", ".txt", ".json"):
            text = path.read_text(errors="replace")
            assert not [word for word in forbidden if word in text], path
