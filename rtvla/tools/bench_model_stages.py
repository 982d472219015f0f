"""One model, measured stage by stage: pictures to feature, windows to features, features to chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rtvla.clock import now_ns
from rtvla.models.policy import VlaPolicy
from rtvla.models.qwen_vl import VLEncoder
from rtvla.tools.bench_model_check import prove_encoded
from rtvla.tools.bench_model_frames import FrameSet
from rtvla.tools.bench_model_vl import encode_set
from rtvla.tools.latency import WARM_UP, spread

STAGES = ("vl_encoding", "sensor_encoding", "robot_encoding", "action_prediction", "total")


@dataclass(frozen=True)
class Candidate:
    name: str  # the row in the tables
    policy: VlaPolicy
    encoder: VLEncoder  # not prepared
    vl_engine: str
    notes: tuple[str, ...] = ()


def measure(candidate: Candidate, sets: Sequence[FrameSet], iterations: int) -> dict[str, Any]:
    """Decoded frames to chunk, one after the other: what a system without a separate encoder would wait for.

    Every stage ends with its result on the host, so work of a GPU is inside. `total` is measured by itself and holds
    what lies between the stages too.
    """
    policy, encoder = candidate.policy, candidate.encoder
    frames = [frames[: len(encoder.spec.views)] for frames in sets]
    proof = prove_encoded(encoder, frames[0], candidate.vl_engine)
    took: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for number in range(-WARM_UP, iterations):
        begin = now_ns()
        feature = encode_set(encoder, frames[number % len(frames)])
        encoded = now_ns()
        observation = replace(policy.spec.fake_observation(number + WARM_UP), vl_feature=feature)
        made = now_ns()
        found = policy.predict(observation, number + WARM_UP)
        end = now_ns()
        times = (encoded - begin, found.sensor_encode_ns, found.robot_encode_ns, found.action_ns)
        if number >= 0:
            for stage, value in zip(STAGES, (*times, end - made + encoded - begin), strict=True):
                took[stage].append(value)
    return _result(candidate, proof, took)


def _result(candidate: Candidate, proof: dict[str, Any], took: dict[str, list[int]]) -> dict[str, Any]:
    report = candidate.policy.engine_report
    spec, spreads = candidate.policy.spec, {stage: spread(values) for stage, values in took.items()}
    return {
        "model_name": candidate.name,
        "model_type": spec.expert,
        "checkpoint": spec.name,
        "trained": spec.trained,
        "notes": list(candidate.notes),
        "config": {
            "views": list(candidate.encoder.spec.views),
            "vl_sequence": candidate.encoder.spec.vl_sequence,
            "sensor_encoder": spec.sensor_encoder,
            "robot_encoder": spec.robot_encoder,
            "sensor_window": spec.sensor_window,
            "robot_window": spec.robot_window,
            "vl_engine": candidate.encoder.engine.name,
            "engine": f"{report.engine} {report.precision}",
            "engine_deviation": report.deviation,
        },
        "images": proof,
        **spreads,
        "fps": round(1000 / spreads["total"]["mean_ms"], 3),
        "raw_ms": {stage: [round(value / 1e6, 4) for value in values] for stage, values in took.items()},
    }
