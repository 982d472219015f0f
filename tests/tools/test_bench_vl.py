"""`rtvla bench vl` measures what it says, on a tiny model; the pipeline runs of it are not repeated here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from rtvla.errors import RtvlaError
from rtvla.models.presets import vl_spec
from rtvla.models.qwen_load import Backbone
from rtvla.models.random_vl import StandInTokenizer, random_backbone
from rtvla.tools import bench_vl, bench_vl_age, bench_vl_child
from rtvla.tools.bench_machine import describe

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    whole = random_backbone("tiny", "float32", "cpu")
    backbone = Backbone(whole.model, StandInTokenizer("tiny"))
    spec = vl_spec("tiny", image_height=360, image_width=640, views=("View1", "View2"))
    contestants = {
        "plain": bench_vl_child.Plain(spec, whole, backbone, generating=True),
        "plain_base": bench_vl_child.Plain(spec, whole.model, backbone, generating=False),
        **{engine: bench_vl_child.Ours(spec, backbone, "eager") for engine in bench_vl.engines()},
    }
    draw = np.random.default_rng(0)
    jpegs = [[simplejpeg.encode_jpeg(draw.integers(0, 255, (360, 640, 3), np.uint8), 85) for _ in range(2)]]
    raced = bench_vl_child.race(contestants, jpegs, pairs=2)
    return {"dtype": "float32", "sequence": "per_view", "views": 2, "contestants": raced}


def test_all_contestants_make_the_same_feature_in_stages_that_add_up(row: dict[str, Any]) -> None:
    assert set(row["contestants"]) == {"plain", "plain_base", *bench_vl.engines()}
    for name, one in row["contestants"].items():
        assert one["relative_difference"] < 5e-6, name
        assert min(one[stage] for stage in bench_vl_child.STAGES) > 0
        assert one["plain_over_this"]["plain"] > 0


def test_the_report_names_the_smallest_ratio_of_what_auto_takes(
    row: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    best = bench_vl.engines()[-1]
    other = json.loads(json.dumps(row))
    other["contestants"][best]["plain_over_this"]["plain"] = 0.5
    seen = [{"sequence": "per_view", "engine": best, "camera_hz": 5, "ratio": 0.9}]
    seen[0] |= {kind: {"age_ms": 300.0, "updates_per_s": 2.0, "set_ms": None} for kind in ("rolling", "batch")}
    ratios = bench_vl.ratios([row, other], seen)
    assert ratios[f"plain_over_{best}_smallest"] == 0.5 and ratios["rolling_over_batch_age_per_view"] == 0.9
    bench_vl.show(
        {
            "machine": describe("numpy"),
            "run": {"foreign_cpu_percent": 0.0},
            "preset": "tiny",
            "rows": [row, other],
            "approximations": [row],
            "ages": seen,
            "ratios": ratios,
            "wanted": {"speedup": bench_vl.WANTED_SPEEDUP, "rolling_age": bench_vl.WANTED_AGE},
        }
    )
    said = capsys.readouterr().out
    assert "0.50; wanted 1.3: MISSED" in said and "0.90; wanted 0.6: MISSED" in said


def test_a_measuring_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_vl.sys, "executable", "/bin/false")
    args = argparse.Namespace(preset="tiny", views=[1], pairs=1)
    with pytest.raises(RtvlaError, match="ended with 1"):
        bench_vl.race(args, "float32", "per_view")


def chunk(at: int, ages: list[float]) -> str:
    """A new feature each fourth one; its encode time is on the first chunk that uses it."""
    by_view = {f"View{view + 1}": age for view, age in enumerate(ages)}
    took_ms = 0.0 if at % 4 else 7.0
    return json.dumps(
        {"timestamp": at / 10, "vl_update_number": at // 4, "vl_update_time": took_ms, "view_age_ms": by_view}
    )


def test_ages_are_the_mean_over_views_and_chunks_after_the_warm_up(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "vl_encoder.log").write_text("INFO DIR on cpu by eager, per_view, fingerprint 0\n")
    lines = [chunk(at, [9000.0] * 5) for at in range(20)] + [
        chunk(at, [100, 100, 200, 300, 300]) for at in range(20, 61)
    ]
    (tmp_path / "performance_timings_x.jsonl").write_text("\n".join(lines) + "\n")
    read = bench_vl_age._read(tmp_path)
    assert read["age_ms"] == pytest.approx(200) and read["oldest_ms"] == 300 and read["engine"] == "eager"
    assert read["updates_per_s"] == pytest.approx(2.5) and read["chunks"] == 41
    assert read["set_ms"] == 7, "not the mean over chunks, three of four of which used a feature again"
    (tmp_path / "performance_timings_x.jsonl").write_text("\n".join(lines[:30]) + "\n")
    with pytest.raises(RtvlaError, match="more --seconds"):
        bench_vl_age._read(tmp_path)
