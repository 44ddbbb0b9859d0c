"""What stages count: sums over their shards, and whether every row is accounted for."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.core.errors import PipelineError


def total_counts(metadata: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of the shards' counts."""
    numbers: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for shard in metadata:
        numbers.update({k: v for k, v in shard.items() if isinstance(v, int)})
        rejected.update(shard.get("rejected", {}))
    return {**numbers, "rejected": dict(rejected.most_common())}


def check_books(stage: str, rows: int, kept: int, rejected: Mapping[str, int]) -> None:
    """Raise `PipelineError` unless every row was kept or rejected."""
    if rows != kept + sum(rejected.values()):
        raise PipelineError(
            f"Stage {stage}: {rows} rows came in, but {kept} were kept and "
            f"{sum(rejected.values())} rejected ({dict(rejected)}). This is a defect: please "
            "report it. Run the stage again with --force."
        )
