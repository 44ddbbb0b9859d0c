import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unclip.embeddings.pca import Moments, fit


def vectors(count: int = 200, width: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + 3.0


def test_basis_is_that_of_a_singular_value_decomposition() -> None:
    x = vectors()
    basis = fit(Moments.of(x))
    centred = x.double().numpy() - x.double().numpy().mean(0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(basis.mean, x.double().numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(basis.eigenvalues, singular**2 / (len(x) - 1), rtol=1e-4)
    alignment = np.abs((basis.components.double().numpy() * right).sum(1))  # signs are free there
    np.testing.assert_allclose(alignment, np.ones(8), atol=1e-5)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=5), seed=st.integers(0, 9))
def test_moments_do_not_depend_on_how_the_vectors_were_cut_and_merged(
    cuts: list[int], seed: int
) -> None:
    x = vectors(seed=seed)
    parts = [Moments.of(part) for part in torch.tensor_split(x, sorted(cuts))]
    merged = Moments.empty(8)
    for part in reversed(parts):
        merged = merged.merge(part)
    assert merged.count == len(x)
    torch.testing.assert_close(merged.total, Moments.of(x).total)
    torch.testing.assert_close(merged.outer, Moments.empty(8).add(x).outer)


def test_components_are_orthonormal_and_eigenvalues_fall() -> None:
    basis = fit(Moments.of(vectors()))
    torch.testing.assert_close(basis.components @ basis.components.T, torch.eye(8))
    assert (basis.eigenvalues.diff() <= 0).all()


def test_all_components_reconstruct_exactly_and_fewer_leave_the_variance_that_they_miss() -> None:
    x = vectors(count=500)
    basis = fit(Moments.of(x))
    torch.testing.assert_close(basis.reconstruct(basis.project(x)), x, atol=1e-4, rtol=1e-4)
    explained = basis.explained_variance()
    assert explained[-1].item() == pytest.approx(1.0)
    for kept in (1, 3, 6):
        error = (basis.truncate(x, components=kept) - x).square().sum()
        spread = (x - x.mean(0)).square().sum()
        assert (error / spread).item() == pytest.approx(1 - explained[kept - 1].item(), abs=1e-4)


def test_sign_does_not_depend_on_the_order_of_the_vectors() -> None:
    x = vectors()
    there, back = fit(Moments.of(x)), fit(Moments.of(x.flip(0)))
    torch.testing.assert_close(there.components, back.components)
    largest = there.components.gather(1, there.components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_vectors_in_a_plane_have_two_eigenvalues_and_no_negative_one() -> None:
    x = vectors(width=2) @ torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    eigenvalues = fit(Moments.of(x)).eigenvalues
    assert (eigenvalues >= 0).all()
    assert (eigenvalues[2:] < 1e-9 * eigenvalues[0]).all()


def test_too_few_vectors_other_widths_and_too_many_components_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors, not 1"):
        fit(Moments.of(vectors(count=1)))
    with pytest.raises(ValueError, match="width 8 cannot be merged with those of width 4"):
        Moments.empty(8).merge(Moments.empty(4))
    with pytest.raises(ValueError, match=r"components=9 must be in \[1, 8\]"):
        fit(Moments.of(vectors())).truncate(vectors(), components=9)
