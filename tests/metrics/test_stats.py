"""Error bars: coverage, the bias of a resampled distance, t intervals over seeds, and no interval where there is none."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from prx_lab.errors import LabError
from prx_lab.metrics.fid import fid
from prx_lab.metrics.stats import (
    Score,
    bootstrap,
    influence_interval,
    matrix,
    paired,
    summary,
)


def mean(x: np.ndarray) -> float:
    return float(x.mean())


def test_bootstrap_is_seeded_and_ordered():
    x = np.random.default_rng(0).standard_normal(50)
    assert bootstrap(mean, x) == bootstrap(mean, x) != bootstrap(mean, x, seed=1)
    lo, hi = bootstrap(mean, x)
    assert lo < mean(x) < hi
    wide = bootstrap(mean, x, n=2000, level=0.99)
    narrow = bootstrap(mean, x, n=2000, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstrap_of_a_mean_covers_it():
    rng = np.random.default_rng(0)
    covered = [lo <= 0.3 <= hi for lo, hi in (bootstrap(mean, rng.random(60) < 0.3, seed=i) for i in range(150))]
    assert 0.88 <= np.mean(covered) <= 1.0


def test_bootstrap_half_width_is_two_standard_errors():
    x = np.random.default_rng(1).standard_normal(400)
    lo, hi = bootstrap(mean, x, n=1000)
    assert (hi - lo) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.08)
    assert influence_interval(mean(x), x) == pytest.approx((lo, hi), abs=0.015)


def test_arrays_are_resampled_on_their_own_and_columns_together():
    a, b = np.arange(30.0), np.arange(40.0)
    lo, hi = bootstrap(lambda p, q: p.mean() - q.mean(), a, b)
    assert lo < -5 < hi
    pairs = np.stack([a, 2 * a + 1], axis=1)
    assert bootstrap(lambda p: float(np.abs(p[:, 1] - 2 * p[:, 0] - 1).max()), pairs) == (0.0, 0.0)


def test_resampling_a_distance_biases_it_upwards():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((100, 8)), rng.standard_normal((100, 8))
    assert bootstrap(fid, a, b, n=50)[0] > fid(a, b)  # the percentile interval lies wholly above the value


def test_paired_is_variant_minus_baseline_with_the_t_interval_of_scipy():
    base, variant = [10.0, 12.0, 11.0, 13.0], [9.0, 10.5, 10.5, 11.0]
    found = paired(variant, base)
    oracle = scipy_stats.ttest_rel(variant, base).confidence_interval(0.95)
    assert found.mean == -1.25 and found.n == 4
    assert (found.lo, found.hi) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    back = paired(base, variant)
    assert (back.mean, back.lo, back.hi) == pytest.approx((1.25, -found.hi, -found.lo))


def test_one_seed_has_no_interval():
    one = paired([3.0], [5.0])
    assert (one.n, one.mean, one.sd, one.lo, one.hi) == (1, -2.0, None, None, None)
    assert (summary([3.0]).sd, summary([3.0]).mean) == (None, 3.0)


def test_summary_is_unbiased_and_order_free():
    found = summary([1.0, 2.0, 4.0])
    assert (found.n, found.mean) == (3, pytest.approx(7 / 3)) and found.sd == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert summary([4.0, 1.0, 2.0]).sd == pytest.approx(found.sd)


def test_score_is_json_ready():
    assert Score(1.0, None, None, 5).to_dict() == {"value": 1.0, "lo": None, "hi": None, "n": 5, "note": ""}


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: bootstrap(mean, np.zeros(1)), "two rows"),
        (lambda: bootstrap(mean), "two rows"),
        (lambda: bootstrap(mean, np.zeros(5), n=1), "2 resamples"),
        (lambda: paired([1.0, 2.0], [1.0]), "same seeds"),
        (lambda: paired([], []), "per seed"),
        (lambda: summary([1.0, float("nan")]), "finite number per seed"),
        (lambda: matrix(np.zeros((3, 0)), "x"), "one row per image"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, word):
    with pytest.raises(LabError, match=word):
        call()
