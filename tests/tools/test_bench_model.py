"""`rtvla bench model`: its files, its comparisons, and that it refuses to time an encode without pictures."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from rtvla.errors import ConfigError
from rtvla.models.checkpoint import load_vl_encoder
from rtvla.models.make_tiny import make_tiny
from rtvla.models.presets import without
from rtvla.models.qwen_vl import VLEncoder
from rtvla.tools import bench_model
from rtvla.tools.bench_model_check import NotEncodedError, prove_encoded
from rtvla.tools.bench_model_files import HEADER
from rtvla.tools.bench_model_frames import drawn_sets, recorded_sets

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for expert in ("regression", "flow_matching"):
        make_tiny(folder / expert, expert=expert)
    return folder


@pytest.fixture
def encoder(models: Path) -> VLEncoder:
    return load_vl_encoder(models / "regression", "eye")


def bench(models: Path, out: Path, *flags: str, flow: bool = False) -> list[list[str]]:
    """The rows of its comparison.csv."""
    parser = argparse.ArgumentParser()
    bench_model.add_arguments(parser)
    given = ["--checkpoint-regression", str(models / "regression"), "--num-iterations", "1", "--device", "cpu"]
    given += ["--engine", "eager", "--vl-engine", "eager"]
    given += ["--checkpoint-flow", str(models / "flow_matching")] if flow else []
    assert bench_model.run(parser.parse_args([*given, "--output-dir", str(out), *flags])) == 0
    return table(out / "comparison.csv")


def table(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == HEADER
    return rows


def frames(encoder: VLEncoder) -> list[Any]:
    return drawn_sets(encoder.spec.image_height, encoder.spec.image_width, len(encoder.spec.views), 1)[0]


def test_the_files_have_the_names_and_the_header_that_scripts_of_the_old_benchmark_read(
    models: Path, tmp_path: Path
) -> None:
    rows = bench(models, tmp_path, flow=True)
    assert (
        (tmp_path / "comparison.csv")
        .read_text()
        .startswith("Model,Type,VL (ms),Sensor (ms),Action (ms),Total (ms),FPS\nRegression,regression,")
    )
    assert [row[:2] for row in rows] == [["Regression", "regression"], ["Flow Matching", "flow_matching"]]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for name, row in zip(("regression", "flow_matching"), rows, strict=True):
        found = json.loads((tmp_path / f"{name}_results.json").read_text())
        assert f"{found['total']['mean_ms']:.2f}" == row[5]
        assert found["images"]["image_tokens"] == 5 * found["images"]["vision_patches"] // 20 > 0
        assert len(found["raw_ms"]["total"]) == found["total"]["count"] == 1


def test_the_total_holds_every_stage(models: Path, tmp_path: Path) -> None:
    bench(models, tmp_path, "--num-iterations", "2")
    raw = json.loads((tmp_path / "regression_results.json").read_text())["raw_ms"]
    for at in range(2):
        stages = [raw[name][at] for name in raw if name != "total"]
        assert raw["total"][at] >= sum(stages) and min(stages) > 0


def test_views_are_compared_one_by_one(models: Path, tmp_path: Path) -> None:
    bench(models, tmp_path, "--compare-views", "--num-views", "3")
    rows = table(tmp_path / "views_comparison" / "comparison.csv")
    assert [row[0] for row in rows] == ["Regression, 1 view", "Regression, 2 views", "Regression, 3 views"]
    found = json.loads((tmp_path / "views_comparison" / "comparison.json").read_text())
    tokens = [one["images"]["image_tokens"] for one in found]
    assert tokens == [tokens[0], 2 * tokens[0], 3 * tokens[0]]


def test_without_the_sensor_a_model_with_random_weights_is_measured_and_it_is_said(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: the old benchmark built the model with the sensor on, so --disable-sensor ended in a shape error."""
    bench(models, tmp_path, "--compare-sensors", "--disable-sensor", "--disable-robot-states")
    assert "random weights" in capsys.readouterr().out
    found = json.loads((tmp_path / "regression_results.json").read_text())
    assert found["config"]["sensor_encoder"] == found["config"]["robot_encoder"] == "none"
    rows = table(tmp_path / "sensors_comparison" / "comparison.csv")
    assert [row[0] for row in rows] == ["Regression, sensor", "Regression, no sensor"]
    assert float(rows[0][3]) > float(rows[1][3])


def test_both_ways_to_encode_are_compared_and_named_as_different(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(models, tmp_path, "--compare-parallel")
    rows = table(tmp_path / "parallel_comparison" / "comparison.csv")
    assert [row[0] for row in rows] == ["Regression, per_view", "Regression, joint"]
    assert "the other way gives another feature" in capsys.readouterr().out


def test_pictures_in_the_feature_are_proven(encoder: VLEncoder) -> None:
    proof = prove_encoded(encoder, frames(encoder))
    assert proof["vision_patches"] == 4 * proof["image_tokens"] == 5 * 72
    assert min(proof["other_picture_differs"].values()) > 0.001


def test_an_encode_of_the_text_alone_is_refused(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the old benchmark found no pictures, encoded the text alone and reported 36 ms instead of 1500."""
    monkeypatch.setattr(encoder, "encode_view", lambda frame: np.ones(encoder.spec.vl_dim, np.float32))
    with pytest.raises(NotEncodedError, match="need 360 vision patches, the encode used 0"):
        prove_encoded(encoder, frames(encoder))


def test_an_encode_of_smaller_pictures_is_refused(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.encode_view
    monkeypatch.setattr(encoder, "encode_view", lambda frame: whole(np.ascontiguousarray(frame[:, ::2])))
    with pytest.raises(NotEncodedError, match="vision patches"):
        prove_encoded(encoder, frames(encoder))


def test_a_view_that_does_not_count_is_refused(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = encoder.pool
    monkeypatch.setattr(encoder, "pool", lambda vectors: pool(vectors[[0, 1, 1, 3, 4]]))
    with pytest.raises(NotEncodedError, match="another picture in View3 changes the feature by 0"):
        prove_encoded(encoder, frames(encoder))


@pytest.mark.parametrize("place", ["images/View1", "View1", "View1/left"])
def test_an_episode_is_read_in_each_of_its_layouts(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    for at in range(5):
        picture = np.full((16, 24, 3), 50 * at, np.uint8)
        (tmp_path / place / f"1700000000.{at}00.jpg").write_bytes(simplejpeg.encode_jpeg(picture))
    sets = recorded_sets(tmp_path, ["View1"], 3)
    assert [round(float(one[0].mean()) / 50) for one in sets] == [0, 2, 4]


def test_an_episode_without_pictures_of_a_view_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no picture of View2"):
        recorded_sets(tmp_path, ["View2"], 1)


def test_a_checkpoint_of_another_expert_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--checkpoint-diffusion .* its expert is regression"):
        bench(models, tmp_path, "--checkpoint-diffusion", str(models / "regression"))


def test_a_model_without_both_inputs_fuses_nothing(encoder: VLEncoder) -> None:
    assert without(encoder.spec, sensor=False, robot=False).fusion == "none"
    assert without(encoder.spec, sensor=False, robot=True).fusion == encoder.spec.fusion
