"""Checks of the network: who has the ports, who answers, and what would be open to whom. Nothing is bound, and while
the pipeline runs nobody is called: a stranger at a port would be counted there."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from typing import Any

from rtvla.errors import ConfigError
from rtvla.tools.doctor_case import FAIL, PASS, SKIP, WARN, Case, Check, Found, unreadable

_TIMEOUT_S = 2.0
_ANY_PORT = 22  # of a host where nothing of ours listens: a refusal is an answer, too
_SLOW_MBIT = 100
_SO_RCVBUFFORCE = 33  # not in Python's socket module; past rmem_max, needs CAP_NET_ADMIN


def _owner_of(pid: int | None) -> str:
    import psutil

    if pid is None:
        return "a process of another user (sudo ss -tulpn)"
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return f"pid {pid}"
    return f"pid {pid}: {command[:100]}"


def _port(case: Case, ip: str, number: int, kind: str, reader: str) -> Found:
    """Whether `reader` may listen there."""
    import psutil

    if number < 1024 and os.geteuid() != 0:
        return Found(WARN, f"{number}/{kind} is below 1024: only root may listen", number, mend="a port above 1023")
    wanted = {ip, "0.0.0.0", "::"}
    listening = [
        one
        for one in psutil.net_connections(f"{kind}")
        if one.laddr
        and one.laddr.port == number
        and (one.laddr.ip in wanted or ip == "0.0.0.0")
        and not one.raddr
        and (kind == "udp" or one.status == psutil.CONN_LISTEN)
    ]
    if not listening:
        return Found(PASS, f"{ip} {number}/{kind} is free", number)
    ours = {row["pid"]: name for name, row in case.rows.items() if row["alive"]}
    pid = listening[0].pid
    if pid in ours:
        return Found(PASS if ours[pid] == reader else FAIL, f"{number}/{kind} is had by {ours[pid]}, pid {pid}", number)
    mend = f"kill {pid}, if nobody needs it; or another port" if pid else "sudo ss -tulpn; or another port"
    return Found(FAIL, f"{ip} {number}/{kind} is taken by {_owner_of(pid)}", number, mend=mend)


def sensor_port(case: Case) -> Found:
    return _port(case, case.cfg.network.listen_ip(), case.cfg.network.sensor_port, "udp", "sensor_ingest")


def camera_port(case: Case) -> Found:
    return _port(case, case.cfg.network.listen_ip(), case.cfg.network.camera_port, "tcp", "camera_ingest")


def _has_own_robot(case: Case) -> bool:
    return "robot" in case.cfg.simulation.senders


def simulated_robot(case: Case) -> Found:
    if not _has_own_robot(case):
        return Found(SKIP, "no simulated robot in this config")
    network = case.cfg.network
    if case.is_running:
        return Found(SKIP, "the pipeline runs, and its simulated robot with it")
    numbers = (network.robot_port, network.command_port)
    found = [_port(case, network.robot_ip, number, "tcp", "") for number in numbers]
    worst = next((one for one in found if one.status != PASS), found[0])
    return worst if worst.status != PASS else worst._replace(found="; ".join(one.found for one in found))


def bind_address(case: Case) -> Found:
    import psutil

    ip = case.cfg.network.listen_ip()
    own = {
        one.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET
    }
    if ip == "0.0.0.0":
        return Found(WARN, "listens on all interfaces", mend="[network] bind_ip = the address in the robot's network")
    if ip not in own and not ipaddress.ip_address(ip).is_loopback:
        return Found(FAIL, f"{ip} is no address of this host: it has {', '.join(sorted(own))}")
    return Found(PASS, f"{ip} on {own.get(ip, 'lo')}")


def interface(case: Case) -> Found:
    import psutil

    ip = case.cfg.network.listen_ip()
    names = [name for name, all_of in psutil.net_if_addrs().items() if any(one.address == ip for one in all_of)]
    if not names or names[0] == "lo":
        return Found(SKIP, "everything is on this machine")
    name, state = names[0], psutil.net_if_stats()[names[0]]
    counts = psutil.net_io_counters(pernic=True)[name]
    is_radio = bool(case.paths(f"/sys/class/net/{name}/wireless"))
    text = f"{name}, {'up' if state.isup else 'down'}, {state.speed} Mbit/s, mtu {state.mtu}, {counts.dropin} dropped"
    status = FAIL if not state.isup else WARN if is_radio or 0 < state.speed < _SLOW_MBIT or counts.errin else PASS
    mend = f"a cable; until then: iw dev {name} set power_save off" if is_radio else ""
    return Found(status, text + (", wireless" if is_radio else ""), state.speed, "Mbit/s", mend)


def _knock(ip: str, port: int) -> tuple[str, float]:
    """(open, refused, or why not; ms)"""
    start = time.monotonic()
    try:
        with socket.create_connection((ip, port), _TIMEOUT_S):
            said = "open"
    except TimeoutError:
        said = f"no answer within {_TIMEOUT_S:g} s"
    except ConnectionRefusedError:
        said = "refused"
    except OSError as error:
        said = error.strerror or os.strerror(error.errno or errno.EIO)
    return said, (time.monotonic() - start) * 1000


def _service(case: Case, port: int, what: str) -> Found:
    """Of the robot PC, which listens on both its ports."""
    ip = case.cfg.network.robot_ip
    if _has_own_robot(case):
        return Found(SKIP, "the simulated robot is started with the pipeline")
    if case.is_running:
        return _connected(case, ip, port)
    if case.hands_off:
        return case.hands_off
    said, ms = _knock(ip, port)
    if said == "open":
        return Found(PASS, f"{ip}:{port} answers in {ms:.1f} ms", ms, "ms")
    if said == "refused":
        return Found(FAIL, f"{ip} answers, but nobody listens on {port}", mend=f"start {what} on the robot PC")
    return Found(FAIL, f"{ip}:{port}: {said}", mend=f"cable, address, firewall; ip route get {ip}; on it: ss -tlpn")


def _connected(_case: Case, ip: str, port: int) -> Found:
    import psutil

    there = (socket.gethostbyname(ip), port)
    links = [one for one in psutil.net_connections("tcp") if one.raddr and tuple(one.raddr) == there]
    up = [one for one in links if one.status == psutil.CONN_ESTABLISHED]
    return Found(PASS if up else FAIL, f"{ip}:{port}: the pipeline has {len(up)} connections", len(up), "connections")


def robot_state(case: Case) -> Found:
    return _service(case, case.cfg.network.robot_port, "the robot sender")


def robot_commands(case: Case) -> Found:
    return _service(case, case.cfg.network.command_port, "the command receiver")


def _host(ip: str) -> Found:
    said, ms = _knock(ip, _ANY_PORT)
    if said in ("open", "refused"):
        return Found(PASS, f"{ip} answers in {ms:.1f} ms", ms, "ms")
    return Found(FAIL, f"{ip}: {said}", mend=f"cable, address, firewall; ip route get {ip}")


def camera_host(case: Case) -> Found:
    if not case.camera_ip:
        return Found(SKIP, "cameras connect to us, so no setting names their host: --camera-ip IP")
    return _host(case.camera_ip)


def sensor_host(case: Case) -> Found:
    sources = case.cfg.security.udp_sources
    if not sources:
        return Found(SKIP, "no address in security.udp_sources")
    found: list[Found] = [_host(ip) for ip in sources]
    return next((one for one in found if one.status != PASS), found[0])


def openness(case: Case) -> Found:
    from rtvla.security import gate

    said: list[str] = []
    try:
        gate.check(case.cfg, said.append)
    except ConfigError as error:
        return Found(FAIL, str(error))
    fine = "no command port without keys, no sensor port for everybody, beyond this machine"
    return Found(WARN if said else PASS, "; ".join(said) or fine, len(said), "warnings")


def receive_buffer(case: Case) -> Found:
    """What a socket gets that asks as sensor_ingest does. It is bound to nothing."""
    wanted = case.cfg.sensor_ingest.receive_buffer_bytes
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel reports twice the size
    return Found(PASS if granted >= wanted else WARN, f"{granted} of {wanted} bytes", granted, "bytes")


def dropped_datagrams(case: Case) -> Found:
    lines = [line.split() for line in (case.read("/proc/net/snmp") or "").splitlines() if line.startswith("Udp:")]
    if len(lines) < 2:
        return unreadable("/proc/net/snmp")
    counts: dict[str, Any] = dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=False))
    full = counts.get("RcvbufErrors", 0)
    return Found(WARN if full else PASS, f"{full} of {counts['InDatagrams']} since boot", full, "datagrams")


_OTHER = "set another port on both sides"
CHECKS = (
    Check("network.bind_address", bind_address, "nothing can be received there", "[network] bind_ip = ADDRESS"),
    Check("network.interface", interface, "radio and slow links are late and lose", "ip link set IFACE up; a cable"),
    Check("network.security", openness, "whoever reaches an open port can move the robot", "rtvla keys make DIR"),
    Check("network.receive_buffer", receive_buffer, "a stall loses samples", "sysctl net.core.rmem_max=8388608"),
    Check(
        "network.dropped_datagrams",
        dropped_datagrams,
        "a receiver of this host was too slow at some time since boot",
        "sysctl net.core.rmem_max=8388608; while it runs: rtvla status (lost.kernel.sensor)",
    ),
    Check("port.sensor", sensor_port, "sensor_ingest cannot listen", _OTHER),
    Check("port.camera", camera_port, "camera_ingest cannot listen", _OTHER),
    Check("port.simulated_robot", simulated_robot, "the simulated robot cannot listen", _OTHER),
    Check("host.robot_state", robot_state, "no state of the arm, so no chunk", "ip route get IP"),
    Check("host.robot_commands", robot_commands, "no command reaches the arm", "ip route get IP"),
    Check("host.cameras", camera_host, "no pictures", "ip route get IP"),
    Check("host.sensor", sensor_host, "no force and no A-scans", "ip route get IP"),
)
