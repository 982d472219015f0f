"""What may be open to a network: nothing here opens a socket beyond loopback. 192.0.2.0/24 answers nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtvla.cli import main
from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.security import gate
from rtvla.security import keys as key_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    key_files.make(folder)
    return folder


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert gate.is_loopback(host)
    gate.command_port("--bind", host, 5000, keyed=False, insecure_lan=False, warn=pytest.fail)


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "0.0.0.0", "*", "eth0", "lo", "robot-pc", "127.0.0.1;192.0.2.1", "localhost.example", "", "::"],
)
def test_everything_else_can_be_reached_by_others(host: str) -> None:
    assert not gate.is_loopback(host)
    with pytest.raises(ConfigError, match=r"--bind = .*rtvla keys make.*--insecure-lan"):
        gate.command_port("--bind", host, 5000, keyed=False, insecure_lan=False, warn=pytest.fail)
    gate.command_port("--bind", host, 5000, keyed=True, insecure_lan=False, warn=pytest.fail)


def test_the_risk_that_was_taken_is_said_at_every_start() -> None:
    said: list[str] = []
    for _ in range(2):
        gate.command_port("--bind", "192.0.2.1", 5000, keyed=False, insecure_lan=True, warn=said.append)
    assert len(said) == 2 and all("INSECURE: --bind = 192.0.2.1" in line for line in said)


def test_a_pipeline_with_a_robot_elsewhere_needs_keys_or_the_word(folder: Path) -> None:
    lab = ["network.robot_ip=192.0.2.10", "network.bind_ip=127.0.0.1"]
    with pytest.raises(ConfigError, match=r"network.robot_ip = 192.0.2.10: command port 5000"):
        gate.check(Config.load(None, lab), pytest.fail)
    gate.check(Config.load(None, [*lab, f'security.keys="{folder}"']), pytest.fail)
    gate.check(Config.load(None, [*lab, f'security.keys="{folder / "host"}"']), pytest.fail)
    said: list[str] = []
    gate.check(Config.load(None, [*lab, "security.insecure_lan=true"]), said.append)
    assert len(said) == 1
    with pytest.raises(ConfigError, match="command port 5000"):  # keys that this link shall not use are none
        gate.check(Config.load(None, [*lab, f'security.keys="{folder}"', 'security.plain=["robot"]']), pytest.fail)


def test_beyond_loopback_sensor_data_needs_a_source_a_tag_or_the_word(folder: Path) -> None:
    lab = ["network.bind_ip=192.0.2.1"]
    with pytest.raises(ConfigError, match=r"security.udp_sources is empty and port 9999 is bound to 192.0.2.1"):
        gate.check(Config.load(None, lab), pytest.fail)
    gate.check(Config.load(None, [*lab, 'security.udp_sources=["192.0.2.20"]']), pytest.fail)
    gate.check(Config.load(None, [*lab, f'security.keys="{folder}"', "security.udp_tag=true"]), pytest.fail)
    said: list[str] = []
    gate.check(Config.load(None, [*lab, "security.insecure_lan=true"]), said.append)
    assert len(said) == 1 and "passes for the sensor" in said[0]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('security.udp_sources=["sensor-pc"]', "must be IPv4 addresses"),
        ('security.udp_sources=["192.0.2"]', "must be IPv4 addresses"),
        ("security.udp_tag=true", "needs security.keys"),
        ('security.plain=["cam"]', "must be robot or cameras"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config.load(None, [setting])


def test_keys_that_are_not_there_are_a_config_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"host.key_secret: No such file"):
        gate.check(Config.load(None, [f'security.keys="{tmp_path}"']), pytest.fail)


@pytest.mark.parametrize(
    "command",
    [
        ["send", "robot", "--bind", "192.0.2.1"],
        ["send", "robot", "--arm", "mecademic", "--robot-address", "192.0.2.5", "--bind", "0.0.0.0"],
        ["infer", "--robot-ip", "192.0.2.10", "--bind-ip", "127.0.0.1"],
        ["up", "--config", "lab"],
    ],
)
def test_the_command_line_refuses_with_78_and_names_both_remedies(
    command: list[str], namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 78
    said = capsys.readouterr().err
    assert "rtvla keys make" in said and "--insecure-lan" in said


def test_the_word_reaches_every_process(namespace: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With it the start goes on to the next thing that is missing: a checkpoint."""
    assert main(["infer", "--robot-ip", "192.0.2.10", "--insecure-lan", "--bind-ip", "127.0.0.1"]) == 78
    said = capfd.readouterr().err
    assert "checkpoint" in said and "WARNING INSECURE: network.robot_ip = 192.0.2.10" in said
