"""What makes a VL feature, and its name: two processes that agree on the name may exchange features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from rtvla.models.spec import ModelSpec


@dataclass(frozen=True)
class Approximation:
    """How the encoder is allowed to be inexact; see qwen_approximate.py."""

    quantize: str = "none"  # or int8, fp8
    layers: int = 0  # of the language part, the first so many; 0: all


EXACT = Approximation()


def feature_fingerprint(spec: ModelSpec, task: str, approximation: Approximation) -> int:
    """64 bits. Beside what the spec says, the whole text and every way in which an encode is not exact.

    The engine is not part of it: all give the same feature, within rounding. Nor are the views that are skipped because
    they have not changed: theirs is the exact feature of an earlier frame.
    """
    made_by = [spec.fingerprint(), spec.prompt.format(task=task), approximation.quantize, approximation.layers]
    return int.from_bytes(hashlib.sha256(json.dumps(made_by).encode()).digest()[:8], "big")
