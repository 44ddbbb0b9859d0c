"""The data stages on a cluster of three nodes with an S3 store equal those in one process."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from ray.cluster_utils import Cluster

from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.stage import Shards, Stage, load_artifact
from pipelines.core.store import Store
from pipelines.data.filter_config import FilterConfig
from pipelines.data.rules import CaptionLength, Duplicate
from pipelines.stages.filter import Filter
from tests.core.conftest import s3  # noqa: F401 - a fixture
from tests.pipelines.counting import download_stage, site, write_csv
from tests.pipelines.local import make

pytestmark = pytest.mark.ray
NODES = 3
NAMES = ("list", "download", "filter")


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    head = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1, object_store_memory=2**27)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield
    cluster.shutdown()


def tables(store: Store, stage: Stage[Shards]) -> pa.Table:
    shards = load_artifact(store, stage)
    return pa.concat_tables(shards.read(name) for name in sorted(shards.shards))


@pytest.mark.slow
@pytest.mark.usefixtures("three_nodes")
def test_three_nodes_with_s3_make_the_rows_that_one_process_makes(
    s3: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = tmp_path / "list.csv"
    rules = {"caption_length": CaptionLength(min_chars=18, max_chars=99), "duplicate": Duplicate()}
    with site() as server:
        rows = [server.row(number) for number in range(200)]
        write_csv(path, [*rows, *rows[100:105]])
        cluster, alone = Store(f"{s3}/three_nodes"), Store(str(tmp_path / "store"))
        stages = {
            store.root: Filter(download_stage(path, store.root), FilterConfig(rules=rules))
            for store in (cluster, alone)
        }
        plan = make_plan(Graph([stages[cluster.root]]), cluster, Scope())
        workers = {name: Resources(workers=NODES, cpus=1) for name in NAMES}
        run_plan(plan, cluster, RunSettings(resources=workers, cluster=ClusterSettings()))
        make(alone, stages[alone.root])
    for stage_of in (lambda stage: stage.pairs, lambda stage: stage):
        one, other = (tables(store, stage_of(stages[store.root])) for store in (cluster, alone))
        assert one.equals(other)
    assert one["reason"].null_count == 100  # captions of 18 characters, each once
