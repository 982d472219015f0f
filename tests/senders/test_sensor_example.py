"""The documented C program, compiled as its head says, against the receiver's own functions over a real socket."""

import json
import math
import shutil
import subprocess
import time

import numpy as np
import pytest

from rtvla.wire import sensor

from .sending import ROOT, UdpReceiver

SOURCE = ROOT / "examples" / "sensor_sender.c"
COMPILER = shutil.which("cc")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc) on this machine")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    target = tmp_path_factory.mktemp("c") / "sensor_sender"
    command = [COMPILER, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", str(SOURCE), "-o", str(target), "-lm"]
    subprocess.run(command, check=True, timeout=120)
    return target


def test_its_datagrams_are_taken_whole_and_mean_what_it_says(program):
    rate_hz, batch, total = 2000, 10, 205
    before_s = time.time()
    with UdpReceiver() as receiver:
        arguments = ["127.0.0.1", receiver.port, rate_hz, batch, total]
        run = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=60)
        datagrams = receiver.finish()
        assert not receiver.drops
    assert json.loads(run.stdout) == {"samples_sent": total, "samples_not_sent": 0}
    counts = [sensor.count_records(len(data), sensor.count_field(data[:4]), False) for data in datagrams]
    assert counts == [(batch, False)] * 20 + [(5, False)]
    records = np.concatenate(
        [sensor.decode(data) for data in datagrams]
    )  # decode checks every sample as the ingest does
    sampled_s, k = records["sampled_s"], np.arange(total)
    assert (np.diff(sampled_s) > 0).all() and before_s <= sampled_s[0] and sampled_s[-1] <= time.time()
    assert sampled_s[-1] - sampled_s[0] >= (total - 1) / rate_hz - 0.01  # never faster than asked
    assert (records["sent_s"] >= sampled_s).all()
    phase = math.pi * k / rate_hz
    np.testing.assert_allclose(records["force"], 0.8 + 0.8 * np.sin(phase), rtol=1e-6)
    surface = 420 + 180 * np.sin(phase)[:, None]
    expected = 22 + 175 * np.exp(-0.5 * ((np.arange(1025) - surface) / 14) ** 2)
    np.testing.assert_allclose(records["aline"], expected, rtol=1e-5)


def test_with_nobody_listening_it_goes_on_and_says_what_was_refused(program):
    with UdpReceiver() as receiver:
        port = receiver.port
    run = subprocess.run(
        [program, "127.0.0.1", str(port), "500", "1", "20"], check=True, capture_output=True, text=True, timeout=60
    )
    counts = json.loads(run.stdout)
    assert counts["samples_sent"] + counts["samples_not_sent"] == 20 and counts["samples_not_sent"] > 0


@pytest.mark.parametrize("wrong", [["x", "1", "1", "1", "1"], ["127.0.0.1", "9", "650", "16", "1"], []])
def test_wrong_arguments_are_named_and_nothing_is_sent(program, wrong):
    run = subprocess.run([program, *wrong], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2 and "usage" in run.stderr
