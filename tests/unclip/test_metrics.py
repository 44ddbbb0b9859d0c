import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.embeddings.pca import Moments
from unclip.metrics import (
    bootstrap_weights,
    clip_score,
    cmmd,
    cosine_statistics,
    diversity,
    frechet_distance,
    frechet_from_moments,
    frechet_resampled,
    interval,
    kid,
    mean_of,
    precision_recall,
    retrieval_at_k,
)


def normal(count: int, width: int = 6, *, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def unit(count: int, width: int = 6, *, seed: int = 0, shift: float = 0.0) -> Tensor:
    return F.normalize(normal(count, width, seed=seed) + shift, dim=-1)


def test_frechet_distance_is_that_of_a_general_matrix_square_root() -> None:
    a = normal(300) @ normal(6, seed=1)
    b = normal(200, seed=2) @ normal(6, seed=3) + 0.5
    mean_a, mean_b = (x.double().numpy().mean(0) for x in (a, b))
    cov_a, cov_b = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_to_its_shift_the_square_of_it() -> None:
    a = normal(100)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2.0) == pytest.approx(6 * 4.0, rel=1e-5)


def test_frechet_distance_bears_fewer_samples_than_dimensions() -> None:
    value = frechet_distance(normal(4, 16), normal(5, 16, seed=1))
    assert math.isfinite(value)
    assert value > 0


def test_frechet_distance_from_streamed_moments_is_the_same() -> None:
    a, b = normal(100), normal(90, seed=1)
    streamed = Moments.of(a[:33]).add(a[33:])
    assert frechet_from_moments(streamed, Moments.of(b)) == pytest.approx(frechet_distance(a, b))


def test_cmmd_is_the_unbiased_estimate_of_a_double_loop() -> None:
    a, b = unit(7), unit(9, seed=1, shift=1.0)

    def kernel(x: Tensor, y: Tensor) -> float:
        return math.exp(-float((x.double() - y.double()).square().sum()) / 200)

    within_a = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / 42
    within_b = sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / 72
    between = sum(kernel(x, y) for x in a for y in b) / 63
    expected = 1000 * (within_a + within_b - 2 * between)
    assert cmmd(a, b) == pytest.approx(expected, rel=1e-6)


def test_cmmd_is_about_zero_within_a_distribution_and_grows_with_the_distance() -> None:
    values = [cmmd(unit(3000), unit(2500, seed=1, shift=shift)) for shift in (0.0, 0.3, 1.0)]
    assert abs(values[0]) < 0.05
    assert values[0] < values[1] < values[2]


def test_clip_score_is_the_weighted_cosine_and_never_negative() -> None:
    a = unit(5)
    assert clip_score(a, a) == pytest.approx(100, rel=1e-5)
    assert clip_score(a, 3 * a, weight=2.5) == pytest.approx(2.5, rel=1e-5)
    assert clip_score(a, -a) == 0


def test_cosine_statistics_describe_the_cosines_of_pairs() -> None:
    angles = torch.linspace(0, math.pi, 101)
    a = torch.stack([torch.ones(101), torch.zeros(101)], -1)
    b = torch.stack([angles.cos(), angles.sin()], -1)
    found = cosine_statistics(a, b)
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.median == pytest.approx(0, abs=1e-6)
    assert found.percentile_5 == pytest.approx(math.cos(0.95 * math.pi), abs=1e-5)
    assert found.percentile_95 == pytest.approx(math.cos(0.05 * math.pi), abs=1e-5)
    assert found.std == pytest.approx(b[:, 0].std(correction=0).item(), abs=1e-6)


def test_retrieval_finds_every_pair_of_equals_and_unrelated_ones_at_chance() -> None:
    a = unit(4000, 32)
    assert retrieval_at_k(a, a, k=1).recall == 1.0
    found = retrieval_at_k(a, unit(4000, 32, seed=1), k=400)
    assert found.chance == 0.1
    assert found.recall == pytest.approx(0.1, abs=0.02)


def test_retrieval_counts_the_rank_of_the_own_target() -> None:
    queries = torch.eye(4)
    targets = torch.eye(4)[[0, 1, 3, 2]]
    targets[2] += 0.5 * torch.eye(4)[2]  # third query: own target second, after the fourth's
    assert retrieval_at_k(queries, targets, k=1).recall == 0.5
    assert retrieval_at_k(queries, targets, k=2).recall == 0.75


def test_collapsed_embeddings_retrieve_nothing() -> None:
    point = unit(1).expand(50, -1)
    assert retrieval_at_k(point, point, k=10).recall == 0.0


def test_precision_and_recall_of_a_set_with_itself_are_one_and_with_a_far_one_zero() -> None:
    a = normal(200)
    same = precision_recall(a, a)
    assert (same.precision, same.recall) == (1.0, 1.0)
    far = precision_recall(a, a + 100)
    assert (far.precision, far.recall) == (0.0, 0.0)


