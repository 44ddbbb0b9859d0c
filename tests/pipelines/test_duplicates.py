import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import PipelineError
from pipelines.data.duplicates import IDENTITY, REJECTED, find_duplicates
from pipelines.data.out_of_core import Budget, scratch_database
from pipelines.data.similar_hashes import WINDOW, block_masks, write_similar_hashes

BUDGET = Budget(memory_mib=64, threads=1)
Row = dict[str, Any]


def row(position: int, **changes: Any) -> Row:
    """A row that is like no other one."""
    digest = hashlib.sha256(str(position).encode())
    return {
        "shard": 0,
        "row": position,
        "key": f"key {position}",
        "sha256": digest.hexdigest(),
        "caption": "a red heart",
        "pixels": 100,
        "phash": int.from_bytes(digest.digest()[:8], "big"),
    } | changes


def rejected(rows: Sequence[Row], tmp_path: Path, max_distance: int | None = 3) -> list[Row]:
    batches = [pa.RecordBatch.from_pylist([each], schema=IDENTITY) for each in rows]
    reader = pa.RecordBatchReader.from_batches(IDENTITY, batches)
    target = tmp_path / "rejected.parquet"
    counts = find_duplicates(reader, target, max_distance=max_distance, budget=BUDGET)
    found = pq.read_table(target)
    assert found.schema.equals(REJECTED)
    reasons = found["reason"].to_pylist()
    assert counts == {reason: reasons.count(reason) for reason in ("duplicate", "near_copy")}
    assert list(tmp_path.iterdir()) == [target]
    return list(found.to_pylist())


def by_brute_force(
    rows: Sequence[Row], max_distance: int
) -> dict[tuple[int, int], tuple[str, str]]:
    """(shard, row) → reason and key of the row that stays, by comparing all with all."""
    kept_for: dict[str, str] = {}  # key of a row that was kept by an earlier step → who replaced it
    found: list[tuple[Row, str, str]] = []
    left = sorted(rows, key=lambda r: (r["shard"], r["row"]))
    for content in (lambda r: r["key"], lambda r: (r["sha256"], r["caption"])):
        first: dict[Any, Row] = {}
        repeats = [r for r in left if first.setdefault(content(r), r) is not r]
        for each in repeats:
            found.append((each, "duplicate", first[content(each)]["key"]))
            if each["key"] != first[content(each)]["key"]:
                kept_for[each["key"]] = first[content(each)]["key"]
        left = [r for r in left if first[content(r)] is r]
    pictures: list[Row] = []  # that stay, the best first
    for best in sorted(left, key=lambda r: (-r["pixels"], r["key"])):
        if best["phash"] is None or any(p["sha256"] == best["sha256"] for p in pictures):
            continue
        near = (p for p in pictures if (p["phash"] ^ best["phash"]).bit_count() <= max_distance)
        keeper = next(near, None)
        if keeper is None:
            pictures.append(best)
            continue
        for each in (r for r in left if r["sha256"] == best["sha256"]):
            if each["key"] not in kept_for:
                found.append((each, "near_copy", keeper["key"]))
                kept_for[each["key"]] = keeper["key"]

    def follow(key: str) -> str:
        return follow(kept_for[key]) if key in kept_for else key

    return {(r["shard"], r["row"]): (reason, follow(kept)) for r, reason, kept in found}


# Hashes that differ in few bits, or in many.
HASHES = [0, 1, 0b11, 0b1111, 0b11111, 1 << 63, (1 << 63) | (1 << 40) | 1, (1 << 64) - 1]


@st.composite
def pair_rows(draw: st.DrawFn) -> list[Row]:
    # Pixels and hash belong to the bytes, as they do in pictures.
    pictures = draw(
        st.lists(st.tuples(st.sampled_from(HASHES), st.integers(1, 3)), min_size=1, max_size=6)
    )
    keys = [f"k{i}" for i in range(8)]
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(keys),
                st.integers(0, len(pictures) - 1),
                st.sampled_from(["one", "two"]),
            ),
            max_size=10,
        )
    )
    return [
        row(
            i,
            shard=i // 4,
            row=i % 4,
            key=key,
            caption=caption,
            sha256=hashlib.sha256(bytes([picture])).hexdigest(),
            phash=pictures[picture][0],
            pixels=pictures[picture][1],
        )
        for i, (key, picture, caption) in enumerate(rows)
    ]


@given(pair_rows(), st.integers(0, 3), st.randoms())
@settings(max_examples=40, deadline=None)
def test_what_is_rejected_is_what_comparing_all_with_all_rejects_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], max_distance: int, random: Any
) -> None:
    shuffled = random.sample(rows, len(rows))
    found = rejected(shuffled, tmp_path_factory.mktemp("found"), max_distance)
    expected = by_brute_force(rows, max_distance)
    positions = [(r["shard"], r["row"]) for r in found]
    assert positions == sorted(expected)
    assert {
        at: (r["reason"], r["kept_key"]) for at, r in zip(positions, found, strict=True)
    } == expected


def test_several_captions_of_one_picture_are_not_near_copies(tmp_path: Path) -> None:
    picture = {"sha256": "a" * 64, "phash": 5}
    rows = [row(0, **picture, caption="one"), row(1, **picture, caption="two")]
    assert rejected(rows, tmp_path) == []


