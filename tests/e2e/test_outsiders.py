"""Programs that are not ours: a peer written from the wire tables alone, and a flood of rubbish."""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zmq
from conftest import Pipeline
from standalone_peer import PICTURE

from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

pytestmark = pytest.mark.e2e

PEER = Path(__file__).with_name("standalone_peer.py")
RUBBISH = 10_000


def test_a_peer_written_from_the_wire_tables_feeds_it_and_receives_its_commands(pipeline: Pipeline) -> None:
    assert "rtvla" not in PEER.read_text().split('"""', 2)[2]
    pipeline.start("--save-data", "--auto-start")
    pipeline.until(lambda: pipeline.is_ready("commander"), "readiness")
    ports = [str(pipeline.ports[name]) for name in ("sensor", "camera", "robot", "command")]
    done = subprocess.run([sys.executable, str(PEER), *ports, "12"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert pipeline.stop() == 0
    folder, received = pipeline.folder(), report["received"]
    assert len(np.load(next(folder.glob("sensor_data_*.npz")))["forces"]) == report["sent"]["samples"]
    assert len(list((folder / "images").rglob("*.jpg"))) == report["sent"]["images"]
    assert len(next(folder.glob("robot_state_*.csv")).read_text().splitlines()) - 1 == report["sent"]["states"]
    assert received["start"] == 1 and received["other"] == 0 and received["dpose"] >= 20
    assert report["moved_mm"] > 0 and received["largest"] <= 0.1 + 1e-9


def rubbish(rng: random.Random) -> tuple[str, object]:
    """One message that must be dropped, and where it goes."""
    noise, jpeg = rng.randbytes(rng.randrange(1, 3000)), PICTURE
    good_meta = b'{"camera": "OAK", "timestamp": 1.0}'
    record = struct.pack("<ddf", 1.0, 1.0, 0.0) + struct.pack("<1025f", *([0.0] * 1025))
    return rng.choice(
        [
            ("sensor", noise),
            ("sensor", struct.pack("<I", rng.randrange(2, 2**32)) + record),
            ("sensor", struct.pack("<I", 1) + record[:-4] + struct.pack("<f", float("nan"))),
            ("sensor", struct.pack("<I", 1) + struct.pack("<d", -5.0) + record[8:]),
            ("sensor", record[:-1]),
            ("camera", [noise, jpeg]),
            ("camera", [good_meta]),
            ("camera", [good_meta, jpeg, b""]),
            ("camera", [b"[" * 5000, jpeg]),
            ("camera", [b'{"camera": 7, "timestamp": 1.0}', jpeg]),
            ("camera", [b'{"camera": "webcam", "timestamp": 1.0}', jpeg]),
            ("camera", [b'{"camera": "OAK", "timestamp": NaN}', jpeg]),
            ("camera", [good_meta, jpeg[: rng.randrange(len(jpeg) - 2)]]),
            ("camera", [good_meta, noise]),
        ]
    )


def test_ten_thousand_malformed_messages_are_counted_and_change_nothing_else(pipeline: Pipeline) -> None:
    rng = random.Random(1)
    pipeline.start("--sim")
    pipeline.until(pipeline.moving, "motion")
    pids = {name: row["pid"] for name, row in pipeline.rows().items()}
    chunks = pipeline.counter("policy", "chunks")
    context = zmq.Context()
    camera = context.socket(zmq.PUSH)
    camera.connect(f"tcp://127.0.0.1:{pipeline.ports['camera']}")
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sent = {"sensor": 0, "camera": 0}
    while sum(sent.values()) < RUBBISH:
        kind, message = rubbish(rng)
        if kind == "sensor":
            udp.sendto(message, ("127.0.0.1", pipeline.ports["sensor"]))  # type: ignore[arg-type]
        else:
            camera.send_multipart(message)  # type: ignore[arg-type]
        sent[kind] += 1
        time.sleep(0.0002)  # a flood, but one that the receive buffer holds

    def dropped(process: str) -> int:
        counters = pipeline.rows()[process]["counters"]
        return sum(n for name, n in counters.items() if name.startswith("dropped."))

    for kind, count in sent.items():
        pipeline.until(lambda kind=kind, count=count: dropped(f"{kind}_ingest") >= count, f"{count} {kind} counted")
        assert dropped(f"{kind}_ingest") == count
    camera.close(linger=0)
    context.term()
    assert {name: row["pid"] for name, row in pipeline.rows().items()} == pids
    pipeline.until(lambda: pipeline.counter("policy", "chunks") >= chunks + 10, "chunks going on")
    assert pipeline.stop() == 0
    summary = pipeline.summary()
    assert summary["restarts"] == {} and summary["lost"] == {}
    assert summary["counters"]["policy"].get("tick_skipped", 0) == 0


def test_malformed_robot_states_are_counted_by_cause(namespace: str, hub: Hub, free_port: Callable[[], int]) -> None:
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.XPUB) as robot:
        robot.setsockopt(zmq.SNDHWM, 0)  # nothing may be dropped before it is received
        robot.bind(f"tcp://127.0.0.1:{port}")
        command = [sys.executable, "-m", "rtvla", "run", "robot_ingest", "--set", f"network.robot_port={port}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert robot.recv() == b"\x01"  # subscribed to everything
        good = struct.pack("<ddf12f", 1.0, 1.0, 0.0, *range(12))
        for _ in range(500):
            for message in (
                [b"robot_state", good],
                [b"robot_state", good[:-1]],
                [b"robot_state", good[:64] + b"\xff" * 4],
                [b"robot_state", struct.pack("<d", -1.0) + good[8:]],
                [b"robot_cmd", good],
                [b"robot_state"],
                [b"episode_end", b"finished"],
            ):
                robot.send_multipart(message)
        robot.close(linger=5000)
        counters: dict[str, int] = {}
        deadline = time.monotonic() + 30
        while counters.get("episode_end") != 500 and time.monotonic() < deadline:
            counters = process_rows(hub)["robot_ingest"]["counters"]
            time.sleep(0.05)
        process.terminate()
        process.communicate()
    causes = ("bad_length", "not_finite", "bad_stamp", "unknown_topic", "wrong_parts")
    assert counters == {"states": 500, "episode_end": 500} | {f"dropped.{cause}": 500 for cause in causes}
    assert hub.reader("robot").head == 500
