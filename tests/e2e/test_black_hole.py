"""A link that swallows everything without a word, as a pulled cable does: the kernel's buffers must not keep commands.

The loopback interface of a network namespace of its own is taken down and up again; nothing else is on it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import json, subprocess, sys, time, zmq
from rtvla.procs.commander import forget
from rtvla.wire import command

def link(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)

link("up")
context = zmq.Context()
pull = context.socket(zmq.PULL)
pull.bind("tcp://127.0.0.1:5000")
push = context.socket(zmq.PUSH)
if sys.argv[1] == "forget":
    forget(push)
push.connect("tcp://127.0.0.1:5000")
issued, arrived = [], []

def send(count):
    for _ in range(count):
        try:
            push.send(command.encode_dpose([0.01] * 6, stamp={"seq": len(issued)}), zmq.DONTWAIT)
        except zmq.Again:
            pass
        issued.append(time.monotonic())
        time.sleep(0.1)
        while pull.poll(0):
            arrived.append(json.loads(pull.recv())["seq"])

while not arrived:
    send(1)
link("down")
down = len(issued)
send(15)
link("up")
up = len(issued)
while not arrived or arrived[-1] < up:
    send(1)
print(json.dumps({"in the cut": sum(down <= seq < up for seq in arrived), "after": sum(seq >= up for seq in arrived)}))
context.destroy(linger=0)
"""


@pytest.fixture(scope="module", autouse=True)
def network_namespaces() -> None:
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare and ip (Debian and Ubuntu: apt-get install util-linux iproute2)")
    if subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("needs root, and a kernel that gives network namespaces")


def run(how: str) -> dict[str, int]:
    command = ["unshare", "-n", sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


def test_commands_of_a_dead_link_are_not_delivered_when_it_is_back() -> None:
    """Regression: all commands of the last seconds came at once, up to what a send buffer holds."""
    found = run("forget")
    assert found["in the cut"] == 0 and found["after"] >= 1


def test_the_link_of_this_test_does_keep_what_an_ordinary_socket_sends() -> None:
    assert run("plainly")["in the cut"] == 15
