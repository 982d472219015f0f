"""The models. `from rtvla.models import create_async_model` is the way in for a program of your own.

Loaded when asked for: whoever only reads a spec does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtvla.models.async_model import AsyncModel, create_async_model

__all__ = ["AsyncModel", "create_async_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rtvla.models import async_model

    return getattr(async_model, name)
