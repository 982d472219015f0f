"""`rtvla bench gpu` without a GPU: every part of it runs at a tiny size, so that it is ready when there is one."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rtvla.errors import ConfigError
from rtvla.models.presets import PRESETS, vl_config, vl_spec
from rtvla.models.qwen_input import chat_text, grid_of
from rtvla.models.random_vl import StandInTokenizer, random_backbone
from rtvla.tools import bench_gpu, bench_gpu_child, bench_gpu_plain, bench_gpu_report, bench_gpu_rows, bench_gpu_shared
from rtvla.tools.bench_gpu_encode import Shape, shapes
from rtvla.tools.bench_gpu_flops import encode_flops, windows

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("width", "height", "rule", "per_view", "joint"),
    [(640, 360, "origin", 15.06, 14.72), (640, 360, "hub", 16.98, 16.69), (1280, 720, "hub", 68.23, 71.91)],
)
def test_the_formula_gives_the_known_counts_of_the_3b_model(
    width: int, height: int, rule: str, per_view: float, joint: float
) -> None:
    """In TFLOP, for five views and a prompt of 14 + 11 tokens; counted once by torch on meta tensors."""
    grid = grid_of(height, width, vl_spec("full", image_width=width, image_height=height, image_rule=rule))
    tokens, config = grid[0] * grid[1] // 4, vl_config("full")
    assert encode_flops(config, grid, 5, 5, 27 + tokens)["total"] / 1e12 == pytest.approx(per_view, abs=0.005)
    assert encode_flops(config, grid, 5, 1, 25 + 5 * (tokens + 2))["total"] / 1e12 == pytest.approx(joint, abs=0.005)


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_the_formula_agrees_with_torchs_counter(sequence: str) -> None:
    """But for the causal half: torch counts the whole square of the language model's attention."""
    spec = vl_spec("tiny", vl_sequence=sequence, image_width=224, image_height=140)
    whole, config = random_backbone("tiny", "float32", "cpu"), vl_config("tiny")
    image_id = whole.config.image_token_id
    inputs = bench_gpu_plain.prepare(spec, StandInTokenizer("tiny"), spec.fake_frames(0), image_id, "cpu")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # its CPU kernel is not counted
        bench_gpu_plain.encode(whole, inputs)
    sequences, length = inputs["input_ids"].shape
    found = encode_flops(config, grid_of(140, 224, spec), 5, sequences, length)
    half = sequences * config["num_hidden_layers"] * 2.0 * config["hidden_size"] * length**2
    assert counter.get_total_flops() == pytest.approx(found["total"] + found["lm_head"] + half, rel=0.01)


def test_windows_hold_every_patch_once() -> None:
    vision = vl_config("full")["vision_config"]
    sizes = windows(vision, (24, 44))
    assert sum(sizes) == 24 * 44 and max(sizes) == 64 and len(sizes) == 3 * 6


@pytest.mark.parametrize("preset", PRESETS)
def test_special_tokens_have_the_ids_of_the_config(preset: str) -> None:
    config, tokenizer = vl_config(preset), StandInTokenizer(preset)
    ids = tokenizer(chat_text("Insert the needle.", [3]))["input_ids"]
    assert ids.count(config["image_token_id"]) == 3
    assert ids[0] == config["bos_token_id"] + 1  # <|im_start|>
    at = ids.index(config["image_token_id"])
    assert (ids[at - 1], ids[at + 3]) == (config["vision_start_token_id"], config["vision_end_token_id"])
    assert all(0 <= one < config["vocab_size"] for one in ids)


def test_five_views_of_the_usual_size_come_first_and_every_shape_once() -> None:
    order = list(shapes([(1280, 720), (640, 360)]))
    assert order[:2] == [Shape(640, 360, 5, "per_view"), Shape(640, 360, 5, "joint")]
    assert len(order) == len(set(order)) == 2 * 5 * 2


