"""The connection to Ray: a cluster's address, or a Ray of our own on this machine."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import PipelineError
from pipelines.core.resources import GIB
from unclip.config import Config


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Config):
    """Where the work runs. Without an address, Ray is started on this machine and ended again."""

    address: str | None = None  # "auto", "host:port", or RAY_ADDRESS
    object_store_gib: float = 1.0  # of a Ray started here
    cpus: int | None = None  # of a Ray started here; None takes all there are


@contextlib.contextmanager
def connected(settings: ClusterSettings) -> Iterator[None]:
    """Connect, or start a Ray; leave or end it afterwards."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray._private import auto_init_hook

    # Else a stage's thread that is cut off, and still polls, would start another Ray.
    auto_init_hook.enable_auto_connect = False
    on_terminate = signal.getsignal(signal.SIGTERM)
    address = settings.address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else _local_options(settings)
    try:
        ray.init(
            address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local
        )
    except Exception as error:  # a node that is too slow to start raises a bare one
        raise PipelineError(
            f"Ray cannot be reached at {address or 'this machine'}: {str(error).splitlines()[0]} "
            "Check run.cluster.address and that the cluster is up."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has put its own in place
    try:
        yield
    finally:
        ray.shutdown()


def _local_options(settings: ClusterSettings) -> dict[str, Any]:
    return {
        "include_dashboard": False,
        "num_cpus": settings.cpus,
        "object_store_memory": int(settings.object_store_gib * GIB),
    }
