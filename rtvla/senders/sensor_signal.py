"""A synthetic distance sensor: A-lines with a wandering reflection, and a contact force. Plausible, not physics.

Range and spread follow the one episode of the origin that was looked at (a.2): -28..288, mean 49.7, std 45.3.
"""

from __future__ import annotations

import math

import numpy as np

from rtvla.schema import ALINE_BINS, F32

LOOP_SAMPLES = 1300  # 2 s at 650 Hz; the A-lines are made once and repeat, so that sending costs only a copy
FORCE_LOOP_SAMPLES = 5200
LOWEST, HIGHEST = -28.0, 288.0


def aline_table(seed: int = 0) -> F32:
    """(LOOP_SAMPLES, 1025) raw A-lines: a surface that moves in and out, a weaker one behind it, decay, speckle."""
    rng = np.random.default_rng(seed)
    turn = 2 * np.pi * np.arange(LOOP_SAMPLES, dtype=np.float32)[:, None] / LOOP_SAMPLES
    bins = np.arange(ALINE_BINS, dtype=np.float32)[None, :]
    surface = 420 + 180 * np.sin(turn)
    lines = 22 + 70 * np.exp(-bins / 350) + rng.normal(0, 9, (LOOP_SAMPLES, ALINE_BINS)).astype(np.float32)
    lines += 175 * np.exp(-0.5 * ((bins - surface) / 14) ** 2)
    lines += 70 * np.exp(-0.5 * ((bins - surface - 230 - 20 * np.cos(3 * turn)) / 30) ** 2)
    table: F32 = np.clip(lines, LOWEST, HIGHEST).astype(np.float32)
    return table


def force_table(seed: int = 0) -> list[float]:
    """FORCE_LOOP_SAMPLES raw forces: free, then pressed for some seconds, with a little noise."""
    rng = np.random.default_rng(seed + 1)
    turn = 2 * math.pi * np.arange(FORCE_LOOP_SAMPLES) / FORCE_LOOP_SAMPLES
    force = 1.6 * np.clip(np.sin(turn), 0, None) ** 2 + rng.normal(0, 0.01, FORCE_LOOP_SAMPLES)
    return [float(value) for value in force]


class Signal:
    """Sample k of the sensor, for any k."""

    def __init__(self, seed: int = 0) -> None:
        self._alines, self._forces = aline_table(seed), force_table(seed)

    def aline(self, k: int) -> F32:
        aline: F32 = self._alines[k % LOOP_SAMPLES]
        return aline

    def force(self, k: int) -> float:
        return self._forces[k % FORCE_LOOP_SAMPLES]
