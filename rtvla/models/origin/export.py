"""An imported checkpoint back into the layout that it came in, for the old code to read.

Every tensor that the import took over is there again under its old name and in its old type; optimiser, schedule and
VL weights that it left out are not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rtvla.errors import CheckpointError
from rtvla.models.checkpoint import WEIGHTS, verify_files
from rtvla.models.origin import encoder_only
from rtvla.models.origin.report import LEFT_OUT, Report, Row
from rtvla.models.origin.vl_decision import ADAPTER


def export(folder: str | Path, path: str | Path) -> tuple[Report, list[Row]]:
    """Writes the file; returns the report of the import and the rows of what is not in it."""
    folder, path = Path(folder), Path(path)
    report = Report.read(folder)
    if path.exists():
        raise CheckpointError(f"{path} exists: choose another name")
    content, absent = _content(folder, report)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return report, absent


def _content(folder: Path, report: Report) -> tuple[dict[str, Any], list[Row]]:
    weights = _weights(folder)
    content: dict[str, Any] = {}
    absent: list[Row] = []
    placed: dict[tuple[str, str], torch.Tensor] = {}  # a second copy is the same tensor, stored once
    for row in report.rows:
        if row.section in report.values:
            content[row.section] = report.values[row.section]
        elif row.action == LEFT_OUT or row.new not in weights:
            absent.append(row)
        else:
            key = (row.new, row.dtype)
            placed.setdefault(key, weights[row.new].to(getattr(torch, row.dtype)))
            content.setdefault(row.section, {})[row.name] = placed[key]
    return content, absent


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the checkpoint, checked; those of an adapter that was kept aside under the names of the report."""
    if (folder / encoder_only.DESCRIPTION).is_file():
        encoder_only.describe(folder)
    else:
        verify_files(folder)
    try:
        weights = load_file(folder / WEIGHTS)
        adapter = load_file(folder / ADAPTER) if (folder / ADAPTER).is_file() else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {folder}: cannot be read ({error}); import the old file again") from None
    return weights | {f"{ADAPTER}:{name}": one for name, one in adapter.items()}
