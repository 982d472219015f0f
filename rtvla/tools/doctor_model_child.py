"""The child process of `rtvla doctor` that loads the model: policy first, then the VL encoder; one JSON document.

Plain torch, no engine: engines are built and kept beside the checkpoint, and a doctor writes nothing. Whoever starts it
has pinned it to the policy's cores and set its threads, as the pipeline does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from rtvla.config import Config
from rtvla.errors import RtvlaError

_TRIES = 5


def _policy(cfg: Config) -> dict[str, Any]:
    import numpy as np

    from rtvla.models.checkpoint import load_policy
    from rtvla.models.engines.engine import EngineChoice
    from rtvla.tools.model_source import resolve_device

    start = time.monotonic()
    device = resolve_device(cfg.policy.device)
    steps = {"flow_steps": cfg.policy.flow_steps or None, "diffusion_steps": cfg.policy.diffusion_steps or None}
    vla = load_policy(
        cfg.policy.checkpoint,
        device,
        expect_expert=cfg.policy.model_type or None,
        choice=EngineChoice("eager"),
        **steps,
    )
    loaded = time.monotonic()
    took = []
    for seed in range(_TRIES):
        begun = time.monotonic()
        chunk = vla.predict(vla.spec.fake_observation(seed), seed)
        took.append(1000 * (time.monotonic() - begun))
        if not np.isfinite(chunk.actions).all():
            raise RtvlaError(f"checkpoint {cfg.policy.checkpoint}: a chunk of random inputs is not finite")
    return {
        "device": device,
        "load_s": loaded - start,
        "action_ms": sorted(took)[_TRIES // 2],
        "threads": len(os.listdir("/proc/self/task")),
        "cores": len(os.sched_getaffinity(0)),
        "expert": vla.spec.expert,
    }


def _vl(cfg: Config) -> dict[str, Any]:
    import numpy as np

    from rtvla.models.checkpoint import load_vl_encoder
    from rtvla.models.feature import Approximation
    from rtvla.tools.model_source import resolve_device

    settings, start = cfg.vl_encoder, time.monotonic()
    device = resolve_device(settings.device)
    approximation = Approximation(settings.quantize, settings.layers)
    encoder = load_vl_encoder(cfg.policy.checkpoint, settings.task_name, device, approximation)
    loaded, spec = time.monotonic(), encoder.spec
    grey = np.full((spec.image_height, spec.image_width, 3), 128, np.uint8)
    if spec.vl_sequence == "joint":
        feature = encoder.encode_joint([grey] * len(spec.views))
    else:
        feature = encoder.encode_view(grey)
    if not np.isfinite(feature).all():
        raise RtvlaError(f"checkpoint {cfg.policy.checkpoint}: the VL feature of a grey picture is not finite")
    return {
        "device": device,
        "load_s": loaded - start,
        "encode_ms": 1000 * (time.monotonic() - loaded),
        "dim": len(feature),
        "backbone": spec.vl_backbone,
    }


def _outcome(work: Callable[[Config], dict[str, Any]], cfg: Config) -> dict[str, Any]:
    """What came of it; an error by name is an outcome, too. Anything else ends the child with its traceback."""
    try:
        return work(cfg)
    except (RtvlaError, ImportError, OSError) as error:
        return {"error": str(error), "kind": type(error).__name__}


def main() -> None:
    config, settings = json.loads(sys.argv[1])
    cfg = Config.load(config, settings)
    print(json.dumps({"policy": _outcome(_policy, cfg), "vl": _outcome(_vl, cfg)}))


if __name__ == "__main__":
    main()
