"""monitor: shared memory -> one status block every monitor.period_s on standard output.

Reads   every stream, every health row
Writes  nothing but text
Late    a block comes later; nobody waits for it
"""

from __future__ import annotations

import math
import select
import sys
import time
from typing import Any

from rtvla import schema
from rtvla.config import Config
from rtvla.procs.lifecycle import Me, lifecycle
from rtvla.procs.model_setup import window_sizes
from rtvla.shm.survey import Survey, missing_views


def block(look: dict[str, Any], mean_vl_ms: float) -> str:
    """The status block of the user's documents, with what each number's age is."""
    streams, actions, vl = look["streams"], look["actions"], look["vl"]
    rows = look["processes"]
    images = ", ".join(f"{view}:{streams[f'frame.{view}']['records']}" for view in schema.VIEWS)
    commander = rows.get("commander", {}).get("counters", {})
    held = sum(n for name, n in commander.items() if name.startswith("hold."))
    lines = [
        f"--- Status ({time.strftime('%H:%M:%S')}) ---",
        f"VL Updates: {vl['updates']} | VL avg: {_ms(mean_vl_ms)} | oldest view: {_ms(vl['age_ms'])}",
        f"Actions: {actions['chunks']} | Action avg: {_ms(actions['action_ms'], 1)} | total: "
        f"{_ms(actions['total_ms'], 1)} | period: {_ms(actions['period_ms'], 1)} | "
        f"VL reuse: {_or_dash(actions['vl_reuse'])}",
        f"Commands: sent {commander.get('dpose', 0)} | held {held} | now: {_now(look['commands'])}",
        f"Images recv: {images}",
    ]
    for name in ("sensor", "robot"):
        fill, stream = look["buffers"][name], streams[name]
        lines.append(
            f"{name.capitalize()} buffer: {fill['fresh']}/{fill['window']} | {stream['hz']:.0f} Hz | "
            f"age: {_ms(stream['age_ms'])}"
        )
    if look["ages"]:
        aged = ", ".join(f"{name} {row['p50_ms']:.0f}/{row['p99_ms']:.0f}" for name, row in look["ages"].items())
        lines.append(f"Age of inputs p50/p99 ms: {aged}")
    unknown = [stream for stream, row in look["clocks"].items() if not row.get("trusted")]
    if unknown:
        lines.append(f"Clocks: arrival counts for {', '.join(unknown)}")
    if look["robot"]:
        robot = look["robot"]
        lines.append(f"Robot: J1={robot['joints_deg'][0]:.2f}°, Px={robot['pose_mm_deg'][0]:.2f}mm")
    lost = {f"{p}.{n}": v for p, row in rows.items() for n, v in row["counters"].items() if v and _is_loss(n)}
    if lost:
        lines.append("Lost: " + ", ".join(f"{name} {count}" for name, count in sorted(lost.items())))
    restarts = {name: row["restarts"] for name, row in rows.items() if row["restarts"]}
    if restarts:
        lines.append("Restarts: " + ", ".join(f"{name} {count}" for name, count in restarts.items()))
    return "\n".join([*lines, *waits(look)])


def waits(look: dict[str, Any]) -> list[str]:
    """What is missing before a chunk can be made, one [WAIT] line each."""
    lines = []
    missing = missing_views(look)
    if look["vl"]["features"] == 0 or look["streams"]["vl_feature"]["state"] == "stale":
        have = len(schema.VIEWS) - len(missing)
        state = look["processes"].get("vl_encoder", {}).get("state", "not up yet")
        lines.append(f"[WAIT] VL: False (encoder {state}, images {have}/{len(schema.VIEWS)})")
    if missing:
        lines.append(f"[WAIT] Images: no fresh frame of {', '.join(missing)}")
    for name in ("sensor", "robot"):
        fill = look["buffers"][name]
        if fill["fresh"] < fill["window"]:
            lines.append(f"[WAIT] {name.capitalize()}: False ({fill['fresh']}/{fill['window']})")
    policy = look["processes"].get("policy")
    if policy is None or policy["state"] != "ready" or not policy["alive"]:
        lines.append(f"[WAIT] Policy: {policy['state'] if policy else 'not up yet'}")
    return lines


def _is_loss(counter: str) -> bool:
    return counter.startswith(("dropped.", "lost.", "refused.", "write_failed.", "frozen."))


def _ms(value: float | None, digits: int = 0) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}ms"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _now(command: dict[str, Any]) -> str:
    if command["last"] is None:
        return "-"
    return str(command["last"]) + (f" ({command['reason']})" if command["last"] == "hold" else "")


def show(me: Me, text: str) -> None:
    """Print, unless nobody reads (a stopped terminal, a pipe to head, a full disk): no reason to wait or to end."""
    try:
        is_read = bool(select.select([], [sys.stdout], [], 0)[1])
        if is_read:
            print(text, flush=True)
    except OSError:
        is_read = False
    if not is_read:
        me.count("block_not_printed")


def main(cfg: Config) -> None:
    with lifecycle("monitor", cfg) as me:
        survey = Survey(me.hub, cfg.stale_ms, window_sizes(cfg.policy.checkpoint))
        recent_ms: list[float] = []
        updates = 0
        me.ready()
        for _ in me.ticks(1 / cfg.monitor.period_s):
            look = survey.take()
            if look["vl"]["updates"] != updates:
                updates = look["vl"]["updates"]
                recent_ms = [*recent_ms[-9:], look["vl"]["update_ms"]]
            mean_ms = sum(recent_ms) / len(recent_ms) if recent_ms else math.nan
            show(me, block(look, mean_ms))
