"""Keys on disk: made once, readable by their owner, refused by name when anything is wrong with them."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
import zmq

from rtvla.cli import main
from rtvla.errors import ConfigError
from rtvla.security import keys as key_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    key_files.make(folder)
    return folder


def test_each_machine_gets_its_own_secret_and_the_public_keys_of_its_peers(folder: Path) -> None:
    host, robot, cameras = (key_files.read(folder, name) for name in ("host", "robot", "cameras"))
    assert host.peers == {"robot": robot.public, "cameras": cameras.public}
    assert robot.peers == cameras.peers == {"host": host.public}
    for keys in (host, robot, cameras):
        assert zmq.curve_public(keys.secret) == keys.public
        with_secret = [path.parent.name for path in folder.glob("*/*") if keys.secret.decode() in path.read_text()]
        assert with_secret == [keys.machine]
    assert key_files.read_udp(folder, "host") == key_files.read_udp(folder, "sensor")
    assert not (folder / "robot" / "udp.key").exists() and not (folder / "cameras" / "udp.key").exists()


def test_the_folder_of_one_machine_is_enough_there(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "robot", tmp_path / "on the robot PC")
    assert key_files.read(tmp_path / "on the robot PC", "robot") == key_files.read(folder, "robot")


def test_nobody_else_can_read_what_is_written(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.glob("*/*")}
    assert main(["keys", "make", str(folder)]) == 78
    assert {path: path.read_bytes() for path in folder.glob("*/*")} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_two_labs_have_nothing_in_common(folder: Path, tmp_path: Path) -> None:
    key_files.make(tmp_path / "other")
    for machine in key_files.PEERS:
        assert key_files.read(folder, machine).secret != key_files.read(tmp_path / "other", machine).secret
    assert key_files.read_udp(folder, "host") != key_files.read_udp(tmp_path / "other", "host")


def test_a_secret_is_not_in_what_is_printed_of_it(folder: Path) -> None:
    keys = key_files.read(folder, "host")
    assert keys.secret.decode() not in repr(keys) and str(keys.secret) not in repr(keys)


@pytest.mark.parametrize("name", ["robot.key_secret", "udp.key"])
def test_a_secret_that_others_may_read_is_refused(folder: Path, name: str) -> None:
    machine = "sensor" if name == "udp.key" else "robot"
    (folder / machine / name).chmod(0o640)
    with pytest.raises(ConfigError, match=f"{name}: mode 0640 lets others read or change it"):
        key_files.read_udp(folder, machine) if name == "udp.key" else key_files.read(folder, machine)


def test_a_public_key_that_others_may_change_is_refused(folder: Path) -> None:
    (folder / "host" / "robot.key").chmod(0o644)
    key_files.read(folder, "host")
    (folder / "host" / "robot.key").chmod(0o664)
    with pytest.raises(ConfigError, match=r"robot.key: mode 0664 lets others change it"):
        key_files.read(folder, "host")
    (folder / "host" / "robot.key").chmod(0o600)
    (folder / "host").chmod(0o777)
    with pytest.raises(ConfigError, match="host: mode 0777 lets others change it"):
        key_files.read(folder, "host")


def test_spoiled_files_are_refused_by_name(folder: Path) -> None:
    secret = folder / "robot" / "robot.key_secret"
    whole = secret.read_text()
    public = key_files.read(folder, "host").public.decode()
    for text, says in (
        ("", "not a ZMQ certificate"),
        (whole.replace('secret-key = "', 'secret-key = "x'), "40 characters"),
        (whole.partition("secret-key")[0], "does not belong"),
        (whole.replace(key_files.read(folder, "robot").public.decode(), public), "does not belong"),
    ):
        secret.write_text(text)
        with pytest.raises(ConfigError, match=says):
            key_files.read(folder, "robot")
    secret.unlink()
    with pytest.raises(ConfigError, match=r"robot.key_secret: No such file .* rtvla keys make"):
        key_files.read(folder, "robot")
    (folder / "host" / "udp.key").write_text("12")
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        key_files.read_udp(folder, "host")


def test_show_tells_who_is_who_and_ends_with_1_when_something_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    files = {name: machine["files"] for name, machine in shown["machines"].items()}
    assert files["host"]["robot.key"]["fingerprint"] == files["robot"]["robot.key_secret"]["fingerprint"]
    assert files["host"]["udp.key"]["fingerprint"] == files["sensor"]["udp.key"]["fingerprint"]
    assert main(["keys", "show", str(folder / "robot")]) == 0
    assert main(["keys", "show", str(tmp_path / "nothing")]) == 1

    key_files.make(tmp_path / "other")
    shutil.copyfile(tmp_path / "other/robot/robot.key", folder / "host/robot.key")
    shutil.copyfile(tmp_path / "other/sensor/udp.key", folder / "sensor/udp.key")
    (folder / "cameras" / "cameras.key_secret").chmod(0o644)
    capsys.readouterr()
    assert main(["keys", "show", str(folder)]) == 1
    out = capsys.readouterr().out
    wrong = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 3
    assert all(name in "\n".join(wrong) for name in ("robot.key: not the same", "udp.key: not the same", "mode 0644"))


def test_make_says_what_goes_where_and_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "make", str(tmp_path / "lab")]) == 0
    out = capsys.readouterr().out
    for text in ("rtvla send robot --keys", "[security] keys =", "udp_tag = true", "cameras.key_secret"):
        assert text in out
    assert key_files.read(tmp_path / "lab", "host").secret.decode() not in out
    assert key_files.read_udp(tmp_path / "lab", "host").hex() not in out
