"""What rtvla-shm.service does before the first process and after the last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtvla import schema
from rtvla.cli import main
from rtvla.config import Config
from rtvla.errors import ConfigError, ShmError
from rtvla.models.make_tiny import make_tiny
from rtvla.procs import service_run
from rtvla.procs.table import PROCESSES
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny(folder)
    return folder


@pytest.fixture
def cfg(checkpoint: Path, tmp_path: Path) -> Config:
    settings = [f"policy.checkpoint={checkpoint}", f"recorder.out_dir={tmp_path}/runs", "blackbox.min_free_mb=0"]
    return Config.load("sim", settings)


def test_a_run_has_a_folder_and_all_segments_and_leaves_none(hub: Hub, cfg: Config, tmp_path: Path) -> None:
    folder = service_run.begin(cfg, tmp_path / "run.env")
    assert (tmp_path / "run.env").read_text() == f"RTVLA_RUN_FOLDER={folder}\n" and folder.is_dir()
    assert set(process_rows(hub)) == set(PROCESSES)
    service_run.end()
    assert not hub.exists()


def test_what_an_unfinished_run_left_becomes_a_black_box(hub: Hub, cfg: Config, tmp_path: Path) -> None:
    robot = hub.writer("robot")
    robot.put(np.zeros((), schema.ROBOT))
    robot.close()
    folder = service_run.begin(cfg, tmp_path / "run.env")
    assert [path.name[:5] for path in (folder / "blackbox").iterdir()] == ["0001_"]
    assert hub.reader("robot").head == 0


def test_wrong_settings_leave_nothing_behind(hub: Hub, cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.checkpoint"):
        service_run.begin(Config.load("sim"), tmp_path / "run.env")
    assert not hub.exists() and not (tmp_path / "runs").exists() and not (tmp_path / "run.env").exists()


def test_a_dry_run_only_refuses(hub: Hub, cfg: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", f"recorder.out_dir={tmp_path}/runs", "--run-file", str(tmp_path / "run.env")]
    dry = ["service", "begin", "--dry-run", "--config", "sim", *settings]
    assert main([*dry, "--set", f"policy.checkpoint={cfg.policy.checkpoint}"]) == 0
    assert main(dry) == 78 and "policy.checkpoint is empty" in capsys.readouterr().err
    assert not hub.exists() and not (tmp_path / "runs").exists() and not (tmp_path / "run.env").exists()


def test_memory_is_not_taken_from_under_a_writer(hub: Hub, cfg: Config, tmp_path: Path) -> None:
    service_run.begin(cfg, tmp_path / "run.env")
    robot = hub.writer("robot")
    with pytest.raises(ShmError, match="in use"):
        service_run.end()
    with pytest.raises(ShmError, match="in use"):
        service_run.begin(cfg, tmp_path / "run.env")
    assert hub.exists()
    robot.close()
