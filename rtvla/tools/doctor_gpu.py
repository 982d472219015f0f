"""Checks of an NVIDIA GPU by nvidia-smi: is it there, for us, free, and shared by two processes?"""

from __future__ import annotations

import os
from pathlib import Path

from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, output_of, unreadable

_LEAST_FREE_MB = 4000
_QUERY = "name,driver_version,memory.free,memory.total,persistence_mode,compute_mode"


def _gpu(case: Case) -> list[str] | None:
    if "gpu" not in case.reports:
        text = output_of("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits")
        case.reports["gpu"] = [word.strip() for word in text.splitlines()[0].split(",")] if text else None
    row: list[str] | None = case.reports["gpu"]
    return row


def _no_gpu(case: Case) -> Found:
    devices = {"policy": case.cfg.policy.device, "vl_encoder": case.cfg.vl_encoder.device}
    asked = [name for name, device in devices.items() if device.startswith("cuda")]
    if case.read("/etc/nv_tegra_release"):
        return Found(SKIP, "a Jetson: nvidia-smi does not know its GPU; see nvpmodel -q and jetson_clocks --show")
    if version := case.read("/proc/driver/nvidia/version"):
        return Found(FAIL, f"nvidia-smi does not answer, but there is a driver: {version.splitlines()[0]}")
    text = "no NVIDIA GPU: no driver, and nvidia-smi does not answer"
    return Found(FAIL, f"{text}, and {' and '.join(asked)} ask for cuda") if asked else Found(SKIP, text)


def gpu(case: Case) -> Found:
    row = _gpu(case)
    return _no_gpu(case) if row is None else Found(PASS, f"{row[0]}, driver {row[1]}, {row[3]} MB")


def gpu_memory(case: Case) -> Found:
    row = _gpu(case)
    if row is None:
        return Found(SKIP, "no NVIDIA GPU")
    if not row[2].isdigit():
        return unreadable("its free memory")
    is_low = int(row[2]) < _LEAST_FREE_MB and not case.is_running
    return Found(WARN if is_low else PASS, f"{row[2]} MB free", int(row[2]), "MB")


def gpu_persistence(case: Case) -> Found:
    row = _gpu(case)
    if row is None:
        return Found(SKIP, "no NVIDIA GPU")
    return Found(PASS if row[4] == "Enabled" else WARN, row[4])


def gpu_mode(case: Case) -> Found:
    """The encoder and the policy are two processes."""
    row = _gpu(case)
    if row is None:
        return Found(SKIP, "no NVIDIA GPU")
    return Found(PASS if row[5] == "Default" else FAIL, row[5])


def gpu_nodes(case: Case) -> Found:
    nodes = [
        path for name in ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "nvmap") for path in case.paths(f"/dev/{name}")
    ]
    barred = [path for path in nodes if not os.access(path, os.R_OK | os.W_OK)]
    if not nodes:
        return Found(SKIP, "no device of an NVIDIA GPU below /dev")
    return Found(FAIL if barred else PASS, f"not for us: {', '.join(barred)}" if barred else ", ".join(nodes))


def mps(_case: Case) -> Found:
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    if not (folder / "control").exists():
        return Found(SKIP, f"no control daemon in {folder}: processes take turns on the GPU")
    return Found(PASS, f"control daemon in {folder}")


CHECKS = (
    Check("gpu.driver", gpu, "without it the models run on the CPU", "install the NVIDIA driver; or device = cpu"),
    Check(
        "gpu.nodes", gpu_nodes, "a service cannot make them", "usermod -aG video,render USER; nvidia-modprobe -u -c0"
    ),
    Check("gpu.memory", gpu_memory, "weights and graphs must fit", "nvidia-smi: who uses it"),
    Check("gpu.persistence", gpu_persistence, "the driver unloads between runs", "nvidia-smi -pm 1"),
    Check("gpu.mode", gpu_mode, "encoder and policy are two processes on it", "nvidia-smi -c DEFAULT"),
    Check("gpu.mps", mps, "with it both processes compute at once", "nvidia-cuda-mps-control -d"),
)
