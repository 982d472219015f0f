"""Short stand-ins with the real methods: a process without signals, a socket that keeps what it was given."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import zmq

from rtvla import log, schema
from rtvla.models.spec import ModelSpec
from rtvla.schema import Observation, Prediction
from rtvla.shm.hub import Hub
from rtvla.shm.ring import RingReader, RingWriter


class FakeHealth:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    def counter(self, name: str) -> int:
        return self.counters[name]


class FakeMe:
    """What a process's loop sees of itself, on a real hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.health = hub, FakeHealth()
        self.log = logging.getLogger("test")
        self.events = log.RateLimited(self.log)
        self.gauges: dict[str, float] = {}

    def count(self, name: str, n: int = 1) -> None:
        self.health.counters[name] += n

    def gauge(self, name: str, value: float) -> None:
        self.gauges[name] = value

    def reader(self, stream: str) -> RingReader:
        return self.hub.reader(stream)

    def writer(self, stream: str) -> RingWriter:
        return self.hub.writer(stream)

    @property
    def counted(self) -> dict[str, int]:
        return {name: n for name, n in self.health.counters.items() if n}


class FakeSocket:
    """A ZMQ socket that keeps what it was given, or has nobody at the other end."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.connected = True

    def send(self, payload: bytes, flags: int) -> None:
        assert flags == zmq.DONTWAIT
        if not self.connected:
            raise zmq.Again
        self.sent.append(payload)


class FakeVla:
    """A policy that answers with a chunk it was told."""

    def __init__(self, spec: ModelSpec, actions: np.ndarray | None = None) -> None:
        self.spec = spec
        self.actions = np.full((spec.horizon, schema.ACTION_DIM), 0.01, np.float32) if actions is None else actions
        self.seen: list[tuple[Observation, int]] = []

    def predict(self, observation: Observation, seed: int) -> Prediction:
        self.seen.append((observation, seed))
        return Prediction(self.actions, 1_000_000, 2_000_000, 3_000_000)


class FakeStream:
    """A joint set that is whole once every view was put."""

    def __init__(self, encoder: FakeEncoder) -> None:
        self._encoder = encoder
        self.order: list[int] = []  # of all that was put
        self._frames: dict[int, np.ndarray] = {}

    def begin(self) -> None:
        self._frames = {}

    def put(self, at: int, frame: np.ndarray) -> None:
        self.order.append(at)
        self._frames[at] = frame

    def feature(self) -> np.ndarray | None:
        views = range(len(self._encoder.spec.views))
        if len(self._frames) < len(views):
            return None
        return self._encoder.encode_joint([self._frames[at] for at in views])


class FakeEncoder:
    """A VL model whose feature of a frame is the frame's mean colour."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.replays, self.encoded = spec, 0, 0
        self._stream = FakeStream(self)

    def encode_views(self, frames: list[np.ndarray]) -> np.ndarray:
        return np.stack([self.encode_view(frame) for frame in frames])

    def stream(self, _height: int, _width: int) -> FakeStream:
        return self._stream

    def tensor(self, frames: list[np.ndarray]) -> np.ndarray:
        return frames[0]

    def encode_view(self, rgb: np.ndarray) -> np.ndarray:
        self.encoded += 1
        return np.resize(rgb.mean(axis=(0, 1)), self.spec.vl_dim).astype(np.float32)

    def encode_joint(self, frames: list[np.ndarray]) -> np.ndarray:
        return self.pool(np.stack([self.encode_view(frame) for frame in frames]))

    def pool(self, per_view: np.ndarray) -> np.ndarray:
        mean: np.ndarray = per_view.mean(axis=0)
        return mean


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec(name="fake", vl_backbone="vl", vl_fingerprint="0" * 64, vl_dim=12, **changes)
