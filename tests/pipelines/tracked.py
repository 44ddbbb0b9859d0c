"""A tracker that has begun, and functions that read what was tracked."""

from collections.abc import Callable

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipelines.core.plan import Plan
from pipelines.core.store import Store
from pipelines.tracking.location import tracking_uri
from pipelines.tracking.settings import TrackingSettings
from pipelines.tracking.tracker import Tracker

SETTINGS = TrackingSettings()


def begun(
    store: Store, plan: Plan, warn: Callable[[str], None], settings: TrackingSettings = SETTINGS
) -> Tracker:
    tracker = Tracker(plan, store, settings, uri=tracking_uri(settings, store), warn=warn)
    tracker.begin(name="toy", config={"models": {"fit": {"width": 8}}}, command="unclip run toy")
    return tracker


def runs(client: MlflowClient, name: str = "unclip") -> list[Run]:
    """All runs in the order in which they were opened."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    order = ["attributes.start_time ASC"]
    return list(client.search_runs([experiment.experiment_id], order_by=order))


def artifacts(client: MlflowClient, run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run_id, path):
        found |= artifacts(client, run_id, item.path) if item.is_dir else {item.path}
    return found


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run_id, metric)]
