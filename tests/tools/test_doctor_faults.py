"""Ten broken set-ups, each with its real fault, and what `rtvla doctor` says to it. Real processes, loopback only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rtvla.models.make_tiny import make_tiny
from rtvla.shm.hub import Hub
from rtvla.shm.segment import path_of

RTVLA = [sys.executable, "-m", "rtvla"]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other users, mounts and capabilities")


class Said:
    """What doctor said, by check."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        self.code, self.document = done.returncode, json.loads(done.stdout)
        self._checks = {row["check"]: row for row in self.document["checks"]}

    def __getitem__(self, check: str) -> dict[str, Any]:
        return dict(self._checks[check])

    def fails(self, check: str, *words: str) -> bool:
        """Whether this check failed, named these words, and told why and what to do."""
        row = self._checks[check]
        assert row["status"] == "FAIL" and self.code == 1, row
        assert all(word in row["found"] for word in words), row
        return bool(row["why"] and row["mend"])


def ask(*flags: str, prefix: tuple[str, ...] = (), **options: Any) -> Said:
    command = [*prefix, *RTVLA, "doctor", "--json", "--try-anyway", *flags]
    return Said(subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **options))


@contextmanager
def running(*commands: list[str], ready: str = "") -> Iterator[list[subprocess.Popen[str]]]:
    """`ready`: the line that the first one prints once it is there."""
    started = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for one in commands]
    try:
        if ready:
            assert started[0].stdout is not None
            assert started[0].stdout.readline().strip() == ready
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def ports(free_port: Callable[[], int]) -> dict[str, str]:
    return {name: str(free_port()) for name in ("sensor", "camera", "robot", "command")}


