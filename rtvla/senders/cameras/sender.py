"""`rtvla send camera --source uvc|zed|oak|folder|video`: pictures of real cameras over ZMQ PUSH.

Rate       each camera runs at its own rate in a thread of its own; at most --fps pictures a second of each go out, the
           newest, at once when it is grabbed. There is no trigger line: all senders of a machine use the same grid of
           moments, so their pictures are at most one picture time of the cameras apart
Stamps     when it was taken, on this machine's wall clock; the report says of how many pictures the stamp was of the
           camera (hardware), of the driver, or of this program (software)
Never      does a picture wait in a queue of this program, is one sent twice, or ends a lost camera the program
Counted    per camera: grabbed = thinned + bad + overwritten + sent + no_receiver (or its pipe is full)
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from rtvla.clock import MS, SECOND, now_ns, wall_s
from rtvla.errors import ConfigError
from rtvla.schema import VIEWS
from rtvla.senders.camera_sim import CAMERAS, PicturePush
from rtvla.senders.cameras import picture
from rtvla.senders.cameras.files import FolderSource, VideoSource
from rtvla.senders.cameras.grabber import Grabber, Taken, crash_of
from rtvla.senders.cameras.oak import OakSource
from rtvla.senders.cameras.source import BadPicture, Source
from rtvla.senders.cameras.uvc import UvcSource
from rtvla.senders.cameras.zed import EYES, ZedSource
from rtvla.senders.faults import Outgoing
from rtvla.senders.loop import SLICE_NS, StopFlag, Waiter
from rtvla.senders.options import not_negative, positive
from rtvla.senders.report import RateMeter, close_flushed, print_report
from rtvla.wire import camera as wire

LOOK_NS = 20 * MS
HANGS_S = 30.0  # no driver takes longer, opening included
JOIN_S = 3.0

Make = Callable[[argparse.Namespace, str, str], Source]
SOURCES: dict[str, Make] = {
    "uvc": lambda a, name, device: UvcSource(name, device, a.width, a.height, a.timeout),
    "zed": lambda a, name, device: ZedSource(name, device, a.eye, a.width, a.height, a.fps),
    "oak": lambda a, name, device: OakSource(name, device, a.width, a.height, a.fps),
    "folder": lambda a, name, device: FolderSource(name, device, a.fps, a.loop),
    "video": lambda a, name, device: VideoSource(name, device, a.fps, a.loop),
}
FILES = ("folder", "video")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cameras that are there", "with --source other than sim")
    group.add_argument(
        "--device",
        action="append",
        metavar="WHICH",
        help="zed: serial number; oak: id or address (the first found); uvc: /dev/videoN; folder, video: path. Repeat "
        "it for several cameras, or start one sender for each",
    )
    group.add_argument(
        "--view",
        action="append",
        choices=VIEWS,
        help="which view it is, in the order of --device; not needed for an OAK (View5) and the four known ZEDs",
    )
    group.add_argument("--eye", choices=EYES, default="left", help="of a ZED (%(default)s)")
    group.add_argument(
        "--timeout", type=positive, default=2.0, metavar="S", help="without a picture: open it again (%(default)g)"
    )
    group.add_argument("--loop", action="store_true", help="a folder or video begins anew at its end")
    group.add_argument(
        "--wait", type=not_negative, default=5.0, metavar="S", help="folder, video: for a receiver first (%(default)g)"
    )


def say(text: str) -> None:
    print(f"camera: {text}", file=sys.stderr, flush=True)


def names_of(source: str, devices: list[str], views: list[str], eye: str) -> list[str]:
    """The camera names on the wire, which the receiver turns into views (origin a.4)."""
    if views and len(views) != len(devices):
        raise ConfigError(f"camera: {len(devices)} --device and {len(views)} --view: give one view for each device")
    if views:
        names = [CAMERAS[VIEWS.index(view)] for view in views]
    else:
        names = [{"zed": f"ZED_{device}_{eye}", "oak": "OAK"}.get(source, "") for device in devices]
    for device, name in zip(devices, names, strict=True):
        if wire.view_of(name) is None:
            what = f"named {name} it has no view" if name else f"a {source} source has no view of its own"
            raise ConfigError(f"camera --device {device}: {what}; say which with --view View1 (to {VIEWS[-1]})")
    if double := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"camera: two devices are {', '.join(sorted(double))}; give each a --view of its own")
    return names


def sources_of(args: argparse.Namespace) -> list[Source]:
    """Raises ConfigError for what cannot work: no device, no view, no SDK."""
    devices = args.device or ([""] if args.source == "oak" else [])
    if not devices:
        raise ConfigError(f"camera --source {args.source} needs --device: see rtvla send camera --help")
    names = names_of(args.source, devices, args.view or [], args.eye)
    return [SOURCES[args.source](args, name, device) for name, device in zip(names, devices, strict=True)]


class RealCameras:
    """Takes the newest picture of each camera as it comes, makes a JPEG of it and sends it."""

    def __init__(self, args: argparse.Namespace, sources: Iterable[Source], push: PicturePush) -> None:
        self._args, self._push = args, push
        self._fresh = threading.Event()
        self.grabbers = [Grabber(source, args.fps, args.timeout, self._fresh, say) for source in sources]
        self.meters = {grabber.camera: RateMeter() for grabber in self.grabbers}
        self.not_encoded = {grabber.camera: 0 for grabber in self.grabbers}
        self.hanging: set[str] = set()
        self.has_ended = False  # all threads

    def run(self, stop: StopFlag) -> None:
        if self._args.source in FILES:  # a camera shows the same later, the beginning of a file is lost
            waiter, give_up_ns = Waiter(stop), now_ns() + int(self._args.wait * SECOND)
            while not self._push.is_heard() and now_ns() < give_up_ns and not stop:
                waiter.until(now_ns() + LOOK_NS)
        end_ns = None if self._args.seconds is None else now_ns() + int(self._args.seconds * SECOND)
        for grabber in self.grabbers:
            grabber.start()
        try:
            while not stop and (end_ns is None or now_ns() < end_ns):
                self._fresh.wait(SLICE_NS / SECOND)
                self._fresh.clear()
                is_over = all(grabber.is_over for grabber in self.grabbers)  # asked before the last pictures are taken
                self._send_fresh()
                self._push.is_heard()  # answers new connections also while no camera gives anything
                crash_of(self.grabbers)
                self._watch()
                if is_over:
                    break
        finally:
            self._end()

    def _send_fresh(self) -> None:
        for grabber in self.grabbers:
            taken = grabber.take()
            if taken is not None:
                self._send(grabber.camera, taken)

    def _send(self, camera: str, taken: Taken) -> None:
        args = self._args
        try:
            jpeg = picture.encode(taken.picture, args.width, args.height, args.quality)
        except BadPicture as error:
            if not self.not_encoded[camera]:
                say(f"{camera}: {error}; more of its kind are only counted")
            self.not_encoded[camera] += 1
            return
        self.meters[camera].add(now_ns())
        parts = wire.encode(camera, taken.stamp.sampled_s, jpeg, sent_s=wall_s())
        self._push.send(Outgoing(parts, label=camera))

    def _watch(self) -> None:
        """A call that does not come back cannot be ended from here; that it hangs must be known."""
        for grabber in self.grabbers:
            if grabber.busy_s() < HANGS_S:
                self.hanging.discard(grabber.camera)
            elif grabber.camera not in self.hanging:
                self.hanging.add(grabber.camera)
                say(f"{grabber.camera}: its driver has not answered for {HANGS_S:g} s; only a restart can help")

    def _end(self) -> None:
        for grabber in self.grabbers:
            grabber.stop()
        give_up_ns = now_ns() + int(JOIN_S * SECOND)
        self.has_ended = True
        for grabber in self.grabbers:
            has_ended = grabber.join(max(0.0, (give_up_ns - now_ns()) / SECOND))
            self.has_ended = self.has_ended and has_ended
            if not has_ended and grabber.busy_s() > JOIN_S + 1 / self._args.fps:  # a file waits for its tick in a call
                self.hanging.add(grabber.camera)
        self._send_fresh()

    def counts(self) -> dict[str, Any]:
        return {grabber.camera: self._counts_of(grabber) for grabber in self.grabbers}

    def _counts_of(self, grabber: Grabber) -> dict[str, Any]:
        camera = grabber.camera
        return {
            "grabbed": grabber.grabbed,
            "thinned": grabber.thinned,
            "overwritten": grabber.overwritten,
            "bad": grabber.bad + self.not_encoded[camera],
            "sent": self._push.images_sent[camera],
            "dropped.no_receiver": self._push.not_taken[camera],
            "achieved_hz": self.meters[camera].hz(),
            "stamps": dict(grabber.stamps),
            "opened": grabber.opened,
            "faults": dict(grabber.faults),
        }


def run(args: argparse.Namespace) -> int:
    sources = sources_of(args)
    with StopFlag() as stop:
        context: zmq.Context[Any] = zmq.Context()
        names = [source.camera for source in sources]
        push = PicturePush(context, args.server_ip, args.server_port, names, args.keys)
        push.socket.setsockopt(zmq.SNDTIMEO, 0)  # what cannot go now is gone: the next picture is a better one
        cameras = RealCameras(args, sources, push)
        try:
            cameras.run(stop)
        finally:
            push.close()
            flushed = close_flushed(context, [push.socket], after_signal=bool(stop))
    report = {"source": args.source, "cameras": cameras.counts(), "hanging": sorted(cameras.hanging)}
    print_report("camera", {**push.counts(), **report, "flushed": flushed})
    if not cameras.has_ended:  # a thread inside a driver: depthai 2 aborts when the interpreter is taken down around it
        os._exit(0)
    return 0
