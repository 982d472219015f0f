"""Sources and tags of sensor datagrams, over loopback into a real ring."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakeMe

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.procs.sensor_ingest import Door, Receiver, open_door, open_socket
from rtvla.schema import SENSOR_WIRE
from rtvla.security import keys as key_files
from rtvla.shm.hub import Hub
from rtvla.wire.sensor import encode_batch, encode_single
from rtvla.wire.udp_tag import TagCheck, Tagger

KEY = bytes(range(32))


class Rig:
    def __init__(self, hub: Hub, port: int, door: Door) -> None:
        self.me, self.hub = FakeMe(hub), hub
        self._sock = open_socket(self.me, Config.load(None, [f"network.sensor_port={port}"]))  # type: ignore[arg-type]
        self._receiver = Receiver(self.me, self._sock, hub.writer("sensor"), door)  # type: ignore[arg-type]
        self._to = ("127.0.0.1", port)
        self.reader = hub.reader("sensor")

    def send(self, datagram: bytes, source: str = "127.0.0.1") -> None:
        """One datagram from a loopback address, received at once."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((source, 0))
            sender.sendto(datagram, self._to)
        assert self._receiver.receive()

    def close(self) -> None:
        self._sock.close()


Make = Callable[[Door], Rig]


@pytest.fixture
def make(hub: Hub, free_port: Callable[[], int]) -> Iterator[Make]:
    rigs: list[Rig] = []

    def build(door: Door) -> Rig:
        rigs.append(Rig(hub, free_port(), door))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.close()


def samples(count: int, first: int = 0) -> np.ndarray:
    records = np.zeros(count, SENSOR_WIRE)
    records["sampled_s"] = records["sent_s"] = 1.7e9 + (first + np.arange(count)) / 650
    records["force"] = first + np.arange(count)
    records["aline"] = np.arange(1025) + records["force"][:, None]
    return records


def test_only_the_configured_sources_are_taken(make: Make) -> None:
    rig = make(Door(["127.0.0.2", "127.0.0.3"]))
    for at, source in enumerate(("127.0.0.1", "127.0.0.2", "127.0.0.4", "127.0.0.3")):
        rig.send(encode_batch(samples(2, 2 * at)), source)
    assert rig.me.counted == {"datagrams": 4, "dropped.source": 2, "samples": 4}
    assert rig.reader.latest(4)["wire"]["force"].tolist() == [2, 3, 6, 7]


def test_tagged_datagrams_of_every_size_arrive_whole_across_the_wrap_of_the_ring(make: Make) -> None:
    rig, tagger = make(Door(check=TagCheck(KEY))), Tagger(KEY)
    first, cursor = 0, 0
    for size in [15, 1, 7, 15, 2, 14] * 20:  # 1080 samples through 1024 slots
        rig.send(tagger.tagged(encode_batch(samples(size, first))))
        records, lost, cursor = rig.reader.since(cursor, 100)
        assert lost == 0 and records["index"].tolist() == list(range(first, first + size))
        assert (records["wire"] == samples(size, first)).all()
        first += size
    assert rig.me.counted["samples"] == first and not [name for name in rig.me.counted if name.startswith("dropped")]


def test_the_headerless_form_carries_the_tag_too(make: Make) -> None:
    rig, tagger = make(Door(check=TagCheck(KEY))), Tagger(KEY)
    for at in range(3):
        rig.send(tagger.tagged(encode_single(samples(1, at)[0])))
    assert (rig.reader.latest(3)["wire"] == samples(3)).all()


def test_forged_changed_and_repeated_datagrams_are_counted_by_cause_and_publish_nothing(make: Make) -> None:
    rig, tagger = make(Door(check=TagCheck(KEY))), Tagger(KEY)
    plain = encode_batch(samples(3))
    first, second = tagger.tagged(plain), tagger.tagged(encode_batch(samples(3, 3)))
    changed = bytearray(second)
    changed[100] ^= 1
    rig.send(plain)
    rig.send(encode_batch(samples(15)))
    rig.send(encode_single(samples(1)[0]))
    rig.send(Tagger(bytes(32)).tagged(plain))
    rig.send(bytes(changed))
    rig.send(b"")
    assert rig.reader.head == 0
    rig.send(first)
    rig.send(second)
    rig.send(first)
    rig.send(second)
    assert rig.me.counted == {
        "datagrams": 10,
        "dropped.no_tag": 4,
        "dropped.bad_tag": 2,
        "dropped.replayed": 2,
        "samples": 6,
    }
    assert (rig.reader.latest(6)["wire"] == samples(6)).all()


def test_what_is_malformed_under_a_right_tag_is_dropped_as_ever(make: Make) -> None:
    rig, tagger = make(Door(check=TagCheck(KEY))), Tagger(KEY)
    rig.send(tagger.tagged(b"x" * 4121))
    rig.send(tagger.tagged(bytes(4 + 4120)))
    rig.send(tagger.tagged(bytes(4 + 15 * 4120 + 1)))
    rig.send(tagger.tagged(bytes(64_000)))
    assert rig.reader.head == 0
    assert sum(n for name, n in rig.me.counted.items() if name.startswith("dropped.")) == 4


def test_the_number_of_the_last_tag_is_on_record_for_a_successor(make: Make) -> None:
    rig = make(Door(check=TagCheck(KEY)))
    rig.send(Tagger(KEY, lambda: 12.345678).tagged(encode_batch(samples(1))))
    assert rig.me.gauges["tag_number_us"] == 12_345_678


def test_a_port_that_anybody_on_a_network_could_feed_is_not_opened(hub: Hub) -> None:
    cfg = Config.load(None, ["network.bind_ip=192.0.2.1"])
    with pytest.raises(ConfigError, match=r"security.udp_sources is empty"):
        open_socket(FakeMe(hub), cfg)  # type: ignore[arg-type]


def test_the_configured_door_goes_on_where_a_killed_process_stopped(hub: Hub, tmp_path: Path) -> None:
    key_files.make(tmp_path / "lab")
    row = hub.health_row("sensor_ingest")
    me = SimpleNamespace(health=row)
    assert open_door(me, Config()).check is None  # type: ignore[arg-type]
    cfg = Config.load(None, [f'security.keys="{tmp_path / "lab" / "host"}"', "security.udp_tag=true"])
    old = Tagger(key_files.read_udp(tmp_path / "lab", "sensor")).tagged(b"x")
    first = open_door(me, cfg)  # type: ignore[arg-type]
    assert first.check is not None and first.refusal("127.0.0.1", [old], len(old)) == ""
    row.gauge("tag_number_us", first.check.last // 1000)
    assert open_door(me, cfg).refusal("127.0.0.1", [old], len(old)) == "replayed"  # type: ignore[arg-type]
    row.close()
