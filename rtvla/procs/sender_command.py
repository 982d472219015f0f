"""How a simulated sender is started beside the pipeline: by the supervisor, and by its systemd unit."""

from __future__ import annotations

from rtvla.config import Config


def sender_command(cfg: Config, kind: str) -> list[str]:
    """What follows `rtvla`: addresses and keys of the config, then the sender's own flags in [simulation.senders]."""
    network = cfg.network
    if kind == "robot":
        ports = ["--bind", network.robot_ip, "--state-port", network.robot_port, "--command-port", network.command_port]
    elif kind == "camera":
        ports = ["--server-ip", network.listen_ip(), "--server-port", network.camera_port]
    else:
        ports = ["--target", network.listen_ip(), "--port", network.sensor_port]
    return ["send", kind, *map(str, ports), *_keys(cfg, kind), *cfg.simulation.senders[kind]]


def _keys(cfg: Config, kind: str) -> list[str]:
    """The flags that let a simulated sender speak with this host; its keys lie beside ours."""
    security = cfg.security
    risk = ["--insecure-lan"] if kind == "robot" and security.insecure_lan else []
    machine = {"camera": "cameras"}.get(kind, kind)
    is_keyed = security.udp_tag if kind == "sensor" else security.keys and machine not in security.plain
    return risk + (["--keys", security.keys] if is_keyed else [])
