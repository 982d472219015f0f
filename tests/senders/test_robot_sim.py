import signal
import time

import numpy as np
import pytest
import zmq

from rtvla.errors import WireError
from rtvla.schema import ROBOT
from rtvla.wire import command, robot

from .sending import Sender, drain, free_port, wait_for


class Bench:
    """A running robot sender, one subscriber to its states, one pusher of commands."""

    def __init__(self, context: zmq.Context, *arguments: object) -> None:
        self.state_port, self.command_port = free_port(), free_port()
        self.sub = context.socket(zmq.SUB)
        self.sub.setsockopt(zmq.RCVHWM, 0)
        self.sub.setsockopt(zmq.RCVTIMEO, 30_000)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"robot_state")
        self.sub.connect(f"tcp://127.0.0.1:{self.state_port}")
        self.push = context.socket(zmq.PUSH)
        self.push.connect(f"tcp://127.0.0.1:{self.command_port}")
        self.sender = Sender("robot", "--state-port", self.state_port, "--command-port", self.command_port, *arguments)
        self.messages: list[list[bytes]] = []

    def __enter__(self) -> "Bench":
        self.sender.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.__exit__()

    def pose(self) -> np.ndarray:
        """Of the newest state; waits for one."""
        self.messages.append(self.sub.recv_multipart())
        while self.sub.poll(0):
            self.messages.append(self.sub.recv_multipart())
        return self.decoded(self.messages[-1:])[0]["pose_mm_deg"]

    def states(self) -> np.ndarray:
        self.messages += drain(self.sub)
        return self.decoded(self.messages)

    @staticmethod
    def decoded(messages: list[list[bytes]]) -> np.ndarray:
        records = np.zeros(len(messages), ROBOT)
        for i, parts in enumerate(messages):
            robot.decode(parts, records[i])
        return records


def test_every_state_counted_arrives(context):
    with Bench(context, "--seconds", 0.6) as bench:
        report = bench.sender.report()
    states = bench.states()
    assert report["states_sent"] == len(states) > 0 and report["flushed"]
    assert report["states_made"] == report["states_sent"] + report["states_unheard"]
    assert (np.diff(states["sampled_s"]) > 0).all() and (states["sent_s"] >= states["sampled_s"]).all()
    assert (states["pose_mm_deg"] == np.array([190, 1, 309, 1, 90, 0], "f4")).all()


def test_nobody_listening_is_counted(context):
    with Sender("robot", "--state-port", free_port(), "--command-port", free_port(), "--seconds", 0.3) as sender:
        report = sender.report()
    assert report["states_sent"] == 0 and report["states_unheard"] == report["states_made"] > 0


def test_a_subscriber_to_something_else_does_not_count_as_listening(context):
    port = free_port()
    other = context.socket(zmq.SUB)
    other.setsockopt(zmq.SUBSCRIBE, b"robot_cmd")
    other.connect(f"tcp://127.0.0.1:{port}")
    with Sender("robot", "--state-port", port, "--command-port", free_port(), "--seconds", 0.3) as sender:
        assert sender.report()["states_sent"] == 0
    everything = context.socket(zmq.SUB)
    everything.setsockopt(zmq.SUBSCRIBE, b"")
    everything.connect(f"tcp://127.0.0.1:{port}")
    with Sender("robot", "--state-port", port, "--command-port", free_port(), "--seconds", 0.5) as sender:
        assert sender.report()["states_sent"] == len(drain(everything)) > 0


def test_commands_are_executed_clamped_ignored_and_counted(context):
    with Bench(context) as bench:
        bench.push.send(command.encode_dpose((0.1, 0, 0, 0, 0, 0)))  # before the start
        bench.push.send(command.encode_start((191, 1, 309, 1, 90, 0)))
        wait_for(lambda: bench.pose()[0] == 191, "the start pose")
        bench.push.send(command.encode_dpose((5, 0.05, 0, 0, 0, 0)))
        wait_for(lambda: bench.pose()[0] > 191.0999, "the step")
        time.sleep(0.25)  # it does not go on by itself
        np.testing.assert_allclose(bench.pose(), [191.1, 1.05, 309, 1, 90, 0], atol=1e-4)
        bench.push.send(command.encode_stop())
        bench.push.send(command.encode_dpose((0.1, 0, 0, 0, 0, 0)))
        time.sleep(0.3)
        report = bench.sender.stop(signal.SIGTERM)
    assert report["states_sent"] == len(bench.states())
    assert report["commands"] == {"dpose": 3, "start": 1, "stop": 1}
    assert report["ignored_dposes"] == {"not_started": 2}
    assert (report["clamped_ticks"], report["moved_ticks"], report["malformed"]) == (1, 1, {})
    np.testing.assert_allclose(report["final_pose_mm_deg"], [191.1, 1.05, 309, 1, 90, 0], atol=1e-6)
    assert report["path_length_mm"] == pytest.approx(1 + np.hypot(0.1, 0.05), abs=1e-6)
    assert report["largest_step_mm"] == pytest.approx(np.hypot(0.1, 0.05), abs=1e-6)


def test_what_comes_during_a_start_waits_and_is_executed_after_it(context):
    with Bench(context) as bench:
        bench.push.send(command.encode_start((215, 1, 309, 1, 90, 0)))  # 0.5 s away
        for _ in range(5):
            bench.push.send(command.encode_dpose((0.04, 0, 0, 0, 0, 0)))
        wait_for(lambda: bench.pose()[0] > 215.0999, "the step")
        time.sleep(0.25)
        report = bench.sender.stop()
    assert report["final_pose_mm_deg"][0] == pytest.approx(215.1)  # five commands, one tick, one clamped step
    assert report["ignored_dposes"] == {} and report["clamped_ticks"] == 1


