"""A process of `rtvla bench gpu` of its own: the encoder at full speed, the policy's ticks, or both in two threads.

Says "ready" once its models are warm, then works until its standard input ends (encoder) or until its ticks are done,
and prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from rtvla.clock import now_ns
from rtvla.models.policy import VlaPolicy
from rtvla.rt import die_with_parent
from rtvla.tools.bench_gpu_action import policy_of
from rtvla.tools.bench_gpu_device import graphs_of, unfused
from rtvla.tools.latency import WARM_UP, spread

_PERIOD_NS = 10_000_000  # ten times the pipeline's rate, or there would be too few ticks for a 99.9th percentile
_FAMILY, _PRECISION = "origin", "float32"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["encoder", "action", "both"])
    parser.add_argument("--preset", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--experts", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    die_with_parent(os.getppid(), signal.SIGKILL)
    print(json.dumps(_ROLES[args.role](args)), flush=True)


def encoder_role(args: argparse.Namespace) -> dict[str, Any]:
    encoding = Encoding(args.preset, args.device)
    encoding.start(None)
    print("ready", flush=True)
    sys.stdin.read()
    return {"encoder": encoding.stop()}


def action_role(args: argparse.Namespace) -> dict[str, Any]:
    policies = make_policies(args)
    print("ready", flush=True)
    return {expert: ticks(policy, args.seconds) for expert, policy in policies.items()}


def both_role(args: argparse.Namespace) -> dict[str, Any]:
    """The encoder in a thread with a stream of low priority; the engine of the policy has one of high priority.

    Without CUDA: two threads, and the names of the streams mean nothing.
    """
    policies, encoding = make_policies(args), Encoding(args.preset, args.device)
    encoding.start(torch.cuda.Stream(priority=0) if args.device != "cpu" else None)
    print("ready", flush=True)
    found = {expert: ticks(policy, args.seconds) for expert, policy in policies.items()}
    return {**found, "encoder": encoding.stop()}


_ROLES = {"encoder": encoder_role, "action": action_role, "both": both_role}


def make_policies(args: argparse.Namespace) -> dict[str, VlaPolicy]:
    engine, policies = graphs_of(args.device), {}
    for expert in args.experts:
        policy = policies[expert] = policy_of(_FAMILY, expert, args.preset, args.device, engine, _PRECISION)
        for seed in range(WARM_UP):
            policy.predict(policy.spec.fake_observation(0), seed)
    return policies


def ticks(policy: VlaPolicy, seconds: float) -> dict[str, float]:
    """Ticks on a grid; one that is late begins at once, and the grid goes on from there. At least ten."""
    observation = policy.spec.fake_observation(0)
    took: list[int] = []
    due_ns = now_ns()
    end_ns = due_ns + int(seconds * 1e9)
    while due_ns < end_ns or len(took) < 10:
        time.sleep(max(0, due_ns - now_ns()) / 1e9)
        begin = now_ns()
        policy.predict(observation, len(took))
        took.append(now_ns() - begin)
        due_ns = max(due_ns + _PERIOD_NS, now_ns())
    return spread(took)


class Encoding:
    """Whole sets of five views in a thread, one set after the other."""

    def __init__(self, preset: str, device: str) -> None:
        from rtvla.models.presets import vl_spec
        from rtvla.models.qwen_vl import Backbone, VLEncoder
        from rtvla.models.random_vl import StandInTokenizer, random_backbone
        from rtvla.tools.bench_model_vl import encode_set, prepare

        spec = vl_spec(preset)
        whole = random_backbone(preset, spec.dtype, device)
        encoder = VLEncoder(spec, Backbone(whole.model, StandInTokenizer(preset)), "eye", device)
        frames = spec.fake_frames(0)
        with unfused(device):
            prepare(encoder, graphs_of(device), frames)
        self._encode = lambda: encode_set(encoder, frames)
        self._stop, self._warm = threading.Event(), threading.Event()
        self._took: list[int] = []
        self._error: list[BaseException] = []

    def start(self, stream: Any) -> None:
        """Returns once it is warm."""
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
        self._thread.start()
        self._warm.wait()

    def stop(self) -> dict[str, float]:
        """Of the sets since it was warm; the one under way is finished first."""
        self._stop.set()
        self._thread.join()
        if self._error:
            raise self._error[0]
        return spread(self._took)

    def _run(self, stream: Any) -> None:
        try:
            with _on(stream):
                for _ in range(WARM_UP):
                    self._encode()
                self._warm.set()
                while not self._stop.is_set() or not self._took:
                    begin = now_ns()
                    self._encode()
                    self._took.append(now_ns() - begin)
        except RuntimeError as error:  # raised again where the result is asked for
            self._error.append(error)
        finally:
            self._warm.set()


@contextlib.contextmanager
def _on(stream: Any) -> Iterator[None]:
    with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
        yield


if __name__ == "__main__":
    main()
