"""Reads a file of torch.save without ever running what is in it.

What is unpickled, is unpickled by torch's weights_only reader: tensors, numbers, strings, None, lists, dicts. Every
other file is refused before or by it, with what it is and what to do.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rtvla.errors import CheckpointError

_FOREIGN = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
}
_PICKLE = b"\x80"
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(AssertionError, OverflowError, MemoryError, struct.error, OSError, zipfile.BadZipFile),
)


def read(path: str | Path) -> dict[str, Any]:
    """The dict that was saved, its tensors mapped from the file where that is possible. Raises CheckpointError."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    is_zip = head.startswith(b"PK")
    if is_zip:
        _check_zip(path)
    elif not head.startswith(_PICKLE):
        raise CheckpointError(f"{path} is {_name(head)}, not a checkpoint of torch.save")
    content = _unpickle(path, mapped=is_zip)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dictionary by name: not an old checkpoint"
        )
    try:
        _check_tensors(path, content)
    except RecursionError:
        raise CheckpointError(f"{path}: its content goes round in circles: not an old checkpoint") from None
    return content


def tensors_in(value: object, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a nested structure with the dotted path to it."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in items:
            yield from tensors_in(one, f"{path}.{name}" if path else str(name))


def _name(head: bytes) -> str:
    if not head:
        return "empty"
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    return next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), "something else")


def _check_zip(path: Path) -> None:
    """Complete, undamaged, and made of what torch.save makes: records that are stored as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = [record.filename for record in records]
            if not any(name.endswith("/data.pkl") for name in names):
                raise CheckpointError(f"{path} is a zip archive, but not one of torch.save (it has no data.pkl)")
            if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(f"{path} is a TorchScript program: it is not read, since it would have to be run")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise CheckpointError(f"{path} has compressed records, which torch.save never writes: it is not read")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged or was cut short ({error}); copy it again from its source") from None
    if damaged is not None:
        raise CheckpointError(f"{path}: record {damaged} is damaged; copy the file again from its source")


def _unpickle(path: Path, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle protocol; what cannot be read is refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        wanted = re.search(r"(?:GLOBAL|global:?) `?([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and wanted:
            raise CheckpointError(
                f"{path} asks to run {wanted[1]} when it is read: refused, nothing was run. An old checkpoint holds "
                "tensors, numbers and text only; do not open this file with other tools"
            ) from None
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        if not reason or "weights_only" in reason:  # torch's own advice is to read it all the same
            reason = type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as tensors, numbers and text ({reason}): refused, nothing of it was run; if it is "
            "a checkpoint, copy it again from its source"
        ) from None


def _check_tensors(path: Path, content: dict[str, Any]) -> None:
    """A tensor larger than the file that it came in is a trap: a few bytes, repeated until memory is full."""
    size = path.stat().st_size
    for name, tensor in tensors_in(content):
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
            raise CheckpointError(f"{path}: {name} is {tensor.layout} {tuple(tensor.shape)}, more than the file holds")
