"""Results are found by the digests that manifests record, without reading outside inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pipelines.core.errors import PipelineError
from pipelines.core.graph import Graph
from pipelines.core.lookup import find_results, recorded
from pipelines.core.stage import Artifact, Context, Shards, Stage
from pipelines.core.store import Manifest, Store


@dataclass(frozen=True)
class Read(Stage[Shards]):
    """Reads a file from outside."""

    kind: ClassVar[str] = "read"
    artifact: ClassVar[type[Artifact]] = Shards

    file: str

    def digests(self) -> Mapping[str, str]:
        try:
            return {"file": Path(self.file).read_text()}
        except OSError as error:
            raise PipelineError(f"There is no {self.file}.") from error

    def run(self, ctx: Context) -> Shards:
        raise NotImplementedError


@dataclass(frozen=True)
class Train(Stage[Shards]):
    """Follows from what is read."""

    kind: ClassVar[str] = "train"
    artifact: ClassVar[type[Artifact]] = Shards

    data: Stage[Shards]
    steps: int

    def run(self, ctx: Context) -> Shards:
        raise NotImplementedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.txt"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def graph(file: Path, steps: int = 10) -> Graph:
    """Two trainings on one list, with no key computed yet."""
    data = Read(str(file))
    return Graph([Train(data, steps, name="prior"), Train(data, steps, name="decoder")])


def finish(graph: Graph, store: Store, *names: str, minute: int = 0) -> dict[str, str]:
    """Commit these stages; returns their keys."""
    for name in names:
        stage = graph[name]
        manifest = Manifest(
            stage=name,
            key=stage.key,
            version=1,
            description=stage.description,
            dependencies={},
            metadata={"shards": {}, "counts": {"made": minute}},
            outputs={},
            provenance={},
            links={},
            created_at=f"2026-01-01T00:{minute:02}:00+00:00",
            duration_s=1.0,
        )
        store.folder(name, stage.key).write_bytes("weights", b"")
        store.commit(manifest)
    return {name: graph[name].key for name in names}


ALL = ("read", "prior", "decoder")


def test_results_are_found_when_the_input_is_gone(file: Path, store: Store) -> None:
    file.write_text("first")
    keys = finish(graph(file), store, *ALL)
    file.unlink()
    found = find_results(graph(file), store, ALL)
    assert found is not None
    assert {name: found.keys[name] for name in ALL} == keys
    loaded = found.load(graph(file)["prior"])
    assert isinstance(loaded, Shards)
    assert loaded.folder.exists("weights")


def test_results_of_other_settings_are_not_found(file: Path, store: Store) -> None:
    file.write_text("first")
    finish(graph(file), store, *ALL)
    file.unlink()
    found = find_results(graph(file, steps=11), store, ALL)
    assert found is not None
    assert found.missing(ALL) == ["prior", "decoder"]
    with pytest.raises(PipelineError, match="prior is not in"):
        found.load(graph(file, steps=11)["prior"])


def test_results_of_two_editions_of_an_input_are_never_mixed(file: Path, store: Store) -> None:
    file.write_text("first")
    first = finish(graph(file), store, *ALL, minute=1)
    file.write_text("second")
    second = finish(graph(file), store, "read", "prior", minute=2)
    both = find_results(graph(file), store, ("prior", "decoder"))
    prior = find_results(graph(file), store, ("prior",))
    assert both is not None
    assert prior is not None
    assert (both.keys["prior"], both.keys["decoder"]) == (first["prior"], first["decoder"])
    assert prior.keys["prior"] == second["prior"], "the newest edition comes first"


def test_results_are_found_without_the_manifest_of_the_input(file: Path, store: Store) -> None:
    file.write_text("first")
    keys = finish(graph(file), store, "prior", "decoder")
    found = find_results(graph(file), store, ("prior", "decoder"))
    assert found is not None
    assert found.keys["prior"] == keys["prior"]
    assert list(recorded(graph(file), store)) == []
    file.unlink()
    assert find_results(graph(file), store, ("prior", "decoder")) is None
