from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.order import LaneOrder, OrderConfig, permutation
from unclip.config import ConfigError

Row = tuple[int, int]

CONFIG = OrderConfig(seed=7, lanes=2, batch_size=8, shuffle_shards=2)

sizes = st.lists(st.integers(0, 9), min_size=1, max_size=10).filter(lambda rows: sum(rows) >= 4)
configs = st.builds(
    lambda seed, lanes, microbatch, window: OrderConfig(
        seed=seed, lanes=lanes, batch_size=lanes * microbatch, shuffle_shards=window
    ),
    seed=st.integers(0, 5),
    lanes=st.integers(1, 4),
    microbatch=st.integers(1, 5),
    window=st.integers(1, 4),
)


def lanes_of(config: OrderConfig, shard_rows: list[int]) -> list[LaneOrder]:
    return [LaneOrder(config, lane=i, shard_rows=shard_rows) for i in range(config.lanes)]


def stream(lane: LaneOrder, count: int) -> list[Row]:
    """The first `count` rows of a lane."""
    steps = -(-count // lane.config.microbatch_size)
    return [row for step in range(steps) for row in lane.rows(step)][:count]


def epoch(lane: LaneOrder, index: int) -> list[Row]:
    begin = index * lane.epoch_rows
    return stream(lane, begin + lane.epoch_rows)[begin:]


@given(configs, sizes, st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_all_lanes_together_see_every_row_once_an_epoch(config, shard_rows, index):
    seen = Counter(row for lane in lanes_of(config, shard_rows) for row in epoch(lane, index))
    assert seen == Counter((s, r) for s, rows in enumerate(shard_rows) for r in range(rows))


@given(configs, sizes)
@settings(max_examples=50, deadline=None)
def test_the_epochs_of_all_lanes_are_as_long_as_each_other_within_one_row(config, shard_rows):
    lengths = {lane.epoch_rows for lane in lanes_of(config, shard_rows)}
    assert max(lengths) - min(lengths) <= 1


@given(configs, sizes, st.permutations(range(12)))
@settings(max_examples=100, deadline=None)
def test_random_access_equals_going_through_the_steps(config, shard_rows, steps):
    lane, fresh = (LaneOrder(config, lane=0, shard_rows=shard_rows) for _ in range(2))
    in_turn = [lane.rows(step) for step in range(12)]
    assert [fresh.rows(step) for step in steps] == [in_turn[step] for step in steps]


@given(configs, sizes, st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_a_step_reads_no_shard_that_its_windows_do_not_name(config, shard_rows, step):
    lane = LaneOrder(config, lane=config.lanes - 1, shard_rows=shard_rows)
    rows = lane.rows(step)
    assert len(rows) == config.microbatch_size
    assert {shard for shard, _ in rows} <= lane.shards(step)


def test_a_window_holds_no_more_shards_than_asked_for():
    lane = LaneOrder(replace(CONFIG, lanes=1, batch_size=4), lane=0, shard_rows=[4] * 64)
    in_one_window = [len(lane.shards(step)) for step in range(64) if step % 2 == 0]
    assert set(in_one_window) == {2}


def test_rows_and_shards_are_shuffled_anew_each_epoch():
    lane = LaneOrder(CONFIG, lane=0, shard_rows=[20] * 8)
    first, second = epoch(lane, 0), epoch(lane, 1)
    assert first != second
    assert first != sorted(first)
    assert {shard for shard, _ in first} != {shard for shard, _ in second}


def test_the_order_follows_from_the_seed_alone():
    def rows(seed: int) -> list[Row]:
        config = replace(CONFIG, seed=seed)
        return stream(LaneOrder(config, lane=1, shard_rows=[20] * 8), 50)

    assert rows(1) == rows(1) != rows(2)


def test_permutations_stay_what_they_were():
    # A checkpoint's position means nothing if a library's update changes the order.
    assert permutation(8, (0, 7, 0, 0, 0)).tolist() == [1, 3, 7, 5, 4, 0, 2, 6]


def test_a_far_step_of_a_large_data_set_is_found_at_once():
    config = OrderConfig(seed=0, lanes=64, batch_size=2048, shuffle_shards=8)
    lane = LaneOrder(config, lane=63, shard_rows=[10_000] * 25_000)
    assert len(lane.rows(800_000)) == 32


def test_orders_that_cannot_be_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"batch_size=9 .* try 10"):
        replace(CONFIG, batch_size=9)
    with pytest.raises(ConfigError, match="shuffle_shards=0"):
        replace(CONFIG, shuffle_shards=0)
    with pytest.raises(ConfigError, match=r"1 rows .* fewer lanes"):
        LaneOrder(CONFIG, lane=0, shard_rows=[1, 0])
    with pytest.raises(ConfigError, match="lane=2"):
        LaneOrder(CONFIG, lane=2, shard_rows=[9])