def test_samples_of_one_mode_of_two_are_precise_and_cover_half() -> None:
    mode, other = normal(300), normal(300, seed=1) + 50
    found = precision_recall(torch.cat([mode, other]), normal(300, seed=2))
    assert found.precision > 0.6
    assert 0.3 < found.recall < 0.5


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    a = unit(6)
    pairs = [1 - float(a[i] @ a[j]) for i in range(6) for j in range(6) if i != j]
    assert diversity(a) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    assert diversity(a[:1].expand(4, -1)) == pytest.approx(0, abs=1e-6)


def test_inputs_without_a_meaning_are_refused_with_what_was_given() -> None:
    with pytest.raises(ValueError, match="not 1 and 5"):
        cmmd(unit(1), unit(5))
    with pytest.raises(ValueError, match=r"\(4, 6\) and \(5, 6\)"):
        clip_score(unit(4), unit(5))
    with pytest.raises(ValueError, match=r"k=9 must be in \[1, 5\]"):
        retrieval_at_k(unit(5), unit(5), k=9)
    with pytest.raises(ValueError, match=r"neighbours=3 must be in \[1, 2\]"):
        precision_recall(unit(3), unit(9))
    with pytest.raises(ValueError, match="at least 2 embeddings, not 1"):
        diversity(unit(1))


def test_kid_is_the_double_loop_over_the_cubic_kernel_in_both_forms() -> None:
    a, b = normal(7), normal(9, seed=1)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / 6 + 1) ** 3

    def mean(pairs: list[float]) -> float:
        return sum(pairs) / len(pairs)

    def within(rows: Tensor, *, own: bool) -> float:
        return mean(
            [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if own or i != j]
        )

    between = mean([kernel(x, y) for x in a for y in b])
    for unbiased in (True, False):
        expected = within(a, own=not unbiased) + within(b, own=not unbiased) - 2 * between
        assert float(kid(a, b, unbiased=unbiased)) == pytest.approx(expected, rel=1e-9)


def test_the_biased_distance_is_positive_and_shrinks_to_the_unbiased_one() -> None:
    for count in (20, 200, 2000):
        a, b = normal(count), normal(count, seed=1)
        assert 0 < float(kid(a, b, unbiased=False)) - float(kid(a, b)) < 60 / count


@pytest.mark.parametrize(
    "estimate",
    [
        lambda a, b, w: mean_of(a[:, 0])(w),
        lambda a, b, w: kid(a, b, weights=w),
        lambda a, b, w: kid(a, b, unbiased=False, weights=w),
        lambda a, b, w: cmmd(a, b, weights=w),
        lambda a, b, w: frechet_resampled(a, b, w),
    ],
)
def test_an_estimate_with_weights_is_that_of_the_repeated_rows(
    estimate: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    """Except that a row and its own copy are no pair for the unbiased forms."""
    a, b = normal(30), normal(30, seed=1) + 0.5
    weights = bootstrap_weights(30, generator=torch.Generator().manual_seed(0), resamples=2)
    plain, *_ = estimate(a, b, weights).tolist()
    (alone,) = estimate(a, b, torch.ones(1, 30, dtype=torch.float64)).tolist()
    assert plain == pytest.approx(alone, rel=1e-9)
    twice = torch.full((1, 30), 2.0, dtype=torch.float64)
    assert float(estimate(a, b, twice)[0]) == pytest.approx(alone, rel=0.05)


def test_the_mean_of_drawn_rows_is_that_of_the_rows_repeated() -> None:
    values = normal(50)[:, 0]
    weights = bootstrap_weights(50, generator=torch.Generator().manual_seed(0))
    assert weights.shape == (501, 50)
    assert weights.sum(-1).eq(50).all()
    repeated = [values.double().repeat_interleave(row.long()).mean() for row in weights[:20]]
    assert mean_of(values)(weights)[:20].tolist() == pytest.approx([float(v) for v in repeated])


def test_intervals_contain_the_truth_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for _ in range(200):
        values = torch.randn(80, generator=generator) + 1
        low, high = interval(mean_of(values)(bootstrap_weights(80, generator=generator)))
        hits += low <= 1 <= high
    assert 0.90 <= hits / 200 <= 0.985


def test_the_interval_of_a_biased_estimate_contains_its_value() -> None:
    weights = bootstrap_weights(60, generator=torch.Generator().manual_seed(0), resamples=100)
    distances = frechet_resampled(normal(60), normal(60, seed=1), weights)
    assert distances[1:].mean() > 1.3 * distances[0]  # the bias of resamples
    low, high = interval(distances)
    assert low < distances[0] < high
