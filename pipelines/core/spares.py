"""Spare processes, with which the workers of an elastic training start again at once.

Most of a restart is the start of Python processes that import torch and the training. So each
worker has its node start the process of its successor while it trains, and rank 0 has nodes do so
on which there is room. Ray gives a new worker an idle process that it started for the same job and
environment. In each such process Ray calls `preload`, which imports what a worker needs.

A spare is a process without work: it takes no CPU and no GPU, and about 0.3 GiB of memory.
"""

import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray.core.generated.common_pb2 import PYTHON
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

from pipelines.core import logs

log = logging.getLogger(__name__)

MODULE = "UNCLIP_PRELOAD_MODULE"
SHOW_LOGS = "UNCLIP_PRELOAD_SHOW_LOGS"
KEEP_S = 7 * 24 * 3600  # an idle process; Ray ends it with the job at the latest
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
    for module in ("ray.train.torch", os.environ[MODULE]):
        try:
            importlib.import_module(module)
        except Exception:  # the worker itself raises it, if it is an error
            log.warning("a spare process could not import %s", module, exc_info=True)


def start_spare(nodes: Iterable[Mapping[str, Any]]) -> None:
    """Have each node start one process like this worker's. Never raises.

    nodes: entries of `ray.nodes()`.
    """
    context = ray.get_runtime_context()
    request = PrestartWorkersRequest(
        language=PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        keep_alive_duration_secs=KEEP_S,
        num_workers=1,
    )
    request.runtime_env_info.serialized_runtime_env = context.get_runtime_env_string()
    for node in nodes:
        address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        try:
            with init_grpc_channel(address) as channel:
                NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            log.warning("no spare process on %s: %s", address, error)
