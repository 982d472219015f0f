"""A static module by OpenVINO, on a CPU: the same sums by faster kernels, built in seconds at each start."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rtvla.models.engines.openvino import runtime
from rtvla.models.qwen_engine import Call, Outputs, as_tuple


class OpenVino:
    name, replays = "openvino", 0

    def prepare(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
        inputs = tuple(map(_as_float, inputs))
        with torch.inference_mode():
            examples = as_tuple(module(*inputs))
        is_half = any(weight.dtype == torch.bfloat16 for weight in module.parameters())
        return Prepared(
            *_convert(InFloat(module), inputs), [one.shape for one in examples], "bf16" if is_half else "f32"
        )


class Prepared:
    """One compiled model with outputs at fixed places."""

    def __init__(self, model: Any, decoder: Any, shapes: Sequence[torch.Size], precision: str) -> None:
        """`decoder` holds the weights and tables, which the model reads where they are: without it they are freed."""
        openvino = runtime()
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the process is pinned by procs/table.py
        }
        self._tensor, self._decoder = openvino.Tensor, decoder
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        self._outputs = tuple(torch.empty(shape, dtype=torch.float32) for shape in shapes)
        for at, output in enumerate(self._outputs):
            self._request.set_output_tensor(at, openvino.Tensor(output.numpy(), shared_memory=True))

    def __call__(self, *given: torch.Tensor) -> Outputs:
        arrays = [_as_float(one).numpy() for one in given]  # held until the end: nothing is copied
        for at, array in enumerate(arrays):
            self._request.set_input_tensor(at, self._tensor(array, shared_memory=True))
        self._request.infer()
        return self._outputs if len(self._outputs) > 1 else self._outputs[0]


class InFloat(nn.Module):
    """A module whose outputs are float32, as numpy needs them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> Outputs:
        outputs: Outputs = self.module(*inputs)
        return tuple(map(_as_float, outputs)) if isinstance(outputs, tuple) else _as_float(outputs)


def _as_float(given: torch.Tensor) -> torch.Tensor:
    """numpy knows no bfloat16; the modules take either."""
    return given.float() if given.is_floating_point() else given


def _convert(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, Any]:
    """The model, and what must live as long as it.

    By the frontend itself: openvino.convert_model reports each use over the network unless the user forbids it.
    """
    openvino = runtime()  # first: by itself its import reports, too
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is old, and fixes the shapes, which is what is wanted
        traced = torch.jit.trace(module, tuple(one.clone() for one in inputs), check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=inputs)
    loaded = frontend.load(decoder)
    model = frontend.convert(loaded)
    for port, example in zip(model.inputs, inputs, strict=True):
        node = port.get_node()
        node.set_partial_shape(openvino.PartialShape(list(example.shape)))
        node.set_element_type({torch.uint8: openvino.Type.u8, torch.float32: openvino.Type.f32}[example.dtype])
    model.validate_nodes_and_infer_types()
    return model, decoder
