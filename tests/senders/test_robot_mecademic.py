"""The robot side in its own process, the real mecademicpy in it, against the stand-in in another one."""

import json
import signal
import time

import numpy as np
import pytest
import zmq

from rtvla.cli import main
from rtvla.wire import command

from .mecademic_bench import HOME, START, Bench
from .sending import free_port, wait_for

pytest.importorskip("mecademicpy")


def stamped(**keys) -> bytes:
    return json.dumps({"cmd": "dpose", "dp": [0, 0, 0.02, 0, 0, 0], **keys}).encode()


def test_start_insertion_stop_and_an_orderly_end(context):
    with Bench(context) as bench:
        state = bench.state()
        np.testing.assert_allclose(state["pose_mm_deg"], HOME, atol=1e-4)
        assert 0 <= state["sent_s"] - state["sampled_s"] < 60 and abs(time.time() - state["sampled_s"]) < 60
        account = bench.controller.ask()
        assert not account["status"]["activated"] and "movepose" not in account["heard"], "it moved before a start"
        bench.start()
        for _ in range(10):
            bench.dpose_at_10_hz((0, 0, 0.04, 0, 0, 0.02))
        wait_for(bench.controller.stands, "the end of the insertion")
        moved = np.array(bench.controller.ask()["velocity_path_mm_deg"])
        np.testing.assert_allclose(moved, [0, 0, 0.4, 0, 0, 0.2], atol=0.08)  # a late tick makes a velocity last longer
        wait_for(lambda: abs(bench.state()["pose_mm_deg"][2] - bench.controller.pose()[2]) < 1e-4, "the measured pose")
        bench.push.send(command.encode_stop())
        wait_for(lambda: bench.controller.ask()["status"]["paused"], "the stop")
        bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
        report = bench.report()
        account = bench.controller.ask()
    assert account["velocity_path_mm_deg"] == moved.tolist(), "it moved after the stop"
    assert not account["status"]["activated"] and account["heard"]["deactivaterobot"] == 1
    assert report["exit_code"] == 0 and report["connections"] == 1 and not report["robot_errors"]
    assert report["commands"] == {"start": 1, "dpose": 10 + report["ignored_dposes"].get("not_started", 0), "stop": 1}
    assert report["states_sent"] + report["states_unheard"] == report["cycles"]


def test_a_stop_interrupts_a_start_and_overtakes_what_was_sent_before_it(context):
    with Bench(context, "--start-percent", 0.1) as bench:  # 1 mm/s: 35 s to go
        bench.state()
        bench.push.send(command.encode_start((225, 1, 309, 1, 90, 0)))
        wait_for(lambda: bench.controller.pose()[0] > 190.05, "the move")
        for _ in range(20):
            bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
        bench.push.send(command.encode_stop())
        wait_for(lambda: bench.controller.ask()["status"]["paused"], "the stop")
        account = bench.controller.ask()
        assert account["queued"] == 0 and account["pose_mm_deg"][0] < 225
        assert bench.controller.stands()
        report = bench.report()
    assert report["commands"]["stop"] == 1 and report["phase"] == "idle" and report["moved_ticks"] == 0
    assert account["velocity_path_mm_deg"] == [0] * 6


def test_limits_hold_here_whatever_is_asked_for(context):
    with Bench(context, "--workspace", 185, 191, -5, 5, 300, 309.5, "--max-mm-s", 0.8) as bench:
        bench.state()
        bench.push.send(command.encode_start((200, 1, 309, 1, 90, 0)))
        bench.start()
        for _ in range(9):
            account = bench.dpose_at_10_hz((0, 0, 5, 3, 0, 0))
        report = bench.report()
    assert report["refused_moves"] == {"outside_workspace": 1}
    assert account["heard"]["movepose"] == 1
    assert max(account["fastest"]) == 1 and account["fastest"][2] == 0.8
    assert account["pose_mm_deg"][2] <= 309.5 and report["blocked_ticks"] > 0 and report["clamped_ticks"] > 0