def test_every_part_in_one_process_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_gpu.add_arguments(parser)
    flags = ["--device", "cpu", "--preset", "tiny", "--out", str(tmp_path)]
    for part in ("encode", "action", "deployed"):
        assert bench_gpu.run(parser.parse_args([*flags, "--part", part])) == 0
    assert bench_gpu.run(parser.parse_args([*flags, "--render"])) == 0
    rows = bench_gpu_rows.read(tmp_path)
    assert not [row for row in rows if "failed" in row]
    assert [row["what"] for row in rows if "skipped" in row] == ["encode by graph", "action by cuda_graph"]
    encodes = bench_gpu_report.of(rows, "encode")
    seen = {(row["views"], row["vl_sequence"], row["who"]) for row in encodes}
    ways = {"per_view": ("at once", "one by one"), "joint": ("at once",)}
    whos = {(sequence, f"{who}, {way}") for sequence in ways for way in ways[sequence] for who in ("eager",)}
    whos |= {("per_view", "plain"), ("joint", "plain")}
    assert {(views, *who) for views in range(1, 6) for who in whos} <= seen
    assert (5, "per_view", "deployed, one by one") in seen
    assert min(row["cosine"] for row in encodes if "cosine" in row) > 0.99999
    ticks = {(row["family"], row["expert"]) for row in bench_gpu_report.of(rows, "action")}
    assert ticks == {(f, e) for f in ("origin", "ours") for e in ("regression", "flow_matching", "diffusion")}
    for name in ("report.txt", "results.json", "encode_views.png", "action.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_a_policy_is_measured_beside_an_encoder_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both without the packages of the runtime, which a machine for benchmarks need not have."""
    for name in ("posix_ipc", "zmq", "simplejpeg"):
        (tmp_path / f"{name}.py").write_text("raise ImportError(__name__)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = bench_gpu_rows.Rows(tmp_path, "shared", seconds=60)
    options = ["--preset", "tiny", "--device", "cpu", "--seconds", "0.01", "--experts", "regression"]
    bench_gpu_shared.measure(rows, "two processes", "action", options, {}, beside=True)
    rows.close()
    (row,) = bench_gpu_rows.read(tmp_path)
    assert row["tick_ms"]["count"] >= 10 and row["encoder_ms"]["count"] >= 1


def test_a_process_that_fails_is_a_row_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """no_process_left, which every test uses, sees to the second half."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    rows = bench_gpu_rows.Rows(tmp_path, "shared", seconds=60)
    bench_gpu_shared.measure(rows, "alone", "action", [], {}, beside=False)
    rows.close()
    (row,) = bench_gpu_rows.read(tmp_path)
    assert row["what"] == "alone" and "ended before it was ready" in row["failed"]


def test_a_part_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """no_process_left, which every test uses, sees to the second half."""
    command = ["sh", "-c", f"sleep 60 & touch {tmp_path}/up; wait"]
    assert "was killed" in bench_gpu._run_part_process(command, limit_s=2.0)
    assert (tmp_path / "up").exists()
    assert "code 3" in bench_gpu._run_part_process([sys.executable, "-c", "raise SystemExit(3)"], limit_s=60.0)


def test_a_part_that_is_ended_may_put_away_what_it_started(tmp_path: Path) -> None:
    """As the control daemon of MPS, which no signal to the process group reaches."""
    command = ["sh", "-c", f"trap 'touch {tmp_path}/away; exit' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"]
    assert "was killed" in bench_gpu._run_part_process(command, limit_s=2.0)
    assert (tmp_path / "up").exists() and (tmp_path / "away").exists()


def test_policy_and_encoder_run_in_one_process() -> None:
    found = bench_gpu_child.both_role(
        argparse.Namespace(preset="tiny", device="cpu", experts=["regression"], seconds=0.01)
    )
    assert found["regression"]["count"] >= 10 and found["encoder"]["count"] >= 1


def test_mps_gets_a_daemon_of_its_own_that_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-cuda-mps-control"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = -d ] || cat >> {tmp_path}/asked\necho "$CUDA_MPS_PIPE_DIRECTORY" >> {tmp_path}/pipe\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with bench_gpu_shared.mps("cuda") as (environment, why_not):
        assert why_not == "" and not (tmp_path / "asked").exists()
    assert (tmp_path / "asked").read_text() == "quit\n"
    assert set((tmp_path / "pipe").read_text().split()) == {environment["CUDA_MPS_PIPE_DIRECTORY"]}


@pytest.mark.parametrize(
    ("device", "control", "reason"), [("cpu", "exit 0", "needs CUDA"), ("cuda", "exit 1", "does not start")]
)
def test_where_mps_cannot_be_had_the_reason_is_said(
    device: str, control: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-cuda-mps-control").write_text(f"#!/bin/sh\n{control}\n")
    (tmp_path / "nvidia-cuda-mps-control").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with bench_gpu_shared.mps(device) as (environment, why_not):
        assert reason in why_not and environment == {}


def test_a_run_that_was_killed_keeps_its_whole_rows(tmp_path: Path) -> None:
    rows = bench_gpu_rows.Rows(tmp_path, "encode", seconds=0)
    rows.add("peak", side=8, dtype="float32", tflops=1.5)
    rows.skip("640x360", "no time left")
    rows.close()
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"part": "enc')
    assert [row["part"] for row in bench_gpu_rows.read(tmp_path)] == ["peak", "encode"]
    bench_gpu_report.write(tmp_path)
    assert "skipped: encode: 640x360: no time left" in (tmp_path / "report.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())[0]["tflops"] == 1.5


def test_a_run_in_pieces_keeps_the_other_pieces_and_says_the_machine_once(tmp_path: Path) -> None:
    """Regression: a second piece into the same folder removed the rows of the first."""
    for part, tflops in (("encode", 1.5), ("action", 2.5), ("encode", 3.5)):
        bench_gpu_rows.begin(tmp_path, [part])
        head = bench_gpu_rows.Rows(tmp_path, "machine", seconds=0)
        machine = {"cpu": "x", "cores": 2, "system": "y", "versions": {"torch": "z"}, "gpu": "none", "preset": "tiny"}
        head.add(machine=machine)
        head.close()
        rows = bench_gpu_rows.Rows(tmp_path, part, seconds=0)
        rows.add("peak", side=8, dtype="float32", tflops=tflops)
        rows.close()
    peaks = bench_gpu_report.of(bench_gpu_rows.read(tmp_path), "peak")
    assert [(row["of"], row["tflops"]) for row in peaks] == [("action", 2.5), ("encode", 3.5)]
    bench_gpu_report.write(tmp_path)
    assert (tmp_path / "report.txt").read_text().count("GPU: none") == 1


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row in .*rows\.jsonl"):
        bench_gpu_report.write(tmp_path)


def test_a_row_that_fails_says_so_and_the_next_one_runs(tmp_path: Path) -> None:
    rows = bench_gpu_rows.Rows(tmp_path, "action", seconds=1)
    for name in ("first", "second"):
        with rows.attempt(name):
            if name == "first":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            rows.add(name=name)
    rows.close()
    first, second = bench_gpu_rows.read(tmp_path)
    assert first["failed"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert second["name"] == "second" and bench_gpu_report.of([first, second], "action") == [second]


def test_the_script_names_what_is_missing(tmp_path: Path) -> None:
    """With an interpreter that has nothing: no traceback, no download."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "RTVLA_NO_INSTALL": "1", "RTVLA_PYTHON": str(python), "PYTHONPATH": ""}
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_bench"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert "torch" in done.stderr and "transformers" in done.stderr and "Traceback" not in done.stderr
