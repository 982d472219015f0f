"""Checks of what the senders really send: from the ingests' sockets while nothing runs, else from the rings."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from rtvla.config import namespace
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, child_answer, config_of

STREAMS = ("sensor", "robot", *(f"frame.View{number}" for number in range(1, 6)))
_FAIL_SHARE, _WARN_SHARE, _MOST_SHARE = 0.5, 0.9, 1.1  # of the nominal rate
_OFF_MS, _FAR_MS = 1_000.0, 60_000.0
_DRIFT_PPM = 100.0
_WAIT_S = 60.0  # for the start of the child on a loaded machine
_HARMLESS = {"repeated_stamp"}
_KEYS = "compare rtvla keys show on both machines; a machine without keys is named in security.plain"
_START = {
    "sensor": "sensor PC: ./sensor_sender --rate 650 --port 9999 --target THIS_HOST; simulated: rtvla send sensor",
    "robot": "robot PC: start the robot sender; simulated: rtvla send robot",
    "frame": "camera PC: start the camera sender, check the plug of this camera; simulated: rtvla send camera",
}


def _by_socket(case: Case) -> dict[str, Any]:
    given = (*config_of(case.options), case.reception_s)
    answer = child_answer("rtvla.procs.reception", given, case.reception_s + _WAIT_S)
    if "error" in answer:
        return {"streams": {}, "errors": dict.fromkeys(("sensor", "robot", "cameras"), answer["error"])}
    return answer


def _by_ring(case: Case) -> dict[str, Any]:
    """From the rings of the pipeline that runs, read-only, and from what its ingests counted meanwhile."""
    from rtvla.clock import SECOND, WallOffset, now_ns
    from rtvla.control.tally import Tally
    from rtvla.shm.hub import Hub
    from rtvla.shm.survey import clocks, process_rows

    hub, wall = Hub(namespace()), WallOffset()
    readers = {name: reader for name in STREAMS if (reader := hub.existing_reader(name))}
    tallies = {name: Tally(5, True) for name in (*STREAMS, "cameras")}
    cursors = {name: reader.head for name, reader in readers.items()}
    before = _counters(process_rows(hub))
    ends_ns = now_ns() + int(case.reception_s * SECOND)
    while now_ns() < ends_ns:
        for name, reader in readers.items():
            records, lost, cursors[name] = reader.since(cursors[name], 256 if not name.startswith("frame") else 4)
            tallies[name].faults["overrun_of_doctor"] += lost
            for record in records:
                stamp = record["wire"]["sampled_s"] if name == "sensor" else record["sampled_s"]
                received_ns = int(record["received_ns"])
                size = int(record["n_bytes"]) if name.startswith("frame") else None
                tallies[name].add(float(stamp), received_ns, received_ns + wall.offset_ns(), size)
        time.sleep(0.02)
    rows = process_rows(hub)
    after = _counters(rows)
    for (stream, cause), count in after.items():
        if stream in tallies and count > before.get((stream, cause), 0):
            tallies[stream].faults[cause] += count - before.get((stream, cause), 0)
    for reader in readers.values():
        reader.close()
    streams = {name: tally.figures(ends_ns) for name, tally in tallies.items()}
    for name, known in clocks(rows).items():  # of the ingests: `received_ns` has their correction in it already
        told = ("drift_ppm", "uncertainty_us")
        streams[name] |= {key: known[key] if known.get("trusted") else None for key in told}
        streams[name]["clock_steps"] = int(known["steps"])
    return {"streams": streams, "errors": {}}


def _counters(rows: dict[str, Any]) -> dict[tuple[str, str], int]:
    """What ingests counted against a stream: (stream, cause) -> count."""
    found = {}
    for process, stream in (("sensor_ingest", "sensor"), ("robot_ingest", "robot")):
        for name, count in rows.get(process, {}).get("counters", {}).items():
            if name.startswith(("dropped.", "lost.", "refused.", "queued.")):
                found[stream, name] = count
    for name, count in rows.get("camera_ingest", {}).get("counters", {}).items():
        if name.startswith("queued.frame."):
            found[name.removeprefix("queued."), "queued"] = count
        elif name.startswith(("dropped.", "refused.")):
            found["cameras", name] = count
    return found


def _report(case: Case) -> dict[str, Any]:
    if "data" not in case.reports:
        case.reports["data"] = _by_ring(case) if case.is_running else _by_socket(case)
    report: dict[str, Any] = case.reports["data"]
    return report


def _is_needed(case: Case, stream: str) -> bool:
    """Whether the model looks at this view; without a checkpoint every one counts."""
    from rtvla.models.spec import ModelSpec

    if not stream.startswith("frame.") or not case.cfg.policy.checkpoint:
        return True
    spec = Path(case.cfg.policy.checkpoint) / "spec.json"
    return not spec.is_file() or stream.removeprefix("frame.") in ModelSpec.from_json(spec.read_text()).views


def _figures(case: Case, stream: str) -> Found | dict[str, Any]:
    report, sender = _report(case), stream.partition(".")[0].replace("frame", "cameras")
    if sender in report["errors"]:
        return Found(FAIL, f"cannot be received: {report['errors'][sender]}", mend="see port.* and network.*")
    figures: dict[str, Any] = report["streams"][stream]
    if not figures["messages"]:
        refused = figures["faults"] if sender != "cameras" else report["streams"]["cameras"]["faults"]
        causes = ", ".join(f"{count} {cause}" for cause, count in refused.items())
        is_key = any(cause.startswith("refused_") for cause in refused)
        mend = _KEYS if is_key else _START[stream.partition(".")[0]]
        text = f"nothing came in {case.reception_s:g} s" + (f"; refused: {causes}" if causes else "")
        return Found(FAIL if _is_needed(case, stream) else WARN, text, 0, "Hz", mend)
    return figures


def rate(stream: str, case: Case) -> Found:
    from rtvla.streams import STREAMS as TABLE

    got = _figures(case, stream)
    if isinstance(got, Found):
        return got
    nominal, hz = TABLE[stream].nominal_hz, got["rate_hz"]
    size = "-".join(map(str, sorted(set(got["bytes"])))) + " bytes, " if got["bytes"] else ""
    text = f"{hz:.1f} Hz of {nominal:g}, {size}longest gap {got['longest_gap_ms']:.0f} ms"
    stale_ms = case.cfg.stale_ms.get(stream, TABLE[stream].stale_ms)
    share = hz / nominal
    is_odd = not _WARN_SHARE <= share <= _MOST_SHARE or got["longest_gap_ms"] > stale_ms
    status = FAIL if share < _FAIL_SHARE else WARN if is_odd else PASS
    return Found(status, text + (f", {got['about']}" if got["about"] else ""), hz, "Hz")


def whole(stream: str, case: Case) -> Found:
    """Lost, refused, again, out of order."""
    got = _figures(case, stream)
    if isinstance(got, Found):
        return Found(SKIP, got.found if got.status == SKIP else "nothing came")
    faults = {cause: count for cause, count in got["faults"].items() if cause not in _HARMLESS}
    text = ", ".join(f"{count} {cause}" for cause, count in faults.items())
    total = sum(faults.values())
    return Found(
        WARN if total else PASS, text or f"{got['messages']} messages, all in order and whole", total, "messages"
    )


def clock(stream: str, case: Case) -> Found:
    got = _figures(case, stream)
    if isinstance(got, Found):
        return Found(SKIP, got.found if got.status == SKIP else "nothing came")
    if got["clock"] == "none":
        return Found(WARN, "its stamps stand still: ages count from the arrival")
    if got["clock"] == "since_start":
        return Found(WARN, "its stamps count from its own start, not from 1970: recordings cannot be put side by side")
    drift = got["drift_ppm"]
    steps = f", stepped {got['clock_steps']} times" if got["clock_steps"] else ""
    if drift is None:
        rest = ", drift not known in so short a time"
    else:
        rest = f", drifts by {drift:.0f} ppm, known within {got['uncertainty_us']:.0f} us"
    off_ms = got["offset_ms"]
    text = f"{abs(off_ms):.1f} ms {'behind' if off_ms >= 0 else 'ahead of'} ours{rest}{steps}"
    if abs(off_ms) >= 10_000:
        text = f"{abs(off_ms) / 1000:.0f} s {'behind' if off_ms >= 0 else 'ahead of'} ours{rest}{steps}"
    ttl_ms = case.cfg.commander.ttl_ms if stream == "robot" else 0
    if abs(off_ms) > _FAR_MS or (ttl_ms and abs(off_ms) > ttl_ms / 2):
        why = f"commands are valid for {ttl_ms:g} ms only, by both clocks (commander.ttl_ms)" if ttl_ms else ""
        return Found(FAIL, text, off_ms, "ms", why=why)
    is_odd = abs(off_ms) > _OFF_MS or bool(steps) or (drift is not None and abs(drift) > _DRIFT_PPM)
    return Found(WARN if is_odd else PASS, text, off_ms, "ms")


def _checks(stream: str) -> tuple[Check, ...]:
    who = _START[stream.partition(".")[0]]
    return (
        Check(f"data.{stream}.rate", functools.partial(rate, stream), "older than its limit, it stops the arm", who),
        Check(
            f"data.{stream}.whole",
            functools.partial(whole, stream),
            "what is lost or refused is missing in the model's window",
            "sysctl net.core.rmem_max=8388608 for lost_by_kernel; else the sender's version and rtvla keys show",
        ),
        Check(
            f"data.{stream}.clock",
            functools.partial(clock, stream),
            "recordings of this machine carry a wrong time of day",
            "on that machine: apt-get install chrony; chronyc makestep; chronyc tracking",
        ),
    )


def asked(case: Case) -> Found:
    if not case.reception_s:
        return Found(SKIP, "not asked for: --test-data-reception [SECONDS]")
    how = "read from the rings of the pipeline that runs" if case.is_running else "received at the ports of the ingests"
    return Found(PASS, f"{case.reception_s:g} s, {how}", case.reception_s, "s")


def strangers(case: Case) -> Found:
    """Messages at the cameras' port that belong to no view: broken, of an unknown camera, or without the right keys."""
    report = _report(case)
    if "cameras" in report["errors"]:
        return Found(SKIP, "its socket cannot be opened")
    faults = report["streams"]["cameras"]["faults"]
    text = ", ".join(f"{count} {cause}" for cause, count in faults.items())
    return Found(WARN if faults else PASS, text or "none", sum(faults.values()), "messages")


ASKED = Check("data.reception", asked, "", "")
CHECKS = (
    *(check for stream in STREAMS for check in _checks(stream)),
    Check(
        "data.cameras.refused",
        strangers,
        "pictures that never reach the model",
        "the names of the cameras (rtvla/wire/camera.py), their JPEGs, and rtvla keys show on both machines",
    ),
)
