"""What seeds say: changes with intervals, the noise of a whole scale, how small an effect could be seen, whether ranks agree.

Differences are paired by seed. Shares of the baseline, ours / theirs - 1, put quantities with different units side by side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from prx_lab.errors import LabError
from prx_lab.metrics.stats import paired, percentile

LEVEL, POWER = 0.95, 0.8
GRID = 4096  # points of a numerical mean
TINY = 1e-9  # a distance is compared by its logarithm


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


def shares(ours: Mapping[int, float], base: Mapping[int, float]) -> list[float]:
    """ours / base - 1 for every seed that both have, both finite and the baseline's above zero."""
    common = (seed for seed in sorted(ours.keys() & base.keys()) if base[seed] > 0)
    found = (ours[seed] / base[seed] - 1 for seed in common)
    return [value for value in found if math.isfinite(value)]


# ------------------------------------------------------------------------------------------ one noise for a scale
@dataclass(frozen=True)
class Noise:
    """The standard deviation of a run's log value about its recipe and its seed, and the degrees of freedom behind it."""

    sd: float
    freedom: int


def noise(values: Mapping[str, Mapping[int, float]]) -> Noise:
    """The noise of log value = recipe + seed + noise over all runs {recipe: {seed: value}} (randomised blocks, least squares).

    Two or three seeds tell little about the spread of one recipe; all recipes together tell much, if their spread is alike
    on this scale. The baseline's runs count once however many rows are compared with them. NaN where nothing is repeated.
    """
    names, logs, design = blocks(values)
    freedom = len(names) - (int(np.linalg.matrix_rank(design)) if names else 0)
    if not freedom:
        return Noise(math.nan, 0)
    return Noise(math.sqrt(float((rest(design, logs) ** 2).sum()) / freedom), freedom)


