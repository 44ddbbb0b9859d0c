"""Principal components of embeddings, from moments that are computed in parts and merged.

Shape legend: B batch, D embedding width, K components kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, sum and summed outer products of vectors, in float64; immutable."""

    count: int
    total: Tensor  # (D,)
    outer: Tensor  # (D, D)

    @classmethod
    def empty(cls, width: int) -> "Moments":
        """The moments of an empty set of vectors of this width."""
        total = torch.zeros(width, dtype=torch.float64)
        return cls(count=0, total=total, outer=torch.zeros(width, width, dtype=torch.float64))

    @classmethod
    def of(cls, vectors: Tensor) -> "Moments":
        """The moments of `vectors` (B, D), on the CPU."""
        x = vectors.detach().cpu().double()  # (B, D)
        return cls(count=len(x), total=x.sum(0), outer=x.T @ x)

    def add(self, vectors: Tensor) -> "Moments":
        """These moments and those of `vectors` (B, D)."""
        return self.merge(Moments.of(vectors))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of vectors together."""
        if self.total.shape != other.total.shape:
            raise ValueError(
                f"moments of width {len(self.total)} cannot be merged with those of width "
                f"{len(other.total)}; were they made with different CLIP models?"
            )
        return Moments(
            count=self.count + other.count,
            total=self.total + other.total,
            outer=self.outer + other.outer,
        )

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D); raises ValueError for fewer than 2 vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 vectors, not {self.count}")
        mean = self.total / self.count
        scatter = self.outer - self.count * torch.outer(mean, mean)
        covariance = scatter / (self.count - 1)
        return mean, (covariance + covariance.T) / 2  # symmetric to the last bit, for eigh


@dataclass(frozen=True, kw_only=True)
class PcaBasis:
    """Mean and orthonormal components, sorted by falling eigenvalue; float32."""

    mean: Tensor  # (D,)
    components: Tensor  # (D, D), one per row
    eigenvalues: Tensor  # (D,), variances along the components

    def project(self, embeds: Tensor, *, components: int | None = None) -> Tensor:
        """Coordinates (..., K) of `embeds` (..., D) along the first K components; None: all D."""
        if embeds.shape[-1] != len(self.mean):
            raise ConfigError(
                f"embeddings of shape {tuple(embeds.shape)} do not fit a basis of width "
                f"{len(self.mean)}; take the basis of the same CLIP's embeddings"
            )
        return (embeds - self.mean) @ self._first(components).T

    def reconstruct(self, coordinates: Tensor) -> Tensor:
        """Vectors (..., D) from their first K coordinates (..., K); the others count as zero."""
        return self.mean + coordinates @ self._first(coordinates.shape[-1])

    def truncate(self, embeds: Tensor, *, components: int) -> Tensor:
        """`embeds` (..., D) projected onto their first components (unCLIP, figure 7)."""
        return self.reconstruct(self.project(embeds, components=components))

    def explained_variance(self) -> Tensor:
        """Cumulative fraction of the variance, in [0, 1], of the first 1 to D components; (D,)."""
        return self.eigenvalues.double().cumsum(0).div(self.eigenvalues.double().sum()).float()

    def to(self, device: torch.device) -> "PcaBasis":
        """The same basis on another device."""
        return PcaBasis(
            mean=self.mean.to(device),
            components=self.components.to(device),
            eigenvalues=self.eigenvalues.to(device),
        )

    def _first(self, components: int | None) -> Tensor:
        width = len(self.mean)
        if components is not None and not 1 <= components <= width:
            raise ValueError(
                f"components={components} must be in [1, {width}], the embeddings' width"
            )
        return self.components[:components]


def fit(moments: Moments) -> PcaBasis:
    """The principal components of the vectors in `moments`.

    The sign of a component is arbitrary. Its entry of largest magnitude is made positive, so that
    equal data give an equal basis.
    """
    mean, covariance = moments.mean_and_covariance()
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # ascending; vectors are columns
    components = vectors.T.flip(0)  # (D, D)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))  # (D, 1)
    return PcaBasis(
        mean=mean.float(),
        components=(components * largest.sign()).float(),
        eigenvalues=eigenvalues.flip(0).clamp(min=0).float(),  # rounding makes some zeros negative
    )
