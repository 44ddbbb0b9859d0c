import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.duplicate_data import embeddings as clustered
from benchmarks.duplicate_data import key_of
from pipelines.artifacts import EmbeddingShards
from pipelines.core.folder import Folder
from pipelines.core.shards import make_shard
from pipelines.core.stage import ShardWorker
from pipelines.data.out_of_core import Budget
from pipelines.embeddings import clusters, partitions
from pipelines.embeddings.near_duplicates import (
    NEAR_DUPLICATES,
    SIMILAR,
    CompareWorker,
    drop_near_duplicates,
)
from pipelines.embeddings.partitions import (
    PARTITIONS,
    AssignWorker,
    SampleWorker,
    assign_groups,
    count_partitions,
    sampled,
    train_partitions,
    unit,
)
from tests.pipelines.local import own_entries

THRESHOLD = 0.95
BUDGET = Budget(memory_mib=128, threads=1)
Dropped = dict[str, tuple[str, float]]  # key → key of the row that stays, cosine


@dataclass(frozen=True)
class StoredEmbeddings(EmbeddingShards):
    """Shards with the columns that the search reads, in either precision."""

    def schema(self) -> None:
        return None


def store(
    folder: Folder,
    shards: dict[str, tuple[np.ndarray, np.ndarray, list[str]]],
    dtype: str = "float32",
    images: Mapping[str, str] = MappingProxyType({}),
) -> StoredEmbeddings:
    """shards: name → vectors (M, W), similarities (M,) and keys. images: key → shared image."""
    for name, (vectors, similarity, keys) in shards.items():
        flat = pa.array(vectors.astype(dtype).ravel())
        columns = {
            "key": keys,
            "row": pa.array(range(len(keys)), pa.int32()),
            "sha256": [images.get(key) or sha256(key.encode()).hexdigest() for key in keys],
            "similarity": pa.array(similarity, pa.float32()),
            "image_embeds": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
        folder.write_table(f"{name}.parquet", pa.table(columns))
    rows = own_entries({name: len(keys) for name, (_, _, keys) in shards.items()})
    width = next(iter(shards.values()))[0].shape[1]
    return StoredEmbeddings(folder, rows, {}, width, "clip", "digest")


def rows_of(embeddings: EmbeddingShards) -> dict[str, int]:
    return {name: entry.rows for name, entry in embeddings.shards.items()}


def search(embeddings: EmbeddingShards, folder: Folder, threshold: float = THRESHOLD) -> Dropped:
    """The steps, as a stage runs them: workers are pickled, and their tables stored by name."""

    def make(worker: ShardWorker, items: dict[str, object], schema: pa.Schema) -> dict[str, dict]:
        worker = pickle.loads(pickle.dumps(worker))
        records = {n: make_shard(worker, item, folder, n, schema) for n, item in items.items()}
        return {name: dict(record.metadata) for name, record in records.items()}

    names = tuple(embeddings.shards)
    samples = {"sample/0": names[::2], "sample/1": names[1::2]}
    make(SampleWorker(embeddings), samples, sampled(embeddings.width))
    train_partitions(folder, ["sample/0", "sample/1"], embeddings)
    groups = {f"assign/{i}": group for i, group in enumerate(assign_groups(rows_of(embeddings)))}
    images = {name: embeddings.url(name) for name in embeddings.shards}
    written = make(AssignWorker(embeddings, images, folder, threshold), groups, PARTITIONS)
    assigned = tuple((name, facts["file"]) for name, facts in written.items())
    found = {f"compare/{i}": i for i in range(count_partitions(embeddings.total_rows))}
    make(CompareWorker(folder, assigned, threshold), found, SIMILAR)
    with folder.open("compare/0.parquet") as first:
        assert pq.read_schema(first).equals(SIMILAR)
    target = folder.local("dropped.parquet")
    rows = drop_near_duplicates(folder, list(found), threshold, target, BUDGET)
    dropped = pq.read_table(target)
    assert dropped.schema.equals(NEAR_DUPLICATES)
    assert dropped.num_rows == rows
    positions = list(zip(dropped["shard"].to_pylist(), dropped["row"].to_pylist(), strict=True))
    assert positions == sorted(set(positions))
    shards = sorted(embeddings.shards)
    keys = {name: embeddings.read(name, ["key"])["key"].to_pylist() for name in shards}
    rest = zip(dropped["kept_key"].to_pylist(), dropped["cosine"].to_pylist(), strict=True)
    return {keys[shards[s]][r]: kept for (s, r), kept in zip(positions, rest, strict=True)}


def given(
    rows: int, width: int, shards: int
) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
    vectors = np.concatenate(list(clustered(rows, width)))
    similarity = np.random.default_rng(2).uniform(0.2, 0.4, rows).astype(np.float32).round(3)
    parts = np.array_split(np.arange(rows), shards)
    return {
        f"{i:05d}": (vectors[part], similarity[part], [key_of(n) for n in part])
        for i, part in enumerate(parts)
    }


def by_exact_search(
    shards: dict[str, tuple[np.ndarray, np.ndarray, list[str]]], threshold: float = THRESHOLD
) -> Dropped:
    """Greedy over all rows, the best first, comparing all with all."""
    vectors, similarity = (np.concatenate([s[i] for s in shards.values()]) for i in (0, 1))
    keys = [key for shard in shards.values() for key in shard[2]]
    order = sorted(range(len(keys)), key=lambda i: (-similarity[i], keys[i]))
    vectors = unit(vectors)[order]
    stays = np.ones(len(order), dtype=bool)
    dropped = {}
    for start in range(0, len(order), 2048):
        cosines = vectors[start : start + 2048] @ vectors[: start + 2048].T
        for i, row in zip(*np.nonzero(np.tril(cosines >= threshold, start - 1)), strict=True):
            at = start + i
            if stays[row] and stays[at]:
                stays[at] = False
                dropped[keys[order[at]]] = (keys[order[row]], float(cosines[i, row]))
    return dropped


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many partitions, groups of shards and clusters with few rows."""
    monkeypatch.setattr(partitions, "PARTITION_ROWS", 2000)
    monkeypatch.setattr(partitions, "ASSIGN_ROWS", 3000)
    monkeypatch.setattr(clusters, "LEAF_ROWS", 512)
    monkeypatch.setattr(clusters, "BLOCK_ROWS", 128)


def test_what_exact_search_drops_is_dropped_although_no_step_sees_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    shards = given(10_000, 64, shards=7)
    expected = by_exact_search(shards)
    found = search(store(Folder(str(tmp_path / "in")), shards), Folder(str(tmp_path / "out")))
    assert len(expected) > 500
    assert len(found.keys() & expected.keys()) >= 0.99 * len(expected)
    assert len(found.keys() - expected.keys()) <= 0.01 * len(expected)
    assert not found.keys() & {kept for kept, _ in found.values()}
    assert min(cosine for _, cosine in found.values()) >= THRESHOLD


def test_a_small_set_is_searched_exactly(tmp_path: Path) -> None:
    shards = given(3000, 32, shards=3)
    found = search(store(Folder(str(tmp_path / "in")), shards), Folder(str(tmp_path / "out")))
    expected = by_exact_search(shards)
    assert {key: kept for key, (kept, _) in found.items()} == {
        key: kept for key, (kept, _) in expected.items()
    }


def test_the_result_depends_neither_on_the_order_of_shards_nor_on_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    rows = given(6000, 32, shards=6)
    renamed = dict(zip(rows, reversed(rows.values()), strict=True))
    halves = {
        f"{name}-{i}": (v[i::2], s[i::2], k[i::2])
        for name, (v, s, k) in rows.items()
        for i in (0, 1)
    }
    found = [
        search(store(Folder(str(tmp_path / f"in{i}")), given), Folder(str(tmp_path / f"out{i}")))
        for i, given in enumerate([rows, renamed, halves])
    ]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert len(found[0]) > 300


def test_embeddings_in_half_precision_give_the_same(tmp_path: Path) -> None:
    shards = given(2000, 64, shards=2)
    found = [
        search(
            store(Folder(str(tmp_path / f"in {dtype}")), shards, dtype),
            Folder(str(tmp_path / f"out {dtype}")),
        )
        for dtype in ("float32", "float16")
    ]
    assert len(found[0].keys() ^ found[1].keys()) <= 0.02 * len(found[0])


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_of_many_equal_embeddings_the_best_row_stays_without_comparing_all_with_all(
    tmp_path: Path, noise: float
) -> None:
    count = 40_000  # all with all would be 6 GB of cosines
    rng = np.random.default_rng(0)
    vectors = unit(np.ones((count, 16)) + noise * rng.standard_normal((count, 16)))
    similarity = rng.uniform(0.2, 0.4, count).astype(np.float32)
    keys = [key_of(n) for n in range(count)]
    embeddings = store(Folder(str(tmp_path / "in")), {"00000": (vectors, similarity, keys)})
    found = search(embeddings, Folder(str(tmp_path / "out")))
    best = min(zip(-similarity, keys, strict=True))[1]
    assert {kept for kept, _ in found.values()} == {best}
    assert len(found) == count - 1


def test_in_a_chain_a_row_is_dropped_only_for_one_that_stays(tmp_path: Path) -> None:
    angles = np.arange(9) * np.arccos(0.96)  # each row is similar to its neighbours only
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    similarity = np.linspace(0.4, 0.3, 9)
    shards = {"00000": (vectors, similarity, [str(i) for i in range(9)])}
    found = search(store(Folder(str(tmp_path / "in")), shards), Folder(str(tmp_path / "out")))
    assert {key: kept for key, (kept, _) in found.items()} == {
        "1": "0",
        "3": "2",
        "5": "4",
        "7": "6",
    }


def test_the_row_that_suits_its_caption_stays_then_the_smaller_key(tmp_path: Path) -> None:
    vectors = np.ones((3, 4))
    folders = [Folder(str(tmp_path / name)) for name in ("in", "out", "tied in", "tied out")]
    shards = {"00000": (vectors, np.array([0.3, 0.31, 0.3]), ["a", "c", "b"])}
    assert {k for k, _ in search(store(folders[0], shards), folders[1]).values()} == {"c"}
    tied = {"00000": (vectors, np.full(3, 0.3), ["b", "c", "a"])}
    assert {k for k, _ in search(store(folders[2], tied), folders[3]).values()} == {"a"}


def test_shards_are_grouped_up_to_a_number_of_rows() -> None:
    rows = {"c": 200_000, "a": 100_000, "b": 31_072, "d": 5}
    assert assign_groups(rows) == (("a", "b"), ("c",), ("d",))
    assert [count_partitions(n) for n in (1, 16_384, 16_385, 10**9)] == [1, 1, 2, 1024]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_99_percent_of_100000_planted_copies_are_found(tmp_path: Path) -> None:
    shards = given(100_000, 512, shards=10)
    expected = by_exact_search(shards)
    found = search(store(Folder(str(tmp_path / "in")), shards), Folder(str(tmp_path / "out")))
    assert len(expected) > 5000
    assert len(found.keys() & expected.keys()) >= 0.99 * len(expected)
    assert len(found.keys() - expected.keys()) <= 0.01 * len(expected)


def test_captions_of_one_image_stay_together_and_are_dropped_together(tmp_path: Path) -> None:
    """Images A and B look alike; A has captions of similarity 0.4 and 0.2, B one of 0.3."""
    folder = Folder(str(tmp_path))
    alike, other = np.eye(2, 8, dtype=np.float32)
    vectors = np.stack([alike, alike, alike, other, other])
    similarity = np.array([0.4, 0.2, 0.3, 0.3, 0.3], np.float32)
    keys = ["a1", "a2", "b1", "c1", "c2"]
    images = {"a1": "a" * 64, "a2": "a" * 64, "c1": "c" * 64, "c2": "c" * 64}
    shards = {"00000": (vectors, similarity, keys)}
    dropped = search(store(folder, shards, images=images), folder)
    assert {key: kept for key, (kept, _) in dropped.items()} == {"b1": "a1"}
    better = {"00000": (vectors, similarity + np.array([0, 0, 0.2, 0, 0], np.float32), keys)}
    folder = Folder(str(tmp_path / "better"))
    dropped = search(store(folder, better, images=images), folder)
    assert {key: kept for key, (kept, _) in dropped.items()} == {"a1": "b1", "a2": "b1"}
