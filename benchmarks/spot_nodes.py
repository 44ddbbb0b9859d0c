"""Ray nodes on this machine that leave and join as spot machines of a recorded trace.

`p3_preemptions.csv` has the number of machines after each change, by minute, of the trace of p3
spot machines on EC2 that Bamboo and Oobleck replay (github.com/SymbioticLab/Oobleck,
tools/simulator/traces/p3-trace.csv). It records a fleet of at most 32 machines. The nodes here lack
as many of theirs as the fleet lacks of 32, so every machine that left or joined does so here too.
"""

import csv
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

TRACE = Path(__file__).with_name("p3_preemptions.csv")
MACHINES = 32  # of the trace, at most
FEWEST = 2  # nodes here
NOTICE_S = 120  # as AWS gives it


class Change(NamedTuple):
    """The number of nodes from a time on."""

    at_s: float  # since the start of the replay
    nodes: int


def read_changes(start: float, minutes: float, nodes: int) -> list[Change]:
    """The number of nodes, at most `nodes`, at a minute of the trace, and its changes from then."""
    with TRACE.open() as file:
        rows = [(float(row["minute"]), int(row["machines"])) for row in csv.DictReader(file)]
    before = [machines for minute, machines in rows if minute <= start][-1]
    within = [(m - start, machines) for m, machines in rows if start < m < start + minutes]
    return [
        Change(60.0 * minute, max(FEWEST, nodes - (MACHINES - machines)))
        for minute, machines in [(0, before), *within]
    ]


@dataclass
class Fleet:
    """The nodes of a cluster on this machine, each with room for one worker."""

    cluster: Cluster
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    staying: list[Any] = field(default_factory=list)
    leaving: list[tuple[float, Any]] = field(default_factory=list)  # when each node goes

    def resize(self, nodes: int) -> None:
        """Add nodes, or announce that some leave."""
        while len(self.staying) < nodes:
            self.staying.append(self.cluster.add_node(num_cpus=1, object_store_memory=2**27))
        client = GcsClient(address=self.cluster.address)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        while len(self.staying) > nodes:
            node = self.staying.pop(self.draw.randrange(len(self.staying)))
            deadline_ms = int(1000 * (time.time() + NOTICE_S))
            client.drain_node(node.node_id, reason, "spot", deadline_ms)
            self.leaving.append((time.monotonic() + NOTICE_S, node))

    def wait_until(self, time_s: float) -> None:
        """Wait, and remove the nodes whose time has come; time_s as `time.monotonic` has it."""
        while (now := time.monotonic()) < time_s:
            while self.leaving and self.leaving[0][0] <= now:
                self.cluster.remove_node(self.leaving.pop(0)[1])
            time.sleep(0.2)
