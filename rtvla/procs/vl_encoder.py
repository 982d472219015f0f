"""vl_encoder: newest frames -> VL feature, at its own pace.

Reads   frame.<view>
Writes  vl_feature, republished after each encode with the arrival time of every view in it
Late    nothing waits for it: a view whose frame changed meanwhile is encoded from the newest one, the rest is skipped

A per_view model is encoded rolling, the view that has waited longest first: the mean of per-view vectors is an exact
function of the newest frame of each view, and the visual age halves. A joint model needs a new set of all views.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg

from rtvla import schema
from rtvla.clock import SECOND, now_ns
from rtvla.config import Config
from rtvla.models.checkpoint import load_vl_encoder
from rtvla.models.qwen_vl import VLEncoder
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.procs.model_setup import require_checkpoint, resolve_device
from rtvla.shm.ring import RingReader

_IDLE_S = 0.01  # the view that is waited for may be the one whose camera is gone


class Encoder:
    """Keeps what each view was last encoded from, picks what is worth encoding next, publishes the feature."""

    def __init__(self, me: Me, cfg: Config, model: VLEncoder) -> None:
        self._me, self._model, self._spec = me, model, model.spec
        self._views = [schema.VIEWS.index(view) for view in model.spec.views]
        self._readers = {at: me.reader(f"frame.{schema.VIEWS[at]}") for at in self._views}
        self._out = me.writer("vl_feature")
        self._record = np.zeros((), schema.VL_FEATURE)
        self._record["fingerprint"], self._record["dim"] = model.spec.fingerprint(), model.spec.vl_dim
        last = me.reader("vl_feature").newest()
        self._updates = int(last["update_number"]) if last is not None else 0  # numbers go on after a restart
        self._interval_ns = int(cfg.vl_encoder.reuse * SECOND / cfg.policy.rate_hz)
        self._heads = dict.fromkeys(self._views, 0)  # frames seen of each view when it was last encoded
        self._begun_ns = dict.fromkeys(self._views, -self._interval_ns)
        self._vectors: dict[int, npt.NDArray[np.float32]] = {}
        self._renewed: dict[int, int] = {}  # view -> encode time, since the last whole set

    def step(self) -> bool:
        """Encode what is due. False if nothing is."""
        now, slack = now_ns(), self._interval_ns // 20
        fresh = [
            at
            for at in self._views
            if self._readers[at].head > self._heads[at] and now - self._begun_ns[at] >= self._interval_ns - slack
        ]
        if self._spec.vl_sequence == "joint":
            if len(fresh) < len(self._views):
                return False
            self._encode_set(now)
        elif not fresh:
            return False
        else:
            self._encode_view(min(fresh, key=lambda at: self._begun_ns[at]), now)
        return True

    def wait(self) -> None:
        """Sleep until the view that is next in turn has a new frame, but not for long: others may have one sooner."""
        at = min(self._views, key=lambda at: self._begun_ns[at])
        if self._readers[at].head > self._heads[at]:  # there is one already, and it is not due yet
            self._me.stop.wait(_IDLE_S)
        else:
            self._readers[at].wait(self._heads[at], _IDLE_S)

    def _encode_view(self, at: int, begun_ns: int) -> None:
        frame = self._take(at, begun_ns)
        if frame is None:
            return
        self._vectors[at] = self._model.encode_view(frame)
        took_ns = now_ns() - begun_ns
        self._renewed[at] = took_ns
        if len(self._vectors) == len(self._views):
            stacked = np.stack([self._vectors[at] for at in self._views])
            self._publish(self._model.pool(stacked), took_ns)

    def _encode_set(self, begun_ns: int) -> None:
        frames = [self._take(at, begun_ns) for at in self._views]
        whole = [frame for frame in frames if frame is not None]
        if len(whole) < len(frames):
            return
        feature = self._model.encode_joint(whole)
        took_ns = now_ns() - begun_ns
        self._renewed = dict.fromkeys(self._views, 0) | {self._views[0]: took_ns}
        self._publish(feature, took_ns)

    def _take(self, at: int, begun_ns: int) -> npt.NDArray[np.uint8] | None:
        """The newest frame of a view as (H, W, 3) RGB; it goes on record as what the next feature is made of."""
        record = newest(self._readers[at])
        self._heads[at], self._begun_ns[at] = int(record["index"]) + 1, begun_ns
        try:
            frame = simplejpeg.decode_jpeg(record["jpeg"][: int(record["n_bytes"])].tobytes(), "RGB")
        except ValueError as error:  # camera_ingest has decoded it at an eighth of the size; the colours are new
            self._me.count("dropped.bad_jpeg")
            self._me.events.warn("bad_jpeg", error)
            return None
        self._record["view_received_ns"][at] = record["received_ns"]
        self._record["view_index"][at] = record["index"]
        return frame

    def _publish(self, feature: npt.NDArray[np.float32], took_ns: int) -> None:
        record = self._record
        if not np.isfinite(feature).all():
            self._me.count("dropped.not_finite")
            return
        if len(self._renewed) == len(self._views):
            self._updates += 1
            record["update_ns"] = sum(self._renewed.values())
            self._me.count("updates")
            self._me.gauge("update_ms", int(record["update_ns"]) / 1e6)
            self._renewed = {}
        record["feature"][: len(feature)] = feature
        record["encode_ns"], record["update_number"] = took_ns, self._updates
        record["published_ns"] = now_ns()
        self._out.put(record)
        self._me.count("features")


def newest(reader: RingReader) -> np.void:
    record = reader.newest()
    if record is None:
        raise RuntimeError("a frame was announced and is not there")  # head > 0 was seen: cannot happen
    return record


def main(cfg: Config) -> None:
    checkpoint = require_checkpoint(cfg)
    with lifecycle("vl_encoder", cfg) as me:
        device = resolve_device(cfg.vl_encoder.device)
        model = load_vl_encoder(checkpoint, cfg.vl_encoder.task_name, device)
        frames = model.spec.fake_frames(0)
        for _ in range(2):
            if model.spec.vl_sequence == "joint":
                model.encode_joint(frames)
            else:
                model.encode_view(frames[0])
        me.log.info(
            "%s on %s, %s, fingerprint %016x", checkpoint, device, model.spec.vl_sequence, model.spec.fingerprint()
        )
        encoder = Encoder(me, cfg, model)
        me.ready()
        while me.running:
            if not encoder.step():
                encoder.wait()
            me.beat()
