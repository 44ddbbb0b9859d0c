"""The identity of a process, by which other processes find out whether it still runs."""

import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def machine_id() -> str:
    """A digest of host name, boot and PID namespace, within which a PID names one process.

    Two containers with the same host name have different IDs, and so has a machine after a reboot.
    """
    parts = [platform.node()]
    with suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot; "" if the system does not tell."""
    with suppress(OSError, IndexError):
        # The name in the second field may hold spaces and brackets: count from its end.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return ""


def is_running(pid: int, started: str = "") -> bool:
    """Whether a process of this machine runs.

    started: its `start_time`, which distinguishes it from a later process with the same PID.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    if _is_zombie(pid):
        return False
    return not started or start_time(pid) in ("", started)


def _is_zombie(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return False
