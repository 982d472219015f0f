"""Installing below a folder: only what differs is written, what differs is found, what is ours is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtvla.cli import main
from rtvla.config import CONFIG_FOLDER
from rtvla.procs.units import CONFIG_FILE, UNITS

PYTHON = ["--python", "/opt/rtvla/venv/bin/python"]


def service(action: str, root: Path, *words: str) -> int:
    return main(["service", action, "--root", str(root), *PYTHON, *words])


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert service("install", tmp_path, "--config", "sim") == 0
    capsys.readouterr()
    return tmp_path


def test_the_second_time_nothing_is_written(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {path: path.stat().st_mtime_ns for path in host.rglob("*") if path.is_file()}
    assert service("install", host) == 0
    assert capsys.readouterr().out == "all is as it should be\n"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert service("check", host) == 0


def test_check_names_what_differs_and_the_remedy(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = host / UNITS / "rtvla-commander.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=2\n", "WatchdogSec=20\n"))
    (host / UNITS / "rtvla.slice").unlink()
    assert service("check", host) == 1
    said = capsys.readouterr().out
    assert "rtvla-commander.service: has `WatchdogSec=20`, wanted is `WatchdogSec=2`" in said
    assert "rtvla.slice: missing; remedy: rtvla service install" in said


def test_an_edited_config_counts_once_it_is_installed(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = host / CONFIG_FILE.lstrip("/")
    config.write_text(
        config.read_text()
        .replace("[simulation.senders]", "[simulation.senders]\n")
        .replace('robot = ["--hz", "100"]', "")
    )
    assert service("check", host) == 1
    assert "rtvla-send_robot.service: left by an earlier installation" in capsys.readouterr().out
    assert service("install", host) == 0
    assert not (host / UNITS / "rtvla-send_robot.service").exists() and service("check", host) == 0


def test_a_config_that_is_replaced_is_kept(host: Path) -> None:
    assert service("install", host, "--config", str(CONFIG_FOLDER / "lab.toml")) == 0
    config = host / CONFIG_FILE.lstrip("/")
    assert config.with_suffix(".toml.before").read_text() == (CONFIG_FOLDER / "sim.toml").read_text()


def test_optional_units_stay_until_they_are_left_out(host: Path) -> None:
    mps = host / UNITS / "rtvla-mps.service"
    config = host / CONFIG_FILE.lstrip("/")
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda"'))
    assert service("install", host, "--with", "mps") == 0 and mps.exists()
    assert service("install", host) == 0 and mps.exists() and service("check", host) == 0
    assert service("install", host, "--with") == 0 and not mps.exists()
    assert not (host / UNITS / "rtvla-policy.service.d").exists()


def test_a_drop_in_by_hand_is_told_of_and_never_removed(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop_in = host / UNITS / "rtvla-policy.service.d" / "60-mine.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nCPUAffinity=0\n")
    assert service("check", host) == 0 and "60-mine.conf is not ours" in capsys.readouterr().out
    assert service("uninstall", host) == 0
    assert [path for path in (host / UNITS).rglob("*") if path.is_file()] == [drop_in]


def test_an_enabled_target_stays_enabled(host: Path) -> None:
    """Regression: the link of `systemctl enable` begins as our unit does, and was taken for a stale one."""
    link = host / UNITS / "multi-user.target.wants" / "rtvla.target"
    link.parent.mkdir()
    link.symlink_to("../rtvla.target")
    assert service("check", host) == 0 and service("install", host) == 0
    assert link.is_symlink() and link.exists()


def test_nothing_installed_is_said_and_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service("check", tmp_path) == 3 and service("uninstall", tmp_path) == 3
    assert service("install", tmp_path) == 78
    assert "give --config FILE" in capsys.readouterr().err


def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[policy]\nrate = 3\n")
    assert service("install", tmp_path / "host", "--config", str(wrong)) == 78
    assert not (tmp_path / "host").exists()
