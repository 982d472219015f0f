"""The robot side of a real arm with keys: the host of these keys is heard, others are counted."""

from collections import Counter
from pathlib import Path

import numpy as np
import zmq

from rtvla.security import keys as key_files
from rtvla.security.curve import Curve
from rtvla.wire import command, robot

from .mecademic_bench import START, Bench
from .sending import Sender, free_port, wait_for


def test_the_host_with_the_key_moves_the_arm_and_another_does_not(context: zmq.Context, tmp_path: Path) -> None:
    key_files.make(tmp_path / "lab")
    host_context, refused = zmq.Context(), Counter()
    with Bench(context, "--keys", tmp_path / "lab" / "robot") as bench:
        stranger = context.socket(zmq.PUSH)  # with no keys, as the bench itself
        stranger.setsockopt(zmq.LINGER, 0)  # set later, libzmq would not forget what a refused connection still holds
        stranger.connect(f"tcp://127.0.0.1:{bench.command_port}")
        stranger.send(command.encode_start((195.0, 1.0, 309.0, 1.0, 90.0, 0.0)))
        keys = key_files.read(tmp_path / "lab", "host")
        curve = Curve(host_context, keys, lambda cause, _detail: refused.update([cause]))
        push, sub = host_context.socket(zmq.PUSH), host_context.socket(zmq.SUB)
        push.setsockopt(zmq.IMMEDIATE, 1)
        sub.setsockopt(zmq.SUBSCRIBE, robot.STATE_TOPIC)
        curve.connect(push, "robot", f"tcp://127.0.0.1:{bench.command_port}")
        curve.connect(sub, "robot", f"tcp://127.0.0.1:{bench.state_port}")
        wait_for(lambda: curve.serve() or sub.poll(0), "a state under the right key")
        assert push.poll(10_000, zmq.POLLOUT)
        push.send(command.encode_start(START))
        wait_for(lambda: bench.heard("movelinvelwrf") > 0, "the end of the start")
        np.testing.assert_allclose(bench.controller.pose(), START, atol=1e-9)
        curve.close()
        host_context.destroy(linger=0)
        assert not bench.sub.poll(100)
        report = bench.report()
    assert report["commands"] == {"start": 1} and report["states_sent"] > 0 and not refused
    assert sum(report["refused"].values()) > 0


def test_a_risk_that_was_taken_is_said_at_the_start() -> None:
    """The arm is never reached: 192.0.2.1 is no address of this machine, so nothing is bound either."""
    ports = ("--state-port", free_port(), "--command-port", free_port())
    with Sender("robot", "--bind", "192.0.2.1", *ports, "--insecure-lan") as sender:
        out, err = sender.process.communicate(timeout=60)
    assert "INSECURE: --bind = 192.0.2.1" in err and "Cannot assign requested address" in err
    assert not out
