"""Three Ray nodes on this machine, to try a cluster without having one.

    python infra/local_cluster.py up      # a head, a node for data, a node with pretend GPUs
    python infra/local_cluster.py down    # ends what `up` started, and nothing else

The head does no work; the second node has the resource "data"; the third says that it has GPUs,
which Ray believes and torch does not. The dashboard answers on the loopback address alone; Ray's
own ports are open to the network, as on a real cluster, and ask for the token.
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

# An address each, as three machines would have. Not 127.0.0.1: Ray swaps it for the network card's.
HEAD, DATA, GPU = "127.0.0.2", "127.0.0.3", "127.0.0.4"
OBJECT_STORE_BYTES = 200 * 2**20  # of each node
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
DEFAULT_STATE = Path(tempfile.gettempdir()) / f"unclip-cluster-{os.getuid()}.json"


def up(state: Path, *, dashboard_port: int, cpus: int, gpus: int) -> str:
    """Start the nodes, wait until they have joined, and return the dashboard's address."""
    if state.exists():
        raise SystemExit(
            f"{state} says that a cluster is up. End it first: python {sys.argv[0]} down"
        )
    folder = Path(
        tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    )  # short: paths of sockets are limited
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
    """End the nodes that `up` noted in its state file, the head last."""
    if not state.exists():
        return
    noted = json.loads(state.read_text())
    for pid in reversed(noted["pids"]):
        if not _is_ours(pid):
            continue
        os.kill(pid, signal.SIGTERM)  # `ray start --block` then ends its node
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _is_ours(pid) and time.monotonic() < deadline:
            time.sleep(0.2)
    if not keep_logs:
        shutil.rmtree(noted["logs"], ignore_errors=True)
    state.unlink()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind((HEAD, 0))
        return [s.getsockname()[1] for s in sockets]


def _environment() -> dict[str, str]:
    """With token authentication on, and this interpreter's folder first on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # a small machine starts all three
    }


def _token(environment: Mapping[str, str]) -> str:
    """The token that Ray finds; made and kept in ~/.ray where there is none."""
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
    # A folder each, too: a node that unpacks a job's code first removes what lies in its place.
    command += ["--temp-dir", str(folder / name)]
    agent, metrics = free_ports(2)  # their defaults may be taken by another Ray on this machine
    command += ["--dashboard-agent-listen-port", str(agent), "--metrics-export-port", str(metrics)]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt in the terminal does not reach it
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
    """How many nodes the dashboard counts; 0 while it does not answer."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}/nodes?view=summary", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            summary = json.load(answer)["data"]["summary"]
    except (OSError, ValueError, KeyError):
        return 0
    return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)


def _is_ours(pid: int) -> bool:
    """Whether the process is there and still the `ray start` that we started."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # collects it where we are its parent
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"start" in command.split(b"\0") and b"--block" in command.split(b"\0")


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="what `down` reads")
    parser.add_argument("--dashboard-port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--cpus", type=int, default=2, help="of each of the two worker nodes")
    parser.add_argument("--gpus", type=int, default=2, help="that the third node pretends to have")
    given = parser.parse_args()
    if given.action == "down":
        down(given.state)
        return
    address = up(given.state, dashboard_port=given.dashboard_port, cpus=given.cpus, gpus=given.gpus)
    print(address)


if __name__ == "__main__":
    main()
