"""What rtvla-shm.service does around a run under systemd: the part of `rtvla up` that is not supervision."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from rtvla.clock import wall_s
from rtvla.config import Config, namespace
from rtvla.errors import ConfigError
from rtvla.procs.dumper import Dumper
from rtvla.procs.model_setup import require_checkpoint
from rtvla.procs.supervisor import clear_leftovers, refuse_if_used
from rtvla.procs.table import PROCESSES, check, cores_of
from rtvla.record.folder import new_run_folder
from rtvla.security import gate
from rtvla.shm.hub import Hub
from rtvla.shm.survey import process_rows

_log = logging.getLogger("service")


def refuse(cfg: Config) -> None:
    """ConfigError for what no process would start with, as the user who asks."""
    check(cfg)
    gate.check(cfg, _log.warning)
    require_checkpoint(cfg)


def begin(cfg: Config, run_file: Path) -> Path:
    """Refuse wrong settings before anything is started, clear what an unfinished run left after a black box of it,
    make the run folder and all segments. `run_file` tells the units the folder. Returns it."""
    refuse(cfg)
    hub = Hub(namespace())
    refuse_if_used(hub)
    folder = _run_folder(cfg)
    if hub.exists():
        boxes = Dumper(
            cfg.blackbox, folder / "blackbox", folder / "logs/blackbox.log", cores_of(PROCESSES["recorder"], cfg)
        )
        boxes.take("left by an unfinished run")
        boxes.wait()
        boxes.news()
        _log.warning("%s", clear_leftovers(hub))
    run_file.write_text(f"RTVLA_RUN_FOLDER={folder}\n")
    hub.create(PROCESSES)
    _log.info("run folder %s, config %s, namespace %s", folder, cfg.digest(), hub.namespace)
    return folder


def _run_folder(cfg: Config) -> Path:
    try:
        return new_run_folder(Path(cfg.recorder.out_dir).absolute(), wall_s())[0]
    except OSError as error:
        raise ConfigError(f'recorder.out_dir = "{cfg.recorder.out_dir}": {error.strerror}') from error


def end() -> None:
    """Say what was lost in the run, and remove the segments. ShmError while anybody still writes: then they stay."""
    hub = Hub(namespace())
    refuse_if_used(hub)
    counters = {
        f"{process}.{name}": count
        for process, row in process_rows(hub).items()
        for name, count in row["counters"].items()
        if count > 0 and name.startswith(("lost.", "write_failed."))
    }
    if counters:
        _log.warning("%s", json.dumps({"lost": counters}))
    _log.info("removed %d segments", hub.purge())
