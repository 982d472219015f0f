"""Tables and pictures of measurements. The pictures need no screen, and matplotlib: the optional extra `plots`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rtvla.errors import ConfigError

_INCHES = (8.0, 4.5)
_DPI = 120
_TITLE_LETTERS = 80  # a line


def table(title: str, *columns: str) -> Table:
    """Empty. The first column is left-aligned, the rest right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for at, column in enumerate(columns):
        made.add_column(column, justify="right" if at else "left")
    return made


def require_matplotlib() -> None:
    """Before anything is measured, so that an hour of numbers is not lost to a missing package."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'rtvla[plots]'") from None
    matplotlib.use("Agg")


def stacked_bars(
    path: Path, title: str, parts: Mapping[str, Sequence[float]], labels: Sequence[str], unit: str
) -> Path:
    """One bar a label, from the top down, its parts one after the other, the sum written at its end."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(_INCHES[0], max(_INCHES[1], 0.45 * len(labels))))
    ends = [0.0] * len(labels)
    for name, values in parts.items():
        axes.barh(labels, values, left=ends, label=name)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    for at, end in enumerate(ends):
        axes.annotate(f" {end:.1f}", (end, at), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.3)
    return _finish(path, figure, axes, title)


def lines(
    path: Path, title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, **marks: Any
) -> Path:
    """One line a series of (xs, ys). `limit` and `limit_label` draw a horizontal line; `log` a logarithmic y."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_INCHES)
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, marker="o", label=name)
    if "limit" in marks:
        axes.axhline(marks["limit"], color="black", linestyle="--", linewidth=1, label=marks.get("limit_label"))
    axes.set_yscale("log" if marks.get("log") else "linear")
    axes.set_xticks(sorted({at for xs, _ in series.values() for at in xs}))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", alpha=0.3)
    return _finish(path, figure, axes, title)


def _finish(path: Path, figure: Any, axes: Any, title: str) -> Path:
    from matplotlib import pyplot

    axes.set_title(textwrap.fill(title, _TITLE_LETTERS))
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)
    return path
