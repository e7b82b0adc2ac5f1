"""Whether two columns rank alike: Kendall's tau-b with its interval, and the ablations of the post beside ours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from prx_lab.errors import LabError
from prx_lab.metrics.stats import percentile
from prx_lab.record import records
from prx_lab.report.columns import METRICS, columns
from prx_lab.report.layout import NOTHING, minus
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import measured, noises, seed_by_seed
from prx_lab.report.posts import MANY, published
from prx_lab.show import COLOURS, GREY, Plot, figure

TINY = 1e-9
FEWEST = 4  # pairs, of which ranks say something


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of n pairs, its bootstrap interval over the pairs, and the chance of a tau as large without any relation.

    NaN where a column does not rank: all of it is tied, or some of it is not a number.
    """

    n: int
    tau: float
    lo: float
    hi: float
    p: float

    @property
    def texts(self) -> tuple[str, str]:
        """tau-b with its interval, and the chance; a dash for each where nothing ranks."""
        told = minus(f"{self.tau:+.2f} [{self.lo:+.2f}, {self.hi:+.2f}]"), f"{self.p:.3f}"
        return told if math.isfinite(self.tau) else (NOTHING, NOTHING)


def signs(x: np.ndarray) -> np.ndarray:
    """The sign of every difference (n, n)."""
    return np.sign(x[:, None] - x[None, :])


