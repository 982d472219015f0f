"""TorchInductor ahead of time, on the CPU. A built part is NAME.pt2: machine code for this CPU, and its weights.

Ahead of time rather than torch.compile: the same kernels, but a process only loads them, in under a second.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from rtvla.models.engines.lean import Part
from rtvla.models.engines.staged import Run

PRECISIONS = ("float32", "bfloat16")
HOLDS_CODE = True
# freezing packs the weights for the CPU's matrix kernels: twice as fast. The number of threads stays open.
_OPTIONS = {"freezing": True, "cpp.dynamic_threads": True}


def missing(precision: str) -> str:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        return "there is no C++ compiler: install g++"
    return ""


def versions() -> dict[str, str]:
    return {"torch": torch.__version__}


class InBfloat16(nn.Module):
    """A copy of a module that computes in bfloat16, float32 at both ends."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(torch.bfloat16)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.module(*(one.to(torch.bfloat16) for one in inputs)).float()


def reduced(part: Part, precision: str) -> nn.Module:
    return InBfloat16(part.module) if precision == "bfloat16" and not part.exact else part.module


def build(part: Part, examples: tuple[torch.Tensor, ...], precision: str, folder: Path) -> None:
    if part.exact:
        return  # a few operations: torch runs them as they are
    path, module = folder / f"{part.output}.pt2", reduced(part, precision)
    with torch.inference_mode(False), torch.no_grad():
        exported = torch.export.export(module, tuple(one.clone() for one in examples))
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=_OPTIONS)


def bind(part: Part, precision: str, folder: Path, threads: int, values: Mapping[str, torch.Tensor]) -> Run:
    run = part.module if part.exact else torch._inductor.aoti_load_package(str(folder / f"{part.output}.pt2"))
    inputs, output = [values[name] for name in part.inputs], values[part.output]

    def bound() -> None:
        output.copy_(run(*inputs))

    return bound
