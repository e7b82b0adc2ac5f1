"""How alike two networks see the same images: linear CKA (arXiv 1905.00414), debiased (arXiv 2010.15327)."""

import math

import numpy as np

from prx_lab.errors import LabError


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of features (n, E) and (n, F) of the same images, in [0, 1]: 1 for equal up to rotation and scale.

    Debiased, since with fewer images than features the plain one is near 1 for noise; it may be slightly negative.
    LabError for different numbers of images or fewer than four.
    """
    a, b = (np.asarray(v, np.float64) for v in (a, b))
    if len(a) != len(b) or len(a) < 4:
        raise LabError(f"CKA compares features of the same images, at least 4; got {len(a)} and {len(b)} rows.")
    return float(_hsic(a, b) / math.sqrt(_hsic(a, a) * _hsic(b, b)))


def _hsic(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimator of Song et al. 2012, linear kernels, times n (n - 3)."""
    n = len(a)
    k, m = (v @ v.T for v in (a - a.mean(0), b - b.mean(0)))
    np.fill_diagonal(k, 0), np.fill_diagonal(m, 0)
    return float((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ m.sum(0) / (n - 2))
