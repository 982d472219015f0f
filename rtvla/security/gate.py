"""What may be open to the network without keys, and who says so.

Whoever reaches a command port without keys can move the robot, and whoever sends sensor datagrams decides what the
policy feels: beyond this machine the first needs keys, the second a list of sources or a tag, or both the word
`insecure_lan`, which is then repeated at every start. Camera and robot state ports stay open without keys.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.security import keys as key_files
from rtvla.security.keys import Keys

Warn = Callable[[str], None]


def is_loopback(host: str) -> bool:
    """Whether an address cannot leave this machine. A name other than localhost could become anything: it can."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def command_port(setting: str, host: str, port: int, *, keyed: bool, insecure_lan: bool, warn: Warn) -> None:
    """Raises ConfigError for a command port without keys that others can reach, unless that is what was asked for."""
    if keyed or is_loopback(host):
        return
    what = f"{setting} = {host}: command port {port} has no keys and is not on this machine"
    if not insecure_lan:
        raise ConfigError(
            f"{what}: whoever is on that network could move the robot. Either make keys (rtvla keys make DIR; then "
            "security.keys or --keys on both sides), or take the risk: --insecure-lan (security.insecure_lan = true)"
        )
    warn(f"INSECURE: {what}; whoever is on that network can move the robot")


def sensor_port(cfg: Config, ip: str, warn: Warn) -> None:
    """Raises ConfigError if anybody's datagrams would be taken for the sensor's, unless that is what was asked for."""
    security = cfg.security
    if is_loopback(ip) or security.udp_sources or security.udp_tag:
        return
    what = f"security.udp_sources is empty and port {cfg.network.sensor_port} is bound to {ip}"
    if not security.insecure_lan:
        raise ConfigError(
            f'{what}: anybody could pass for the sensor. Either name it (security.udp_sources = ["192.0.2.20"]), '
            "or use a tag (security.udp_tag = true), or take the risk: --insecure-lan (security.insecure_lan = true)"
        )
    warn(f"INSECURE: {what}; anybody on that network passes for the sensor")


def keys_for(cfg: Config, peer: str) -> Keys | None:
    """The host's keys for its link with `peer` (robot or cameras), or None where there shall be none."""
    if not cfg.security.keys or peer in cfg.security.plain:
        return None
    keys = key_files.read(cfg.security.keys, "host")
    keys.peer(peer)
    return keys


def udp_key(cfg: Config) -> bytes | None:
    """The key of the sensor's tags, or None if there are none."""
    return key_files.read_udp(cfg.security.keys, "host") if cfg.security.udp_tag else None


def host_command_port(cfg: Config, warn: Warn) -> Keys | None:
    """The commander's keys, after the question whether it may connect as it is configured."""
    keys, network = keys_for(cfg, "robot"), cfg.network
    insecure = cfg.security.insecure_lan
    command_port(
        "network.robot_ip", network.robot_ip, network.command_port, keyed=bool(keys), insecure_lan=insecure, warn=warn
    )
    return keys


def check(cfg: Config, warn: Warn) -> None:
    """All of it for a whole pipeline, before anything of it is started. Raises ConfigError."""
    host_command_port(cfg, warn)
    keys_for(cfg, "cameras")
    udp_key(cfg)
    sensor_port(cfg, cfg.network.listen_ip(), warn)
