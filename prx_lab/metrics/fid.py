"""Frechet distance between Gaussians fitted to two feature sets, Heusel et al. 2017 (arXiv 1706.08500)."""

import numpy as np

from prx_lab.errors import LabError
from prx_lab.metrics.stats import Score, influence_interval, matrix


def frechet(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
    """|mu1-mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2), for means (E,) and covariances (E, E); float64, never below 0.

    The trace is taken from sqrt(S1) S2 sqrt(S1), which is symmetric: real eigenvalues, no imaginary part to drop, and
    a singular covariance needs no added diagonal. Squared units of the features. LabError for shapes that disagree.
    """
    mu1, s1, mu2, s2 = (np.asarray(a, dtype=np.float64) for a in (mu1, s1, mu2, s2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape or s1.shape != s2.shape or s1.shape != mu1.shape * 2:
        given = f"means {mu1.shape}, {mu2.shape} and covariances {s1.shape}, {s2.shape}"
        raise LabError(f"A Frechet distance needs (E,) and (E, E) on both sides, not {given}.")
    root, _ = _roots(s1)
    inner = root @ s2 @ root
    trace = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)).sum()
    gap = mu1 - mu2
    return max(0.0, float(gap @ gap + np.trace(s1) + np.trace(s2) - 2 * trace))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (E,) and unbiased covariance (E, E) of features (n, E), in float64; LabError when n < 2 or not finite."""
    a = matrix(features, "FID")
    mu = a.mean(axis=0)
    centred = a - mu
    return mu, centred.T @ centred / (len(a) - 1)


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """FID of features a (n, E) and b (m, E), in squared feature units.

    Biased upwards by about (2E + E(E+1)/2)/n for white features and two sets of n, so compare only values with the same n and network.
    LabError when a set has fewer than 2 rows, is not finite, or the widths differ.
    """
    check(a, b)
    return frechet(*moments(a), *moments(b))


def fid_influences(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """FID of a (n, E) and b (m, E), and what each row of a (n,) and of b (m,) moves it by, in the limit of small weights.

    With T the linear map that carries N(mu1, S1) to N(mu2, S2), row x of a moves the FID by
    2 (mu1-mu2).(x-mu1) + (x-mu1)'(I-T)(x-mu1), up to a constant, and likewise for b with the inverse map.
    It costs one more decomposition, against hundreds for a bootstrap.
    """
    check(a, b)
    (mu1, s1), (mu2, s2) = moments(a), moments(b)
    root, inverse = _roots(s1)
    middle, middle_inverse = _roots(root @ s2 @ root)
    on_a = _influence(np.asarray(a, np.float64) - mu1, mu1 - mu2, inverse @ middle @ inverse)
    on_b = _influence(np.asarray(b, np.float64) - mu2, mu2 - mu1, root @ middle_inverse @ root)
    return frechet(mu1, s1, mu2, s2), on_a, on_b


def fid_score(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Score:
    """FID of a (n, E) and b (m, E) with an interval for its mean at this n, and a note when a covariance is singular (n <= E)."""
    value, on_a, on_b = fid_influences(a, b)
    lo, hi = influence_interval(value, on_a, on_b, level=level)
    return Score(value, lo, hi, min(len(a), len(b)), _note(a, b))


def _influence(centred: np.ndarray, gap: np.ndarray, transport: np.ndarray) -> np.ndarray:
    return 2 * centred @ gap + ((centred - centred @ transport) * centred).sum(axis=1)


def _roots(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root of a symmetric positive semidefinite matrix and the inverse of that root on its range."""
    values, vectors = np.linalg.eigh((s + s.T) / 2)
    root = np.sqrt(values.clip(min=0))
    kept = root > 1e-7 * root.max(initial=0.0)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=kept)
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T


def check(a: np.ndarray, b: np.ndarray) -> None:
    """LabError unless both are finite feature matrices of one width with at least two rows."""
    a, b = matrix(a, "the first set"), matrix(b, "the second set")
    if a.shape[1] != b.shape[1]:
        raise LabError(f"The feature widths differ, {a.shape[1]} and {b.shape[1]}: both sets must come from one network.")


def _note(a: np.ndarray, b: np.ndarray) -> str:
    n, width = min(len(a), len(b)), a.shape[1]
    if n > width:
        return ""
    return f"{n} images for {width} features: the covariance is singular and this FID mostly sampling bias; use more images."