def test_malformed_commands_are_counted_and_never_fatal(context):
    bad = [b"", b"{", b"[" * 3000, b"\xff\xfe", b'{"cmd":"dpose","dp":[NaN,0,0,0,0,0]}', b'{"cmd":"fly"}',
           b'{"cmd":"dpose"}', b'{"cmd":"apose","pose":[1,2]}', b"x" * 5000]  # fmt: skip
    with Bench(context) as bench:
        for payload in bad:
            bench.push.send(payload)
        bench.push.send_multipart([command.encode_stop(), b"more"])
        bench.push.send(command.encode_start((190.5, 1, 309, 1, 90, 0)))
        wait_for(lambda: bench.pose()[0] == 190.5, "the start pose")
        report = bench.sender.stop()
    assert report["malformed"] == {"bad_json": 6, "unknown_command": 1, "bad_values": 2, "wrong_parts": 1}
    assert report["commands"] == {"start": 1}


def test_a_flood_of_commands_does_not_stop_the_states(context):
    with Bench(context) as bench:
        bench.pose()
        for _ in range(1000):
            bench.push.send(b"{}")
        bench.push.send(command.encode_start((190.5, 1, 309, 1, 90, 0)))
        wait_for(lambda: bench.pose()[0] == 190.5, "the start pose")
        report = bench.sender.stop()
    assert report["malformed"] == {"unknown_command": 1000}
    assert report["states_sent"] == len(bench.states())


def test_faults_add_up_and_every_cut_is_seen(context):
    faults = ("--loss", 0.1, "--duplicate", 0.1, "--corrupt", 0.2, "--delay-ms", 25, "--delay-probability", 0.2)
    with Bench(context, "--hz", 400, *faults) as bench:
        bench.messages.append(bench.sub.recv_multipart())
        time.sleep(0.5)
        report = bench.sender.stop()
    messages = bench.messages + drain(bench.sub)
    assert report["states_sent"] == len(messages)
    made = report["states_made"] - report["lost"] + report["duplicated"]
    assert made == report["states_sent"] + report["states_unheard"]
    refused = 0
    for parts in messages:
        try:
            robot.decode(parts, np.zeros(1, ROBOT)[0])
        except WireError as error:
            assert error.cause == "bad_length"
            refused += 1
    assert refused == report["cut_sent"] > 0


def test_a_frozen_state_keeps_its_content_while_the_arm_moves_on(context):
    with Bench(context, "--freeze-after", 0) as bench:
        bench.push.send(command.encode_start((195, 1, 309, 1, 90, 0)))
        bench.pose()
        time.sleep(0.4)
        report = bench.sender.stop()
    states = bench.states()
    assert report["final_pose_mm_deg"][0] == 195
    assert (states["pose_mm_deg"][:, 0] == 190).all() and (np.diff(states["sampled_s"]) > 0).all()


def test_silence_is_counted_and_the_arm_lives_on(context):
    with Bench(context, "--stop-after", 0, "--seconds", 1) as bench:
        bench.push.send(command.encode_start((190.5, 1, 309, 1, 90, 0)))
        report = bench.sender.report()
    assert report["withheld"] == report["states_made"] > 0 and report["states_sent"] == 0
    assert report["final_pose_mm_deg"][0] == 190.5
    assert len(bench.states()) == 0


def test_a_taken_port_is_said_plainly(context):
    holder = context.socket(zmq.PULL)
    port = holder.bind_to_random_port("tcp://127.0.0.1")
    with Sender("robot", "--state-port", port, "--command-port", free_port(), "--seconds", 1) as sender:
        _, err = sender.process.communicate(timeout=60)
    assert sender.process.returncode != 0 and "--state-port" in err and str(port) in err


def test_it_obeys_what_commands_say_about_themselves(context):
    """As the real robot side: one session at a time, no number twice, nothing that has expired; old senders as ever."""

    def sent(kind, values, **said):
        encode = {"start": command.encode_start, "dpose": command.encode_dpose}[kind]
        bench.push.send(encode(values, stamp=said))

    with Bench(context) as bench:
        bench.pose()
        now = time.time()
        sent("start", [190, 1, 309, 1, 90, 0], session="a", seq=1)
        sent("dpose", [0.01] + [0] * 5, session="a", seq=2, issued_s=now, ttl_ms=60_000)
        sent("dpose", [0.01] + [0] * 5, session="a", seq=2)
        sent("dpose", [0.01] + [0] * 5, session="a", seq=3, issued_s=now - 10, ttl_ms=100)
        sent("dpose", [0.01] + [0] * 5, session="b", seq=9)
        sent("dpose", [0.01] + [0] * 5)
        sent("dpose", [0.01] + [0] * 5, session="", seq=4)
        wait_for(lambda: bench.pose()[0] > 190.005, "the one step that counts")
        bench.sender.send_signal(signal.SIGTERM)
        report = bench.sender.report()
    assert report["dropped"] == {"old_seq": 1, "expired": 1, "other_session": 2}
    assert report["malformed"] == {"bad_stamp": 1} and report["commands"] == {"start": 1, "dpose": 1}
