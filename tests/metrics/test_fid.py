"""FID: closed forms, invariances, the bias law, and the published evaluation's colour error."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from prx_lab.errors import LabError
from prx_lab.metrics.fid import fid, fid_score, frechet, moments


def normal(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def spd(width: int, seed: int) -> np.ndarray:
    a = normal(width, width, seed)
    return a @ a.T / width + 0.1 * np.eye(width)


def test_known_2x2():
    s1, s2 = np.array([[2.0, 1.0], [1.0, 2.0]]), np.diag([1.0, 3.0])
    assert frechet(np.zeros(2), s1, np.zeros(2), s2) == pytest.approx(0.5166852264521, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_2x2_closed_form(seed):
    s1, s2 = spd(2, seed), spd(2, seed + 100)
    trace = np.sqrt(np.trace(s1 @ s2) + 2 * np.sqrt(np.linalg.det(s1 @ s2)))
    expected = np.trace(s1) + np.trace(s2) - 2 * trace
    assert frechet(np.zeros(2), s1, np.zeros(2), s2) == pytest.approx(expected, rel=1e-10)


def test_same_covariance_gives_the_squared_shift():
    s, shift = spd(6, 0), np.arange(6.0)
    assert frechet(np.ones(6), s, np.ones(6) + shift, s) == pytest.approx(shift @ shift, rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_isotropic(scale):
    width = 7
    value = frechet(np.zeros(width), np.eye(width), np.zeros(width), scale**2 * np.eye(width))
    assert value == pytest.approx(width * (1 - scale) ** 2, abs=1e-10)


def test_commuting_covariances():
    q = ortho_group.rvs(5, random_state=0)
    l1, l2 = np.arange(1.0, 6), np.array([4.0, 0, 9, 1, 2])
    value = frechet(np.zeros(5), (q * l1) @ q.T, np.zeros(5), (q * l2) @ q.T)
    assert value == pytest.approx(((np.sqrt(l1) - np.sqrt(l2)) ** 2).sum(), abs=1e-7)


@pytest.mark.parametrize("width", [3, 20, 64])
def test_against_scipy_sqrtm(width):
    a, b = normal(200, width, 1) @ spd(width, 2), normal(150, width, 3) @ spd(width, 4) + 0.3
    (mu1, s1), (mu2, s2) = moments(a), moments(b)
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert fid(a, b) == pytest.approx(expected, rel=1e-8)
    assert np.allclose(s1, np.cov(a, rowvar=False), atol=1e-12)


def test_symmetry_rotation_translation_permutation_and_scale():
    a, b = normal(300, 8, 0) * np.arange(1, 9), normal(250, 8, 1) + 0.5
    q, value = ortho_group.rvs(8, random_state=1), fid(a, b)
    assert fid(b, a) == pytest.approx(value, rel=1e-10)
    assert fid(a @ q, b @ q) == pytest.approx(value, rel=1e-10)
    assert fid(a + 5, b + 5) == pytest.approx(value, rel=1e-9)
    assert fid(a[::-1], b) == pytest.approx(value, rel=1e-10)
    assert fid(3 * a, 3 * b) == pytest.approx(9 * value, rel=1e-10)


def test_a_set_against_itself_is_zero_even_when_singular():
    assert fid(normal(500, 10, 0), normal(500, 10, 0)) < 1e-9
    assert fid(normal(5, 40, 0), normal(5, 40, 0)) < 1e-5


@pytest.mark.parametrize(("width", "n"), [(16, 400), (64, 1000)])
def test_bias_law(width, n):
    values = [fid(normal(n, width, 2 * i), normal(n, width, 2 * i + 1)) for i in range(40)]
    assert np.mean(values) == pytest.approx((2 * width + width * (width + 1) / 2) / n, rel=0.05)


def test_bias_law_at_256_features():
    assert fid(normal(1000, 256, 0), normal(1000, 256, 1)) == pytest.approx(33.3, rel=0.03)


def test_float32_and_float16_features_are_taken_in_float64():
    a, b = normal(300, 6, 0).astype(np.float32) + 1000, normal(300, 6, 1).astype(np.float32) + 1000
    assert fid(a, b) == fid(a.astype(np.float64), b.astype(np.float64))
    assert np.isfinite(fid(normal(300, 6, 0).astype(np.float16), b))


def test_too_few_images_are_said_in_the_record_and_do_not_crash():
    few = fid_score(normal(20, 64, 0), normal(30, 64, 1))
    assert np.isfinite([few.value, few.lo, few.hi]).all() and "singular" in few.note and few.n == 20
    assert fid_score(normal(300, 8, 0), normal(300, 8, 1)).note == ""
    same = fid_score(np.ones((5, 3)), np.ones((5, 3)))
    assert same.value == 0 and same.lo == same.hi == 0


def test_interval_holds_the_value_and_shrinks_with_n():
    small, large = (fid_score(normal(n, 8, 0), normal(n, 8, 1) + 0.4) for n in (200, 3200))
    assert small.lo < small.value < small.hi and large.lo < large.value < large.hi
    assert (large.hi - large.lo) == pytest.approx((small.hi - small.lo) / 4, rel=0.35)


def test_interval_is_symmetric_in_the_sets():
    a, b = normal(200, 6, 0) * 1.5, normal(300, 6, 1) + 0.5
    one, other = fid_score(a, b), fid_score(b, a)
    assert (one.value, one.lo, one.hi) == pytest.approx((other.value, other.lo, other.hi), rel=1e-8)


@pytest.mark.parametrize(("scale", "shift", "n"), [(1.5, 0.5, 200), (1.1, 0.1, 200), (1.0, 0.0, 100)])
def test_interval_covers_the_mean_of_fid_at_this_n(scale, shift, n):
    rng = np.random.default_rng(0)
    scores = [fid_score(rng.standard_normal((n, 8)), scale * rng.standard_normal((n, 8)) + shift) for _ in range(150)]
    mean = np.mean([s.value for s in scores])
    covered = np.mean([s.lo <= mean <= s.hi for s in scores])
    assert covered >= 0.91
    spread = np.std([s.value for s in scores])
    assert np.mean([s.hi - s.lo for s in scores]) < 2 * 1.96 * 1.6 * spread  # not so wide as to say nothing


def test_influence_is_the_derivative_of_fid():
    """Adding weight to one row moves FID as its influence says (a numerical derivative by duplicating rows many times)."""
    a, b = normal(60, 4, 0), normal(50, 4, 1) * 1.3 + 0.2

    def weighted(w: np.ndarray) -> float:
        mu = w @ a
        centred = a - mu
        return frechet(mu, (centred * w[:, None]).T @ centred * 60 / 59, *moments(b))

    base, step = np.full(60, 1 / 60), 1e-5
    slopes = np.array([(weighted((1 - step) * base + step * np.eye(60)[i]) - weighted(base)) / step for i in range(60)])
    expected_half = 1.959964 * np.sqrt(slopes.var(ddof=1) / 60)
    score = fid_score(a, np.concatenate([b] * 2000))  # the second set's own share is then negligible
    mu_b, s_b = moments(b)
    assert (score.hi - score.lo) / 2 == pytest.approx(expected_half, rel=0.05)


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "not finite"),
        (np.zeros((5, 3)), np.full((5, 3), np.inf), "not finite"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "widths differ"),
        (np.zeros(5), np.zeros(5), "one row per image"),
        (np.zeros((0, 3)), np.zeros((5, 3)), "0 rows"),
    ],
)
def test_bad_features_are_refused_with_a_sentence(a, b, word):
    for metric in (fid, fid_score):
        with pytest.raises(LabError, match=word):
            metric(a, b)


def test_shapes_of_moments_are_checked():
    with pytest.raises(LabError, match="both sides"):
        frechet(np.zeros(3), np.eye(3), np.zeros(2), np.eye(2))
