"""Whether two changes add up: what a technique does under one condition beside what it does under another, over the same seeds.

Scores move by factors, so changes that know nothing of each other multiply: both ratios are the same, and their own ratio is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.record import Record, records
from prx_lab.report import luck
from prx_lab.report.arrival import factor
from prx_lab.report.columns import columns
from prx_lab.report.evidence import Estimate
from prx_lab.report.family import Noise
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import changed, noises, pair

Pair = tuple[str, str]  # a recipe and what it is held against


@dataclass(frozen=True)
class Crossing:
    """The change from a recipe to another in two pairs over the seeds that all four have, and from the first ratio to the second.

    `images` says of how many of the two pairs the luck of images is recorded, and so in the intervals.
    """

    seeds: tuple[int, ...]
    first: Estimate
    second: Estimate
    moved: Estimate
    images: int


def crossing(found: tuple[Record, ...], first: Pair, second: Pair, metric: str, whole: Noise, scale: str = "cpu") -> Crossing | None:
    """What a metric's ratio of the pair `first` becomes in the pair `second`; None where the four share no seed or are judged otherwise.

    A seed counts where all four values are above zero. Intervals are those of `pairs.changed` with the noise `whole` of the scale; the
    last is `moved`, as if the two pairs were independent. LabError unless all four recipes differ: of two pairs with a recipe in common
    that one's noise would be counted twice.
    """
    runs = [*pair(found, *first, scale), *pair(found, *second, scale)]
    folders = [own[0].folder.parent.name if own else name for own, name in zip(runs, (*first, *second))]
    if len(set(folders)) < len(folders):
        raise LabError(f"A crossing needs four different recipes, not {', '.join((*first, *second))}.")
    values = [{run.seed: value for run in own if (value := run.metric(metric)) > 0 and math.isfinite(value)} for own in runs]
    seeds = tuple(sorted(set.intersection(*map(set, values))))
    if not seeds:
        return None
    runs = [[run for run in own if run.seed in seeds] for own in runs]
    images = [luck.shared(ours, base, metric) for ours, base in (runs[:2], runs[2:])]
    both = [changed(ours, base, metric, whole, own) for (ours, base), own in zip((runs[:2], runs[2:]), images)]
    return Crossing(seeds, *both, moved(*both), sum(map(math.isfinite, images)))


def table(
    rows: Sequence[tuple[Pair, Pair]], metrics: Sequence[str] = ("fid",), scale: str = "cpu", root: str | Path = "results"
) -> Listing:
    """A line for each two pairs and metric: the ratio in either, and the second over the first; what is not recorded is named below.

    LabError where nothing is recorded.
    """
    lines, missing, known, found = [], [], 0, records(root, scale).found
    whole = {metric: noises(found, scale, metric) for metric in metrics}
    shown = columns(metrics, [run for run in found if run.scale == scale])
    for first, second in rows:
        for metric in shown:
            one = crossing(found, first, second, metric.name, whole[metric.name], scale)
            if one:
                ratios = map(ratio_of, (one.first, one.second, one.moved))
                lines.append((" / ".join(first), " / ".join(second), metric.head, str(len(one.seeds)), *ratios))
                known += one.images
            else:
                missing.append(f"{' / '.join(first)} beside {' / '.join(second)} in {metric.title}")
    if not lines:
        raise LabError(f"No four recipes of these pairs share a seed at {scale} scale yet.")
    notes = [
        f"Geometric means over the seeds that all four recipes have, with 95 % t intervals; one seed has none. {NOISE} The last column is "
        "1 where the two changes know nothing of each other.",
        f"The luck of images is recorded for {known} of these {2 * len(lines)} pairs; without it an interval is somewhat too narrow.",
    ]
    notes += [f"Not recorded with a seed in common: {'; '.join(missing)}."] * bool(missing)
    return Listing(("first pair", "second pair", "measure", "n", *RATIOS), tuple(lines), ("n", *RATIOS), tuple(notes))


RATIOS = ("first", "second", "second / first")
NOISE = "Noise is learnt from all recipes of the scale, or from the pair alone where it is one training at first."


# ------------------------------------------------------------------------------------------------ two scales
def moved(first: Estimate, second: Estimate) -> Estimate:
    """From the ratio 1 + `first` to the ratio 1 + `second`, of trainings that have nothing in common, minus 1.

    On the logarithm the squares of both half-widths add up: right where one of them is much the larger, and somewhat too wide
    otherwise, as a sum has more degrees of freedom than either. No interval where either has none.
    """
    logs = [[math.log1p(value) for value in (one.mean, one.lo, one.hi)] for one in (first, second)]
    mean, half = logs[1][0] - logs[0][0], math.hypot(*(hi - lo for _, lo, hi in logs)) / 2
    return Estimate(min(first.n, second.n), *(math.expm1(value) for value in (mean, mean - half, mean + half)))


def scales(rows: Sequence[tuple[Pair, str, Pair, str]], metrics: Sequence[str] = ("fid",), root: str | Path = "results") -> Listing:
    """A line for each pair at a scale and pair at another, and metric: both ratios as claims have them, and the second over the first.

    LabError where nothing is recorded.
    """
    found, lines = records(root).found, []
    noise_at = cache(lambda scale, metric: noises(found, scale, metric))
    for first, here, second, there in rows:
        for metric in columns(metrics, [run for run in found if run.scale in (here, there)]):
            both = []
            for names, scale in ((first, here), (second, there)):
                runs, base = pair(found, *names, scale)
                images = luck.shared(runs, base, metric.name)
                both.append(changed(runs, base, metric.name, noise_at(scale, metric.name), images))
            if all(one.n for one in both):
                shown = (ratio_of(one) for one in (*both, moved(*both)))
                seeds = " and ".join(str(one.n) for one in both)
                lines.append((f"{' / '.join(first)} at {here}", f"{' / '.join(second)} at {there}", metric.head, seeds, *shown))
    if not lines:
        raise LabError("No two pairs of these rows are recorded at both of their scales yet.")
    notes = (
        f"Ratios over common seeds with 95 % t intervals; one seed has none. {NOISE} The last column is 1 where a change does the same at "
        "both scales; its interval is at least as wide as it should be.",
    )
    return Listing(("first pair", "second pair", "measure", "n", *RATIOS), tuple(lines), ("n", *RATIOS), notes)


def ratio_of(change: Estimate) -> str:
    """A change as a ratio with its interval."""
    return factor(Estimate(change.n, 1 + change.mean, 1 + change.lo, 1 + change.hi))