def test_without_commands_it_holds_and_a_dead_robot_side_leaves_a_standing_arm(context):
    with Bench(context, "--vel-timeout-s", 0.2) as bench:
        bench.state()
        bench.start()
        bench.push.send(command.encode_dpose((0, 0, 0.02, 0, 0, 0)))
        wait_for(lambda: bench.controller.ask()["velocity_path_mm_deg"][2] > 0, "motion")
        sent = bench.heard("movelinvelwrf")
        wait_for(bench.controller.stands, "the hold")
        time.sleep(0.5)
        held = bench.heard("movelinvelwrf")
        time.sleep(0.3)
        assert bench.heard("movelinvelwrf") == held >= sent, "the watchdog holds: nothing is sent"
        for _ in range(100):  # what a network held back
            bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
        time.sleep(0.25)
        assert bench.controller.ask()["fastest"][2] == 0.2
        wait_for(lambda: bench.dpose_at_10_hz((0, 0, 0.1, 0, 0, 0))["fastest"][2] == 1, "motion at full speed")
        bench.side.process.send_signal(signal.SIGKILL)
        bench.side.process.communicate()
        wait_for(lambda: bench.controller.ask()["clients"] == ["test"], "the closed connection")
        assert bench.controller.stands() and bench.controller.ask()["status"]["paused"]


def test_a_silent_robot_side_is_stopped_by_the_robots_own_timers(context):
    with Bench(context, "--connection-watchdog-s", 0.5) as bench:
        bench.state()
        bench.start()
        bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
        wait_for(lambda: bench.controller.ask()["velocity_path_mm_deg"][2] > 0, "motion")
        bench.side.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: bench.controller.ask()["counts"].get("watchdog_stops"), "the robot's watchdog")
        account = bench.controller.ask()
        assert account["velocity_path_mm_deg"][2] <= 0.4 + 0.1 + 1e-6 and account["status"]["paused"]
        bench.side.process.send_signal(signal.SIGCONT)
        wait_for(lambda: "control" in bench.controller.ask()["clients"], "the new connection")
        assert bench.controller.stands()


def test_an_error_is_reported_and_never_cleared_from_here(context):
    with Bench(context) as bench:
        bench.state()
        bench.start()
        bench.controller.ask("error 1012")
        for _ in range(5):
            bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
            time.sleep(0.05)
        path = bench.controller.ask()["velocity_path_mm_deg"]
        bench.push.send(command.encode_start(START))
        bench.state()  # states go on
        time.sleep(0.3)
        account = bench.controller.ask()
        assert account["status"]["error"] == 1012 and account["velocity_path_mm_deg"] == path
        assert "reseterror" not in account["heard"] and account["heard"]["movepose"] == 1
        bench.controller.ask("reset")  # the operator, at the robot
        time.sleep(0.3)
        assert bench.controller.stands() and bench.heard("movepose") == 1
        bench.start()
        assert bench.heard("movepose") == 2
        report = bench.report()
    assert report["robot_errors"]["singularity_err"] >= 1 and report["interrupted"] == {"robot_error": 1}
    assert report["refused_moves"] == {"robot_error": 1} and "robot is in error" in report["said"]


def test_a_lost_connection_is_made_again_and_nothing_moves_by_itself(context):
    with Bench(context) as bench:
        bench.state()
        bench.start()
        bench.controller.ask("refuse")
        bench.controller.ask("drop")
        bench.push.send(command.encode_start(START))  # while there is no robot: refused, not kept for later
        wait_for(lambda: bench.side.process.poll() is None and bench.controller.stands(), "the end of motion")
        time.sleep(0.3)
        bench.controller.ask("accept")
        bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
        wait_for(lambda: "monitor" in bench.controller.ask()["clients"], "the new connection")
        bench.push.send(command.encode_dpose((0, 0, 0.1, 0, 0, 0)))
        time.sleep(0.3)
        account = bench.controller.ask()
        assert account["velocity_path_mm_deg"] == [0] * 6 and account["heard"]["movepose"] == 1
        bench.start()
        report = bench.report()
    assert report["connections"] == 2 and sum(report["connection_lost"].values()) == 1 and report["failed_attempts"] > 0
    assert report["interrupted"] == {"connection_lost": 1} and report["exit_code"] == 0


def test_a_controller_that_says_nothing_more_is_a_lost_connection(context):
    with Bench(context, "--silence-ms", 300) as bench:
        bench.state()
        bench.start()
        bench.controller.ask("freeze")
        wait_for(lambda: not bench.sub.poll(400) or bench.sub.recv_multipart() is None, "no more states")
        bench.controller.ask("thaw")
        bench.state()
        assert bench.controller.stands()
        report = bench.report()
    assert report["connections"] >= 2 and report["interrupted"] == {"connection_lost": 1}


