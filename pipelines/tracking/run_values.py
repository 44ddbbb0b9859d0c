"""Parameters, metrics and data sets of a run, made from configurations and manifests."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Manifest, Store

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
DIGITS = re.compile(r"(\d+)$")
SOURCE_TYPES = {"s3": "s3", "gs": "gs", "http": "http", "https": "http"}  # MLflow's names


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """A nested configuration as parameters: {"train.lr": "0.0001", "models.0.width": "64"}."""
    if isinstance(value, Mapping) and value:
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list) for v in value):
        items = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        return {safe_name(path): value if isinstance(value, str) else _plain(value)}
    found: dict[str, str] = {}
    for name, inner in items:
        found |= flatten(inner, f"{path}.{name}" if path else name)
    return found


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def safe_name(name: str) -> str:
    """The name with only the characters that the server accepts, and without "..", "." or "//"."""
    clean = re.sub(r"[^\w\-. /:]", "_", name)
    parts = [part for part in clean.split("/") if part.strip(". ")]
    return "/".join(parts)[:250] or "unnamed"


def stage_params(stage: Stage[Artifact]) -> dict[str, str]:
    """All settings of the stage, its inputs by label, and the digests of inputs from outside."""
    holders = {path.partition(".")[0] for path in stage.dependencies}
    settings = {
        field.name: TypeAdapter(Any).dump_python(getattr(stage, field.name), mode="json")
        for field in dataclasses.fields(stage)
        if field.name not in holders
    }
    inputs = {path: dependency.label for path, dependency in stage.dependencies.items()}
    return flatten({**settings, "inputs": inputs, "digests": stage.digests()})


def metadata_numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in an artifact's metadata; those below "metrics" keep their own names.

    What is counted for each shard is summed: a page with a number for each shard grows with the
    data.
    """
    found: dict[str, float] = {}
    shards = metadata.get("shards", {})
    for name, value in metadata.items():
        if name == "shards":
            found |= {"rows": float(_total_rows(value)), "shards": float(len(value))}
        elif isinstance(value, Mapping) and value and value.keys() == shards.keys():
            numbers = [v for v in value.values() if isinstance(v, int | float)]
            found |= {name: float(sum(numbers))} if numbers else {}
        elif isinstance(value, Mapping):
            inner = metadata_numbers(value)
            found |= inner if name == "metrics" else {f"{name}/{n}": v for n, v in inner.items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return {safe_name(name): number for name, number in found.items()}


def _total_rows(shards: Mapping[str, Any]) -> int:
    """The rows of all shards, from their entries in a manifest (`stage.ShardEntry`)."""
    return sum(rows for rows, *_ in shards.values())


def headline_numbers(manifest: Manifest) -> dict[str, float]:
    """The numbers of a stage for the pipeline's page, without the detailed counts."""
    numbers = metadata_numbers(manifest.metadata).items()
    return {f"{manifest.stage}/{n}": v for n, v in numbers if not n.startswith("counts/")}


def dataset(manifest: Manifest, store: Store) -> dict[str, str] | None:
    """The stage's rows as a data set whose digest is the stage's key; None if it has no rows."""
    shards = manifest.metadata.get("shards")
    if not isinstance(shards, Mapping):
        return None
    url = store.folder(manifest.stage, manifest.key).url
    scheme = url.split("://")[0] if "://" in url else ""
    return {
        "name": manifest.stage,
        "digest": manifest.key,
        "source_type": SOURCE_TYPES.get(scheme, "local"),
        "source": json.dumps({"uri": url}),
        "profile": json.dumps({"num_rows": _total_rows(shards), "num_shards": len(shards)}),
    }


def artifact_folder(file: str) -> str:
    """The folder of a run's artifacts for a file of this kind."""
    suffix = PurePosixPath(file).suffix.lower()
    if suffix in IMAGES:
        return "samples"
    if suffix in (".html", ".pdf"):
        return "report"
    return "model" if suffix == ".safetensors" else "files"


def step_of(file: str) -> int | None:
    """The step in an image's name: 500 for "samples/step-00000500.png"; None if there is none."""
    digits = DIGITS.search(PurePosixPath(file).stem)
    return int(digits[1]) if digits else None
