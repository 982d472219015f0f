"""JSON from outside -> a dict of plain values. Whatever the bytes are, the only exception is WireError("bad_json")."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from rtvla.errors import WireError


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # Python's own reader would take NaN and Infinity


def parse(payload: bytes | memoryview, max_bytes: int) -> dict[str, Any]:
    """The JSON object in `payload`; longer than `max_bytes`, not UTF-8, not JSON or not an object is refused."""
    if len(payload) > max_bytes:
        raise WireError("bad_json", f"{len(payload)} bytes, at most {max_bytes} are read")
    try:
        value = json.loads(bytes(payload).decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: syntax, UTF-8, numbers of over 4300 digits
        raise WireError("bad_json", str(error)[:120]) from None
    if not isinstance(value, dict):
        raise WireError("bad_json", f"a {type(value).__name__}, not an object")
    return value


def finite_number(value: object) -> float | None:
    """`value` as a finite float, or None. A JSON true is not a number, and 1e999 and 10**400 are not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
