"""The identity of a process, so that another one can find out whether it still runs."""

import hashlib
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def machine_id() -> str:
    """A digest of host name, boot and PID namespace: within one, a PID names one process.

    Two containers with the same host name differ, and so does a machine after a restart.
    """
    parts = [platform.node()]
    with suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot; "" where the system does not say."""
    with suppress(OSError, IndexError):
        # The name in the second field may hold spaces and brackets: count from its end.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return ""


def is_running(pid: int, started: str = "") -> bool:
    """Whether a process of this machine runs; `started` tells it from a later one of that PID."""
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
