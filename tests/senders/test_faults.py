import argparse

import pytest

from rtvla.clock import MS, SECOND
from rtvla.senders import faults as module
from rtvla.senders.faults import FaultInjector, Outbox, Outgoing, add_fault_arguments

MESSAGE = Outgoing([bytes(range(100)), bytes(68)], label="x", records=3)


def injector(*arguments: object, damageable=(0,)) -> FaultInjector:
    parser = argparse.ArgumentParser()
    add_fault_arguments(parser)
    made = FaultInjector(parser.parse_args([str(a) for a in arguments]), damageable)
    made.begin(0)
    return made


def test_without_faults_a_message_goes_out_at_once_and_unchanged():
    faults = injector()
    assert [faults.apply(MESSAGE, t) for t in (0, 5)] == [[(0, MESSAGE)], [(5, MESSAGE)]]
    assert not any(faults.counts.values())


def test_counts_are_what_happened():
    faults = injector("--loss", 0.2, "--duplicate", 0.3, "--corrupt", 0.1, "--flip", 0.1, "--delay-ms", 5,
                      "--delay-probability", 0.5)  # fmt: skip
    results = [faults.apply(MESSAGE, 0) for _ in range(2000)]
    sent = [item for result in results for item in result]
    assert faults.counts["lost"] == sum(not result for result in results)
    assert faults.counts["duplicated"] == sum(len(result) == 2 for result in results)
    assert (
        faults.counts["delayed"]
        == sum(due == 5 * MS for due, _ in sent)
        == len(sent) - sum(due == 0 for due, _ in sent)
    )
    for damage, name in (("cut", "corrupted"), ("flip", "flipped")):
        assert faults.counts[name] == sum(bool(result) and result[0][1].damage == damage for result in results)
    assert 300 < faults.counts["lost"] < 500 and 350 < faults.counts["duplicated"] < 610


def test_the_seed_decides():
    def hits(seed):
        faults = injector("--loss", 0.5, "--corrupt", 0.5, "--seed", seed)
        return [faults.apply(MESSAGE, 0) for _ in range(50)]

    assert hits(1) == hits(1) != hits(2)


def test_cut_is_an_odd_number_of_bytes_of_an_allowed_part():
    faults = injector("--corrupt", 1, damageable=(1,))
    for _ in range(300):
        ((_, message),) = faults.apply(MESSAGE, 0)
        assert message.parts[0] == MESSAGE.parts[0]
        assert (68 - len(message.parts[1])) % 2 == 1
    ((_, message),) = injector("--corrupt", 1).apply(Outgoing([b"x"]), 0)
    assert message.parts == [b""]


def test_flip_changes_one_bit():
    faults = injector("--flip", 1)
    for _ in range(100):
        ((_, message),) = faults.apply(MESSAGE, 0)
        different = [a ^ b for a, b in zip(message.parts[0], MESSAGE.parts[0], strict=True) if a != b]
        assert len(different) == 1 and different[0].bit_count() == 1
    assert MESSAGE.parts[0] == bytes(range(100))


def test_freeze_and_stop_begin_at_their_time():
    faults = injector("--freeze-after", 1, "--stop-after", 2)
    assert not faults.is_frozen(SECOND - 1) and faults.is_frozen(SECOND)
    assert [len(faults.apply(MESSAGE, t)) for t in (0, SECOND, 2 * SECOND - 1, 2 * SECOND, 9 * SECOND)] == [
        1,
        1,
        1,
        0,
        0,
    ]
    assert (faults.counts["frozen"], faults.counts["withheld"]) == (2, 2)


def test_delayed_messages_leave_in_order_of_their_time():
    sent = []
    box = Outbox(injector("--delay-ms", 10), sent.append)
    first, second = Outgoing([b"1"]), Outgoing([b"2"])
    box.put(first, 0)
    box.put(second, 4 * MS)
    assert sent == [] and box.next_due_ns() == 10 * MS
    box.send_due(10 * MS - 1)
    assert sent == []
    box.send_due(13 * MS)
    assert sent == [first] and box.next_due_ns() == 14 * MS
    box.flush()
    assert sent == [first, second] and box.next_due_ns() is None


def test_an_undelayed_message_overtakes():
    sent = []
    faults = injector("--delay-ms", 10, "--delay-probability", 0.5)
    box = Outbox(faults, sent.append)
    for k in range(100):
        box.put(Outgoing([bytes([k])]), 0)
    assert len(sent) == 100 - faults.counts["delayed"]
    box.flush()
    assert sorted(m.parts[0][0] for m in sent) == list(range(100))
    assert [m.parts[0][0] for m in sent] != list(range(100))


def test_the_queue_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_DELAYED", 3)
    sent = []
    faults = injector("--delay-ms", 10)
    box = Outbox(faults, sent.append)
    for k in range(5):
        box.put(Outgoing([bytes([k])]), k)
    assert [m.parts for m in sent] == [[b"\0"], [b"\1"]]
    assert faults.counts["hurried"] == 2


@pytest.mark.parametrize(
    "arguments", [("--loss", "1.5"), ("--loss", "nan"), ("--delay-ms", "-1"), ("--delay-ms", "inf")]
)
def test_impossible_values_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        injector(*arguments)
    assert arguments[0] in capsys.readouterr().err
