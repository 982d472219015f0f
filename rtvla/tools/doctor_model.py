"""Checks of the settings and of the model: do they load, do they fit each other, do threads fit the cores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rtvla import rt
from rtvla.errors import CheckpointError, ConfigError
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, child_answer, config_of, cores_text

_CHILD, _LOAD_S = "rtvla.tools.doctor_model_child", 600.0
_NO_CHECKPOINT = "no checkpoint is named: --checkpoint DIR"


def settings(case: Case) -> Found:
    if case.config_error:
        return Found(FAIL, case.config_error)
    return Found(PASS, f"config {case.cfg.digest()}")


def tables(case: Case) -> Found:
    try:
        case.tables.check(case.cfg)
    except ConfigError as error:
        return Found(FAIL, str(error))
    return Found(PASS, "names of processes, streams and senders are known")


def threads(case: Case) -> Found:
    asked, cores = case.cfg.policy.threads, case.cores["policy"]
    text = f"policy.threads = {asked or 'one a core'} on cores {cores_text(cores)}"
    return Found(FAIL if asked > len(cores) else PASS, text, asked or len(cores), "threads")


def guard(case: Case) -> Found:
    """Limits that a real arm should not be without."""
    limits, absent = case.cfg.guard, []
    absent += [] if limits.workspace_min_mm else ["guard.workspace_min_mm and workspace_max_mm"]
    absent += [] if limits.force else ["guard.force"]
    if not case.moves_an_arm:
        return Found(SKIP, "the robot is on this machine: a simulated one")
    return Found(
        WARN if absent else PASS, f"no {', no '.join(absent)}" if absent else "workspace and force are limited"
    )


def checkpoint(case: Case) -> Found:
    if not case.cfg.policy.checkpoint:
        return Found(SKIP, _NO_CHECKPOINT)
    try:
        path = case.tables.require_checkpoint(case.cfg)
    except (ConfigError, CheckpointError) as error:
        return Found(FAIL, str(error))
    size_mb = sum(one.stat().st_size for one in Path(path).rglob("*") if one.is_file()) / 1e6
    return Found(PASS, f"{path}, {size_mb:.1f} MB, suits the settings", size_mb, "MB")


def _loaded(case: Case) -> dict[str, Any]:
    """Of the child process, which is started once. It never downloads."""
    if "model" not in case.reports:
        cores = case.cores["policy"]

        def enter() -> None:  # between fork and exec: torch's threads keep the mask that they are born with
            rt.pin(cores)

        count = str(len(cores))
        quiet = {
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
        }
        environment = {**os.environ, **quiet}
        given = config_of(case.options)
        answer = child_answer(_CHILD, given, _LOAD_S, env=environment, preexec_fn=enter)
        if "error" in answer:
            answer = {part: {"kind": "crash", **answer} for part in ("policy", "vl")}
        case.reports["model"] = answer
    report: dict[str, Any] = case.reports["model"]
    return report


def _part(case: Case, part: str, process: str) -> Found | dict[str, Any]:
    if checkpoint(case).status != PASS:
        return Found(SKIP, "there is no checkpoint that suits the settings: see model.checkpoint")
    if case.is_running:
        row = case.rows.get(process, {"state": "absent", "alive": False})
        is_up = row["alive"] and row["state"] == "ready"
        return Found(PASS if is_up else WARN, f"not loaded again: {process} is {row['state']}", mend="rtvla status")
    if case.hands_off:
        return case.hands_off
    outcome: dict[str, Any] = _loaded(case)[part]
    if "error" not in outcome:
        return outcome
    is_library = outcome["kind"] in ("ImportError", "ModuleNotFoundError")
    mend = "pip install --upgrade torch transformers safetensors" if is_library else ""
    return Found(FAIL, outcome["error"], mend=mend)


def policy(case: Case) -> Found:
    got = _part(case, "policy", "policy")
    if isinstance(got, Found):
        return got
    period_ms = 1000 / case.cfg.policy.rate_hz
    text = (
        f"{got['expert']}, loads in {got['load_s']:.1f} s on {got['device']}, "
        f"{got['action_ms']:.1f} ms a chunk (eager), {got['threads']} threads on {got['cores']} cores"
    )
    is_slow = got["action_ms"] > period_ms
    why = f"a chunk takes longer than the period of {period_ms:.0f} ms" if is_slow else ""
    return Found(WARN if is_slow else PASS, text, got["action_ms"], "ms", why=why)


def vl(case: Case) -> Found:
    got = _part(case, "vl", "vl_encoder")
    if isinstance(got, Found):
        return got
    text = f"{got['backbone']}, loads in {got['load_s']:.1f} s on {got['device']}, {got['dim']} values, "
    return Found(PASS, f"{text}{got['encode_ms']:.0f} ms for a first picture", got["encode_ms"], "ms")


SETTINGS_CHECKS = (
    Check(
        "config.settings", settings, "no process starts with wrong settings", "edit that line; rtvla up names it, too"
    ),
    Check("config.tables", tables, "a name that nobody knows would be without effect", "edit that line"),
    Check(
        "config.threads",
        threads,
        "threads that share a core spin for each other: 3 ms become 400",
        "policy.threads = 0 (one a core), or more cores in [realtime.cores] policy",
    ),
    Check("config.guard", guard, "a wrong chunk may drive the arm anywhere", "[guard] in the config"),
)
CHECKS = (
    Check(
        "model.checkpoint", checkpoint, "there is no policy without it", "rtvla model make-tiny DIR; --checkpoint DIR"
    ),
    Check(
        "model.policy",
        policy,
        "weights that are damaged or of another model would move the arm anywhere",
        "copy the folder again; rtvla model show DIR; an old file: rtvla checkpoint import",
    ),
    Check(
        "model.vl_backbone",
        vl,
        "features of another backbone mean nothing to this policy",
        "huggingface-cli download NAME of vl_backbone (rtvla model show DIR), or copy the folder again",
    ),
)
