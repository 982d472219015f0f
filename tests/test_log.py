"""A log whose reader has stopped holds nobody up, and says later what was lost."""

from __future__ import annotations

import logging
import os

from rtvla.log import Unstalled

LINES = 3000  # more than a pipe and the queue hold together
LONG = "x" * 200


def test_a_reader_that_has_stopped_holds_nobody_up_and_what_was_lost_is_said() -> None:
    read_fd, write_fd = os.pipe()
    handler = Unstalled(write_fd)
    for number in range(LINES):
        handler.handle(logging.LogRecord("test", logging.INFO, "", 0, f"{number:05} {LONG}", None, None))
    # all were emitted although nobody has read; now somebody does
    text = ""
    while "were lost: nobody read them" not in text or not text.endswith("\n"):
        handler.handle(logging.LogRecord("test", logging.INFO, "", 0, "again", None, None))
        text += os.read(read_fd, 1 << 16).decode()
    lines = text.splitlines()
    numbers = [int(line[:5]) for line in lines if line[:5].isdigit() and line.endswith(LONG)]
    lost = sum(int(line.split()[0]) for line in lines if line.endswith("nobody read them"))
    assert numbers == sorted(set(numbers)) and len(numbers) < LINES
    assert lost >= 1
    os.close(read_fd)
    handler.handle(logging.LogRecord("test", logging.INFO, "", 0, "to nobody", None, None))
    handler.flush()
    os.close(write_fd)


def test_lines_come_whole_and_in_order() -> None:
    read_fd, write_fd = os.pipe()
    handler = Unstalled(write_fd)
    for number in range(50):
        handler.handle(logging.LogRecord("test", logging.INFO, "", 0, str(number), None, None))
    handler.flush()
    os.close(write_fd)
    with os.fdopen(read_fd) as file:
        assert file.read().split() == [str(number) for number in range(50)]