def test_a_rejected_picture_takes_all_its_captions_along(tmp_path: Path) -> None:
    small = {"sha256": "a" * 64, "phash": 5, "pixels": 10}
    rows = [row(0, **small, caption="one"), row(1, **small, caption="two"), row(2, phash=4)]
    found = rejected(rows, tmp_path)
    assert [(r["row"], r["reason"], r["kept_key"]) for r in found] == [
        (0, "near_copy", "key 2"),
        (1, "near_copy", "key 2"),
    ]


def test_in_a_chain_a_picture_is_only_rejected_for_one_that_stays(tmp_path: Path) -> None:
    chain = [row(i, phash=(1 << 3 * i) - 1, pixels=100 - i) for i in range(20)]
    assert [r["row"] for r in rejected(chain, tmp_path)] == list(range(1, 20, 2))


def test_near_copies_are_found_only_if_asked_for(tmp_path: Path) -> None:
    rows = [row(0, phash=1), row(1, phash=1), row(2, phash=None), row(3, phash=None)]
    assert rejected(rows, tmp_path, max_distance=None) == []
    assert [r["row"] for r in rejected(rows, tmp_path, max_distance=0)] == [1]
    with pytest.raises(ValueError, match=r"max_distance=4 is not in 0\.\.3 bits"):
        rejected(rows, tmp_path, max_distance=4)


def similar_hashes(hashes: np.ndarray, distance: int, tmp_path: Path) -> set[frozenset[int]]:
    target = tmp_path / "similar.parquet"
    with scratch_database(BUDGET) as database:
        database.register("given", pa.table({"phash": hashes}))
        database.execute("CREATE TABLE hashes AS FROM given")
        write_similar_hashes(database, distance, target)
    return {frozenset(pair.values()) for pair in pq.read_table(target).to_pylist()}


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_hashes_that_differ_in_few_bits_meet_wherever_these_bits_are(
    distance: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(distance)
    changed = [sum(1 << int(bit) for bit in rng.choice(64, distance, False)) for _ in range(2000)]
    first = rng.integers(0, 2**64, len(changed), dtype=np.uint64)
    second = first ^ np.array(changed, np.uint64)
    further = second ^ np.roll(second, 1)
    found = similar_hashes(np.concatenate([first, second, further]), distance, tmp_path)
    assert found == {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}


@pytest.mark.parametrize("distance", [0, 1, 2, 3])
def test_every_choice_of_changed_blocks_leaves_two_that_are_compared(distance: int) -> None:
    masks = block_masks(distance)
    whole = (1 << 64) - 1
    assert sum(mask & 1 for mask in masks) == distance + 1
    for changed in combinations([whole ^ (whole >> 13), 1 << 25, 1 << 50], min(distance, 3)):
        bits = [value & -value for value in changed]
        assert any(not mask & sum(bits) for mask in masks)


def test_a_bucket_of_alike_hashes_costs_a_bounded_number_of_comparisons(tmp_path: Path) -> None:
    # 64 choose 2 hashes of weight 2 differ from each other in 2 or 4 bits.
    alike = np.array([(1 << a) | (1 << b) for a, b in combinations(range(64), 2)], np.uint64)
    found = similar_hashes(alike, 3, tmp_path)
    differences = np.bitwise_count(alike[:, None] ^ alike[None]) <= 3
    all_pairs = np.triu(differences, 1).sum()
    assert 0.5 * all_pairs < len(found) <= all_pairs
    assert len(found) <= len(block_masks(3)) * WINDOW * len(alike)


def test_rows_that_exceed_the_memory_are_spilled_and_give_the_same(tmp_path: Path) -> None:
    numbers = np.arange(300_000)

    def batches() -> Any:
        for part in np.array_split(numbers, 30):
            digests = [hashlib.sha256(str(n % 299_000).encode()).hexdigest() for n in part]
            yield pa.record_batch(
                {
                    "shard": pa.array(part // 10_000, pa.int32()),
                    "row": pa.array(part % 10_000, pa.int32()),
                    "key": pa.array([f"{n:020d}" for n in part]),
                    "sha256": pa.array(digests),
                    "caption": pa.array([f"caption {n % 299_000}" for n in part]),
                    "pixels": pa.array(part, pa.int64()),
                    "phash": pa.array([int(d[:16], 16) for d in digests], pa.uint64()),
                }
            ).cast(IDENTITY)

    reader = pa.RecordBatchReader.from_batches(IDENTITY, batches())
    target = tmp_path / "rejected.parquet"
    budget = Budget(memory_mib=48, threads=1, scratch=str(tmp_path))
    counts = find_duplicates(reader, target, max_distance=3, budget=budget)
    assert counts == {"duplicate": 1000, "near_copy": 0}
    found = pq.read_table(target)
    assert found["row"].to_pylist() == list(range(9_000, 10_000))
    assert set(found["shard"].to_pylist()) == {29}


def test_too_little_memory_is_an_error_with_a_hint() -> None:
    with (
        pytest.raises(PipelineError, match=r"8 MiB .*Give the stage more memory"),
        scratch_database(Budget(memory_mib=8, threads=1)) as database,
    ):
        database.execute("CREATE TABLE one AS SELECT list(i) FROM range(10_000_000) AS t(i)")
