"""K-means of a few thousand vectors on the host, the same for the same random numbers."""

from __future__ import annotations

import numpy as np


def plus_plus(x_nd: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k rows to start from: each next one drawn by its squared distance from those drawn before.

    Arthur and Vassilvitskii, "k-means++" (2007). Rows that are all alike are drawn evenly.
    """
    chosen = [int(rng.integers(len(x_nd)))]
    nearest_n = np.full(len(x_nd), np.inf)
    for _ in range(1, k):
        nearest_n = np.minimum(nearest_n, _squares(x_nd - x_nd[chosen[-1]]))
        below_n = np.cumsum(nearest_n)
        if below_n[-1] > 0:
            place = np.searchsorted(below_n, rng.random() * below_n[-1], side="right")
            chosen.append(min(int(place), len(x_nd) - 1))
        else:
            chosen.append(int(rng.integers(len(x_nd))))
    return x_nd[chosen]


def distinct(x_nd: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k different rows, all equally likely."""
    return x_nd[rng.choice(len(x_nd), k, replace=False)]


INITS = {"k-means++": plus_plus, "random": distinct}


def lloyd(x_nd: np.ndarray, first_kd: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """(centroids [k,d] after the last update, the assignment int [n] that it was made from).

    A row goes to the nearest centroid, the first of several. A centroid that nothing is nearest to
    stays where it is.
    """
    centroids_kd, before_n = first_kd.copy(), None
    for _ in range(iterations):
        label_n = _nearness(x_nd, centroids_kd).argmin(1)
        if before_n is not None and np.array_equal(label_n, before_n):
            break  # nothing would move any more
        before_n, member_kn = label_n, label_n[None] == np.arange(len(first_kd))[:, None]
        count_k = member_kn.sum(1)
        sums_kd = member_kn.astype(x_nd.dtype) @ x_nd
        filled_k = count_k > 0
        centroids_kd[filled_k] = (sums_kd[filled_k] / count_k[filled_k, None]).astype(x_nd.dtype)
    return centroids_kd, label_n


def kmeans(x_nd: np.ndarray, k: int, rng: np.random.Generator, *, init: str = "k-means++",
           restarts: int = 4, iterations: int = 20) -> np.ndarray:
    """Centroids [k,d] of the best of some runs, in the dtype of x.

    x_nd: float, n >= k.  init: of INITS.  Best is the smallest sum of squared distances; the first
    of equally good runs is taken.
    """
    best_kd, least = None, np.inf
    for _ in range(restarts):
        centroids_kd, _ = lloyd(x_nd, INITS[init](x_nd, k, rng), iterations)
        total = _nearness(x_nd, centroids_kd).min(1).sum(dtype=np.float64)
        if total < least:
            best_kd, least = centroids_kd, total
    return best_kd


def _squares(x_nd):
    return np.square(x_nd, dtype=np.float64).sum(1)


def _nearness(x_nd, centroids_kd):
    """Squared distances [n,k] without each row's own square, which is the same for all k."""
    return _squares(centroids_kd)[None] - 2.0 * (x_nd @ centroids_kd.T)
