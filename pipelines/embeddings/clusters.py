"""Find similar unit vectors within one large set: split it, then compare exactly, best row first.

M rows of a set, ordered from best to worst; W width, C clusters, B rows of a block.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import faiss
import numpy as np

LEAF_ROWS = 4096  # a set of at most so many rows is compared exactly
BLOCK_ROWS = 1024  # the best rows, which are compared with all others at a time
MAX_BLOCKS = 16  # of a set that cannot be split
READ_ROWS = 16_384  # vectors in memory while rows are assigned to clusters

MAX_CLUSTERS = 1024  # of one split
SAMPLE_PER_CLUSTER = 64  # rows that the clusters are trained on
ITERATIONS = 10
SEED = 0

PROBES = 3  # clusters that a row near their borders belongs to, at most
MARGIN = 0.08  # of the distance of two rows at the threshold; see `assign`

Read = Callable[[np.ndarray], np.ndarray]  # ranks (n,) int64 → unit vectors (n, W) float32
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # worse, better row (n,) int64; cosine (n,)


def train_centroids(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """Spherical k-means of unit vectors, the same for the same rows in the same order.

    (M, W) float32 → (C, W) float32, where C is `clusters` or, if that is less, M.
    """
    means = faiss.Kmeans(
        vectors.shape[1],
        min(clusters, len(vectors)),
        niter=ITERATIONS,
        spherical=True,
        seed=SEED,
        min_points_per_centroid=1,  # only silences a warning
        max_points_per_centroid=len(vectors),  # no second sampling
    )
    means.train(np.ascontiguousarray(vectors, np.float32))
    return np.asarray(means.centroids)


def assign(
    vectors: np.ndarray, centroids: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each row with its nearest cluster, and with further ones where it is near their border.

    Two rows with a cosine of at least `threshold` are at most d = sqrt(2 - 2 threshold) apart. If
    a border separates them, one of them is less than d / 2 times the distance of the centroids
    from it, and seldom more than a fraction of that, because few differences point straight at
    another centroid. A row joins the clusters whose cosine is within MARGIN * d of the best.

    (M, W), (C, W) → rows and clusters, (A,) int64 each, sorted by row; M <= A <= PROBES * M.
    """
    cosines, nearest = faiss.knn(
        vectors, centroids, min(PROBES, len(centroids)), metric=faiss.METRIC_INNER_PRODUCT
    )  # (M, P), the nearest first
    margin = MARGIN * np.sqrt(max(0.0, 2 - 2 * threshold))
    rows, columns = np.nonzero(cosines[:, :1] - cosines <= margin)
    return rows, nearest[rows, columns]


def find_similar(read: Read, ranks: np.ndarray, threshold: float) -> Iterator[Pairs]:
    """Rows with a better row that stays in their cluster and is similar to them.

    ranks: (M,) int64, ascending; a smaller rank is a better row, and `read` gives its vector.
    A row may occur several times, from different clusters.
    """
    pairs, rest = _compare_with_best(read, ranks, threshold)  # equal rows end here, however many
    yield pairs
    if len(rest) <= LEAF_ROWS:
        yield from _compare_all(read, rest, threshold)
        return
    for part in _split(read, rest, threshold):
        if len(part) <= len(rest) // 2:
            yield from find_similar(read, part, threshold)
        else:  # the clusters overlap too much to be of use
            yield from _compare_all(read, part, threshold)


def _split(read: Read, ranks: np.ndarray, threshold: float) -> list[np.ndarray]:
    """The ranks of each cluster, ascending."""
    clusters = min(MAX_CLUSTERS, -(-2 * PROBES * len(ranks) // LEAF_ROWS))  # with the copies
    step = max(1, len(ranks) // (clusters * SAMPLE_PER_CLUSTER))
    centroids = train_centroids(read(ranks[::step]), clusters)
    members: list[np.ndarray] = []
    homes: list[np.ndarray] = []
    for start in range(0, len(ranks), READ_ROWS):
        part = ranks[start : start + READ_ROWS]
        rows, nearest = assign(read(part), centroids, threshold)
        members.append(part[rows])
        homes.append(nearest)
    parts = group(np.concatenate(members), np.concatenate(homes), len(centroids))
    return [part for part in parts if len(part)]


def group(values: np.ndarray, groups: np.ndarray, count: int) -> list[np.ndarray]:
    """The values of groups 0 to count - 1, each in the order given. (A,), (A,) → count arrays."""
    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(count + 1))
    return [values[order[start:end]] for start, end in pairwise(ends)]


def _compare_all(read: Read, ranks: np.ndarray, threshold: float) -> Iterator[Pairs]:
    """All pairs if MAX_BLOCKS * BLOCK_ROWS rows stay or fewer; otherwise those with the best."""
    for _ in range(MAX_BLOCKS):
        if not len(ranks):
            return
        pairs, ranks = _compare_with_best(read, ranks, threshold)
        yield pairs


def _compare_with_best(read: Read, ranks: np.ndarray, threshold: float) -> tuple[Pairs, np.ndarray]:
    """Compare the best BLOCK_ROWS rows with all; return pairs, and the rows still to compare."""
    best, rest = ranks[:BLOCK_ROWS], ranks[BLOCK_ROWS:]
    vectors = read(best)
    worse, better, cosine = _similar_within(vectors, threshold)
    found = [(best[worse], best[better], cosine)]
    kept, vectors = np.delete(best, worse), np.delete(vectors, worse, axis=0)
    left = [rest[:0]]
    for start in range(0, len(rest), READ_ROWS):
        part = rest[start : start + READ_ROWS]
        worse, better, cosine = _similar_to(read(part), vectors, threshold)
        found.append((part[worse], kept[better], cosine))
        left.append(np.delete(part, worse))
    worse, better, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
    return (worse, better, cosine), np.concatenate(left)


def _similar_to(vectors: np.ndarray, kept: np.ndarray, threshold: float) -> Pairs:
    """For each similar row, the first of the kept ones. (B, W), (K, W) → (n,), (n,), (n,)."""
    cosines = vectors @ kept.T  # (B, K)
    is_similar = cosines >= threshold
    worse = np.flatnonzero(is_similar.any(axis=1))
    better = is_similar[worse].argmax(axis=1)
    return worse, better, cosines[worse, better]


def _similar_within(vectors: np.ndarray, threshold: float) -> Pairs:
    """For each row that goes, the first one before it that stays. (B, W) → (n,), (n,), (n,)."""
    cosines = vectors @ vectors.T  # (B, B)
    is_similar = np.tril(cosines >= threshold, k=-1)
    stays = np.ones(len(vectors), dtype=bool)
    better = np.zeros(len(vectors), dtype=np.int64)
    for row in np.flatnonzero(is_similar.any(axis=1)):
        candidates = is_similar[row] & stays
        if candidates.any():
            stays[row] = False
            better[row] = candidates.argmax()
    worse = np.flatnonzero(~stays)
    return worse, better[worse], cosines[worse, better[worse]]
