"""Values -> strict JSON text: no NaN, no Infinity, and float32 in as few digits as bring it back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII, on one line unless `indent` is given. A float that is not finite becomes null."""
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, indent=indent)


def shortest(array: np.ndarray) -> list[Any]:
    """Nested lists of Python floats: for float32 0.1, not 0.10000000149. Cast to float32 they equal the input."""
    values: list[Any] = array.astype(str).astype(np.float64).tolist()
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
