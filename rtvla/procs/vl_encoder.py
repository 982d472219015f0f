"""vl_encoder: newest frames -> VL feature, at its own pace.

Reads   frame.<view>
Writes  vl_feature, republished after each encode with the capture time of every view in it
Late    nothing waits for it: a view whose frame changed meanwhile is encoded from the newest one, the rest is skipped

A per_view model is encoded rolling, the view that has waited longest first: the mean of per-view vectors is an exact
function of the newest frame of each view, and the visual age halves. A joint model needs a new set of all views; each
is worked on when its frame comes, so that after the last one little is left to do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rtvla import schema
from rtvla.clock import SECOND, now_ns
from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.models.checkpoint import load_vl_encoder
from rtvla.models.qwen_approximate import deviation
from rtvla.models.qwen_vl import VLEncoder
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.procs.model_setup import approximation_of, feature_of, require_checkpoint, resolve_device
from rtvla.procs.view_source import Frame, ViewSource

_IDLE_S = 0.01  # the view that is waited for may be the one whose camera is gone

F32 = npt.NDArray[np.float32]


class Encoder:
    """Keeps what each view was last encoded from, picks what is worth encoding next, publishes the feature."""

    def __init__(self, me: Me, cfg: Config, model: VLEncoder) -> None:
        self._me, self._model = me, model
        settings, spec = cfg.vl_encoder, model.spec
        if settings.skip_below and (spec.vl_sequence == "joint" or not settings.rolling):
            raise ConfigError(
                f"vl_encoder.skip_below = {settings.skip_below}: is for a per_view model that is encoded rolling"
            )
        interval_ns = int(settings.reuse * SECOND / cfg.policy.rate_hz)
        self.views = [ViewSource(me, view, interval_ns, settings.skip_below) for view in spec.views]
        self._step = {
            ("per_view", True): self._one_view,
            ("per_view", False): self._all_views,
            ("joint", True): self._next_of_set,
            ("joint", False): self._all_views,
        }[spec.vl_sequence, settings.rolling]
        self._out = me.writer("vl_feature")
        self._record = np.zeros((), schema.VL_FEATURE)
        self._record["fingerprint"], self._record["dim"] = feature_of(cfg, spec), spec.vl_dim
        last = me.reader("vl_feature").newest()
        self._updates = int(last["update_number"]) if last is not None else 0  # numbers go on after a restart
        self._vectors: dict[str, F32] = {}
        self._set: dict[str, tuple[int, int]] = {}  # views of the joint set under way -> size of their frame
        self._set_begun_ns = 0
        self._renewed: dict[str, int] = {}  # view -> encode time, since the last whole set
        self._replays = 0

    def step(self) -> bool:
        """Encode what is due. False if nothing is."""
        now = now_ns()
        due = [view for view in self.views if view.is_due(now)]
        return bool(due) and self._step(due)

    def wait(self) -> None:
        """Sleep until the view that is next in turn has a new frame, but not for long: others may have one sooner."""
        view = min(self.views, key=lambda view: view.begun_ns)
        if view.has_new:  # there is one already, and it is not due yet
            self._me.stop.wait(_IDLE_S)
        else:
            view.wait(_IDLE_S)

    def _one_view(self, due: list[ViewSource]) -> bool:
        """The view that has waited longest."""
        view = min(due, key=lambda view: view.begun_ns)
        frame = view.take()
        if frame is None:
            return True
        self._vectors[view.name] = self._vector_of(view, frame)
        took_ns = self._note(view, frame)
        if len(self._vectors) == len(self.views):
            stacked = np.stack([self._vectors[view.name] for view in self.views])
            self._publish(self._model.pool(stacked), took_ns)
        return True

    def _vector_of(self, view: ViewSource, frame: Frame) -> F32:
        kept = self._vectors.get(view.name) if view.is_unchanged(frame) else None
        if kept is not None:
            self._me.count("skipped")
            if not view.must_look():
                return kept
        exact = self._model.encode_view(frame.rgb)
        view.encoded(frame)
        if kept is not None:
            self._me.gauge("skip_deviation", deviation(kept, exact).relative)
        return exact

    def _next_of_set(self, due: list[ViewSource]) -> bool:
        """The first view that the set under way lacks; if none of those is there, a newer frame of one that it has."""
        view = min(due, key=lambda view: (view.name in self._set, self.views.index(view)))
        frame = view.take()
        if frame is None:
            return True
        height, width, _ = frame.rgb.shape
        if self._set and (height, width) not in self._set.values():
            self._give_up_streaming()
            return True
        stream = self._model.stream(height, width)
        if not self._set:
            stream.begin()
            self._set_begun_ns = frame.begun_ns
        self._set[view.name] = (height, width)
        stream.put(self.views.index(view), self._model.tensor([frame.rgb]))
        took_ns = self._note(view, frame)
        if len(self._set) == len(self.views):
            feature = stream.feature()
            assert feature is not None  # every view was put
            self._publish(feature, took_ns)
            self._set = {}
            for view in self.views:  # the next set is due as one: a view taken earlier than the others ages with them
                view.begun_ns = self._set_begun_ns
        return True

    def _give_up_streaming(self) -> None:
        self._me.log.warning("the views have frames of different sizes: encoded as whole sets, later and slower")
        self._step = self._all_views

    def _all_views(self, due: list[ViewSource]) -> bool:
        """A new frame of each, all at once."""
        if len(due) < len(self.views):
            return False
        frames = [view.take() for view in self.views]
        whole = [frame for frame in frames if frame is not None]
        if len(whole) < len(frames):
            return True
        pictures = [frame.rgb for frame in whole]
        if self._model.spec.vl_sequence == "joint":
            feature = self._model.encode_joint(pictures)
        elif len({picture.shape for picture in pictures}) == 1:
            feature = self._model.pool(self._model.encode_views(pictures))
        else:
            feature = self._model.pool(np.stack([self._model.encode_view(picture) for picture in pictures]))
        took_ns = max([self._note(view, frame) for view, frame in zip(self.views, whole, strict=True)])
        self._renewed = dict.fromkeys(self._renewed, 0) | {self.views[0].name: took_ns}
        self._publish(feature, took_ns)
        return True

    def _note(self, view: ViewSource, frame: Frame) -> int:
        """It goes on record that the next feature is made of this frame. Returns the time since it was taken."""
        at, took_ns = schema.VIEWS.index(view.name), now_ns() - frame.begun_ns
        for name in ("received_ns", "captured_ns", "uncertainty_ns", "index"):
            self._record[f"view_{name}"][at] = getattr(frame, name)
        self._renewed[view.name] = took_ns
        return took_ns

    def _publish(self, feature: F32, took_ns: int) -> None:
        record = self._record
        if not np.isfinite(feature).all():
            self._me.count("dropped.not_finite")
            return
        if len(self._renewed) == len(self.views):
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
        self._me.gauge("cuda_graph", float(self._model.replays > self._replays))  # whether this encode was a replay
        self._replays = self._model.replays


def main(cfg: Config) -> None:
    checkpoint, settings = require_checkpoint(cfg), cfg.vl_encoder
    with lifecycle("vl_encoder", cfg) as me:
        device = resolve_device(settings.device)
        model = load_vl_encoder(checkpoint, settings.task_name, device, approximation_of(cfg))
        encoder = Encoder(me, cfg, model)
        sizes = [size for view in encoder.views if (size := view.size()) is not None]
        model.prepare(settings.engine, sizes, settings.rolling)
        found = model.check()
        me.gauge("deviation", found.relative)
        me.log.info(
            "%s on %s by %s, %s, fingerprint %016x; from the plain transformers call: %s",
            *(checkpoint, device, model.engine.name, model.spec.vl_sequence, feature_of(cfg, model.spec), found),
        )
        me.ready()
        while me.running:
            if not encoder.step():
                encoder.wait()
            me.beat()
