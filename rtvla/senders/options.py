"""Argument types of the senders' command lines: a wrong value is named before anything is sent."""

from __future__ import annotations

import argparse
import math


def positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a positive number")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text}: must be zero or more")
    return value


def probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a probability from 0 to 1")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"{text}: must be a port number from 1 to 65535")
    return value


def add_keys(parser: argparse.ArgumentParser, of: str) -> None:
    """`--keys`, the folder of `rtvla keys make` or its part for the machine `of`."""
    parser.add_argument("--keys", metavar="DIR", help=f"folder of rtvla keys make, or its {of} part (none)")


def add_seconds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=positive, help="end after this time (default: run until SIGINT or SIGTERM)")
