"""Whether two changes add up: what a technique does under one condition beside what it does under another, over the same seeds.

Scores move by factors, so changes that know nothing of each other multiply: both ratios are the same, and their own ratio is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prx_lab import luck
from prx_lab.arrival import factor
from prx_lab.claims import noises, of_recipe
from prx_lab.columns import METRICS
from prx_lab.errors import LabError
from prx_lab.evidence import Estimate, change
from prx_lab.listing import Listing
from prx_lab.record import alike, records

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


def crossing(first: Pair, second: Pair, metric: str, scale: str = "cpu", root: str | Path = "results") -> Crossing | None:
    """What a metric's ratio of the pair `first` becomes in the pair `second`; None where the four share no seed or are judged otherwise.

    A seed counts where all four values are above zero. Intervals are those of `evidence.change` with the noise of the whole scale; that
    of the last has the noise of all four trainings and, where they are recorded, the luck of images of both pairs, as if the two were
    independent. LabError unless all four recipes differ: of two pairs with a recipe in common that one's noise would be counted twice.
    """
    names, found = (*first, *second), records(root, scale).found
    runs = [of_recipe(found, name, scale) for name in names]
    folders = [own[0].folder.parent.name if own else name for own, name in zip(runs, names)]
    if len(set(folders)) < len(folders):
        raise LabError(f"A crossing needs four different recipes, not {', '.join(names)}.")
    if not all(runs) or not all(alike(runs[i][0], runs[i + 1][0]) for i in (0, 2)):
        return None
    values = [{run.seed: value for run in own if (value := run.metric(metric)) > 0 and math.isfinite(value)} for own in runs]
    seeds = tuple(sorted(set.intersection(*map(set, values))))
    if not seeds:
        return None
    whole = noises(found, scale, metric)
    ours, base, theirs, other = ({seed: own[seed] for seed in seeds} for own in values)
    images = [luck.shared(*([run for run in own if run.seed in seeds] for own in runs[i : i + 2]), metric) for i in (0, 2)]
    known = [one for one in images if math.isfinite(one)]
    ratios = [{seed: a[seed] / b[seed] for seed in seeds} for a, b in ((ours, base), (theirs, other))]
    return Crossing(
        seeds,
        change(ours, base, whole.between(*folders[:2]), 0.0 if math.isnan(images[0]) else images[0]),
        change(theirs, other, whole.between(*folders[2:]), 0.0 if math.isnan(images[1]) else images[1]),
        change(ratios[1], ratios[0], whole.between(*folders), sum(known)),
        len(known),
    )


def table(
    rows: Sequence[tuple[Pair, Pair]], metrics: Sequence[str] = ("fid",), scale: str = "cpu", root: str | Path = "results"
) -> Listing:
    """A line for each two pairs and metric: the ratio in either, and the second over the first; what is not recorded is named below.

    LabError where nothing is recorded.
    """
    lines, missing, known = [], [], 0
    for first, second in rows:
        for metric in metrics:
            one = crossing(first, second, metric, scale, root)
            if one:
                ratios = (factor(Estimate(e.n, 1 + e.mean, 1 + e.lo, 1 + e.hi)) for e in (one.first, one.second, one.moved))
                lines.append((" / ".join(first), " / ".join(second), METRICS[metric].head, str(len(one.seeds)), *ratios))
                known += one.images
            else:
                missing.append(f"{' / '.join(first)} beside {' / '.join(second)} in {METRICS[metric].title}")
    if not lines:
        raise LabError(f"No four recipes of these pairs share a seed at {scale} scale yet.")
    notes = [
        "Geometric means over the seeds that all four recipes have, with 95 % t intervals whose noise is learnt from all recipes of the "
        "scale; one seed has none. The last column is 1 where the two changes know nothing of each other.",
        f"The luck of images is recorded for {known} of these {2 * len(lines)} pairs; without it an interval is somewhat too narrow.",
    ]
    notes += [f"Not recorded with a seed in common: {'; '.join(missing)}."] * bool(missing)
    return Listing(("first pair", "second pair", "measure", "n", *RATIOS), tuple(lines), ("n", *RATIOS), tuple(notes))


RATIOS = ("first", "second", "second / first")
