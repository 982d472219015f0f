"""policy: newest observation -> action chunk, at policy.rate_hz on absolute deadlines.

Reads   sensor, robot, vl_feature
Writes  action_chunk
Late    a tick that ends after its deadline counts one deadline_miss; the old chunk stays valid until it is too old
"""

from __future__ import annotations

import os

import numpy as np

from rtvla import schema
from rtvla.clock import now_ns, wall_s
from rtvla.config import Config
from rtvla.control.observation import Limits, Seen, observe
from rtvla.control.window import WindowSpec
from rtvla.errors import ConfigError
from rtvla.models.checkpoint import load_policy
from rtvla.models.engines.engine import EngineChoice, EngineReport
from rtvla.models.policy import VlaPolicy
from rtvla.models.spec import ModelSpec
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.procs.model_setup import feature_of, require_checkpoint, resolve_device
from rtvla.schema import Prediction
from rtvla.shm.ring import Records, RingReader
from rtvla.streams import stale_ns

_FEATURES = 4  # to choose from: one that has no view from after the observation


def limits_of(cfg: Config, spec: ModelSpec) -> Limits:
    sensor, robot, feature = (stale_ns(name, cfg.stale_ms) for name in ("sensor", "robot", "vl_feature"))
    views = tuple(schema.VIEWS.index(view) for view in spec.views)
    return Limits(sensor, robot, feature, cfg.policy.max_missing, views)


def windows_of(spec: ModelSpec) -> tuple[WindowSpec, WindowSpec]:
    """Sensor and robot. A model that cannot be told what is missing was trained with windows by count."""
    by_time = spec.missing_mask
    return (
        WindowSpec(spec.sensor_window, spec.sensor_hz, by_time, spec.sensor_encoder != "none"),
        WindowSpec(spec.robot_window, spec.robot_hz, by_time, spec.robot_encoder != "none"),
    )


def newest(reader: RingReader, least: int, most: int) -> Records | None:
    """Up to `most` records, or None if there are not even `least`."""
    head = reader.head
    return reader.latest(min(head, most)) if head >= least else None


class Policy:
    """One tick of the policy: look, think, publish. Holds the readers and the record that is filled again and again."""

    def __init__(self, me: Me, cfg: Config, vla: VlaPolicy) -> None:
        self._me, self._vla, self._limits, self._windows = me, vla, limits_of(cfg, vla.spec), windows_of(vla.spec)
        behind_ns = max(self._limits.sensor_stale_ns, self._limits.robot_stale_ns)
        self._reach = [window.reach(behind_ns) for window in self._windows]
        self._fingerprint = feature_of(cfg, vla.spec)
        self._sensor, self._robot = me.reader("sensor"), me.reader("robot")
        self._feature, self._out = me.reader("vl_feature"), me.writer("action_chunk")
        self._record = np.zeros((), schema.CHUNK)
        self._last_feature, self._reuse = -1, 0

    def tick(self) -> None:
        started_ns = now_ns()
        sensor = newest(self._sensor, self._windows[0].count, self._reach[0])
        robot = newest(self._robot, self._windows[1].count, self._reach[1])
        features = newest(self._feature, 1, _FEATURES)
        seen, why = observe(sensor, robot, features, self._fingerprint, started_ns, self._windows, self._limits)
        if seen is None:
            self._me.count(f"no_chunk.{why}")
            return
        prediction = self._vla.predict(seen.observation, seed=self._out.next_index)
        if not np.isfinite(prediction.actions).all():
            self._me.count("no_chunk.not_finite")
            return
        self._publish(started_ns, seen, prediction)

    def _publish(self, started_ns: int, seen: Seen, prediction: Prediction) -> None:
        feature, observation = seen.feature, seen.observation
        vl_index = int(feature["index"])
        self._reuse = self._reuse + 1 if vl_index == self._last_feature else 0
        self._last_feature = vl_index
        record, horizon = self._record, len(prediction.actions)
        values = {
            "observed_ns": started_ns,
            "wall_s": wall_s() - (now_ns() - started_ns) / 1e9,
            "horizon": horizon,
            "sensor_count": np.count_nonzero(~observation.sensor_missing),
            "robot_count": np.count_nonzero(~observation.robot_missing),
            "sensor_missing": np.count_nonzero(observation.sensor_missing),
            "robot_missing": np.count_nonzero(observation.robot_missing),
            "vl_reuse": self._reuse,
            "vl_index": vl_index,
            "vl_update_number": feature["update_number"],
            "vl_update_ns": feature["update_ns"],
            "sensor_index": 0 if seen.sensor is None else seen.sensor["index"],
            "robot_index": 0 if seen.robot is None else seen.robot["index"],
            "view_index": feature["view_index"],
            "sensor_captured_ns": 0 if seen.sensor is None else seen.sensor["captured_ns"],
            "robot_captured_ns": 0 if seen.robot is None else seen.robot["captured_ns"],
            "view_captured_ns": feature["view_captured_ns"],
            "sensor_age_ns": seen.sensor_age_ns,
            "robot_age_ns": seen.robot_age_ns,
            "vl_age_ns": seen.vl_age_ns,
            "view_age_ns": seen.view_age_ns,
            "sensor_encode_ns": prediction.sensor_encode_ns,
            "robot_encode_ns": prediction.robot_encode_ns,
            "action_ns": prediction.action_ns,
        }
        for name, value in values.items():
            record[name] = value
        record["robot_state"] = observation.robot[-1]
        record["actions"][:horizon], record["actions"][horizon:] = prediction.actions, 0
        record["published_ns"] = published_ns = now_ns()
        record["total_ns"] = published_ns - started_ns
        self._out.put(record)
        self._me.count("chunks")


def engine_choice(cfg: Config) -> EngineChoice:
    """Threads are those of the cores that this process is pinned to, or fewer."""
    asked, cores = cfg.policy.threads, len(os.sched_getaffinity(0))
    if asked > cores:
        raise ConfigError(f"policy.threads = {asked}: the policy has {cores} cores (realtime.cores.policy)")
    return EngineChoice(cfg.policy.engine, cfg.policy.precision, asked or cores, cfg.policy.max_deviation)


def tell(me: Me, report: EngineReport) -> None:
    """Once, in the log and in the health row: which engine, how long it took, how far it is from the plain module."""
    me.log.info("%s", report)
    if report.memory is not None:
        me.note([report.memory])
    me.count(f"engine.{report.engine}.{report.precision}")
    me.gauge("engine_deviation", report.deviation)
    me.gauge("engine_build_s", report.build_s)
    me.gauge("engine_load_s", report.load_s)


def main(cfg: Config) -> None:
    checkpoint = require_checkpoint(cfg)
    with lifecycle("policy", cfg) as me:
        expect = cfg.policy.model_type or None
        device = resolve_device(cfg.policy.device)
        steps = {"flow_steps": cfg.policy.flow_steps or None, "diffusion_steps": cfg.policy.diffusion_steps or None}
        vla = load_policy(checkpoint, device, expect_expert=expect, choice=engine_choice(cfg), **steps)
        for seed in range(3):
            vla.predict(vla.spec.fake_observation(seed), seed)
        me.log.info("%s on %s, fingerprint %016x", checkpoint, device, feature_of(cfg, vla.spec))
        tell(me, vla.engine_report)
        policy = Policy(me, cfg, vla)
        me.ready()
        for _ in me.ticks(cfg.policy.rate_hz):
            policy.tick()
