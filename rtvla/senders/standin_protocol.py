"""The text commands that the stand-in for a Meca500 controller understands: `Name(a,b)` in, `[code][data]` out.

Codes and forms follow the programming manual of firmware 9.2 and what mecademicpy 3.0.3 waits for. It says that it is
firmware 10.1.0: below 11.1.5 the vendor's library stays with this text form and does not ask for JSON.
"""

from __future__ import annotations

import math
from collections import Counter

from rtvla.senders.standin_arm import StandinArm

WELCOME = "[3000][Connected to Meca500 R3 v10.1.0]"
FIRMWARE = "10.1.0.0-standin"
# Commands of the motion queue, and how many numbers each has.
MOTION = {"movepose": 6, "movelinvelwrf": 6, "setcheckpoint": 1, "setveltimeout": 1, "setjointvel": 1, "setconf": 3}
# Commands that the arm carries out at once, with a method of its own.
AT_ONCE = {
    "activaterobot": "activate",
    "home": "home",
    "deactivaterobot": "deactivate",
    "clearmotion": "clear",
    "pausemotion": "pause",
    "resumemotion": "resume",
    "reseterror": "reset_error",
}
RT_CODES = (2200, 2201, 2210, 2211)  # target joints and pose, measured joints and pose


def split(command: str) -> tuple[str, str]:
    """Name in lower case without the prefix that keeps it out of the robot's log, and what is in the brackets."""
    name, _, rest = command.strip().partition("(")
    return name.strip().lower().removeprefix("-"), rest.rstrip(") ")


class Settings:
    """What a client has asked for that is not the arm's: monitoring and the connection watchdog."""

    def __init__(self) -> None:
        self.interval_s = 0.015
        self.codes: tuple[int, ...] = (2200, 2201)
        self.is_monitored_on_control = False
        self.watchdog_s = 0.0


class Interpreter:
    """One control connection's commands. `answer` gives the replies; the arm's own messages are in `arm.news`."""

    def __init__(self, arm: StandinArm, settings: Settings, heard: Counter[str]) -> None:
        self._arm, self._settings, self._heard = arm, settings, heard

    def answer(self, command: str) -> list[str]:
        if not command.strip():
            return []
        name, text = split(command)
        self._heard[name] += 1
        if name in MOTION:
            return self._motion(name, text)
        if name in AT_ONCE:
            return self._at_once(name)
        method = getattr(self, f"_on_{name}", None)
        try:
            return method(text) if method else [f"[1001][Unknown command. - Command: '{command[:60]}']"]
        except ValueError:
            return [f"[1003][Invalid arguments. - Command: '{command[:60]}']"]

    def _motion(self, name: str, text: str) -> list[str]:
        try:
            values = tuple(map(float, text.split(",")))
        except ValueError:
            values = ()
        if len(values) != MOTION[name] or not all(map(math.isfinite, values)):
            return [f"[1003][Invalid arguments. - Command: '{name}({text[:60]})']"]
        self._arm.queue(name, values)
        return []

    def _at_once(self, name: str) -> list[str]:
        if name == "home" and not self._arm.activated:
            return ["[1005][The robot is not activated.]"]
        if self._arm.error and name in ("activaterobot", "home", "resumemotion"):
            return ["[1011][The robot is in error.]"]
        getattr(self._arm, AT_ONCE[name])()
        return []

    def _on_getrobotserial(self, text: str) -> list[str]:
        return ["[2083][m500-standin]"]

    def _on_getfwversionfull(self, text: str) -> list[str]:
        return [f"[2082][{FIRMWARE}]"]

    def _on_getstatusrobot(self, text: str) -> list[str]:
        return [f"[2007][{self._arm.status()}]"]

    def _on_synccmdqueue(self, text: str) -> list[str]:
        return [f"[2097][{int(text)}]"]

    def _on_setrtc(self, text: str) -> list[str]:
        return []

    def _on_getrealtimemonitoring(self, text: str) -> list[str]:
        return [f"[2117][{','.join(map(str, self._settings.codes))}]"]

    def _on_setrealtimemonitoring(self, text: str) -> list[str]:
        wanted = {int(code) for code in text.split(",") if code.strip()}
        self._settings.codes = tuple(code for code in RT_CODES if code in wanted)
        return self._on_getrealtimemonitoring("")

    def _on_getmonitoringinterval(self, text: str) -> list[str]:
        return [f"[2116][{self._settings.interval_s:g}]"]

    def _on_setmonitoringinterval(self, text: str) -> list[str]:
        value = float(text)
        if not 0.001 <= value <= 1:  # the range of the manual
            raise ValueError
        self._settings.interval_s = value
        return self._on_getmonitoringinterval("")

    def _on_setctrlportmonitoring(self, text: str) -> list[str]:
        self._settings.is_monitored_on_control = bool(int(text))
        return [f"[2096][{int(text)}]", f"[2007][{self._arm.status()}]"]

    def _on_connectionwatchdog(self, text: str) -> list[str]:
        self._settings.watchdog_s = float(text)
        return [f"[2177][{int(self._settings.watchdog_s > 0)}]"]