def port_flags(ports: dict[str, str]) -> list[str]:
    return [word for name, port in ports.items() for word in (f"--{name}-port", port)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny(folder)
    return folder


def test_port_taken(namespace: str, ports: dict[str, str]) -> None:
    code = "import socket, sys, time; s = socket.socket(type=socket.SOCK_DGRAM); "
    code += f"s.bind(('127.0.0.1', {ports['sensor']})); print('bound', flush=True); time.sleep(100)"
    with running([sys.executable, "-c", code], ready="bound") as (owner,):
        said = ask("--only", "network", *port_flags(ports))
    assert said.fails("port.sensor", f"{ports['sensor']}/udp is taken", f"pid {owner.pid}")
    assert said["port.sensor"]["mend"].startswith(f"kill {owner.pid}")
    assert said["port.camera"]["status"] == "PASS"


def test_tcp_port_taken_by_who_listens_on_all_addresses(namespace: str, ports: dict[str, str]) -> None:
    code = f"import socket, time; s = socket.create_server(('', {ports['camera']})); "
    code += "print('bound', flush=True); time.sleep(100)"
    with running([sys.executable, "-c", code], ready="bound") as (owner,):
        said = ask("--only", "network", *port_flags(ports))
    assert said.fails("port.camera", f"pid {owner.pid}")


def test_wrong_checkpoint_cut_off(namespace: str, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "cut")
    weights = tmp_path / "cut" / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    said = ask("--only", "model", "--checkpoint", str(tmp_path / "cut"))
    assert said.fails("model.policy", "weights.safetensors is not the file that was saved")


@pytest.mark.long
def test_wrong_checkpoint_with_the_backbone_of_another(namespace: str, checkpoint: Path, tmp_path: Path) -> None:
    mixed, other = tmp_path / "mixed", tmp_path / "other"
    shutil.copytree(checkpoint, mixed)
    make_tiny(other, seed=1)
    shutil.rmtree(mixed / "vl")
    shutil.copytree(other / "vl", mixed / "vl")
    said = ask("--only", "model", "--checkpoint", str(mixed))
    assert said["model.policy"]["status"] == "PASS"
    assert said.fails("model.vl_backbone", "VL backbone")


def test_wrong_checkpoint_of_another_type(namespace: str, checkpoint: Path) -> None:
    said = ask("--only", "model", "--checkpoint", str(checkpoint), "--set", "policy.model_type=regression")
    assert said.fails("model.checkpoint", "flow_matching", "regression was asked for")


def test_no_data_from_one_camera(namespace: str, ports: dict[str, str]) -> None:
    senders = (
        [*RTVLA, "send", "sensor", "--target", "127.0.0.1", "--port", ports["sensor"]],
        [*RTVLA, "send", "camera", "--server-port", ports["camera"], "--views", "4"],
        [*RTVLA, "send", "robot", "--state-port", ports["robot"], "--command-port", ports["command"]],
    )
    with running(*senders):
        said = ask("--only", "data", "--test-data-reception", "6", *port_flags(ports))
    assert said.fails("data.frame.View5.rate", "nothing came in 6 s")
    for view in (1, 2, 3, 4):
        row = said[f"data.frame.View{view}.rate"]
        assert row["status"] in ("PASS", "WARN") and row["value"] > 2.5, row  # half of the nominal rate
        assert "640x360" in row["found"]
    assert said["data.sensor.rate"]["value"] > 325 and said["data.robot.rate"]["value"] > 50
    assert abs(said["data.sensor.clock"]["value"]) < 1000  # ms: it is the same clock


@as_root
def test_memory_lock_refused(namespace: str) -> None:
    drop = "import ctypes, os, resource, sys; ctypes.CDLL(None).prctl(24, 14, 0, 0, 0); "  # CAP_IPC_LOCK
    drop += "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0)); os.execv(sys.argv[1], sys.argv[1:])"
    prefix = (sys.executable, "-c", drop)
    said = ask("--only", "grants", "--robot-ip", "192.0.2.10", "--bind-ip", "127.0.0.1", prefix=prefix)
    assert said.fails("grant.memory_lock", "locked memory: refused", "limit 0 KB")
    assert "memlock" in said["grant.memory_lock"]["mend"]
    assert ask("--only", "grants", prefix=prefix)["grant.memory_lock"]["status"] == "WARN"  # no arm moves


@as_root
def test_shared_memory_full(namespace: str) -> None:
    mount = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    said = ask("--only", "memory", prefix=prefix)
    assert said.fails("shm.space", "8 MB free of 8", "needs 47 more")
    assert "size=1g" in said["shm.space"]["mend"]


@as_root
def test_wrong_owner(namespace: str, hub: Hub) -> None:
    hub.create(["policy"])
    os.chown(path_of(namespace, "sensor"), NOBODY, NOBODY)
    said = ask("--only", "memory")
    assert said.fails("shm.owner", f"{path_of(namespace, 'sensor')} belongs to user {NOBODY}, we are user 0")


# Looks once, becomes another user, and looks again: that user may not be able to read the interpreter's files.
OTHER_USER = """
import contextlib, io, os, sys
import rtvla.cli
from rtvla.tools import doctor_trial
with contextlib.redirect_stdout(io.StringIO()):
    rtvla.cli.main(["doctor", "--json", "--only", "memory"])
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
sys.exit(rtvla.cli.main(["doctor", "--json", "--only", "memory", "grants"]))
"""


@as_root
def test_wrong_owner_seen_by_another_user(namespace: str, hub: Hub) -> None:
    hub.create(["policy"])
    command = [sys.executable, "-c", OTHER_USER, str(NOBODY)]
    said = Said(subprocess.run(command, capture_output=True, text=True, check=False))
    assert said.fails("shm.owner", "belongs to user 0", f"we are user {NOBODY}")
    assert said.fails("shm.leftover", "belongs to another user")
    assert said["grant.wake_up"]["status"] == "SKIP"  # who cannot tell whether a pipeline runs disturbs none


SENDER = """
import socket, sys, time, numpy as np
from rtvla.schema import SENSOR_WIRE
from rtvla.wire.sensor import encode_batch
record, sock = np.zeros(1, SENSOR_WIRE), socket.socket(type=socket.SOCK_DGRAM)
while True:
    record["sampled_s"] = record["sent_s"] = time.time() - float(sys.argv[2])
    record["force"] += 1
    sock.sendto(encode_batch(record), ("127.0.0.1", int(sys.argv[1])))
    time.sleep(1 / 650)
"""


def test_clock_far_off(namespace: str, ports: dict[str, str]) -> None:
    with running([sys.executable, "-c", SENDER, ports["sensor"], "3600"]):
        said = ask("--only", "data", "--test-data-reception", "4", *port_flags(ports))
    assert said.fails("data.sensor.clock", "3600 s behind ours")
    assert "chronyc makestep" in said["data.sensor.clock"]["mend"]


def test_a_clock_some_seconds_off_is_a_warning(namespace: str, ports: dict[str, str]) -> None:
    with running([sys.executable, "-c", SENDER, ports["sensor"], "-5"]):
        said = ask("--only", "data", "--test-data-reception", "4", *port_flags(ports))
    assert said["data.sensor.clock"]["status"] == "WARN" and "ahead of ours" in said["data.sensor.clock"]["found"]


@pytest.mark.parametrize(("library", "module"), [("simplejpeg", "simplejpeg"), ("pyzmq", "zmq"), ("rich", "rich")])
def test_missing_library(namespace: str, tmp_path: Path, library: str, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('No module named {module}', name='{module}')\n")
    said = ask("--only", "software", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert said.fails(f"library.{library}", f"No module named {module}")
    assert said[f"library.{library}"]["mend"] == f"pip install --upgrade {library}"


def test_missing_library_of_the_table_itself(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('No module named rich')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [*RTVLA, "doctor", "--only", "software"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1 and "FAIL  library.rich" in done.stdout and "mend: pip install" in done.stdout


def test_missing_library_of_the_model(namespace: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch', name='torch')\n")
    flags = ("--only", "model", "--checkpoint", str(checkpoint))
    said = ask(*flags, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert said["model.checkpoint"]["status"] == "PASS"
    assert said.fails("model.policy", "No module named torch")
    assert said["model.policy"]["mend"].startswith("pip install --upgrade torch")


def test_bad_config_value(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('[policy]\nrate_hz = "ten"\n')
    said = ask("--only", "config", "network", "--config", str(tmp_path / "lab.toml"))
    assert said.fails("config.settings", "\"policy.rate_hz\" = 'ten'", "must be float")
    assert {row["status"] for row in said.document["checks"] if row["group"] == "network"} == {"SKIP"}


def test_torch_threads_over_the_core_set_by_setting(namespace: str) -> None:
    said = ask("--only", "config", "--set", "policy.threads=8", "--set", "realtime.cores.policy=[0]")
    assert said.fails("config.threads", "policy.threads = 8 on cores 0")


STRAY = """
import os, time
from rtvla.config import namespace
from rtvla.shm.hub import Hub
row = Hub(namespace()).health_row("policy")
row.state("ready")
os.sched_setaffinity(0, os.sched_getaffinity(0))
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_of_a_process_that_runs_beyond_its_cores(namespace: str, hub: Hub) -> None:
    core = min(os.sched_getaffinity(0))
    with running([sys.executable, "-c", STRAY], ready="ready"):
        said = ask("--only", "grants", "--set", f"realtime.cores.policy=[{core}]")
    assert said.document["running"]
    assert said["grant.thread_cores"]["status"] == "WARN"
    assert (
        "policy: " in said["grant.thread_cores"]["found"]
        and f"beyond cores {core}" in said["grant.thread_cores"]["found"]
    )


@pytest.mark.long
def test_a_sound_checkpoint_passes_and_nothing_is_left_behind(
    namespace: str, checkpoint: Path, tmp_path: Path, ports: dict[str, str]
) -> None:
    """The namespace fixture looks at shared memory."""
    before = {path: path.stat().st_mtime_ns for path in checkpoint.rglob("*")}
    said = ask("--checkpoint", str(checkpoint), "--test-data-reception", "1", *port_flags(ports), cwd=tmp_path)
    assert [said[f"model.{part}"]["status"] for part in ("checkpoint", "vl_backbone")] == ["PASS", "PASS"]
    assert said["model.policy"]["value"] > 0
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in checkpoint.rglob("*")} == before


def test_a_pipeline_of_another_namespace_is_not_disturbed(
    namespace: str, hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running([sys.executable, "-c", STRAY], ready="ready"):
        monkeypatch.setenv("RTVLA_NAMESPACE", f"{namespace}-other")
        command = [*RTVLA, "doctor", "--json", "--only", "grants", "model", "network", "--checkpoint", str(checkpoint)]
        said = Said(subprocess.run(command, capture_output=True, text=True, check=False))
    assert not said.document["running"]
    for check in ("grant.fifo", "grant.wake_up", "model.policy", "model.vl_backbone", "host.robot_commands"):
        assert said[check]["status"] == "SKIP" and namespace in said[check]["found"], said[check]


def test_keys_on_one_side_alone_are_told(namespace: str, ports: dict[str, str], tmp_path: Path) -> None:
    keys = str(tmp_path / "keys")
    subprocess.run([*RTVLA, "keys", "make", keys], capture_output=True, check=True)
    flags = ["--bind", "127.0.0.1", "--state-port", ports["robot"], "--command-port", ports["command"]]
    with running([*RTVLA, "send", "robot", *flags]):
        said = ask("--only", "data", "--keys", keys, "--test-data-reception", "4", *port_flags(ports))
    assert said.fails("data.robot.rate", "nothing came", "refused_protocol")
    assert "rtvla keys show" in said["data.robot.rate"]["mend"]


def test_a_message_that_belongs_to_no_camera_is_told(namespace: str, ports: dict[str, str]) -> None:
    code = f"""
import time, zmq
sock = zmq.Context().socket(zmq.PUSH)
sock.connect("tcp://127.0.0.1:{ports["camera"]}")
while True:
    sock.send_multipart([b'{{"camera": "webcam", "timestamp": 1.0}}', b"x"])
    time.sleep(0.1)
"""
    with running([sys.executable, "-c", code]):
        said = ask("--only", "data", "--test-data-reception", "4", *port_flags(ports))
    assert said["data.cameras.refused"]["status"] == "WARN"
    assert "unknown_view" in said["data.cameras.refused"]["found"]
    assert said.fails("data.frame.View1.rate", "nothing came", "unknown_view")
