"""What an engine is: the same function of the inputs as the model itself, computed in another way.

An engine has its inputs at fixed places (`inputs`); the four calls of a tick come in the order below, `new_vl` only
when the VL feature has changed. One caller at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rtvla.models.engines.inputs import FixedInputs
from rtvla.rt import Grant
from rtvla.schema import F32

NAMES = ("eager", "compiled", "openvino", "cuda_graph")
PRECISIONS = ("float32", "bfloat16", "int8")


class Engine(Protocol):
    inputs: FixedInputs

    def new_vl(self) -> None: ...

    def encode_sensor(self) -> None: ...

    def encode_robot(self) -> None: ...

    def act(self) -> F32:
        """(H, 7) in mm and deg. Valid until the next call."""


@dataclass(frozen=True)
class EngineChoice:
    """`engine`: a name of NAMES, or auto. `threads`: 0 is as torch has it. `max_deviation`: in mm and in deg."""

    engine: str = "eager"
    precision: str = "float32"
    threads: int = 0
    max_deviation: float = 0.005


@dataclass(frozen=True)
class EngineReport:
    engine: str
    precision: str
    threads: int
    build_s: float  # 0.0: found in the cache, or nothing to build
    load_s: float  # all of it: rewrite, build, load, check
    deviation: float  # largest difference of a pose action from the plain module, mm or deg; see check.py
    place: str  # of the built files; "" if they were not kept
    memory: Grant | None = None  # whether the weights lie in huge pages; None: not asked for

    def __str__(self) -> str:
        built = f"built in {self.build_s:.1f} s" if self.build_s else "nothing to build"
        kept = f", kept in {self.place}" if self.place else ""
        return (
            f"engine {self.engine}, {self.precision}, {self.threads} threads, within {self.deviation:.1e} mm and deg "
            f"of the plain module; {built}, loaded in {self.load_s:.1f} s{kept}"
        )
