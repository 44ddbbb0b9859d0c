"""The keys of the packaged configurations, held as fixtures.

A changed key makes users' results again, so it has to be intended. A changed default leaves the
keys of results that were made with the old one, so the defaults are held too: a class whose default
changes needs another `tag`, a stage another `version`. After an intended change, write the fixtures
again with `python -m tests.pipelines.test_keys`.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.files import PACKAGED
from pipelines.config.load import load_config
from pipelines.core import fingerprint
from pipelines.core.graph import Graph
from pipelines.core.stage import Artifact, Stage
from pipelines.graph import unclip_graph
from pipelines.stages.clip import LoadClip

FOLDER = Path(__file__).parent / "keys"
DEFAULTS = FOLDER / "defaults.json"
CONFIGS = sorted(path.stem for path in PACKAGED.glob("*.yaml"))
VARIANTS = {
    "demo-autoregressive": ("demo", ["priors.prior.kind=autoregressive"]),
    "demo-one-pass": ("demo", ["priors.linear.kind=linear", "priors.eclipse.kind=eclipse"]),
    "paper-autoregressive": ("paper", ["priors.prior.kind=autoregressive"]),
}


def graphs() -> Iterator[tuple[str, Graph]]:
    for name in CONFIGS:
        yield name, unclip_graph(load_config(name))
    for name, (config, settings) in VARIANTS.items():
        yield name, unclip_graph(load_config(config, settings))


def keys(graph: Graph) -> dict[str, str]:
    """The keys of the stages without the content of outside inputs, so that no data is read."""
    found: dict[str, str] = {}

    def key(stage: Stage[Artifact]) -> str:
        if stage.name not in found:
            inputs = {path: key(inner) for path, inner in stage.dependencies.items()}
            named = stage.digests() if isinstance(stage, LoadClip) else {}  # public names
            found[stage.name] = fingerprint.digest(stage.describe(inputs, named))
        return found[stage.name]

    return {name: key(stage) for name, stage in graph.stages.items()}


def defaults() -> dict[str, dict[str, Any]]:
    """The defaults of every class that is in a key: by its tag, or by its stage's kind."""
    found: dict[str, dict[str, Any]] = {}

    def collect(value: Any) -> None:
        if isinstance(value, tuple | list):
            for item in value:
                collect(item)
        elif isinstance(value, Mapping):
            collect(list(value.values()))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            name = f"stage {value.kind}" if isinstance(value, Stage) else str(value.tag)
            held = {f.name: f.default for f in dataclasses.fields(value) if is_held(f)}
            found[name] = {n: fingerprint.canonical(d, where=n) for n, d in held.items()}
            collect([getattr(value, f.name) for f in dataclasses.fields(value)])

    for _, graph in graphs():
        collect(list(graph.stages.values()))
    return {name: held for name, held in sorted(found.items()) if held}


def is_held(field: dataclasses.Field[Any]) -> bool:
    in_key = field.metadata.get("in_key", True) and field.name != "name"
    assert field.default_factory is dataclasses.MISSING or not in_key, f"{field.name}: hold it too"
    return in_key and field.default is not dataclasses.MISSING


@pytest.mark.parametrize("name", [*CONFIGS, *VARIANTS])
def test_no_key_of_a_packaged_configuration_has_changed(name: str) -> None:
    held = json.loads((FOLDER / f"{name}.json").read_text())
    assert keys(dict(graphs())[name]) == held


def test_no_default_of_what_is_in_a_key_has_changed() -> None:
    assert defaults() == json.loads(DEFAULTS.read_text())


if __name__ == "__main__":
    for name, graph in graphs():
        (FOLDER / f"{name}.json").write_text(json.dumps(keys(graph), indent=2) + "\n")
    DEFAULTS.write_text(json.dumps(defaults(), indent=2) + "\n")
