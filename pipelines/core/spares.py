"""Spare processes, with which the workers of an elastic training start again at once.

Most of a restart is the start of Python processes that import torch and the training. So each
worker has its node start the process of its successor while it trains, and rank 0 has nodes do so
on which there is room. Ray gives a new worker an idle process that it started for the same job and
environment. In each such process Ray calls `preload`, which imports what a worker needs.

A spare is a process without work: it takes no CPU and no GPU, and about 0.5 GiB of memory.
"""

import importlib
import logging
import os
from collections.abc import Callable
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray.core.generated.common_pb2 import PYTHON  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2 import (  # type: ignore[attr-defined]
    PrestartWorkersRequest,
)
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from pipelines.core import logs

log = logging.getLogger(__name__)

LIBRARIES = ("ray.train.torch", "torch._dynamo")  # torch imports the latter at the first step
HELPERS = 5  # the controller, and the actors that it starts beside the workers
MODULE = "UNCLIP_PRELOAD_MODULE"
SHOW_LOGS = "UNCLIP_PRELOAD_SHOW_LOGS"
KEEP_S = 24 * 3600  # a spare; Ray ends it with the job at the latest
TIMEOUT_S = 5.0


def environment(function: Callable[..., Any]) -> dict[str, str]:
    """Environment variables with which Ray calls `preload` in processes for the function."""
    variables = {
        WORKER_PROCESS_SETUP_HOOK_ENV_VAR: f"{__name__}.{preload.__name__}",
        MODULE: function.__module__,
    }
    return variables | ({SHOW_LOGS: "1"} if logs.are_shown() else {})


def preload() -> None:
    """Import what a training's worker needs, in a process that has no work yet. Never raises."""
    if SHOW_LOGS in os.environ:  # this hook replaces the one of `logs.ray_options`
        logs.show_logs()
    for module in (*LIBRARIES, os.environ[MODULE]):
        try:
            importlib.import_module(module)
        except Exception:  # the worker itself raises it, if it is an error
            log.warning("a spare process could not import %s", module, exc_info=True)


class ControllerSpares(WorkerGroupCallback):
    """Starts spare processes, without imports, for the next controller and its actors."""

    def after_worker_group_training_start(self, worker_group: Any) -> None:  # noqa: ARG002
        """Called by Ray Train inside the controller, when the workers begin."""
        start_spares(ray.get_runtime_context().get_node_id(), HELPERS)


def start_spares(node_id: str, number: int) -> None:
    """Have a node start so many processes like this one. Never raises."""
    context = ray.get_runtime_context()
    request = PrestartWorkersRequest(
        language=PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        keep_alive_duration_secs=KEEP_S,
        num_workers=number,
    )
    own: str = context.get_runtime_env_string()  # type: ignore[no-untyped-call]
    request.runtime_env_info.serialized_runtime_env = own
    addresses = [
        f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["NodeID"] == node_id and node["Alive"]
    ]
    for address in addresses:
        try:
            with init_grpc_channel(address) as channel:
                stub: Any = NodeManagerServiceStub(channel)  # type: ignore[no-untyped-call]
                stub.PrestartWorkers(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            log.warning("no spare process on %s: %s", address, error)
