"""Small operations on modules that the rewrites are made of. Each leaves the module that it is given as it was."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def twin(module: nn.Module) -> Any:
    """The same tree of modules over the same tensors, to take apart."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(one): one for one in tensors})


def only(module: nn.Module, *names: str) -> Any:
    """The module without its submodules, except these: its methods still work where they need no others."""
    rest = copy.copy(module)
    rest.__dict__["_modules"] = {name: module.get_submodule(name) for name in names}
    return rest


class Call(nn.Module):
    """A method of a module as a module of its own; `constants` come after its inputs."""

    def __init__(self, owner: nn.Module, method: str, *constants: object) -> None:
        super().__init__()
        self.owner, self.method, self.constants = owner, method, constants

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self.owner, self.method)(*inputs, *self.constants)


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
    return layer


def split(layer: nn.Linear, widths: Sequence[int]) -> list[nn.Linear]:
    """One layer a slice of the input; the results add up to what `layer` gives. The first has the bias."""
    slices = layer.weight.split(list(widths), dim=1)
    return [linear(part, None if at else layer.bias) for at, part in enumerate(slices)]


def join(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """`second` after `first`, as one layer. Multiplied in float64, so that it is the more exact of the two."""
    ahead, behind = first.weight.double(), second.weight.double()
    bias = torch.zeros(len(ahead), dtype=torch.float64) if first.bias is None else first.bias.double()
    bias = behind @ bias.to(behind.device)
    bias = bias if second.bias is None else bias + second.bias.double()
    return linear((behind @ ahead).float(), bias.float())


def fold_batch_norms(module: nn.Module) -> None:
    """Every BatchNorm1d into the convolution that is right before it among its siblings. Changes `module`: a twin."""
    for parent in module.modules():
        siblings = dict(parent.named_children())
        for name, child in siblings.items():
            before = _before(name)
            convolution = siblings.get(before)
            if isinstance(child, nn.BatchNorm1d) and isinstance(convolution, nn.Conv1d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, child))
                setattr(parent, name, nn.Identity())


def _before(name: str) -> str:
    """`bn1` follows `conv1`, and in a row of layers number 1 follows number 0: the two ways of the old modules."""
    return str(int(name) - 1) if name.isdigit() else name.replace("bn", "conv")
