"""The optional units, `rtvla service install --with`: the CUDA MPS daemon, and the sensor port opened by systemd."""

from __future__ import annotations

from rtvla.config import Config
from rtvla.errors import ConfigError
from rtvla.procs.table import CRASHES, CRASHES_WITHIN_S
from rtvla.procs.unit_parts import HALT_UNIT, SYSTEMCTL, Pairs, text

_GPU_DEVICES = ("char-nvidia*", "char-drm", "char-nvhost*", "char-nvgpu*", "/dev/nvmap")  # the last three: Jetson
_MPS_PIPE, _MPS_LOG = "/run/rtvla-mps", "/var/log/rtvla-mps"


def mps(clients: list[str]) -> dict[str, str]:
    """The CUDA MPS daemon, and what its clients need. One fatal fault of a client ends all of them, and the server lets
    nobody in until all have left: so they go down and come back together."""
    if not clients:
        raise ConfigError("the mps unit: neither vl_encoder.device nor policy.device may be a GPU; leave it out")
    names = " ".join(f"rtvla-{name}.service" for name in clients)
    environment = f"CUDA_MPS_PIPE_DIRECTORY={_MPS_PIPE} CUDA_MPS_LOG_DIRECTORY={_MPS_LOG}"
    there = f"[ -e {_MPS_PIPE}/control ]"
    unit: Pairs = [
        ("Description", "rtvla CUDA MPS"),
        ("After", "nvidia-persistenced.service rtvla-shm.service"),
        ("Before", names),
        ("PartOf", "rtvla.target"),
        ("StartLimitIntervalSec", f"{CRASHES_WITHIN_S:g}"),
        ("StartLimitBurst", CRASHES),
        ("OnFailure", f"rtvla-alarm@%N.service {HALT_UNIT}"),  # its clients cannot start without it
    ]
    service: Pairs = [
        ("Type", "simple"),
        ("RuntimeDirectory", "rtvla-mps"),
        ("RuntimeDirectoryMode", "0750"),
        ("LogsDirectory", "rtvla-mps"),
        ("Environment", environment),
        ("ExecStart", "/usr/bin/nvidia-cuda-mps-control -f"),
        ("ExecStartPost", f"/bin/sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do {there} && exit; sleep 0.2; done; exit 1'"),
        # who went down with it is not brought back by Restart=
        ("ExecStartPost", f"+-{SYSTEMCTL} start --no-block {names}"),
        ("ExecStop", "/bin/sh -c 'echo quit -t 3 | /usr/bin/nvidia-cuda-mps-control'"),
        ("Restart", "on-failure"),
        ("TimeoutStopSec", 6),
        ("RestrictAddressFamilies", "AF_UNIX"),
        *gpu(),
    ]
    client: dict[str, Pairs] = {
        "Unit": [("BindsTo", "rtvla-mps.service"), ("After", "rtvla-mps.service")],
        "Service": [("Environment", environment)],
    }
    drop_ins = {f"rtvla-{name}.service.d/50-mps.conf": text(client) for name in clients}
    return {"rtvla-mps.service": text({"Unit": unit, "Service": service}), **drop_ins}


def gpu() -> Pairs:
    """A hardened unit cannot make the driver's device nodes: made before, where that program is there."""
    make = ("ExecStartPre", "+-/usr/bin/nvidia-modprobe -u -c 0")
    return [make, ("DevicePolicy", "closed"), *[("DeviceAllow", f"{device} rw") for device in _GPU_DEVICES]]


def udp_socket(cfg: Config) -> dict[str, str]:
    """The sensor port opened by systemd: its process needs no network then, and cannot send a packet."""
    network = cfg.network
    if network.bind_ip == "auto":
        raise ConfigError("network.bind_ip = auto: a socket unit needs the address itself; set network.bind_ip")
    socket: Pairs = [
        ("ListenDatagram", f"{network.bind_ip}:{network.sensor_port}"),
        ("ReceiveBuffer", cfg.sensor_ingest.receive_buffer_bytes),
        ("Timestamping", "ns"),
        ("FreeBind", "yes"),  # the interface may come up later
    ]
    # new with the segments too: the kernel's count of drops is the socket's, ours is theirs
    unit: Pairs = [("Description", "rtvla sensor datagrams"), ("PartOf", "rtvla.target rtvla-shm.service")]
    service: dict[str, Pairs] = {
        "Unit": [("Requires", "rtvla-sensor_ingest.socket"), ("After", "rtvla-sensor_ingest.socket")],
        "Service": [("PrivateNetwork", "yes"), ("RestrictAddressFamilies", ""), ("RestrictAddressFamilies", "AF_UNIX")],
    }
    return {
        "rtvla-sensor_ingest.socket": text({"Unit": unit, "Socket": socket}),
        "rtvla-sensor_ingest.service.d/50-socket.conf": text(service),
    }
