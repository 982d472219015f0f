"""The action model on this device: each expert by each engine, one tick after the other, the VL feature unchanged."""

from __future__ import annotations

import math
from functools import partial

from rtvla.models.engines.engine import EngineChoice
from rtvla.models.policy import VlaPolicy
from rtvla.models.presets import ACTION_SIZES
from rtvla.models.random_action import random_action_model
from rtvla.tools.bench_gpu_device import memory, start_measuring_memory
from rtvla.tools.bench_gpu_rows import Rows
from rtvla.tools.latency import spread, took_ns

_FAMILIES = ("origin", "ours")  # the old system's modules, and what this runtime trains, of the same widths
STEPS = {"flow_matching": 10, "diffusion": 50, "regression": 1}  # as deployed
_CHOICES = {
    "cuda": (("eager", "float32"), ("cuda_graph", "float32"), ("cuda_graph", "bfloat16")),
    "cpu": (("eager", "float32"),),
}


def policy_of(family: str, expert: str, preset: str, device: str, engine: str, precision: str) -> VlaPolicy:
    """Random weights, so no deviation says anything about a trained model: none is refused, all are reported."""
    model = random_action_model(family, expert, STEPS[expert], sizes=ACTION_SIZES[preset])
    return VlaPolicy(model, device, EngineChoice(engine, precision, max_deviation=math.inf))


def run(rows: Rows, preset: str, device: str, iterations: int) -> None:
    if device == "cpu":
        rows.skip("action by cuda_graph", "needs CUDA")
    for family in _FAMILIES:
        for expert in STEPS:
            for engine, precision in _CHOICES[device.partition(":")[0]]:
                what = f"{family} {expert} by {engine} {precision}"
                if rows.left_s <= 0:
                    rows.skip(what, "no time left")
                    continue
                with rows.attempt(what):
                    _row(rows, policy_name=(family, expert, engine, precision), where=(preset, device), n=iterations)


def _row(rows: Rows, policy_name: tuple[str, str, str, str], where: tuple[str, str], n: int) -> None:
    family, expert, engine, precision = policy_name
    start_measuring_memory()
    policy = policy_of(family, expert, *where, engine, precision)
    tick = spread(took_ns(partial(policy.predict, policy.spec.fake_observation(0), 0), n))
    report = policy.engine_report
    rows.add(
        family=family,
        expert=expert,
        engine=f"{engine} {precision}",
        tick_ms=tick,
        deviation=report.deviation,
        load_s=report.load_s,
        memory=memory(),
    )
