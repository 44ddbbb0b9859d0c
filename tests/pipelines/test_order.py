from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.order import BLOCK_ROWS, Blocks, LogicalRankOrder, OrderConfig, permutation
from unclip.config import ConfigError

Row = tuple[int, int]

CONFIG = OrderConfig(seed=7, logical_ranks=2, batch_size=8, shuffle_rows=512)

sizes = st.lists(
    st.one_of(st.integers(0, 9), st.integers(250, 800)), min_size=1, max_size=10
).filter(lambda rows: sum(rows) >= 4)
configs = st.builds(
    lambda seed, logical_ranks, microbatch, window: OrderConfig(
        seed=seed,
        logical_ranks=logical_ranks,
        batch_size=logical_ranks * microbatch,
        shuffle_rows=window,
    ),
    seed=st.integers(0, 5),
    logical_ranks=st.integers(1, 4),
    microbatch=st.one_of(st.integers(1, 5), st.integers(100, 700)),
    window=st.one_of(st.integers(1, 20), st.integers(200, 1500)),
)


def logical_ranks_of(config: OrderConfig, shard_rows: list[int]) -> list[LogicalRankOrder]:
    blocks = Blocks(shard_rows)
    return [
        LogicalRankOrder(config, logical_rank=i, blocks=blocks) for i in range(config.logical_ranks)
    ]


def rows_of(logical_rank: LogicalRankOrder, step: int) -> list[Row]:
    """The (shard, row) of a step's microbatch."""
    blocks, rows = logical_rank.all_blocks, logical_rank.rows(step)
    places = blocks.shard[rows[:, 0]], blocks.first[rows[:, 0]] + rows[:, 1]
    return list(zip(*(place.tolist() for place in places), strict=True))


def stream(logical_rank: LogicalRankOrder, count: int) -> list[Row]:
    """The first `count` rows of a logical rank."""
    steps = -(-count // logical_rank.config.microbatch_size)
    return [row for step in range(steps) for row in rows_of(logical_rank, step)][:count]


def epoch(logical_rank: LogicalRankOrder, index: int) -> list[Row]:
    begin = index * logical_rank.epoch_rows
    return stream(logical_rank, begin + logical_rank.epoch_rows)[begin:]


@given(configs, sizes, st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_all_logical_ranks_together_see_every_row_once_an_epoch(config, shard_rows, index):
    seen = Counter(
        row
        for logical_rank in logical_ranks_of(config, shard_rows)
        for row in epoch(logical_rank, index)
    )
    assert seen == Counter((s, r) for s, rows in enumerate(shard_rows) for r in range(rows))


@given(configs, sizes)
@settings(max_examples=50, deadline=None)
def test_the_epochs_of_all_logical_ranks_differ_by_one_row_at_most(config, shard_rows):
    lengths = {logical_rank.epoch_rows for logical_rank in logical_ranks_of(config, shard_rows)}
    assert max(lengths) - min(lengths) <= 1


@given(configs, sizes, st.permutations(range(12)))
@settings(max_examples=40, deadline=None)
def test_random_access_equals_going_through_the_steps(config, shard_rows, steps):
    one, other = (logical_ranks_of(config, shard_rows)[0] for _ in range(2))
    in_turn = [rows_of(one, step) for step in range(12)]
    assert [rows_of(other, step) for step in steps] == [in_turn[step] for step in steps]


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_blocks_are_consecutive_rows_of_one_shard_and_nearly_equal(shard_rows):
    blocks = Blocks(shard_rows)
    of_shard: dict[int, list[tuple[int, int]]] = {}
    for shard, first, count in zip(blocks.shard, blocks.first, blocks.counts, strict=True):
        of_shard.setdefault(int(shard), []).append((int(first), int(count)))
    for shard, found in of_shard.items():
        counts = [count for _, count in found]
        assert [first for first, _ in found] == [sum(counts[:i]) for i in range(len(counts))]
        assert sum(counts) == shard_rows[shard]
        assert max(counts) <= BLOCK_ROWS
        assert max(counts) - min(counts) <= 1
        assert len(counts) == -(-shard_rows[shard] // BLOCK_ROWS)


@given(configs, sizes, st.integers(0, 20), st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_the_blocks_in_use_have_the_coming_rows_and_no_more_rows_than_stated(
    config, shard_rows, step, ahead
):
    logical_rank = logical_ranks_of(config, shard_rows)[-1]
    rows = ahead * config.microbatch_size
    used = logical_rank.blocks(step, rows)
    for later in range(step, step + min(ahead, 5)):
        assert set(logical_rank.rows(later)[:, 0].tolist()) <= used
    in_memory = sum(int(logical_rank.all_blocks.counts[block]) for block in used)
    assert in_memory <= config.max_rows_in_use(rows)


def test_a_window_has_about_as_many_rows_as_asked_for():
    config = replace(CONFIG, logical_ranks=1, batch_size=4, shuffle_rows=1000)
    logical_rank = logical_ranks_of(config, [300] * 64)[0]
    lengths = [len(logical_rank.window(0, window)) for window in range(18)]
    assert sum(lengths[:18]) == pytest.approx(18 * 1000, abs=BLOCK_ROWS)
    assert all(abs(length - 1000) < BLOCK_ROWS for length in lengths)


def test_a_window_mixes_its_blocks():
    config = replace(CONFIG, logical_ranks=1, batch_size=64, shuffle_rows=1024)
    rows = logical_ranks_of(config, [1024] * 16)[0].rows(0)
    assert len(set(rows[:, 0].tolist())) == 1024 // BLOCK_ROWS


def test_rows_and_blocks_are_shuffled_anew_each_epoch():
    logical_rank = logical_ranks_of(CONFIG, [20] * 8)[0]
    first, second = epoch(logical_rank, 0), epoch(logical_rank, 1)
    assert first != second
    assert first != sorted(first)
    assert {shard for shard, _ in first} != {shard for shard, _ in second}


def test_the_order_follows_from_the_seed_alone():
    def rows(seed: int) -> list[Row]:
        return stream(logical_ranks_of(replace(CONFIG, seed=seed), [20] * 8)[1], 50)

    assert rows(1) == rows(1) != rows(2)


def test_permutations_stay_what_they_were():
    # A checkpoint's position means nothing if a library's update changes the order.
    assert permutation(8, (0, 7, 0, 0, 0)).tolist() == [1, 3, 7, 5, 4, 0, 2, 6]


def test_a_far_step_of_a_large_data_set_is_found_at_once():
    config = OrderConfig(seed=0, logical_ranks=64, batch_size=2048, shuffle_rows=8192)
    blocks = Blocks([10_000] * 25_000)
    logical_rank = LogicalRankOrder(config, logical_rank=63, blocks=blocks)
    assert len(logical_rank.rows(800_000)) == 32


def test_impossible_orders_are_refused_with_a_fix():
    with pytest.raises(ConfigError, match=r"batch_size=9 .* try 10"):
        replace(CONFIG, batch_size=9)
    with pytest.raises(ConfigError, match="shuffle_rows=0"):
        replace(CONFIG, shuffle_rows=0)
    with pytest.raises(ConfigError, match=r"1 rows .* fewer logical ranks"):
        LogicalRankOrder(CONFIG, logical_rank=0, blocks=Blocks([1, 0]))
    with pytest.raises(ConfigError, match="logical_rank=2"):
        LogicalRankOrder(CONFIG, logical_rank=2, blocks=Blocks([9]))
