"""What seeds say: changes with intervals, and how small an effect could be seen.

Differences are paired by seed. Shares of the baseline, ours / theirs - 1, put quantities with different units side by side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from prx_lab.metrics.stats import paired
from prx_lab.report.family import Variance

LEVEL, POWER = 0.95, 0.8
GRID = 4096  # points of a numerical mean
LEAST = 0.5  # degrees of freedom of a test


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its t interval; NaN bounds for one seed, NaN for all of it where there is none."""

    n: int
    mean: float
    lo: float
    hi: float


NONE = Estimate(0, math.nan, math.nan, math.nan)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t interval of one number per seed."""
    if not len(values):
        return NONE
    found = paired(list(values), [0.0] * len(values))
    return Estimate(found.n, found.mean, math.nan if found.lo is None else found.lo, math.nan if found.hi is None else found.hi)


def shares(ours: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    """{seed: ours / base - 1} for every seed that both have, both finite and the baseline's above zero."""
    found = {seed: ours[seed] / base[seed] - 1 for seed in sorted(ours.keys() & base.keys()) if base[seed] > 0}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def change(ours: Mapping[int, float], base: Mapping[int, float], found: Variance, images: float = 0.0) -> Estimate:
    """The change of a recipe as a share of its baseline, exp of the mean log ratio over common seeds, minus 1.

    The 95 % t interval has the variance `found` of a log ratio at one seed, `Noise.between` the two, and that of the mean over
    `images`, which more seeds do not lower (`luck.shared`). The squares of the two half-widths add up: with the freedom of a sum after
    Welch and Satterthwaite images could narrow an interval whose seeds have one or two degrees of freedom. One seed has no interval,
    whatever the noise: luck of the seed and of the recipe could not be told apart by anybody who looks at that row. A value without a
    logarithm, zero or below, is left out and does not count in n.
    """
    ratios = [math.log(1 + share) for share in shares(ours, base).values() if share > -1]
    if not ratios:
        return NONE
    n, mean = len(ratios), sum(ratios) / len(ratios)
    seeds = float(stats.t.ppf((1 + LEVEL) / 2, found.freedom)) * error(found, n) if n > 1 and found.freedom else math.nan
    half = math.hypot(seeds, float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(images))
    return Estimate(n, *(math.expm1(v) for v in (mean, mean - half, mean + half)))


def error(found: Variance, n: int) -> float:
    """The standard error of the mean over n seeds of what has this variance."""
    return math.sqrt(found.value / n)


# ------------------------------------------------------------------------------------------- what could be seen
def typical_sd(groups: Sequence[Sequence[float]]) -> float:
    """The standard deviation within the median group; NaN where no group has two values.

    A sum of squares over the median that chance gives it at its size estimates a variance without a bias of its median. A mean
    would be that of the few groups that scatter most.
    """
    sized = [np.asarray(g, dtype=float) for g in groups if len(g) > 1]
    found = [float(((g - g.mean()) ** 2).sum()) / stats.chi2.ppf(0.5, len(g) - 1) for g in sized]
    return math.sqrt(float(np.median(found))) if found else math.nan


def power(shift: float, freedom: float, level: float = LEVEL) -> float:
    """The chance that a t test finds a true difference of `shift` standard errors.

    The noncentral t, as a mean over the distribution of the estimated standard error: a library's own fails at one degree.
    """
    spread = np.sqrt(stats.chi2.ppf((np.arange(GRID) + 0.5) / GRID, freedom) / freedom)  # estimated over true
    edge = stats.t.ppf((1 + level) / 2, freedom) * spread
    return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)).mean())


def detectable(error: float, freedom: float, level: float = LEVEL, wanted: float = POWER) -> float:
    """The true difference that a t test finds with power `wanted`, at a standard error with these degrees of freedom.

    NaN below half a degree of freedom.
    """
    if freedom < LEAST or math.isnan(error):
        return math.nan
    rough = float(stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(wanted, freedom))
    return error * float(optimize.brentq(lambda shift: power(shift, freedom, level) - wanted, rough / 4, 3 * rough))
