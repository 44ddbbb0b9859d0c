import pytest
import torch
from torch import Tensor

from unclip.embeddings.pca import Moments, fit
from unclip.embeddings.quantise import dequantise, quantile_edges, quantise, uniform_edges


def correlated(count: int, width: int) -> Tensor:
    """Unit-norm vectors whose variance falls off as that of CLIP embeddings does."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.exp(-torch.arange(width) / 120)
    mixing = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    x = (torch.randn(count, width, generator=generator) * scales + 0.3) @ mixing
    return x / x.norm(dim=-1, keepdim=True)


def test_319_of_1024_components_in_1024_buckets_lose_less_than_a_hundredth() -> None:
    x = correlated(3000, 1024)
    basis = fit(Moments.of(x))
    edges = uniform_edges(basis.eigenvalues[:319].sqrt(), buckets=1024, reach=4.0)
    coordinates = basis.project(x, components=319)
    restored = basis.reconstruct(dequantise(quantise(coordinates, edges), edges))
    spread = (x - basis.mean).square().mean()
    truncated = (basis.truncate(x, components=319) - x).square().mean() / spread
    lost = (restored - x).square().mean() / spread
    print(f"319 of 1,024 components in 1,024 buckets: {lost:.2%} lost, {truncated:.2%} unquantised")
    assert lost < 0.01
    assert lost - truncated < 1e-4  # quantising adds next to nothing to what is cut off


def test_an_error_of_a_value_within_reach_is_half_a_bucket_at_most() -> None:
    scales = torch.tensor([0.5, 2.0, 0.01])
    edges = uniform_edges(scales, buckets=64, reach=3.0)
    values = (torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 6 - 3) * scales
    error = (dequantise(quantise(values, edges), edges) - values).abs()
    assert (error <= scales * 3.0 / 64 * 1.001).all()


def test_values_beyond_reach_fall_into_the_outermost_buckets() -> None:
    edges = uniform_edges(torch.ones(2), buckets=8, reach=2.0)
    assert quantise(torch.tensor([[-9.0, 9.0]]), edges).tolist() == [[0, 7]]


def test_codes_rise_with_values_and_middles_come_back_as_they_were() -> None:
    edges = uniform_edges(torch.tensor([1.0, 3.0]), buckets=32, reach=4.0)
    codes = torch.arange(32)[:, None].expand(-1, 2)
    middles = dequantise(codes, edges)
    assert (middles.diff(dim=0) > 0).all()
    assert torch.equal(quantise(middles, edges), codes)


def test_a_dimension_without_variance_is_restored_exactly() -> None:
    edges = uniform_edges(torch.zeros(1), buckets=8, reach=4.0)
    assert dequantise(quantise(torch.zeros(3, 1), edges), edges).tolist() == [[0.0]] * 3


@pytest.mark.parametrize("count", [64, 1000])
def test_quantile_edges_cut_samples_into_equal_shares(count: int) -> None:
    samples = torch.randn(count, generator=torch.Generator().manual_seed(2)) ** 3
    edges = quantile_edges(samples, buckets=8)
    shares = torch.bucketize(samples, edges).bincount(minlength=8) / count
    torch.testing.assert_close(shares, torch.full((8,), 1 / 8), atol=1 / count, rtol=0)
    assert (edges.diff() > 0).all()
    torch.testing.assert_close(quantile_edges(samples.flip(0), buckets=8), edges)


def test_fewer_samples_than_bins_still_give_rising_edges() -> None:
    edges = quantile_edges(torch.tensor([0.3, 0.1]), buckets=8)
    assert len(edges) == 7
    assert (edges.diff() > 0).all()
