"""A whole lab in one file: sensor PC, camera PC and robot PC, written from the wire tables alone.

Nothing of rtvla is imported: struct, socket and zmq, as somebody would write them who has only the document. It feeds a
pipeline for N seconds, or until SIGTERM, and prints what it sent and which commands it received. If a folder is given,
every sample and every state is kept there as it was sent.

    python standalone_peer.py SENSOR_PORT CAMERA_PORT ROBOT_PORT COMMAND_PORT SECONDS [FOLDER]
"""

import base64
import json
import math
import os
import signal
import socket
import struct
import sys
import time

import zmq

CAMERAS = ("ZED_41182735_left", "ZED_49429257_left", "ZED_44377151_left", "ZED_49045152_left", "OAK")
# a 32 x 18 JPEG
PICTURE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeX"
    "BkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAS"
    "ACADAREAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhBy"
    "JxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKT"
    "lJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAA"
    "AAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRom"
    "JygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExc"
    "bHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwDl47L2rrdUxp1izHZ+1ZOqd9OsWo7P2rJ1Tvp1izHZe1ZOqd9O"
    "sSx2ftUuqfndOsWY7P2rJ1Tvp1i1HZe1ZOqehTrFmOy9qydU76dYhjA9KtnwdMsxgelZM76ZajA9KyZ30yzGB6Vkzvpn/9k="
)
START = (190.0, 1.0, 309.0, 1.0, 90.0, 0.0)


def sensor_datagram(k, t0):
    """'<I' count, then count times '<ddf' + 1025 float32. Every tenth in the later form, without the count."""
    records = []
    for i in range(5):
        stamp = t0 + (5 * k + i) / 650
        aline = [100.0 * math.exp(-(((b - 400) / 30.0) ** 2)) for b in range(0, 1025)] if i == 0 else records[0][1]
        records.append((struct.pack("<ddf", stamp, time.time(), 0.1 * math.sin(stamp)), aline))
    packed = [head + struct.pack("<1025f", *aline) for head, aline in records]
    if k % 10 == 9:
        return packed
    return [struct.pack("<I", 5) + b"".join(packed)]


def picture(number):
    """The same with a comment in it: a camera that says the same twice would count as frozen."""
    return PICTURE[:2] + b"\xff\xfe" + struct.pack(">HI", 6, number) + PICTURE[2:]


def main():
    sensor_port, camera_port, robot_port, command_port = map(int, sys.argv[1:5])
    seconds, folder = float(sys.argv[5]), sys.argv[6] if len(sys.argv) > 6 else ""
    asked_to_end = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.append(True))
    kept = {"samples": bytearray(), "states": bytearray()}
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    context = zmq.Context()
    camera, state, commands = context.socket(zmq.PUSH), context.socket(zmq.PUB), context.socket(zmq.PULL)
    camera.setsockopt(zmq.SNDHWM, 5)
    camera.connect(f"tcp://127.0.0.1:{camera_port}")
    state.bind(f"tcp://127.0.0.1:{robot_port}")
    commands.bind(f"tcp://127.0.0.1:{command_port}")
    time.sleep(1.0)  # let the subscriber connect, as one does with PUB and SUB
    pose, t0 = list(START), time.time()
    sent = {"samples": 0, "images": 0, "states": 0}
    received = {"start": 0, "dpose": 0, "other": 0, "largest": 0.0, "last": None}
    began = time.monotonic()
    while time.monotonic() - began < seconds and not asked_to_end:
        elapsed = time.monotonic() - began
        while sent["samples"] < elapsed * 650:
            for datagram in sensor_datagram(sent["samples"] // 5, t0):
                udp.sendto(datagram, ("127.0.0.1", sensor_port))
                kept["samples"] += datagram[len(datagram) % 4120 :]
            sent["samples"] += 5
        while sent["states"] < elapsed * 100:
            now = time.time()
            payload = struct.pack("<ddf12f", now, now, 0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, *pose)
            state.send_multipart([b"robot_state", payload])
            kept["states"] += payload
            sent["states"] += 1
        while sent["images"] < elapsed * 25:
            meta = {"camera": CAMERAS[sent["images"] % 5], "timestamp": time.time(), "size": len(picture(0))}
            try:
                camera.send_multipart([json.dumps(meta).encode(), picture(sent["images"])], zmq.DONTWAIT)
            except zmq.Again:  # the receiver is gone, or behind: robot and sensor go on
                break
            sent["images"] += 1
        while commands.poll(0):
            command = json.loads(commands.recv())
            received[command["cmd"] if command["cmd"] in received else "other"] += 1
            if command["cmd"] == "start":
                pose = list(command["start_joints"])
            elif command["cmd"] == "dpose":
                pose = [at + step for at, step in zip(pose, command["dp"], strict=True)]
                received["largest"] = max([received["largest"], *map(abs, command["dp"])])
                received["last"] = command["dp"]
        time.sleep(0.002)
    camera.close(linger=2000)
    state.close(linger=2000)
    for name, content in kept.items():
        if folder:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
    print(json.dumps({"sent": sent, "received": received, "moved_mm": math.dist(pose[:3], START[:3])}), flush=True)


if __name__ == "__main__":
    main()
