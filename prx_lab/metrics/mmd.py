"""Kernel distances between feature sets: Gaussian MMD as in CMMD (arXiv 2401.09603), and KID (arXiv 1801.01401)."""

from collections.abc import Callable

import numpy as np

from prx_lab.errors import LabError
from prx_lab.metrics.stats import Score, influence_interval, matrix

CHUNK = 1024  # rows of a kernel matrix held at a time
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows (n, E) divided by their L2 norm, float64; LabError for a zero row, which has no direction."""
    x = matrix(x, "the set to normalise", rows=1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    if not norm.all():
        raise LabError(f"{int((norm == 0).sum())} feature rows are all zero and cannot be normalised: look at those images.")
    return x / norm


def mmd(x: np.ndarray, y: np.ndarray, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """scale * (mean k(X,X) + mean k(Y,Y) - 2 mean k(X,Y)), k = exp(-|a-b|^2 / 2 sigma^2), for features (n, E) and (m, E).

    The biased V-statistic of the published CMMD, diagonals included: two samples of one distribution give about
    scale*(1 - mean k)(1/n + 1/m), not 0. The rows are taken as they are: CMMD and DINO-MMD want `unit` rows, and then
    sigma = 10 makes it nearly 10*|mean x - mean y|^2, a test of the means. Range [0, 2*scale].
    LabError for no rows, values that are not finite or widths that differ.
    """
    x, y = _pair(x, y, rows=1)
    kernel = _gaussian(sigma)
    return scale * max(0.0, _mean(x, x, kernel) + _mean(y, y, kernel) - 2 * _mean(x, y, kernel))


def mmd_influences(x: np.ndarray, y: np.ndarray, sigma: float = 10.0, scale: float = 1000.0) -> tuple[float, np.ndarray, np.ndarray]:
    """`mmd`, and what each row of x (n,) and of y (m,) moves it by, up to a constant: 2 (mean k(row, own) - mean k(row, other))."""
    x, y = _pair(x, y, rows=2)
    kernel = _gaussian(sigma)
    on_x = 2 * scale * (_means(x, x, kernel) - _means(x, y, kernel))
    on_y = 2 * scale * (_means(y, y, kernel) - _means(y, x, kernel))
    return mmd(x, y, sigma, scale), on_x, on_y


def mmd_score(x: np.ndarray, y: np.ndarray, sigma: float = 10.0, scale: float = 1000.0, level: float = 0.95) -> Score:
    """`mmd` with an interval for its mean at this n, from the influence of each row."""
    value, on_x, on_y = mmd_influences(x, y, sigma, scale)
    lo, hi = influence_interval(value, on_x, on_y, level=level)
    return Score(value, lo, hi, min(len(x), len(y)))


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 with the cubic kernel (a.b/E + 1)^3 over all rows of (n, E) and (m, E); not scaled, may be negative.

    The published KID averages this over random subsets of 1000 rows, which has the same expectation and more noise.
    """
    x, y = _pair(x, y, rows=2)
    width = x.shape[1]

    def cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / width + 1) ** 3

    return _off_diagonal(x, cubic) + _off_diagonal(y, cubic) - 2 * _mean(x, y, cubic)


def _pair(x: np.ndarray, y: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = matrix(x, "the first set", rows), matrix(y, "the second set", rows)
    if x.shape[1] != y.shape[1]:
        raise LabError(f"The feature widths differ, {x.shape[1]} and {y.shape[1]}: both sets must come from one network.")
    return x, y


def _gaussian(sigma: float) -> Kernel:
    """The Gaussian kernel minus 1: the ones cancel in an MMD, and without them no digits are lost where k is nearly 1."""
    if not sigma > 0:
        raise LabError(f"The kernel width sigma must be positive, not {sigma}; CMMD uses 10.")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
        return np.expm1(-squared.clip(min=0) / (2 * sigma**2))

    return kernel


def _means(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Mean of k(row, b) for every row of a: (n,)."""
    return np.concatenate([kernel(a[i : i + CHUNK], b).mean(axis=1) for i in range(0, len(a), CHUNK)])


def _mean(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    """Mean of k over all pairs."""
    return float(_means(a, b, kernel).mean())


def _off_diagonal(a: np.ndarray, kernel: Kernel) -> float:
    n = len(a)
    diagonal = sum(float(kernel(row[None], row[None])[0, 0]) for row in a)
    return (_mean(a, a, kernel) * n * n - diagonal) / (n * (n - 1))
