"""Starts three Ray nodes on this machine, to try a cluster without real machines.

    python infra/local_cluster.py up      # a head, a node for data, a node with simulated GPUs
    python infra/local_cluster.py down    # stops the nodes that `up` started

The head does no work. The second node has the resource "data". The third reports GPUs to Ray that
do not exist, so torch does not see them. The dashboard listens only on a loopback address. Ray's
other ports are open to the network, as on a real cluster, and require the token.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

# One address per node. Not 127.0.0.1, because Ray replaces it by the network interface's address.
HEAD, DATA, GPU = "127.0.0.2", "127.0.0.3", "127.0.0.4"
OBJECT_STORE_BYTES = 200 * 2**20  # of each node
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
DEFAULT_STATE = Path(tempfile.gettempdir()) / f"unclip-cluster-{os.getuid()}.json"


def up(state: Path, *, dashboard_port: int, cpus: int, gpus: int) -> str:
    """Start the nodes, wait until they have joined, and return the dashboard's address."""
    if state.exists():
        raise SystemExit(f"A cluster is up, see {state}. Stop it first: python {sys.argv[0]} down")
    # Directly in /tmp, because the length of socket paths is limited.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = _environment()
    token = _token(environment)
    port, client_port, free_port = free_ports(3)
    address = f"http://{HEAD}:{dashboard_port or free_port}"
    head = ["--head", "--port", port, "--num-cpus", 0, "--num-gpus", 0]
    head += ["--dashboard-host", HEAD, "--dashboard-port", dashboard_port or free_port]
    head += ["--ray-client-server-port", client_port]
    join = ["--address", f"{HEAD}:{port}", "--num-cpus", cpus]
    data = [*join, "--num-gpus", 0, "--resources", json.dumps({"data": cpus})]
    try:
        _start("head", HEAD, head, folder, environment, state)
        _wait_for_nodes(address, 1, token, folder)
        _start("data", DATA, data, folder, environment, state)
        _wait_for_nodes(address, 2, token, folder)
        _start("gpu", GPU, [*join, "--num-gpus", gpus], folder, environment, state)
        _wait_for_nodes(address, 3, token, folder)
    except BaseException:
        down(state, keep_logs=True)
        raise
    return address


def down(state: Path, *, keep_logs: bool = False) -> None:
    """Stop the nodes in the state file that `up` wrote, the head last."""
    if not state.exists():
        return
    started = json.loads(state.read_text())
    for pid in reversed(started["pids"]):
        if not _is_ours(pid):
            continue
        os.kill(pid, signal.SIGTERM)  # `ray start --block` then stops its node
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _is_ours(pid) and time.monotonic() < deadline:
            time.sleep(0.2)
    if not keep_logs:
        _remove(Path(started["logs"]))
    state.unlink()


def _remove(folder: Path) -> None:
    """Delete a folder in which Ray's processes may write for a moment after their nodes stopped."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.2)
    if folder.exists():
        print(f"Could not delete {folder}: a process still writes there.", file=sys.stderr)


def free_ports(count: int) -> list[int]:
    """Ports that are free at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind((HEAD, 0))
        return [s.getsockname()[1] for s in sockets]


def _environment() -> dict[str, str]:
    """The environment with token authentication, and this interpreter's folder first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # starting three nodes on a small machine is slow
    }


def _token(environment: Mapping[str, str]) -> str:
    """Ray's token, which is created in ~/.ray if there is none."""
    command = ["ray", "get-auth-token", "--generate"]
    made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return made.stdout.strip()


def _start(
    name: str,
    host: str,
    options: Sequence[object],
    folder: Path,
    environment: Mapping[str, str],
    state: Path,
) -> None:
    command = ["ray", "start", "--block", "--disable-usage-stats", "--node-ip-address", host]
    command += ["--node-name", name, "--object-store-memory", str(OBJECT_STORE_BYTES)]
    # One folder per node, because a node that unpacks a job's code first deletes any earlier copy.
    command += ["--temp-dir", str(folder / name)]
    agent, metrics = free_ports(2)  # another Ray may use the default ports
    command += ["--dashboard-agent-listen-port", str(agent), "--metrics-export-port", str(metrics)]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C in the terminal does not reach it
        )
    pids = json.loads(state.read_text())["pids"] if state.exists() else []
    state.write_text(json.dumps({"pids": [*pids, process.pid], "logs": str(folder)}))


def _wait_for_nodes(address: str, count: int, token: str, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if _alive_nodes(address, token) >= count:
            return
        time.sleep(0.5)
    raise SystemExit(f"The nodes were not up after {START_TIMEOUT_S:.0f} s; see {folder}/*.log.")


def _alive_nodes(address: str, token: str) -> int:
    """The number of live nodes, from the dashboard; 0 while it does not answer."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}/nodes?view=summary", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            summary = json.load(answer)["data"]["summary"]
    except (OSError, ValueError, KeyError):
        return 0
    return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)


def _is_ours(pid: int) -> bool:
    """Whether the process exists and is a `ray start` of this script."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reaps it if it is a zombie child of this process
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"start" in command.split(b"\0") and b"--block" in command.split(b"\0")


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, help="the file that `down` reads"
    )
    parser.add_argument("--dashboard-port", type=int, default=0, help="0: a free port")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of each worker node")
    parser.add_argument("--gpus", type=int, default=2, help="simulated GPUs of the third node")
    given = parser.parse_args()
    if given.action == "down":
        down(given.state)
        return
    address = up(given.state, dashboard_port=given.dashboard_port, cpus=given.cpus, gpus=given.gpus)
    print(address)


if __name__ == "__main__":
    main()