def tau_b(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b of pairs. NaN where one side is all ties."""
    return float(taus(x, y, np.ones((1, len(x))))[0])


def taus(x: Sequence[float], y: Sequence[float], counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of pairs taken `counts` (B, n) times each: (B,). NaN where one side is all ties."""
    a, b = signs(np.asarray(x, float)), signs(np.asarray(y, float))
    form = lambda m: np.einsum("bi,ij,bj->b", counts, m, counts)  # noqa: E731
    with np.errstate(invalid="ignore", divide="ignore"):
        return form(a * b) / np.sqrt(form(a * a) * form(b * b))


def agreement(x: Sequence[float], y: Sequence[float], draws: int = 2000, seed: int = 0) -> Agreement:
    """Whether two columns rank alike. The interval resamples the pairs, so it speaks about other ablations of the kind.

    LabError for fewer than four pairs: nothing could be said of their ranks.
    """
    n = len(x)
    if n != len(y) or n < FEWEST:
        raise LabError(f"Ranks are compared over at least four pairs; here are {min(n, len(y))}.")
    rng, value = np.random.default_rng(seed), tau_b(x, y)
    if not math.isfinite(value):
        return Agreement(n, *[math.nan] * 4)
    again = taus(x, y, rng.multinomial(n, [1 / n] * n, size=draws).astype(float))
    lo, hi = percentile(again[np.isfinite(again)])
    mixed = np.array([tau_b(x, rng.permutation(np.asarray(y, float))) for _ in range(draws)])
    chance = (1 + int((np.abs(mixed) >= abs(value) - TINY).sum())) / (1 + draws)
    return Agreement(n, value, lo, hi, chance)


# ------------------------------------------------------------------------------------------- against the post
@dataclass(frozen=True)
class Pair:
    """An ablation in the post and here: the change of a metric as a share of its baseline, ours also seed by seed."""

    recipe: str
    post: float
    ours: float
    seeds: Mapping[int, float]


def pairs(metric: str, scale: str = "cpu", root: str | Path = "results") -> list[Pair]:
    """Every row of the post that is recorded at `scale`.

    Rows with 1024 tokens belong to the scale that has as many and to no other: scales are never mixed.
    """
    found, made, bases = records(root).found, [], {}
    whole = noises(found, scale, metric)
    for row in published():
        base = bases.setdefault(row.table, row)
        alike = (row.tokens == "1024") == (scale == MANY)
        if alike and row is not base and row.recipe and metric in row.values and base.values.get(metric):
            ours = measured(found, row.recipe, base.recipe, metric, scale, whole).mean
            seeds = seed_by_seed(found, row.recipe, base.recipe, metric, scale)
            made += [Pair(row.recipe, row.values[metric] / base.values[metric] - 1, ours, seeds)] if math.isfinite(ours) else []
    return made


def repeated(made: Sequence[Pair]) -> float:
    """The mean tau-b of one of our seeds with the mean of the others, over the ablations that have two; NaN where these are below four."""
    found = []
    for one in sorted({seed for pair in made for seed in pair.seeds}):
        has = [pair.seeds for pair in made if one in pair.seeds and len(pair.seeds) > 1]
        others = [fmean(change for seed, change in seeds.items() if seed != one) for seeds in has]
        found += [tau_b([seeds[one] for seeds in has], others)] if len(has) >= FEWEST else []
    return fmean(found) if found else math.nan


def without(made: Sequence[Pair]) -> str:
    """The least and the largest tau-b over all ablations but one, and that one; a dash where fewer than four would be left."""
    if len(made) <= FEWEST:
        return NOTHING
    taus = [(tau_b(*zip(*((one.post, one.ours) for one in made if one is not out))), out.recipe) for out in made]
    left = [one for one in taus if math.isfinite(one[0])]
    return NOTHING if not left else " to ".join(f"{minus(f'{tau:+.2f}')} ({name})" for tau, name in (min(left), max(left)))


def ranks(scale: str = "cpu", root: str | Path = "results", metrics: Sequence[str] = ("fid", "cmmd", "dino_mmd")) -> Listing:
    """Kendall's tau-b between the post's changes and ours, per metric. LabError where fewer than four rows are recorded."""
    rows = []
    for metric in columns(metrics, list(records(root, scale))):
        made = pairs(metric.name, scale, root)
        found, own = agreement([pair.post for pair in made], [pair.ours for pair in made]), repeated(made)
        single, repeats = str(sum(len(pair.seeds) == 1 for pair in made)), minus(f"{own:+.2f}") if math.isfinite(own) else "–"
        rows.append((metric.head, str(found.n), single, *found.texts, without(made), repeats))
    head = ("measure", "ablations", "of which with one seed", "tau-b", "chance", "without one ablation", "one of our seeds with the others")
    notes = (
        "tau-b: 1 the same order, 0 no relation, −1 the reverse; 95 % bootstrap interval over the ablations. The luck in which ablations "
        "differ, the post's and ours, is in the interval, and pulls tau-b towards zero; luck that all of them share is not in it.",
        "chance: how often shuffled ranks agree or disagree as much.",
        "without one ablation: the least and the largest tau-b that is left when one is taken out, and which it was.",
        "one of our seeds with the others: tau-b of single runs of this bench with the means of its other seeds, averaged. A rough "
        "yardstick for how well single runs could agree: ours share images and judges, the post's do not.",
    )
    return Listing(head, tuple(rows), head[1:], notes)


def scatter(scale: str = "cpu", root: str | Path = "results", metric: str = "fid") -> Plot:
    """The place of each ablation by its change of a metric, ours against the post's, 1 the largest fall; open where it has one seed.

    On the diagonal both have one order. LabError where none is recorded.
    """
    found = sorted(pairs(metric, scale, root), key=lambda pair: pair.ours)
    if not found:
        raise LabError(f"No row of the post is recorded at {scale} scale yet.")
    made, axes = figure(6.6, 1.0 + 0.24 * len(found))
    axis, theirs = axes[0, 0], sorted(found, key=lambda pair: pair.post)
    axis.axline((1, 1), slope=1, color=GREY, lw=1)
    for place, pair in enumerate(found, 1):
        at = theirs.index(pair) + 1, place
        axis.plot(*at, "o", color=COLOURS[0], fillstyle="none" if len(pair.seeds) == 1 else "full")
        text = f"{pair.recipe} × {1 + pair.ours:.2g}"
        axis.annotate(text, at, xytext=(7, 0), textcoords="offset points", fontsize=8, va="center", color=GREY)
    title, own = METRICS[metric].title, columns([metric], list(records(root, scale)))[0].title
    axis.set(xlabel=f"place in the post, by the change of {title}", ylabel=f"place here, by that of {own}")
    axis.set(xlim=(0.5, len(found) + 3), ylim=(len(found) + 0.6, 0.4), xticks=range(1, len(found) + 1), yticks=range(1, len(found) + 1))
    axis.set_title("Ablations in the post and here" + " (open: one seed)" * any(len(pair.seeds) == 1 for pair in found))
    return Plot(made, f"places by {title} in the post and by {own} here, best first: {', '.join(pair.recipe for pair in found)}")
