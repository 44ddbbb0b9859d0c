"""The connection to Ray: to a cluster at an address, or to a Ray started on this machine.

When the raylet or the control service (GCS) dies, Ray's own code ends this process without a
message. That takes 12 to 60 seconds, in which calls block and ignore Ctrl-C. So the driver probes
both processes and exits first, and its main thread probes whenever it waits for Ray.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray._private import auto_init_hook

from pipelines.core import logs
from pipelines.core.errors import AbortedError, PipelineError, WorkLostError, first_line
from pipelines.core.resources import GIB, ClusterSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 2.0
GCS_GRACE_S = 45.0  # a cluster may restart its GCS; Ray ends this process after 60 s
SHUTDOWN_S = 10.0

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


class ClusterLostError(AbortedError, WorkLostError):
    """The Ray processes that this driver was connected to are gone."""


class Cluster:
    """A Ray to which this process is connected."""

    def __init__(self, *, own: bool) -> None:
        self.own = own  # started here, so nobody will restart its GCS
        self.node: Any = ray._private.worker._global_node
        self._probed_at = self._answered_at = time.monotonic()

    def check(self) -> None:
        """Raise `ClusterLostError` once Ray no longer answers; probes at most once a second."""
        now = time.monotonic()
        if now - self._probed_at < PROBE_EVERY_S:
            return
        self._probed_at = now
        if not self._raylet_answers():
            raise self._lost("node process (raylet)")
        if self._gcs_answers():
            self._answered_at = now
            return
        silent_s = now - self._answered_at
        if self.own or silent_s > GCS_GRACE_S:
            raise self._lost("control service (GCS)")
        log.warning("Ray's control service (GCS) has not answered for %.0f s", silent_s)

    def answers(self) -> bool:
        """Whether both processes accept connections now."""
        return self._raylet_answers() and self._gcs_answers()

    def ask(self, function: Callable[[], T]) -> T:
        """Call a function that waits for Ray; raises `ClusterLostError` if Ray dies meanwhile."""
        answer = in_thread(function)
        while not wait([answer], timeout=PROBE_EVERY_S).done:
            self.check()
        return answer.result()

    def leave(self) -> None:
        """Disconnect, and shut down a Ray that was started here. Waits at most `SHUTDOWN_S`."""
        if self.answers():
            wait([in_thread(ray.shutdown)], timeout=SHUTDOWN_S)
        elif self.own:  # ray.shutdown would wait for processes that are gone
            self.node.kill_all_processes(check_alive=False, allow_graceful=False, wait=False)

    def _raylet_answers(self) -> bool:
        return _accepts(socket.AF_UNIX, self.node.raylet_socket_name)

    def _gcs_answers(self) -> bool:
        host, _, port = self.node.gcs_address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return _accepts(family, (host.strip("[]"), int(port)))

    def _lost(self, process: str) -> ClusterLostError:
        place = "on this machine" if self.own else f"of the cluster at {self.node.gcs_address}"
        return ClusterLostError(
            f"Ray's {process} {place} has ended, and the run with it. If the machine ran out of "
            "memory, ask for fewer workers or more memory with run.resources. Finished work is "
            "kept: run the same command again to resume."
        )


@contextlib.contextmanager
def connected(settings: ClusterSettings) -> Iterator[Cluster]:
    """Connect to Ray, or start one; disconnect or shut it down afterwards.

    Raises `PipelineError` if Ray cannot be reached.
    """
    # Otherwise the thread of an aborted stage, which may still poll, would start another Ray.
    auto_init_hook.enable_auto_connect = False
    on_terminate = signal.getsignal(signal.SIGTERM)
    address = settings.address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else _local_options(settings)
    log.info("connecting to Ray at %s", address or "this machine")
    try:
        ray.init(
            address=address or "local", logging_level=logging.ERROR, **logs.ray_options(), **local
        )
    except Exception as error:  # Ray raises a plain Exception if a node starts too slowly
        raise PipelineError(
            f"Ray cannot be reached at {address or 'this machine'}: {first_line(error)}. "
            "Check run.cluster.address and that the cluster is up."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # ray.init has replaced the handler
    cluster = Cluster(own=not address)
    try:
        yield cluster
    finally:
        cluster.leave()


def in_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Call the function in a daemon thread, so that a call that hangs cannot block the exit."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _accepts(family: socket.AddressFamily, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIMEOUT_S)
            probe.connect(address)
    except OSError:
        return False
    return True


def _local_options(settings: ClusterSettings) -> dict[str, Any]:
    return {
        "include_dashboard": False,
        "num_cpus": settings.cpus,
        "object_store_memory": int(settings.object_store_gib * GIB),
    }