def blocks(values: Mapping[str, Mapping[int, float]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Of every run the recipe, the log value (n,) and the row of the design (n, recipes + seeds); what has no logarithm is left out."""
    runs = [(name, seed, v) for name, own in values.items() for seed, v in own.items() if v > 0 and math.isfinite(v)]
    names, seeds = ({key: i for i, key in enumerate(sorted(set(column)))} for column in ([r[0] for r in runs], [r[1] for r in runs]))
    design = np.zeros((len(runs), len(names) + len(seeds)))
    for i, (name, seed, _) in enumerate(runs):
        design[i, names[name]] = design[i, len(names) + seeds[seed]] = 1
    return [name for name, *_ in runs], np.log([v for *_, v in runs]), design


def rest(design: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """What least squares leave of log values (..., n)."""
    return logs - logs @ np.linalg.pinv(design).T @ design.T


@dataclass(frozen=True)
class Spread:
    """The recipe with the largest share of the noise, that share, and the chance of one as large where all recipes scatter alike."""

    name: str
    share: float
    chance: float


def spread(values: Mapping[str, Mapping[int, float]], draws: int = 2000, seed: int = 0) -> Spread:
    """Whether one recipe is noisier than the one noise of `noise` allows, by simulation of that model on the same runs.

    The model takes runs as independent; those that share their weights are not, which makes the chance of rows of them a rough one.
    LabError where fewer than three recipes have two seeds, or seeds in common are too few: the shares could not be told apart.
    """
    names, logs, design = blocks(values)
    found = noise(values)
    if sum(names.count(name) > 1 for name in set(names)) < 3 or found.freedom < 2 or found.sd < TINY:
        raise LabError("Whether recipes scatter alike takes three of them with the same two seeds, and some scatter; record more.")
    member = np.array([[one == name for one in names] for name in sorted(set(names))], float)

    def shares_of(logs: np.ndarray) -> np.ndarray:
        squares = rest(design, logs) ** 2
        return squares @ member.T / squares.sum(-1, keepdims=True)

    ours = shares_of(logs)
    theirs = shares_of(np.random.default_rng(seed).standard_normal((draws, len(names)))).max(-1)
    chance = (1 + int((theirs >= ours.max()).sum())) / (1 + draws)
    return Spread(sorted(set(names))[int(ours.argmax())], float(ours.max()), chance)


def change(ours: Mapping[int, float], base: Mapping[int, float], found: Noise) -> Estimate:
    """The change of a recipe as a share of its baseline, exp of the mean log ratio over common seeds, minus 1.

    The 95 % t interval has the noise of the whole scale. One seed has no interval, whatever the noise: luck of the seed and
    of the recipe could not be told apart by anybody who looks at that row.
    """
    ratios = [math.log(1 + share) for share in shares(ours, base) if share > -1]
    if not ratios:
        return NONE
    n, mean = len(ratios), sum(ratios) / len(ratios)
    half = float(stats.t.ppf((1 + LEVEL) / 2, found.freedom)) * error(found, n) if n > 1 and found.freedom else math.nan
    return Estimate(n, *(math.expm1(v) for v in (mean, mean - half, mean + half)))


def error(found: Noise, n: int) -> float:
    """The standard error of the mean log ratio of two recipes over n common seeds."""
    return found.sd * math.sqrt(2 / n)


# ------------------------------------------------------------------------------------------- what could be seen
def pooled_sd(groups: Sequence[Sequence[float]]) -> float:
    """The standard deviation within groups, pooled over them by degrees of freedom; NaN where no group has two values."""
    sized = [np.asarray(g, dtype=float) for g in groups if len(g) > 1]
    freedom = sum(len(g) - 1 for g in sized)
    return math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in sized) / freedom) if freedom else math.nan


def power(shift: float, freedom: int, level: float = LEVEL) -> float:
    """The chance that a t test finds a true difference of `shift` standard errors.

    The noncentral t, as a mean over the distribution of the estimated standard error: a library's own fails at one degree.
    """
    spread = np.sqrt(stats.chi2.ppf((np.arange(GRID) + 0.5) / GRID, freedom) / freedom)  # estimated over true
    edge = stats.t.ppf((1 + level) / 2, freedom) * spread
    return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)).mean())


def detectable(error: float, freedom: int, level: float = LEVEL, wanted: float = POWER) -> float:
    """The true difference that a t test finds with power `wanted`, at a standard error with these degrees of freedom.

    Exact where `metrics.stats.paired` approximates; NaN without a degree of freedom.
    """
    if freedom < 1 or math.isnan(error):
        return math.nan
    rough = float(stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(wanted, freedom))
    return error * float(optimize.brentq(lambda shift: power(shift, freedom, level) - wanted, rough / 4, 3 * rough))


# --------------------------------------------------------------------------------------------- agreement of ranks
@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of n pairs, its bootstrap interval over the pairs, and the chance of a tau as large without any relation."""

    n: int
    tau: float
    lo: float
    hi: float
    p: float


def signs(x: np.ndarray) -> np.ndarray:
    """The sign of every difference (n, n)."""
    return np.sign(x[:, None] - x[None, :])


def tau_b(x: Sequence[float], y: Sequence[float], counts: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b of pairs taken `counts` (B, n) times each, one by default: (B,). NaN where one side is all ties."""
    a, b = signs(np.asarray(x, float)), signs(np.asarray(y, float))
    c = np.ones((1, len(a))) if counts is None else counts
    form = lambda m: np.einsum("bi,ij,bj->b", c, m, c)  # noqa: E731
    with np.errstate(invalid="ignore", divide="ignore"):
        return form(a * b) / np.sqrt(form(a * a) * form(b * b))


def agreement(x: Sequence[float], y: Sequence[float], draws: int = 2000, seed: int = 0) -> Agreement:
    """Whether two columns rank alike. The interval resamples the pairs, so it speaks about other ablations of the kind.

    LabError for fewer than four pairs: nothing could be said of their ranks.
    """
    n = len(x)
    if n != len(y) or n < 4:
        raise LabError(f"Ranks are compared over at least four pairs; here are {min(n, len(y))}.")
    rng, value = np.random.default_rng(seed), float(tau_b(x, y)[0])
    again = tau_b(x, y, rng.multinomial(n, [1 / n] * n, size=draws).astype(float))
    lo, hi = percentile(again[np.isfinite(again)])
    mixed = np.array([tau_b(x, rng.permutation(np.asarray(y, float)))[0] for _ in range(draws)])
    chance = (1 + int((np.abs(mixed) >= abs(value) - TINY).sum())) / (1 + draws)
    return Agreement(n, value, lo, hi, chance)
