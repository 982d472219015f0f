"""OpenVINO on the CPU. A built part is an IR: NAME.xml and NAME.bin, data without code, compiled at load in under 1 s.

OpenVINO is only ever imported by `runtime` here: by itself it reports each import and each conversion over the network
(Google Analytics), unless the user has forbidden it in a file in his home directory.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtvla.errors import CheckpointError
from rtvla.models.engines.lean import Part
from rtvla.models.engines.staged import Run

PRECISIONS = ("float32", "bfloat16", "int8")
HOLDS_CODE = False
_HINT = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
_QUANTIZE_FROM = 65_536  # weights; smaller matrices cost nothing


def missing(precision: str) -> str:
    """Why it cannot run here, or ""."""
    if util.find_spec("openvino") is None:
        return "the package openvino is not installed: pip install 'rtvla[openvino]'"
    if precision != "float32" and not _has_bf16():
        return (
            f"this CPU has no bfloat16 instructions, so {precision} would gain nothing: set policy.precision to float32"
        )
    return ""


def runtime() -> Any:
    """The package openvino, which goes on without its telemetry if that cannot be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def _has_bf16() -> bool:
    return "BF16" in runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def versions() -> dict[str, str]:
    return {"openvino": metadata.version("openvino")}


def build(part: Part, examples: tuple[torch.Tensor, ...], precision: str, folder: Path) -> None:
    model = _convert(part, examples)
    if precision == "int8" and not part.exact:
        quantize_weights(model)
    runtime().save_model(model, folder / f"{part.output}.xml", compress_to_fp16=False)


def _convert(part: Part, examples: tuple[torch.Tensor, ...]) -> Any:
    openvino = runtime()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operations have no counterpart in OpenVINO
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are constants here: that is meant
            # torch.export gives OpenVINO the same graph and takes ten times as long
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(part.module, examples, check_trace=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=examples)  # must outlive `loaded`
    loaded = frontend.load(decoder)
    model = frontend.convert(loaded)
    for port, example in zip(model.inputs, examples, strict=True):
        node = port.get_node()
        node.set_partial_shape(openvino.PartialShape(list(example.shape)))
        node.set_element_type(openvino.Type.boolean if example.dtype == torch.bool else openvino.Type.f32)
    model.validate_nodes_and_infer_types()
    return model


def quantize_weights(model: Any) -> None:
    """Large matrices as 8-bit integers with a scale for each output: symmetric, rounded to nearest."""
    ops = runtime().opset13
    for node in model.get_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or constant.get_output_size() != 1:
            continue
        weight = constant.get_data()
        if weight.ndim != 2 or weight.size < _QUANTIZE_FROM:
            continue
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
        integers = ops.constant(np.rint(weight / scale).astype(np.int8))
        restored = ops.multiply(ops.convert(integers, "f32"), ops.constant(scale))
        node.input(1).replace_source_output(restored.output(0))


def bind(part: Part, precision: str, folder: Path, threads: int, values: Mapping[str, torch.Tensor]) -> Run:
    """The part's file, compiled and bound to its places in `values`. CheckpointError if it does not fit them."""
    openvino = runtime()
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if part.exact else _HINT[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the process is pinned by procs/table.py
    }
    compiled = core.compile_model(core.read_model(folder / f"{part.output}.xml"), "CPU", settings)
    request = compiled.create_infer_request()
    if len(compiled.inputs) != len(part.inputs):
        raise CheckpointError(f"engine {folder}: {part.output} takes {len(compiled.inputs)} inputs; remove the folder")
    for at, name in enumerate(part.inputs):
        request.set_input_tensor(at, openvino.Tensor(values[name].numpy(), shared_memory=True))
    request.set_output_tensor(0, openvino.Tensor(values[part.output].numpy(), shared_memory=True))
    return request.infer
