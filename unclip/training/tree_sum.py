"""Sums whose bits depend on the order and the number of the terms, and on nothing else."""

from torch import Tensor


class TreeSum:
    """Adds tensors of one shape in a binary tree over the order in which they arrive.

    Terms 0 and 1 are added, 2 and 3, then the two sums, and so on. A worker that receives the terms
    of all logical ranks in order gets the same bits, whichever worker computed each of them. Holds
    log2(n) partial sums for n terms.
    """

    def __init__(self) -> None:
        self._levels: list[Tensor | None] = []  # [i]: the sum of 2^i terms, or None

    def add(self, term: Tensor) -> None:
        """Add the next term; the tensor is kept and may be changed."""
        for level, earlier in enumerate(self._levels):
            if earlier is None:
                self._levels[level] = term
                return
            term = earlier.add_(term)
            self._levels[level] = None
        self._levels.append(term)

    def take(self) -> Tensor:
        """The sum of at least one term; the next call of `add` starts a new sum."""
        partial = [term for term in self._levels if term is not None]
        self._levels.clear()
        total = partial[0]
        for larger in partial[1:]:
            total = larger.add_(total)
        return total.add_(0.0)  # -0 becomes 0, as it does when other workers add zeros to it
