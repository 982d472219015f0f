"""The keys of a lab: one folder a machine, with its own secret key and the public keys of those it speaks with.

    DIR/host/      host.key_secret  host.key  robot.key  cameras.key  udp.key
    DIR/robot/     robot.key_secret  robot.key  host.key
    DIR/cameras/   cameras.key_secret  cameras.key  host.key
    DIR/sensor/    udp.key

`*.key` and `*.key_secret` are ZMQ's certificate files (Z85 text, written and read by zmq.auth); udp.key is 32 random
bytes in hexadecimal. Each machine is given its own folder and nothing else: a stolen folder lets its thief pass for
that machine (the host's also for the sensor). A secret that others than its owner may read is refused.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.auth import create_certificates, load_certificate
from zmq.utils import z85

from rtvla.errors import ConfigError

# A machine with a ZMQ key pair -> the machines whose public keys it needs.
PEERS: Mapping[str, tuple[str, ...]] = {"host": ("robot", "cameras"), "robot": ("host",), "cameras": ("host",)}
UDP_MACHINES = ("host", "sensor")  # they share udp.key
MACHINES = tuple(dict.fromkeys((*PEERS, *UDP_MACHINES)))
UDP_KEY_BYTES = 32
_OTHERS_READ, _OTHERS_WRITE = 0o077, 0o022


@dataclass(frozen=True)
class Keys:
    """What one machine holds. Keys are Z85 text of 40 bytes, as ZMQ takes them."""

    machine: str
    public: bytes
    secret: bytes = field(repr=False)
    peers: Mapping[str, bytes]

    def peer(self, name: str) -> bytes:
        """The public key of another machine. Raises ConfigError if this one was not given it."""
        if name not in self.peers:
            raise ConfigError(f"keys of {self.machine}: {name}.key is missing beside {self.machine}.key_secret")
        return self.peers[name]


def make(folder: Path) -> None:
    """Write the folders of all machines, readable by their owner only. Raises ConfigError if `folder` exists."""
    if folder.exists():
        raise ConfigError(f"{folder} exists: keys are never overwritten; give a new folder, or move the old one away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))  # mode 0700
    try:
        _write_all(new)
        new.rename(folder)  # whole or not at all
    except BaseException:
        shutil.rmtree(new)
        raise


def _write_all(root: Path) -> None:
    udp_key = secrets.token_hex(UDP_KEY_BYTES) + "\n"
    for machine in MACHINES:
        (root / machine).mkdir(mode=0o700)
    for machine in PEERS:
        create_certificates(root / machine, machine)
    for machine, peers in PEERS.items():
        for peer in peers:
            shutil.copyfile(root / peer / f"{peer}.key", root / machine / f"{peer}.key")
    for machine in UDP_MACHINES:
        (root / machine / "udp.key").write_text(udp_key)
    for path in root.glob("*/*"):
        path.chmod(0o600)


def read(folder: str | Path, machine: str) -> Keys:
    """The keys of `machine` from its folder, or from the folder of all. Raises ConfigError for what cannot be used."""
    at = folder_of(folder, machine)
    public, secret = _certificate(at / f"{machine}.key_secret")
    if secret is None or zmq.curve_public(secret) != public:
        raise ConfigError(f"{at / f'{machine}.key_secret'}: the public key in it does not belong to the secret one")
    files = {peer: at / f"{peer}.key" for peer in PEERS[machine]}
    peers = {peer: _certificate(path)[0] for peer, path in files.items() if path.exists()}
    return Keys(machine, public, secret, peers)


def read_udp(folder: str | Path, machine: str) -> bytes:
    """The 32 bytes that tag and check sensor datagrams. Raises ConfigError for what cannot be used."""
    return _udp_key(folder_of(folder, machine) / "udp.key")


def _udp_key(path: Path) -> bytes:
    text = _owned_text(path, _OTHERS_READ).strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != UDP_KEY_BYTES:
        raise ConfigError(f"{path}: must be {2 * UDP_KEY_BYTES} hexadecimal digits; rtvla keys make DIR writes one")
    return key


def folder_of(folder: str | Path, machine: str) -> Path:
    """`folder` itself, or the part of this machine if it is the folder of all."""
    inner = Path(folder) / machine
    return inner if inner.is_dir() else Path(folder)


def fingerprint(key: bytes) -> str:
    """16 hexadecimal digits that name a key (Z85 text, or the UDP key's bytes) and tell nothing else about it."""
    return hashlib.sha256(key).hexdigest()[:16]


def fingerprint_of(path: Path) -> str:
    """Of the public key in a certificate, or of the UDP key. Raises ConfigError for what cannot be used."""
    return fingerprint(_udp_key(path) if path.name == "udp.key" else _certificate(path)[0])


def faults(root: Path) -> Iterator[str]:
    """What is wrong with the keys below `root`, the folder of all or of one machine."""
    held = {machine: folder_of(root, machine) for machine in MACHINES}
    held = {machine: at for machine, at in held.items() if _holds(at, machine)}
    if not held:
        yield f"{root}: no keys here; rtvla keys make DIR writes some"
    publics: dict[str, set[bytes]] = {}
    udp_keys: set[bytes] = set()
    for machine, at in held.items():
        try:
            if machine in PEERS:
                keys = read(at, machine)
                for name, key in {machine: keys.public, **keys.peers}.items():
                    publics.setdefault(name, set()).add(key)
            if machine in UDP_MACHINES and (machine == "sensor" or (at / "udp.key").exists()):
                udp_keys.add(read_udp(at, machine))
        except ConfigError as error:
            yield str(error)
    yield from (f"{name}.key: not the same on all machines" for name, keys in publics.items() if len(keys) > 1)
    if len(udp_keys) > 1:
        yield "udp.key: not the same on host and sensor"


def _holds(at: Path, machine: str) -> bool:
    if machine in PEERS:
        return (at / f"{machine}.key_secret").exists()
    return at.name == machine and (at / "udp.key").exists()


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    _owned_text(path, _OTHERS_READ if path.suffix == ".key_secret" else _OTHERS_WRITE)
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and (len(key) != 40 or len(z85.decode(key)) != 32):
                raise ValueError("a key has 40 characters of Z85")
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a ZMQ certificate ({error}); rtvla keys make DIR writes them") from None
    return public, secret


def _owned_text(path: Path, forbidden: int) -> str:
    """The text of a file that nobody else may read (secrets) or change (public keys)."""
    try:
        for place, bits in ((path.parent, _OTHERS_WRITE), (path, forbidden)):
            status = place.stat()
            if stat.S_IMODE(status.st_mode) & bits:
                what = "read or change" if bits == _OTHERS_READ else "change"
                raise ConfigError(
                    f"{place}: mode {stat.S_IMODE(status.st_mode):04o} lets others {what} it: chmod go= {place}"
                )
            if status.st_uid not in (0, os.geteuid()):
                raise ConfigError(f"{place}: belongs to user {status.st_uid}, who could change it: chown it")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: {reason}; give the folder that rtvla keys make wrote for this machine") from None
