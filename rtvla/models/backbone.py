"""Names the weights of a VL backbone by content, fast enough to do at every start (3B: 824 small reads).

Why not only names and sizes: a fine-tuned or LoRA-merged model has the same names and the same sizes as the one that it
was made from, and its features are different.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

from rtvla.errors import CheckpointError

_TENSOR_BYTES = 4096  # of each tensor: a merge or a fine-tuning changes the first rows of what it touches
_INDEX = "model.safetensors.index.json"
_ONE_FILE = "model.safetensors"


def fingerprint_backbone(folder: Path) -> str:
    """sha256 (hex) over config.json, the tokenizer, and of each weight file the header and the head of every tensor.

    Not included: the processor's files (rtvla builds its own inputs) and any other file that may lie in the folder.
    """
    digest = hashlib.sha256()
    for path in [folder / "config.json", *_tokenizer_files(folder)]:
        content = _read(path)
        digest.update(f"{path.name}:{len(content)}:".encode())
        digest.update(content)
    for path in weight_files(folder):
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        with open(path, "rb") as file:
            _digest_weights(file, digest, path)
    return digest.hexdigest()


def verify_backbone(folder: Path, expected: str) -> None:
    found = fingerprint_backbone(folder)
    if found != expected:
        raise CheckpointError(
            f"VL backbone {folder}: fingerprint {found[:16]}, but the checkpoint was trained with {expected[:16]}; "
            "put the original backbone back, or train an action model for this one"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: those of the index if there is one."""
    if (folder / _INDEX).is_file():
        try:
            names = sorted(set(json.loads(_read(folder / _INDEX))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"VL backbone {folder / _INDEX}: not a weight index ({error!r})") from None
    else:
        names = [_ONE_FILE]
    paths = [folder / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"VL backbone {folder}: {', '.join(missing)} missing; copy the whole folder again")
    return paths


def _tokenizer_files(folder: Path) -> list[Path]:
    # the hub has both forms; which of them lies in a cache depends on what was loaded before, so take one only
    vocabulary = ["tokenizer.json"] if (folder / "tokenizer.json").is_file() else ["vocab.json", "merges.txt"]
    return [folder / name for name in vocabulary]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"VL backbone {path}: {error.strerror}; copy the whole folder again") from None


def _digest_weights(file: BinaryIO, digest: hashlib._Hash, path: Path) -> None:
    """Layout of safetensors: u64 length of the header, the header (JSON), the tensors at offsets after it."""
    try:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        tensors = {name: at["data_offsets"] for name, at in json.loads(header).items() if name != "__metadata__"}
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"VL backbone {path}: not a safetensors file ({error!r}); copy it again") from None
    digest.update(header)
    for begin, end in sorted(tensors.values()):
        file.seek(8 + length + begin)
        digest.update(file.read(min(_TENSOR_BYTES, end - begin)))
