"""`rtvla up`: the whole pipeline of a config under one supervisor, from a clean namespace to the last file on disk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rtvla.clock import SECOND, now_ns, wall_s
from rtvla.config import Config, namespace
from rtvla.errors import ConfigError, ShmError
from rtvla.procs.child import Child
from rtvla.procs.dumper import Dumper
from rtvla.procs.model_setup import require_checkpoint
from rtvla.procs.sender_command import sender_command
from rtvla.procs.supervisor import Supervisor, clear_leftovers, refuse_if_used
from rtvla.procs.table import PROCESSES, check, cores_of, sender_process
from rtvla.record.folder import new_run_folder
from rtvla.security import gate
from rtvla.shm.health import stream_of
from rtvla.shm.hub import Hub
from rtvla.shm.segment import path_of
from rtvla.shm.survey import process_rows

BLACKBOX = "blackbox"  # in the run folder
_LEFTOVERS_WAIT_S = 20.0  # a recorder whose supervisor was killed is still closing its files


def up(cfg: Config, arguments: Sequence[str], seconds: float | None) -> int:
    """Run until a signal, until a process gives up, or until `seconds` after the first chunk. `arguments` are the
    --config and --set options that made `cfg`: each process loads the same. Returns the exit code."""
    log = logging.getLogger("supervisor")
    check(cfg)
    gate.check(cfg, log.warning)
    require_checkpoint(cfg)
    hub = Hub(namespace())
    _wait_until_unused(hub)
    folder = _run_folder(cfg)
    dumper = Dumper(cfg.blackbox, folder / BLACKBOX, folder / "logs/blackbox.log", cores_of(PROCESSES["recorder"], cfg))
    if hub.exists():
        dumper.take("left by an unfinished run")  # the last that is known of it
        dumper.wait()
        log.warning("%s", clear_leftovers(hub))
    hub.create(PROCESSES)
    shared = [*arguments, "--set", f"recorder.run_folder={json.dumps(str(folder.resolve()))}"]
    supervisor = Supervisor(hub, _children(cfg, shared, folder / "logs"), _deadline(hub, seconds), dumper)
    log.info("run folder %s, config %s, namespace %s", folder, cfg.digest(), hub.namespace)
    try:
        return supervisor.run()
    finally:
        supervisor.health.close()
        rows = process_rows(hub)
        hub.purge()
        _report(cfg, folder, rows)


def _run_folder(cfg: Config) -> Path:
    if cfg.recorder.run_folder:
        return Path(cfg.recorder.run_folder)
    try:
        return new_run_folder(Path(cfg.recorder.out_dir), wall_s())[0]
    except OSError as error:
        raise ConfigError(f'recorder.out_dir = "{cfg.recorder.out_dir}": {error.strerror}; give --out DIR') from error


def _wait_until_unused(hub: Hub) -> None:
    """Whoever of a killed run is still closing its files gets a moment for it."""
    deadline = time.monotonic() + _LEFTOVERS_WAIT_S
    while True:
        try:
            return refuse_if_used(hub)
        except ShmError:
            supervisor = hub.health_segment("supervisor")
            taken = supervisor is not None and supervisor.path in hub.claimed()
            if taken or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _children(cfg: Config, shared: Sequence[str], logs: Path) -> list[Child]:
    children = [Child(process, ["run", name, *shared], logs / f"{name}.log") for name, process in PROCESSES.items()]
    for kind in cfg.simulation.senders:
        process = sender_process(kind)
        children.append(Child(process, sender_command(cfg, kind), logs / f"{process.name}.log"))
    return children


def _deadline(hub: Hub, seconds: float | None) -> Callable[[], bool]:
    """Whether `seconds` have passed since the first chunk was made; loading models does not count."""
    chunks = hub.reader("action_chunk")
    first_ns = 0

    def is_over() -> bool:
        nonlocal first_ns
        if seconds is None:
            return False
        if not first_ns and chunks.head:
            first_ns = int(chunks.since(0, 1)[0]["observed_ns"][0])
        return bool(first_ns) and now_ns() - first_ns >= seconds * SECOND

    return is_over


def _report(cfg: Config, folder: Path, rows: dict[str, Any]) -> None:
    """What was sent against what was recorded, where the senders were ours; what was lost, by the counters in memory
    (a full disk cannot hide it); and where the files are."""
    recorded = _last_json(next(folder.glob("performance_summary_*.json"), None)).get("recorded", {})
    for kind in cfg.simulation.senders:
        sent = _last_json(folder / "logs" / f"send_{kind}.log", lines=True)
        if sent:
            print(json.dumps(sent))
    if recorded:
        print(json.dumps({"recorded": recorded}))
    boxes = len(list((folder / BLACKBOX).glob("*.zip")))
    if boxes:
        print(f"black boxes: {boxes} in {folder / BLACKBOX}; what they say: rtvla analyze FILE")
    lost = {f"{p}.{n}": count for p, row in rows.items() for n, count in row["counters"].items() if _is_loss(n, count)}
    if lost:
        print(json.dumps({"lost": lost}))
    print(f"run folder: {folder}", flush=True)


def _is_loss(counter: str, count: int) -> bool:
    return count > 0 and counter.startswith(("lost.", "write_failed."))


def _last_json(path: Path | None, *, lines: bool = False) -> dict[str, Any]:
    """A JSON file, or the last line of a log that is a JSON object; {} if there is none."""
    if path is None or not path.exists():
        return {}
    text = path.read_text(errors="replace")
    found = [line for line in text.splitlines() if line.startswith("{")][-1:] if lines else [text]
    if not found:
        return {}
    loaded = json.loads(found[0])
    return loaded if isinstance(loaded, dict) else {}


def supervisor_pid(hub: Hub) -> int | None:
    """The live supervisor of this namespace, if there is one."""
    if path_of(hub.namespace, stream_of("supervisor")) not in hub.claimed():
        return None  # and not looked into: a dead one may be of another version or of another boot
    segment = hub.health_segment("supervisor")
    return None if segment is None else segment["writer_pid"]
