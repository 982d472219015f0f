"""What became of every key of an old file: origin.json in the checkpoint, which `export` goes back by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from rtvla.errors import CheckpointError

REPORT = "origin.json"
USED, RENAMED, LEFT_OUT = "used", "renamed", "left out"
_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One key. `section` is the key of the file's own dictionary, `name` the one inside it, if there is an inside."""

    section: str
    name: str
    action: str
    new: str = ""  # its name in the checkpoint, "" if it is not there
    why: str = ""
    dtype: str = ""  # as it was in the file; the checkpoint's own is float32
    shape: tuple[int, ...] | None = None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}" if self.name else self.section

    def line(self) -> str:
        size = "" if self.shape is None else f"  {self.dtype} {tuple(self.shape)}"
        to = f" -> {self.new}" if self.action == RENAMED else ""
        return f"{self.action:<8}  {self.key}{to}{size}" + (f"  ({self.why})" if self.why else "")


def tensor_row(section: str, name: str, tensor: torch.Tensor, action: str, new: str = "", why: str = "") -> Row:
    return Row(section, name, action, new, why, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


@dataclass(frozen=True)
class Report:
    file: str  # its name
    sha256: str
    layout: str
    assumed: Mapping[str, str]  # what the file does not say -> what was taken for it, and from where
    rows: tuple[Row, ...]
    values: Mapping[str, Any]  # epoch, losses: kept for export

    def to_json(self) -> str:
        return json.dumps({"format_version": _VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Report:
        """CheckpointError if `folder` is not an imported checkpoint, or its report is not one."""
        try:
            given = json.loads((folder / REPORT).read_text())
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {folder}: {REPORT}: {error.strerror}; it was not made by rtvla checkpoint import"
            ) from None
        except ValueError as error:
            raise CheckpointError(f"checkpoint {folder}: {REPORT} is not JSON ({error}); import it again") from None
        names = {field.name for field in fields(cls)}
        if (
            not isinstance(given, dict)
            or set(given) != names | {"format_version"}
            or given["format_version"] != _VERSION
        ):
            raise CheckpointError(f"checkpoint {folder}: {REPORT} is not of this version; import the old file again")
        del given["format_version"]
        try:
            rows = tuple(Row(**row) for row in given["rows"])
        except TypeError as error:
            raise CheckpointError(f"checkpoint {folder}: {REPORT}: {error}; import the old file again") from None
        return cls(**given | {"rows": rows})


def counts(rows: Iterable[Row]) -> dict[str, int]:
    found = dict.fromkeys((USED, RENAMED, LEFT_OUT), 0)
    for row in rows:
        found[row.action] += 1
    return found
