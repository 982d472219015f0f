"""The tag of sensor datagrams: what was changed, forged, repeated or overtaken is refused."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest

from rtvla.wire.udp_tag import TRAILER_BYTES, TagCheck, Tagger

KEY, OTHER = bytes(range(32)), bytes(32)
LENGTHS = [0, 1, 27, 28, 29, 4120, 4124, 4 + 15 * 4120]


def scattered(message: bytes) -> list[bytearray]:
    """As the ingest receives it: 4 bytes, fifteen slots, what is beyond; old bytes stay where nothing is written."""
    parts = [bytearray(b"\xaa" * n) for n in (4, *[4120] * 15, TRAILER_BYTES + 1)]
    at = 0
    for part in parts:
        piece = message[at : at + len(part)]
        part[: len(piece)] = piece
        at += len(part)
    return parts


def fault(check: TagCheck, message: bytes) -> str:
    return check.fault(scattered(message), len(message))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_tagged_datagram_is_taken_and_is_the_datagram_and_28_bytes(length: int) -> None:
    datagram = random.Random(length).randbytes(length)
    message = Tagger(KEY).tagged(datagram)
    assert message[:length] == datagram and len(message) == length + TRAILER_BYTES == length + 28
    assert fault(TagCheck(KEY), message) == ""


def test_the_format_is_what_the_document_says() -> None:
    message = Tagger(KEY, lambda: 1.5).tagged(b"abc")
    front = b"abc" + b"RVT1" + struct.pack("<Q", 1_500_000_000)
    assert message == front + hashlib.blake2b(front, key=KEY, digest_size=16).digest()


@pytest.mark.parametrize("length", [0, 4120, 4124, 8244])
def test_every_changed_bit_is_seen(length: int) -> None:
    message = Tagger(KEY).tagged(bytes(length))
    chance = random.Random(1)
    bits = range(8 * len(message)) if length == 0 else chance.sample(range(8 * len(message)), 300)
    for bit in bits:
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        assert fault(TagCheck(KEY), bytes(changed)) in ("bad_tag", "no_tag")
    for cut in (1, 16, 28):
        assert fault(TagCheck(KEY), message[:-cut]) in ("bad_tag", "no_tag")
    assert fault(TagCheck(KEY), message + b"x") in ("bad_tag", "no_tag")


def test_another_key_or_none_is_not_ours() -> None:
    assert fault(TagCheck(KEY), Tagger(OTHER).tagged(bytes(4124))) == "bad_tag"
    for length in LENGTHS:
        assert fault(TagCheck(KEY), bytes(length)) == "no_tag"


def test_a_datagram_counts_once_and_never_after_a_later_one() -> None:
    tagger, check = Tagger(KEY), TagCheck(KEY)
    first, second, third = (tagger.tagged(bytes([n])) for n in range(3))
    assert [fault(check, message) for message in (first, first, third, second, third)] == [
        "",
        "replayed",
        "",
        "replayed",
        "replayed",
    ]


def test_numbers_rise_although_the_clock_stands_still_or_is_set_back() -> None:
    clock = iter([100.0, 100.0, 40.0, 100.1])
    tagger, check = Tagger(KEY, lambda: next(clock)), TagCheck(KEY)
    assert [fault(check, tagger.tagged(b"x")) for _ in range(4)] == [""] * 4


def test_a_sender_that_starts_again_is_taken_and_what_it_sent_before_is_not() -> None:
    before, check = Tagger(KEY, lambda: 100.0), TagCheck(KEY)
    old = [before.tagged(bytes([n])) for n in range(10)]
    assert fault(check, old[9]) == ""
    assert fault(check, Tagger(KEY, lambda: 101.0).tagged(b"x")) == ""
    assert {fault(check, message) for message in old} == {"replayed"}


def test_a_check_that_takes_over_knows_what_was_seen() -> None:
    tagger, check = Tagger(KEY), TagCheck(KEY)
    old = tagger.tagged(b"x")
    assert fault(check, old) == ""
    successor = TagCheck(KEY, check.last)
    assert fault(successor, old) == "replayed" and fault(successor, tagger.tagged(b"y")) == ""


def test_a_forged_number_does_not_shut_the_true_sender_out() -> None:
    check = TagCheck(KEY)
    forged = bytearray(Tagger(OTHER, lambda: 1e9).tagged(b"x"))
    assert fault(check, bytes(forged)) == "bad_tag" and check.last == 0
    assert fault(check, Tagger(KEY, lambda: 5.0).tagged(b"x")) == ""
