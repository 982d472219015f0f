"""Engines compute what the plain module computes, keep nothing that must not stay, and are refused if they differ."""

from __future__ import annotations

import gc
import hashlib
import logging
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from old_models import OLD_MODELS, old_model
from small_models import STATISTICS, small_model

from rtvla import config_sections
from rtvla.errors import CheckpointError, ConfigError
from rtvla.models.checkpoint import load_policy
from rtvla.models.engines import check, opening, openvino
from rtvla.models.engines.engine import NAMES, PRECISIONS, EngineChoice
from rtvla.models.engines.lean import Part
from rtvla.models.normalize import MeanStd, Statistics
from rtvla.models.origin.model import OriginModel
from rtvla.models.policy import VlaPolicy
from rtvla.models.vla import VlaModel
from rtvla.schema import Observation

FAST = EngineChoice("openvino", threads=1)
OURS = {
    # Regression: OpenVINO 2026.4.1 computed another attention here (transformer.Block), found by the check at load
    "flow, as many heads as steps": {"horizon": 4, "expert_heads": 4},
    "flow, force-aware": {"sensor_encoder": "force_aware"},
    "diffusion ddpm, gated": {"expert": "diffusion", "diffusion_sampler": "ddpm", "fusion": "gated"},
    "regression, attention, without robot": {
        "expert": "regression",
        "fusion": "cross_attention",
        "robot_encoder": "none",
    },
    "flow rk4, VL alone": {
        "flow_solver": "rk4",
        "fusion": "none",
        "sensor_encoder": "none",
        "robot_encoder": "none",
        "vl_age_input": False,  # then the condition is the VL part itself
    },
}
OLD = ("flow, force-aware, force last", "regression", "diffusion ddim", "v1 regression", "v1 without sensor")


def made(name: str) -> VlaModel | OriginModel:
    return small_model(**OURS[name]) if name in OURS else old_model(**OLD_MODELS[name])


def ticks(policy: VlaPolicy, count: int = 4) -> list[Observation]:
    """With missing samples, and the same VL feature for two ticks in a row, of another age."""
    spec, found = policy.spec, []
    for number in range(count):
        draw = np.random.default_rng(number)
        obs = spec.fake_observation(number)
        found.append(
            replace(
                obs,
                vl_feature=spec.fake_observation(number // 2).vl_feature,
                vl_age_s=0.1 + 0.4 * number,
                sensor_missing=draw.random(spec.sensor_window) < 0.1,
                robot_missing=draw.random(spec.robot_window) < 0.1,
            )
        )
    return found


def chunks(policy: VlaPolicy, given: list[Observation]) -> np.ndarray:
    return np.stack([policy.predict(obs, seed).actions for seed, obs in enumerate(given)])


@pytest.fixture(scope="module")
def plain() -> VlaPolicy:
    return VlaPolicy(small_model())


@pytest.fixture(scope="module")
def fast() -> VlaPolicy:
    return VlaPolicy(small_model(), choice=FAST)


@pytest.mark.parametrize("name", [*OURS, *OLD])
def test_openvino_is_the_plain_module(name: str) -> None:
    plain, fast = VlaPolicy(made(name)), VlaPolicy(made(name), choice=FAST)
    expected = chunks(plain, ticks(plain))
    np.testing.assert_allclose(chunks(fast, ticks(plain)), expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))
    assert fast.engine_report.deviation < 1e-5


