"""A stand-in for the controller and the robot side that drives it through the real library, each as its own process."""

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import zmq

from rtvla.schema import ROBOT
from rtvla.wire import command, robot

from .sending import ROOT, free_port, wait_for

HOME = (190.0, 1.0, 309.0, 1.0, 90.0, 0.0)
START = (190.5, 1.0, 309.0, 1.0, 90.0, 0.0)


class Program:
    """`rtvla send KIND ...`"""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rtvla", "send", *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Controller(Program):
    def __init__(self) -> None:
        super().__init__("controller", "--control-port", 0, "--monitor-port", 0)
        assert self.process.stdout is not None
        self.ports = json.loads(self.process.stdout.readline())
        self._socket = socket.create_connection(("127.0.0.1", self.ports["test"]))
        self._lines = self._socket.makefile("rw")

    def ask(self, line: str = "account") -> dict:
        self._lines.write(line + "\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def pose(self) -> np.ndarray:
        return np.array(self.ask()["pose_mm_deg"])

    def stands(self) -> bool:
        """Two looks at the arm with several monitoring cycles between them see the same."""
        before = self.ask()["pose_mm_deg"]
        for _ in range(20):
            last = self.ask()["pose_mm_deg"]
        return before == last

    def kill(self) -> None:
        self._lines.close()
        self._socket.close()
        super().kill()


class Bench:
    """Both processes, a subscriber and a pusher, as the old receiver has them."""

    def __init__(self, context: zmq.Context, *arguments: object) -> None:
        self.controller = Controller()
        self.state_port, self.command_port = free_port(), free_port()
        self.sub = context.socket(zmq.SUB)
        self.sub.setsockopt(zmq.RCVHWM, 0)
        self.sub.setsockopt(zmq.RCVTIMEO, 30_000)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"robot_state")
        self.sub.connect(f"tcp://127.0.0.1:{self.state_port}")
        self.push = context.socket(zmq.PUSH)
        self.push.connect(f"tcp://127.0.0.1:{self.command_port}")
        self.run_side(*arguments)

    def run_side(self, *arguments: object) -> None:
        ports = ("--control-port", self.controller.ports["control"], "--monitor-port", self.controller.ports["monitor"])
        own = ("--state-port", self.state_port, "--command-port", self.command_port)
        self.side = Program("robot", "--arm", "mecademic", "--robot-address", "127.0.0.1", *ports, *own, *arguments)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.side.kill()
        self.controller.kill()

    def state(self) -> np.void:
        """The newest state; waits for one."""
        parts = self.sub.recv_multipart()
        while self.sub.poll(0):
            parts = self.sub.recv_multipart()
        record = np.zeros(1, ROBOT)[0]
        robot.decode(parts, record)
        return record

    def start(self, pose: tuple[float, ...] = START) -> None:
        """Send `start` and wait until dposes are executed: zero velocities come after the move."""
        before = self.heard("movelinvelwrf")
        self.push.send(command.encode_start(pose))
        wait_for(lambda: self.heard("movelinvelwrf") > before, "the end of the start")
        np.testing.assert_allclose(self.controller.pose(), pose, atol=1e-9)

    def dpose_at_10_hz(self, delta: tuple[float, ...]) -> dict:
        self.push.send(command.encode_dpose(delta))
        time.sleep(0.1)
        return self.controller.ask()

    def heard(self, name: str) -> int:
        return self.controller.ask()["heard"].get(name, 0)

    def report(self) -> dict:
        code, out, err = self.side.end()
        assert "Traceback" not in err, err
        return {**json.loads(out), "exit_code": code, "said": err}
