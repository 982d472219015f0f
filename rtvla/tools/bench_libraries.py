"""The libraries that `rtvla bench shm` compares the ring with: multiprocessing.Queue, pyzmq over ipc, iceoryx2.

Each by the fastest way that its Python interface offers. Buffers are as deep as the ring. A full queue or socket stops
its sender, so those two lose nothing; iceoryx2 overwrites the oldest record, as the ring does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import queue
import tempfile
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from rtvla.tools.bench_peers import DEPTH, RECORD_BYTES, WAIT_S, WORDS, Peer, Sender, Taker


def library_peers(context: SpawnContext, namespace: str) -> tuple[list[Peer], list[str]]:
    """What is installed, and why the rest is left out."""
    peers: list[Peer] = [QueuePeer(context)]
    missing = []
    if importlib.util.find_spec("zmq"):
        peers.append(ZmqPeer())
    else:
        missing.append("zmq_ipc: pyzmq is not installed")
    if importlib.util.find_spec("iceoryx2"):
        peers += [IceoryxPeer(namespace, in_place=False), IceoryxPeer(namespace, in_place=True)]
    else:
        missing.append("iceoryx2: not installed (pip install iceoryx2)")
    return peers, missing


class QueuePeer(Sender, Taker):
    """multiprocessing.Queue of bytes."""

    name = "mp_queue"

    def __init__(self, context: SpawnContext) -> None:
        self._queue = context.Queue(DEPTH)

    def sender(self, data: memoryview) -> QueuePeer:
        self._data = data
        return self

    def taker(self) -> QueuePeer:
        return self

    def send(self) -> None:
        self._queue.put(bytes(self._data))  # a copy: its thread pickles later, when the caller has long gone on

    def take(self) -> Any:
        try:
            return self._queue.get(timeout=WAIT_S)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._queue.close()


class ZmqPeer:
    """PUSH to PULL over ipc."""

    name = "zmq_ipc"

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="rtvla-bench-")
        self.url = f"ipc://{self._folder}/socket"

    def sender(self, data: memoryview) -> ZmqSide:
        return ZmqSide(self.url, data)

    def taker(self) -> ZmqSide:
        return ZmqSide(self.url, None)

    def close(self) -> None:
        for path in Path(self._folder).iterdir():
            path.unlink()
        Path(self._folder).rmdir()


class ZmqSide(Sender, Taker):
    def __init__(self, url: str, data: memoryview | None) -> None:
        import zmq

        self._context, self._data = zmq.Context(), data or memoryview(b"")
        self._socket = self._context.socket(zmq.PULL if data is None else zmq.PUSH)
        self._socket.set_hwm(DEPTH)
        self._socket.linger = 0
        self._nothing_yet = zmq.Again
        if data is None:
            self._socket.rcvtimeo = round(WAIT_S * 1000)
            self._socket.connect(url)
        else:
            self._socket.bind(url)

    def send(self) -> None:
        self._socket.send(self._data)  # copies: 4 KiB is below pyzmq's threshold for anything else

    def take(self) -> Any:
        try:
            return self._socket.recv()
        except self._nothing_yet:
            return None

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class IceoryxRecord(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint64 * WORDS),)


class IceoryxPeer:
    """iceoryx2 publish-subscribe, a taker that spins. `in_place`: it reads the loaned record instead of copying it."""

    def __init__(self, namespace: str, *, in_place: bool) -> None:
        self.name = "iceoryx2_in_place" if in_place else "iceoryx2"
        self.service, self.in_place = f"rtvla/{namespace}/{self.name}", in_place

    def sender(self, data: memoryview) -> IceoryxSender:
        return IceoryxSender(self, data)

    def taker(self) -> IceoryxTaker:
        return IceoryxTaker(self)

    def close(self) -> None:
        pass


def _iceoryx_service(peer: IceoryxPeer) -> tuple[Any, Any]:
    import iceoryx2

    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    builder = node.service_builder(iceoryx2.ServiceName.new(peer.service)).publish_subscribe(IceoryxRecord)
    return node, builder.subscriber_max_buffer_size(DEPTH).enable_safe_overflow(True).open_or_create()


class IceoryxSender(Sender):
    def __init__(self, peer: IceoryxPeer, data: memoryview) -> None:
        self._source = ctypes.addressof(ctypes.c_char.from_buffer(data))
        self._node, self._service = _iceoryx_service(peer)
        self._publisher = self._service.publisher_builder().create()

    def send(self) -> None:
        sample = self._publisher.loan_uninit()
        ctypes.memmove(sample.payload_ptr, self._source, RECORD_BYTES)
        sample.assume_init().send()

    def close(self) -> None:
        del self._publisher, self._service, self._node


class IceoryxTaker(Taker):
    def __init__(self, peer: IceoryxPeer) -> None:
        self._node, self._service = _iceoryx_service(peer)
        self._subscriber = self._service.subscriber_builder().buffer_size(DEPTH).create()
        self._own = bytearray(RECORD_BYTES)
        self._own_address = ctypes.addressof(ctypes.c_char.from_buffer(self._own))
        self._own_words = memoryview(self._own).cast("Q")
        self._in_place = peer.in_place

    def take(self) -> Any:
        sample = self._subscriber.receive()
        if sample is None or self._in_place:
            return sample
        ctypes.memmove(self._own_address, sample.payload_ptr, RECORD_BYTES)
        return self._own

    def words(self, taken: Any) -> Any:
        return (ctypes.c_uint64 * WORDS).from_address(taken.payload_ptr) if self._in_place else self._own_words

    def close(self) -> None:
        del self._subscriber, self._service, self._node
