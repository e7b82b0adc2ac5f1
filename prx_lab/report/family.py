"""How runs scatter: the variance of each recipe of a scale, drawn towards that of the family as far as recipes scatter alike."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

TINY = 1e-9
ALIKE = 1e4  # a freedom beyond is not told from an infinite one
RARE = 0.001  # a chance below it, times the number of recipes, is none


NONE: Mapping[str, Mapping[Hashable, float]] = {}


@dataclass(frozen=True)
class Variance:
    """An estimated variance and the degrees of freedom behind it."""

    value: float
    freedom: float


@dataclass(frozen=True)
class Noise:
    """How the log values of a scale scatter about their recipe and seed: as a rule, and recipe by recipe.

    The freedom of `typical` says how alike recipes scatter: infinite where no difference is seen. Those `apart` scatter far more and
    stand for themselves. `freedom` is that of the family without them.
    """

    typical: Variance
    own: Mapping[str, Variance]
    apart: frozenset[str]
    freedom: float

    def of(self, name: str) -> Variance:
        """The variance of one run of a recipe: its own and the typical one, weighed by their freedom (Smyth 2004, moderated t)."""
        prior, own = self.typical, self.own.get(name)
        if name in self.apart:
            return self.own[name]
        if own is None or math.isinf(prior.freedom):
            return Variance(prior.value, min(prior.freedom, self.freedom))
        both = prior.freedom + own.freedom
        return Variance((prior.freedom * prior.value + own.freedom * own.value) / both, min(both, self.freedom))

    def between(self, *names: str) -> Variance:
        """The variance of a log ratio of recipes at one seed, each of them once; its freedom after Welch and Satterthwaite."""
        each = [self.of(name) for name in names]
        total = sum(one.value for one in each)
        if not (self.freedom and total):
            return Variance(total, self.freedom)
        return Variance(total, min(total**2 / sum(one.value**2 / one.freedom for one in each), self.freedom))


def noise(values: Mapping[str, Mapping[Hashable, float]], trained: Mapping[str, Mapping[Hashable, float]] = NONE) -> Noise:
    """The noise in log value = recipe + seed + noise of all runs {recipe: {seed: value}} (randomised blocks, least squares).

    Two or three seeds tell little about the spread of one recipe; all recipes together tell much, as far as they scatter alike.
    The family is learnt from `trained`, the runs that are trainings of their own (all of them where these tell nothing); every recipe is
    then held against it. NaN and no freedom where nothing is repeated.
    """
    family = trained if scatter(trained) else values
    own, apart = scatter(family), {}
    while wild := wildest(own):
        apart |= {name: own[name] for name in wild}
        own = scatter({name: runs for name, runs in family.items() if name not in apart})
    prior, freedom = typical(tuple(own.values())), sum(one.freedom for one in own.values())
    for name, one in scatter({name: runs for name, runs in values.items() if name not in apart}).items():
        if name not in own and chance(one, prior) * len(values) < RARE:
            apart[name] = one
        own.setdefault(name, one)
    return Noise(prior, own | apart, frozenset(apart), freedom)


def scatter(values: Mapping[str, Mapping[Hashable, float]]) -> dict[str, Variance]:
    """The residual variance of each recipe that has a degree of freedom."""
    names, logs, design = blocks(values)
    leave = np.eye(len(names)) - design @ np.linalg.pinv(design)  # least squares leaves leave @ logs
    squares, free = (leave @ logs) ** 2, leave.diagonal()
    rows = {name: [one == name for one in names] for name in sorted(set(names))}
    sums = {name: (float(squares[at].sum()), float(free[at].sum())) for name, at in rows.items()}
    return {
        name: Variance(square / freedom if square > TINY**2 else 0.0, freedom) for name, (square, freedom) in sums.items() if freedom > TINY
    }


def wildest(own: Mapping[str, Variance]) -> list[str]:
    """The up to three recipes with the largest variances, as many as chance would hardly have made of the others' family."""
    names = sorted(own, key=lambda name: -own[name].value)
    for count in range(min(3, len(names) - 3), 0, -1):  # from the outside in, as one wild recipe hides another
        others = typical(tuple(own[name] for name in names[count:]))
        if chance(own[names[count - 1]], others) * len(names) < RARE:
            return names[:count]
    return []


def chance(one: Variance, family: Variance) -> float:
    """The chance of a variance as large in a family; 1 where the family does not scatter at all."""
    return float(stats.f.sf(one.value / family.value, one.freedom, min(family.freedom, ALIKE))) if family.value > 0 else 1.0


def blocks(values: Mapping[str, Mapping[Hashable, float]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Of every run the recipe, the log value (n,) and the row of the design (n, recipes + seeds); what has no logarithm is left out."""
    runs = [(name, seed, v) for name, own in values.items() for seed, v in own.items() if v > 0 and math.isfinite(v)]
    names, seeds = ({key: i for i, key in enumerate(sorted(set(column)))} for column in ([r[0] for r in runs], [r[1] for r in runs]))
    design = np.zeros((len(runs), len(names) + len(seeds)))
    for i, (name, seed, _) in enumerate(runs):
        design[i, names[name]] = design[i, len(names) + seeds[seed]] = 1
    return [name for name, *_ in runs], np.log([v for *_, v in runs]), design


@lru_cache(maxsize=256)
def typical(own: tuple[Variance, ...]) -> Variance:
    """The variance about which those of recipes lie, and how near: the maximum likelihood of own ~ typical * F(own freedom, freedom).

    The freedom is between 1, one recipe says little about another, and infinity, their pooled variance is that of each.
    """
    s, d = np.array([(one.value, one.freedom) for one in own]).reshape(-1, 2).T
    pooled = float(s @ d / d.sum()) if len(own) else math.nan
    if len(own) < 3 or not pooled:
        return Variance(pooled, math.inf)

    def fitted(log_freedom: float) -> optimize.OptimizeResult:
        cost = lambda log: -likelihood(s, d, math.exp(log), math.exp(log_freedom))  # noqa: E731
        return optimize.minimize_scalar(cost, bounds=math.log(pooled) + np.array([-9, 3]), method="bounded")

    found = optimize.minimize_scalar(lambda log: fitted(log).fun, bounds=(0, math.log(ALIKE)), method="bounded")
    alike = -likelihood(s, d, pooled, math.inf) <= found.fun
    return Variance(pooled, math.inf) if alike else Variance(math.exp(fitted(found.x).x), math.exp(found.x))


def likelihood(s: np.ndarray, d: np.ndarray, centre: float, freedom: float) -> float:
    """The log likelihood of variances s ~ centre * F(d, freedom), but for terms of s and d alone."""
    if math.isinf(freedom):  # then d s / centre is a chi-squared
        return float((d * (np.log(d / 2 / centre) - s / centre)).sum() / 2)
    ratio, both = d / (freedom * centre), (d + freedom) / 2
    return float((special.gammaln(both) - special.gammaln(freedom / 2) + d / 2 * np.log(ratio) - both * np.log1p(ratio * s)).sum())