def test_a_storm_of_malformed_late_and_foreign_commands_moves_nothing_and_ends_nothing(context):
    bad = [b"", b"{", b"[1]", b"\xff", b'{"cmd":"dpose","dp":[NaN,0,0,0,0,0]}', b'{"cmd":"fly"}', b'{"cmd":"dpose"}',
           b'{"cmd":"apose","pose":[1,2]}', b"x" * 5000, stamped(seq=-1), stamped(issued_s=1.0)]  # fmt: skip
    now = time.time()
    with Bench(context) as bench:
        bench.state()
        start = {"cmd": "start", "start_pose": START, "session": "a", "seq": 1}
        bench.push.send_json(start)
        wait_for(lambda: bench.heard("movelinvelwrf"), "the end of the start")
        for _ in range(30):
            for payload in bad:
                bench.push.send(payload)
        bench.push.send_multipart([command.encode_stop(), b"more"])
        bench.push.send(stamped())
        bench.push.send(stamped(session="b", seq=9))
        bench.push.send(stamped(session="a"))
        bench.push.send(stamped(session="a", seq=1))
        bench.push.send(stamped(session="a", seq=2, issued_s=now - 60, ttl_ms=500))
        bench.push.send(stamped(session="a", seq=3, issued_s=now + 3600, ttl_ms=500))
        time.sleep(0.3)
        assert bench.controller.ask()["velocity_path_mm_deg"] == [0] * 6
        bench.push.send(stamped(session="a", seq=4, issued_s=time.time(), ttl_ms=60_000))
        wait_for(lambda: bench.controller.ask()["velocity_path_mm_deg"][2] > 0, "the good one")
        report = bench.report()
    assert report["malformed"] == {
        "bad_json": 30 * 6, "unknown_command": 30, "bad_values": 60, "bad_stamp": 60, "wrong_parts": 1
    }  # fmt: skip
    assert report["dropped"] == {"other_session": 2, "no_seq": 1, "old_seq": 1, "expired": 1, "from_the_future": 1}
    assert report["commands"] == {"start": 1, "dpose": 1} and report["watchdog_holds"] <= 1


def test_clear_error_resets_once_and_only_at_the_first_connection(context):
    with Bench(context, "--clear-error") as bench:
        bench.state()
        bench.controller.ask("error 3049")
        time.sleep(0.2)
        assert bench.heard("reseterror") == 0
        bench.side.kill()
        bench.run_side("--clear-error")
        wait_for(lambda: bench.controller.ask()["status"]["error"] == 0, "the reset")
        bench.controller.ask("error 3049")
        bench.controller.ask("drop")
        wait_for(lambda: "monitor" in bench.controller.ask()["clients"], "the new connection")
        time.sleep(0.2)
        assert bench.controller.ask()["status"]["error"] == 3049 and bench.heard("reseterror") == 1
        assert bench.report()["exit_code"] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--arm", "mecademic"], "--robot-address"),
        (["--robot-address", "127.0.0.1"], "--robot-address"),
        (["--arm", "mecademic", "--robot-address", "127.0.0.1", "--loss", "0.1"], "--loss"),
        (["--arm", "mecademic", "--robot-address", "127.0.0.1", "--vel-timeout-s", "5"], "--vel-timeout-s"),
        (["--arm", "mecademic", "--robot-address", "127.0.0.1", "--watchdog-ms", "100"], "--watchdog-ms"),
        (["--arm", "mecademic", "--robot-address", "127.0.0.1", "--hz", "2000"], "--hz"),
        (["--arm", "mecademic", "--robot-address", "127.0.0.1", "--workspace", *"213456"], "--workspace"),
    ],
)
def test_a_flag_that_is_missing_foreign_or_wrong_is_named(arguments, named, capsys):
    assert main(["send", "robot", *arguments]) == 78
    assert named in capsys.readouterr().err


def test_a_missing_library_is_said_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "mecademicpy", None)
    assert main(["send", "robot", "--arm", "mecademic", "--robot-address", "127.0.0.1"]) == 78
    assert "pip install -e '.[robot]'" in capsys.readouterr().err


def test_without_arm_it_is_the_simulated_robot(context, capsys):
    ports = ["--state-port", str(free_port()), "--command-port", str(free_port())]
    assert main(["send", "robot", *ports, "--seconds", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["path_length_mm"] == 0
    assert isinstance(context, zmq.Context)
