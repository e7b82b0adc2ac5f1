"""CMMD's kernel distance and KID: known answers, an independent loop, invariances, the bias law, and the linear regime."""

import math

import numpy as np
import pytest
from scipy.stats import ortho_group

from prx_lab.errors import LabError
from prx_lab.metrics.mmd import kid, mmd, mmd_score, unit

E = np.eye(4)


def normal(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def loop(x, y, sigma=10.0, scale=1000.0) -> float:
    def mean(a, b):
        return math.fsum(math.exp(-(math.dist(p, q) ** 2) / (2 * sigma**2)) for p in a for q in b) / (len(a) * len(b))

    return scale * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def kid_loop(x, y) -> float:
    def k(p, q):
        return (float(p @ q) / len(p) + 1) ** 3

    def inside(a):
        return sum(k(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j) / (len(a) * (len(a) - 1))

    return inside(x) + inside(y) - 2 * sum(k(p, q) for p in x for q in y) / (len(x) * len(y))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (E[:1], E[1:2], 19.9003325),
        (E[:1], -E[:1], 39.6026534),
        (E[:2], E[2:], 9.9501663),
        (np.array([[0.0, 0], [1, 0]]), np.array([[0.0, 1], [1, 1]]), 9.9501663),
    ],
)
def test_known_answers(x, y, expected):
    assert mmd(x, y) == pytest.approx(expected, abs=5e-8)


def test_a_set_against_itself_is_exactly_zero():
    x = unit(normal(50, 16, 0))
    assert mmd(x, x) == 0 and mmd(x, x.copy()) == 0


@pytest.mark.parametrize(("sigma", "scale"), [(10.0, 1000.0), (1.0, 1.0), (0.3, 5.0)])
def test_against_a_loop(sigma, scale):
    x, y = normal(23, 5, 0), normal(17, 5, 1) + 0.4
    assert mmd(x, y, sigma, scale) == pytest.approx(loop(x, y, sigma, scale), rel=1e-9)


def test_chunks_do_not_change_the_value(monkeypatch):
    x, y = normal(45, 6, 0), normal(37, 6, 1)
    whole, cubic, score = mmd(x, y), kid(x, y), mmd_score(x, y)
    monkeypatch.setattr("prx_lab.metrics.mmd.CHUNK", 7)
    assert mmd(x, y) == pytest.approx(whole, rel=1e-10) and kid(x, y) == pytest.approx(cubic, rel=1e-10)
    assert mmd_score(x, y).hi == pytest.approx(score.hi, rel=1e-10)


def test_symmetry_rotation_permutation_duplication():
    x, y = unit(normal(40, 8, 0)), unit(normal(30, 8, 1) + 0.3)
    q, value = ortho_group.rvs(8, random_state=0), mmd(x, y)
    for again in (mmd(y, x), mmd(x @ q, y @ q), mmd(x[::-1], y), mmd(np.repeat(x, 3, axis=0), y), mmd(x + 2, y + 2)):
        assert again == pytest.approx(value, rel=1e-9)


def test_sigma_10_on_unit_rows_is_a_test_of_means():
    rng = np.random.default_rng(0)
    x, y = (unit(rng.standard_normal((300, 64)) + shift) for shift in (0.0, 0.2))
    first = 10 * ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert mmd(x, y) == pytest.approx(first, rel=0.015) and mmd(x, y) < first
    mirrored = unit(np.concatenate([normal(200, 16, 3), -normal(200, 16, 3)]))
    poles = np.concatenate([E[:1], -E[:1]] * 50)
    assert mmd(np.pad(mirrored, ((0, 0), (0, 4)))[:, :16], np.pad(poles, ((0, 0), (0, 12)))) < 0.1  # blind to lost diversity


@pytest.mark.parametrize("n", [100, 512])
def test_bias_law_and_the_floor_of_random_unit_rows(n):
    values = [mmd(unit(normal(n, 1024, 2 * i)), unit(normal(n, 1024, 2 * i + 1))) for i in range(8)]
    floor = 1000 * (1 - math.exp(-2 / 200)) * 2 / n  # orthogonal rows: |a-b|^2 = 2
    assert np.mean(values) == pytest.approx(floor, rel=0.04)
    if n == 512:
        assert np.mean(values) == pytest.approx(0.04, abs=0.003)


def test_bias_for_features_as_close_as_clips():
    """Mean squared distance 1.17 between rows, as CLIP embeddings have: 0.117 at n = 100."""
    base = np.zeros(256)
    base[0] = np.sqrt(256 * (1 - 0.585) / 0.585)
    values = [mmd(unit(normal(100, 256, i) + base), unit(normal(100, 256, i + 50) + base)) for i in range(8)]
    assert np.mean(values) == pytest.approx(0.117, rel=0.05)


def test_no_digits_are_lost_where_the_kernel_is_nearly_one():
    x, y = np.zeros((1, 3)), np.full((1, 3), 1e-6)
    assert mmd(x, y) == pytest.approx(2000 * 3e-12 / 200, rel=1e-6)


def test_kid_known_answer_and_loop():
    assert kid(np.eye(2), np.array([[1.0, 1], [0, 0]])) == pytest.approx(-2.375, abs=1e-12)
    x, y = normal(21, 5, 0), normal(16, 5, 1) + 0.5
    assert kid(x, y) == pytest.approx(kid_loop(x, y), rel=1e-10)
    q = ortho_group.rvs(5, random_state=1)
    for again in (kid(y, x), kid(x @ q, y @ q), kid(x[::-1], y)):
        assert again == pytest.approx(kid(x, y), rel=1e-9)


def test_kid_is_unbiased():
    values = [kid(normal(40, 8, 2 * i), normal(40, 8, 2 * i + 1)) for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_unit():
    x = unit(normal(10, 4, 0) * 1e5)
    assert np.allclose(np.linalg.norm(x, axis=1), 1) and x.dtype == np.float64
    assert np.allclose(unit(7 * x), x)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.4])
def test_interval_covers_the_mean_of_mmd_at_this_n(shift):
    rng = np.random.default_rng(1)
    scores = [mmd_score(unit(rng.standard_normal((80, 16)) + 0.8), unit(rng.standard_normal((80, 16)) + 0.8 + shift)) for _ in range(200)]
    mean = np.mean([s.value for s in scores])
    assert np.mean([s.lo <= mean <= s.hi for s in scores]) >= 0.91
    assert all(s.lo <= s.value <= s.hi and s.n == 80 for s in scores)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: mmd(np.zeros((0, 3)), np.zeros((2, 3))), "0 rows"),
        (lambda: mmd(np.full((2, 3), np.nan), np.zeros((2, 3))), "not finite"),
        (lambda: mmd(np.zeros((2, 3)), np.zeros((2, 4))), "widths differ"),
        (lambda: mmd(np.zeros((2, 3)), np.zeros((2, 3)), sigma=0.0), "positive"),
        (lambda: kid(np.zeros((1, 3)), np.zeros((2, 3))), "at least 2"),
        (lambda: mmd_score(np.zeros((1, 3)), np.zeros((2, 3))), "at least 2"),
        (lambda: unit(np.zeros((2, 3))), "all zero"),
    ],
)
def test_bad_features_are_refused_with_a_sentence(call, word):
    with pytest.raises(LabError, match=word):
        call()
