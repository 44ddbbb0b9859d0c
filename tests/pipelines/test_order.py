from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.order import LogicalRankOrder, OrderConfig, permutation
from unclip.config import ConfigError

Row = tuple[int, int]

CONFIG = OrderConfig(seed=7, logical_ranks=2, batch_size=8, shuffle_shards=2)

sizes = st.lists(st.integers(0, 9), min_size=1, max_size=10).filter(lambda rows: sum(rows) >= 4)
configs = st.builds(
    lambda seed, logical_ranks, microbatch, window: OrderConfig(
        seed=seed,
        logical_ranks=logical_ranks,
        batch_size=logical_ranks * microbatch,
        shuffle_shards=window,
    ),
    seed=st.integers(0, 5),
    logical_ranks=st.integers(1, 4),
    microbatch=st.integers(1, 5),
    window=st.integers(1, 4),
)


def logical_ranks_of(config: OrderConfig, shard_rows: list[int]) -> list[LogicalRankOrder]:
    return [
        LogicalRankOrder(config, logical_rank=i, shard_rows=shard_rows)
        for i in range(config.logical_ranks)
    ]


def stream(logical_rank: LogicalRankOrder, count: int) -> list[Row]:
    """The first `count` rows of a logical rank."""
    steps = -(-count // logical_rank.config.microbatch_size)
    return [row for step in range(steps) for row in logical_rank.rows(step)][:count]


def epoch(logical_rank: LogicalRankOrder, index: int) -> list[Row]:
    begin = index * logical_rank.epoch_rows
    return stream(logical_rank, begin + logical_rank.epoch_rows)[begin:]


@given(configs, sizes, st.integers(0, 2))
@settings(max_examples=150, deadline=None)
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
@settings(max_examples=100, deadline=None)
def test_random_access_equals_going_through_the_steps(config, shard_rows, steps):
    logical_rank, fresh = (
        LogicalRankOrder(config, logical_rank=0, shard_rows=shard_rows) for _ in range(2)
    )
    in_turn = [logical_rank.rows(step) for step in range(12)]
    assert [fresh.rows(step) for step in steps] == [in_turn[step] for step in steps]


@given(configs, sizes, st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_a_step_reads_no_shard_that_its_windows_do_not_name(config, shard_rows, step):
    logical_rank = LogicalRankOrder(
        config, logical_rank=config.logical_ranks - 1, shard_rows=shard_rows
    )
    rows = logical_rank.rows(step)
    assert len(rows) == config.microbatch_size
    assert {shard for shard, _ in rows} <= logical_rank.shards(step)


def test_a_window_holds_no_more_shards_than_asked_for():
    logical_rank = LogicalRankOrder(
        replace(CONFIG, logical_ranks=1, batch_size=4), logical_rank=0, shard_rows=[4] * 64
    )
    in_one_window = [len(logical_rank.shards(step)) for step in range(64) if step % 2 == 0]
    assert set(in_one_window) == {2}


def test_rows_and_shards_are_shuffled_anew_each_epoch():
    logical_rank = LogicalRankOrder(CONFIG, logical_rank=0, shard_rows=[20] * 8)
    first, second = epoch(logical_rank, 0), epoch(logical_rank, 1)
    assert first != second
    assert first != sorted(first)
    assert {shard for shard, _ in first} != {shard for shard, _ in second}


def test_the_order_follows_from_the_seed_alone():
    def rows(seed: int) -> list[Row]:
        config = replace(CONFIG, seed=seed)
        return stream(LogicalRankOrder(config, logical_rank=1, shard_rows=[20] * 8), 50)

    assert rows(1) == rows(1) != rows(2)


def test_permutations_stay_what_they_were():
    # A checkpoint's position means nothing if a library's update changes the order.
    assert permutation(8, (0, 7, 0, 0, 0)).tolist() == [1, 3, 7, 5, 4, 0, 2, 6]


def test_a_far_step_of_a_large_data_set_is_found_at_once():
    config = OrderConfig(seed=0, logical_ranks=64, batch_size=2048, shuffle_shards=8)
    logical_rank = LogicalRankOrder(config, logical_rank=63, shard_rows=[10_000] * 25_000)
    assert len(logical_rank.rows(800_000)) == 32


def test_impossible_orders_are_refused_with_a_fix():
    with pytest.raises(ConfigError, match=r"batch_size=9 .* try 10"):
        replace(CONFIG, batch_size=9)
    with pytest.raises(ConfigError, match="shuffle_shards=0"):
        replace(CONFIG, shuffle_shards=0)
    with pytest.raises(ConfigError, match=r"1 rows .* fewer logical ranks"):
        LogicalRankOrder(CONFIG, logical_rank=0, shard_rows=[1, 0])
    with pytest.raises(ConfigError, match="logical_rank=2"):
        LogicalRankOrder(CONFIG, logical_rank=2, shard_rows=[9])
