"""The exceptions of rtvla, one root.

What is expected at run time (no data yet, stale, queue full) is a return value, not one of these.
"""


class RtvlaError(Exception):
    """Anything rtvla says on purpose. The message names the field, the value and the remedy."""


class ConfigError(RtvlaError):
    """A setting that cannot be used. A process that ends with it exits 78, so nobody restarts it in a loop."""


class ShmError(RtvlaError):
    """A segment that cannot be created, attached or written (schema differs, second writer, no space)."""


class CheckpointError(RtvlaError):
    """A model folder that is incomplete, does not fit its spec, or does not fit what was asked for."""


class DumpError(RtvlaError):
    """A file that is no black box, or a spoiled one."""


class RobotFault(RtvlaError):
    """The connection to the robot's controller cannot be made, or is lost."""


class WireError(RtvlaError):
    """Bytes from outside that do not follow the wire format. `cause` is the name of the counter that is raised."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