@pytest.mark.parametrize(
    ("precision", "name"),
    [  # a C++ compiler at work, ten seconds a part: one has a single part, the other an encoder besides
        ("bfloat16", "flow rk4, VL alone"),
        pytest.param("float32", "regression, attention, without robot", marks=pytest.mark.long),
    ],
)
def test_compiled_is_the_plain_module(
    precision: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "checksums.json").write_text("{}")
    choice, plain = EngineChoice("compiled", precision, 1, 0.05), VlaPolicy(made(name))
    built = VlaPolicy(made(name), choice=choice, checkpoint=tmp_path)
    kept = VlaPolicy(made(name), choice=choice, checkpoint=tmp_path)
    assert built.engine_report.build_s > 0 == kept.engine_report.build_s
    expected, tolerance = chunks(plain, ticks(plain)), {"float32": 1e-5, "bfloat16": 0.05}[precision]
    np.testing.assert_allclose(chunks(built, ticks(plain)), expected, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(chunks(kept, ticks(plain)), chunks(built, ticks(plain)))


def test_the_age_of_a_kept_vl_feature_still_counts(fast: VlaPolicy) -> None:
    obs = fast.spec.fake_observation(0)
    young, old = (fast.predict(replace(obs, vl_age_s=age), 0).actions for age in (0.1, 3.0))
    assert np.abs(young - old).max() > 1e-4


def test_the_vl_part_is_computed_when_the_feature_has_other_values_and_only_then(
    fast: VlaPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    compute = fast._engine.new_vl
    monkeypatch.setattr(fast._engine, "new_vl", lambda: (seen.append(1), compute()))
    first, second = (fast.spec.fake_observation(seed) for seed in (11, 12))
    nearly = first.vl_feature.copy()
    nearly[-1] = np.nextafter(nearly[-1], np.float32(9))
    for feature, computed in (
        (first.vl_feature, 1),
        (first.vl_feature.copy(), 1),
        (second.vl_feature, 2),
        (first.vl_feature, 3),
        (nearly, 4),
    ):
        fast.predict(replace(first, vl_feature=feature), 0)
        assert len(seen) == computed


def test_a_feature_changed_in_place_is_seen(plain: VlaPolicy, fast: VlaPolicy) -> None:
    """Regression-proof by values: the policy process hands over a copy, another caller may reuse his array."""
    obs = plain.spec.fake_observation(0)
    fast.predict(obs, 0)
    obs.vl_feature[:] = plain.spec.fake_observation(1).vl_feature
    np.testing.assert_allclose(fast.predict(obs, 0).actions, plain.predict(obs, 0).actions, atol=1e-5)


def test_what_stands_in_for_a_missing_sample_does_not_reach_the_engine(plain: VlaPolicy, fast: VlaPolicy) -> None:
    obs = ticks(plain)[1]
    obs.sensor[obs.sensor_missing] = np.nan
    expected = plain.predict(obs, 0).actions
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(fast.predict(obs, 0).actions, expected, atol=1e-5)


def test_a_chunk_stays_as_it_was_given(fast: VlaPolicy) -> None:
    """Regression-proof: the engine's result lies at a fixed place, which the next tick overwrites."""
    first = fast.predict(fast.spec.fake_observation(0), 0).actions
    before = first.copy()
    fast.predict(fast.spec.fake_observation(1), 1)
    np.testing.assert_array_equal(first, before)


PROCESS = """
import sys; sys.path[:0] = {paths!r}
import torch; torch.set_num_threads(1)
from test_engines import *
for precision in ("float32", "bfloat16"):
    policy = VlaPolicy(small_model(), choice=replace(FAST, precision=precision, max_deviation=1.0))
    print(hashlib.sha256(chunks(policy, ticks(policy)).tobytes()).hexdigest())
print([name for name, module in sys.modules.items() if "openvino_telemetry" in name and module])
"""


def test_same_seed_and_observation_same_bits_in_any_process_and_nothing_is_reported_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: importing openvino reports to Google Analytics, and numbers the user in a file in his home."""
    digests = []
    for precision in ("float32", "bfloat16"):
        policy = VlaPolicy(small_model(), choice=replace(FAST, precision=precision, max_deviation=1.0))
        once, again = (chunks(policy, ticks(policy)) for _ in range(2))
        np.testing.assert_array_equal(once, again)
        digests.append(hashlib.sha256(once.tobytes()).hexdigest())
    monkeypatch.setenv("HOME", str(tmp_path))
    code = PROCESS.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [*digests, "[]"], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_thousand_ticks_leave_nothing_behind(fast: VlaPolicy) -> None:
    given, process = ticks(fast, 8), psutil.Process()

    def run(count: int) -> None:
        for number in range(count):
            fast.predict(given[number % len(given)], number)
        gc.collect()

    run(500)
    objects, resident = len(gc.get_objects()), process.memory_info().rss
    run(2000)
    assert process.memory_info().rss - resident < 200_000  # a hundred bytes a tick; a chunk has 112
    assert len(gc.get_objects()) - objects < 50
    tracemalloc.start()
    run(100)
    traced = tracemalloc.get_traced_memory()[0]
    run(500)
    grown = tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    assert grown < 5_000  # ten bytes a tick: no object is as small


def test_small_motion_around_a_large_coordinate_survives_bfloat16() -> None:
    """What reads raw units stays float32: bfloat16 knows 191 and 192 mm and nothing between."""
    near = Statistics(
        force=STATISTICS.force,
        aline=STATISTICS.aline,
        robot=MeanStd((191.0,) * 12, (0.1,) * 12),
        action=STATISTICS.action,
    )
    torch.manual_seed(0)
    spec = small_model(expert="regression").spec
    weights = small_model(expert="regression").state_dict()

    def policy(choice: EngineChoice | None) -> VlaPolicy:
        model = VlaModel(spec, near)
        model.load_state_dict(weights)
        return VlaPolicy(model, choice=choice)

    obs = spec.fake_observation(0)
    here, there = (replace(obs, robot=np.full_like(obs.robot, 191.0) + by * obs.robot) for by in (0.1, 0.0))
    moved = [
        policy(c).predict(here, 0).actions - policy(c).predict(there, 0).actions
        for c in (None, replace(FAST, precision="bfloat16", max_deviation=1.0))
    ]
    assert np.abs(moved[0]).max() > 0.05
    np.testing.assert_allclose(moved[1], moved[0], atol=0.1 * np.abs(moved[0]).max())


def test_an_engine_that_is_too_far_off_is_refused_with_the_remedy() -> None:
    with pytest.raises(CheckpointError, match=r"bfloat16.*differ.*allowed are 1e-09.*policy\.precision to float32"):
        VlaPolicy(small_model(), choice=replace(FAST, precision="bfloat16", max_deviation=1e-9))


def test_a_float32_engine_of_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = small_model().eval().requires_grad_(False)
    other.expert.head[1].bias.add_(1e-3)
    monkeypatch.setattr(opening, "rewrite", lambda model, rewrite=opening.rewrite: rewrite(other))
    with pytest.raises(CheckpointError, match=r"float32.*differ.*policy\.engine to eager"):
        VlaPolicy(small_model(), choice=FAST)


def test_no_number_where_the_module_gives_one_is_the_largest_deviation() -> None:
    assert check.deviation(np.full((1, 4, 7), np.nan, np.float32), np.zeros((1, 4, 7), np.float32)) == float("inf")
    assert check.deviation(np.ones((1, 4, 7), np.float32), np.zeros((1, 4, 7), np.float32)) == 1.0


def test_the_gripper_moves_nothing() -> None:
    found = np.zeros((1, 4, 7), np.float32)
    found[..., 6] = 5
    assert check.deviation(found, np.zeros_like(found)) == 0.0


def test_a_model_of_raw_units_is_checked_near_the_robots_pose() -> None:
    given = check.observations(old_model(**OLD_MODELS["flow"]).spec, old_model(**OLD_MODELS["flow"]).statistics)
    pose = np.stack([obs.robot for obs in given])[..., 6:9]
    assert (np.abs(pose - [191, 1, 309]) < 200).all() and pose[..., 2].mean() > 100
    assert len({obs.vl_age_s for obs in given}) > 1 and any(obs.sensor_missing.any() for obs in given)


@pytest.mark.parametrize("found", ["another model's", "no part of any"])
def test_a_kept_engine_that_is_whole_but_foreign_is_refused(tiny: Path, tmp_path: Path, found: str) -> None:
    """Its checksums are right: they came with it. It may have travelled with a checkpoint."""
    checkpoint = tmp_path / "model"
    shutil.copytree(tiny, checkpoint, ignore=shutil.ignore_patterns("engine"))
    folder = Path(load_policy(checkpoint, choice=FAST).engine_report.place)
    if found == "another model's":
        other = small_model(vl_dim=24).eval().requires_grad_(False)
        (tmp_path / "checksums.json").write_text("{}")
        foreign = VlaPolicy(other, choice=FAST, checkpoint=tmp_path)
        shutil.rmtree(folder)
        shutil.copytree(foreign.engine_report.place, folder)
    else:
        for path in folder.iterdir():
            path.unlink()
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"engine {folder} cannot be used .*remove that folder"):
        load_policy(checkpoint, choice=FAST)


@pytest.mark.parametrize(
    ("choice", "device", "said"),
    [
        (EngineChoice("cuda_graph"), "cpu", "not for device cpu"),
        (EngineChoice("openvino"), "cuda", "not for device cuda"),
        (EngineChoice("eager", "bfloat16"), "cpu", "eager has float32"),
        (EngineChoice("compiled", "int8"), "cpu", "compiled has float32, bfloat16"),
        (EngineChoice("onnx"), "cpu", "must be auto, eager"),
    ],
)
def test_what_cannot_run_is_refused_by_name(choice: EngineChoice, device: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opening.resolve(choice, device)


def test_auto_is_openvino_on_a_cpu_and_one_graph_on_a_gpu() -> None:
    assert opening.resolve(EngineChoice("auto"), "cpu") == "openvino"
    assert opening.resolve(EngineChoice("auto"), "cuda:0") == "cuda_graph"


def test_without_openvino_auto_says_what_is_lost_and_an_explicit_wish_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino, "missing", lambda precision: "the package openvino is not installed: pip install X")
    with caplog.at_level(logging.WARNING):
        assert VlaPolicy(small_model(), choice=EngineChoice("auto")).engine_report.engine == "eager"
    assert "pip install X" in caplog.text
    with pytest.raises(ConfigError, match="not installed"):
        opening.resolve(EngineChoice("openvino"), "cpu")


def test_the_config_knows_every_engine_and_precision() -> None:
    assert ("auto", *NAMES) == config_sections.ENGINES and config_sections.PRECISIONS == PRECISIONS


def test_eight_bits_a_weight_are_in_the_file_and_close(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(512, 256).eval().requires_grad_(False), torch.randn(1, 512)
    sizes, answers = {}, {}
    for precision in ("float32", "int8"):
        folder = tmp_path / precision
        folder.mkdir()
        part, values = Part(layer, ("x",), "y"), {"x": x, "y": torch.zeros(1, 256)}
        openvino.build(part, (x,), precision, folder)
        openvino.bind(part, precision, folder, 1, values)()
        sizes[precision], answers[precision] = (folder / "y.bin").stat().st_size, values["y"]
    assert sizes["int8"] < 0.3 * sizes["float32"]
    torch.testing.assert_close(answers["float32"], layer(x), atol=1e-5, rtol=0)
    gap = (answers["int8"] - layer(x)).abs().max()
    assert 0 < gap < 0.03


def test_a_checkpoint_keeps_its_engine_and_the_next_start_uses_it(tiny: Path) -> None:
    first = load_policy(tiny, choice=FAST)
    second = load_policy(tiny, choice=FAST)
    assert first.engine_report.build_s > 0 == second.engine_report.build_s
    assert second.engine_report.place == str(next((tiny / "engine").iterdir()))
    np.testing.assert_array_equal(chunks(first, ticks(first)), chunks(second, ticks(first)))
    other_steps = load_policy(tiny, flow_steps=2, choice=FAST)
    assert other_steps.engine_report.build_s == 0
    plain = load_policy(tiny, flow_steps=2)
    np.testing.assert_allclose(chunks(other_steps, ticks(plain)), chunks(plain, ticks(plain)), atol=1e-5)
