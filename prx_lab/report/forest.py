"""A forest plot: one metric of many recipes against one baseline, each with its interval, the post's change beside it."""

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from prx_lab.errors import LabError
from prx_lab.record import Record, records
from prx_lab.report import luck
from prx_lab.report.columns import METRICS, Metric, columns
from prx_lab.report.evidence import Estimate
from prx_lab.report.pairs import base_of, changed, noises, pair
from prx_lab.report.posts import at, published, share
from prx_lab.show import COLOURS, GREY, STYLE, Plot, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BETTER, WORSE, POST = COLOURS[2], COLOURS[1], COLOURS[4]
TICKS = (  # that row of which most lie on the axis, and no more than ROOM, none too near to its neighbour
    tuple(10.0**e for e in range(-4, 5)),
    (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0),
    (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6),
    (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4),
)
UNDECIDED, ONE_SEED = "undecided", "undecided: one seed"
ALL = ("*",)
COLOUR = {"better": BETTER, "worse": WORSE, UNDECIDED: GREY}
ROOM, APART = 6, 0.13  # ticks, and the share of the axis between two of them
AXIS, LETTER, SMALL = 3.0, 0.075, 9  # inches of the axis and of a letter of the names beside it, so that a phone can show both; points
NARROWEST = (0.8, 1.25)  # an axis shows at least this much, or one point would look like a large effect


@dataclass(frozen=True)
class Branch:
    """A recipe's change of a metric as a share of its baseline, and the post's; NaN where the post has none."""

    name: str
    ours: Estimate
    post: float
    images: bool  # whether the luck of images is recorded and in the interval

    def verdict(self, metric: Metric) -> str:
        """`better` or `worse` where the interval excludes no change; `undecided` where it does not or has no width, and for times."""
        if metric.timed or math.isclose(self.ours.lo, self.ours.hi):
            return UNDECIDED
        sign = (self.ours.lo > 0) - (self.ours.hi < 0)
        return UNDECIDED if not sign else "better" if (sign < 0) == metric.lower else "worse"

    def told(self, metric: Metric) -> str:
        """The verdict, which says so where it has one seed."""
        return ONE_SEED if self.ours.n == 1 else self.verdict(metric)


def branches(
    found: tuple[Record, ...], metric: str, names: Sequence[str], scale: str, baseline: str, seeds: Collection[int] = ()
) -> list[Branch]:
    """A branch for each recipe that shares a seed with the baseline and is judged as it is, in the order of `names`.

    Of `seeds` only where some are named. LabError where no run of the baseline is recorded at the scale.
    """
    posts = at(scale, published())
    base = base_of(found, scale, baseline)
    whole, made = noises(found, scale, metric), []
    for name in names:
        runs = [run for run in pair(found, name, baseline, scale)[0] if not seeds or run.seed in seeds]
        images = luck.shared(runs, base, metric)
        ours = changed(runs, base, metric, whole, images)
        made += [Branch(name, ours, share(name, baseline, metric, posts), math.isfinite(images))] if ours.n else []
    return made


def ranked(
    metric: str = "fid",
    scale: str = "cpu",
    baseline: str = "baseline",
    root: str | Path = "results",
    among: Collection[str] = (),
    seeds: Collection[int] = (),
) -> tuple[str, ...]:
    """The recorded recipes that are judged as the baseline is, the best first; of the given names and seeds where there are any."""
    found, sign = records(root).found, 1 if METRICS[metric].lower else -1
    names = sorted({run.name for run in found if run.scale == scale and (not among or run.name in among)} - {baseline})
    return tuple(one.name for one in sorted(branches(found, metric, names, scale, baseline, seeds), key=lambda one: sign * one.ours.mean))


def forest(
    names: Sequence[str] = ALL,
    metric: str = "fid",
    scale: str = "cpu",
    baseline: str = "baseline",
    root: str | Path = "results",
    seeds: Collection[int] = (),
) -> Plot:
    """Each recipe's value of a metric over that of the baseline at the same seeds, on a logarithmic axis.

    Lines are 95 % intervals with a noise learnt from the whole scale (`pairs.noises`) and with the luck of the images (`luck`), where
    that is recorded; a row without it is named below. An open point has one seed and no interval.
    `names` stand from top to bottom; without them all that is recorded, as `ranked`. Rows of which some have more seeds than others
    are better compared on `seeds` that all of them have. A recipe that is not recorded, or not `alike` the baseline, is left out and
    named below. LabError where nothing is left.
    """
    from matplotlib import rc_context

    every = records(root).found
    (column,) = columns([metric], [run for run in every if run.scale == scale])
    rows = ranked(metric, scale, baseline, root, seeds=seeds) if names == ALL else names
    found = branches(every, metric, rows, scale, baseline, seeds)
    if not found:
        which = f" of {', '.join(names)}" if names and names != ALL else ""
        raise LabError(f"No recipe{which} shares a seed with {baseline} and is judged as it is at {scale} scale yet.")
    missing = [name for name in names if names != ALL and name not in {one.name for one in found}]
    narrow = [one.name for one in found if one.ours.n > 1 and not one.images]
    some = any(one.images for one in found)
    told = {"seeds of all rows": [str(seed) for seed in sorted(seeds)]}
    told["not recorded with such a seed" if seeds else f"not recorded with a seed of {baseline}, or judged otherwise"] = missing
    told["interval without the luck of the judged images"] = narrow if some or not narrow else ["all"]
    width = AXIS + LETTER * max(map(len, labels(found)))
    line = int(width * 72 / (0.58 * SMALL))  # letters of this size from edge to edge
    wrapped = [textwrap.wrap(f"{words}: {', '.join(them)}", line, break_on_hyphens=False) for words, them in told.items() if them]
    below = sum(wrapped, [])
    made, axes = figure(width, 1.15 + 0.24 * len(found) + 0.17 * len(below))
    with rc_context(STYLE):
        draw(axes[0, 0], found, column)
        made.suptitle(f"{column.head} over that of {baseline}", x=0.01, ha="left", fontsize=11)
        made.draw_without_rendering()
        frame = axes[0, 0].get_position()
        edge = (0.01 - frame.x0) / frame.width  # the notes begin below the names, as the title above them does
        axes[0, 0].set_xlabel("\n".join(below), fontsize=SMALL, ha="left", x=edge)
    words = ", ".join(f"{one.name} {1 + one.ours.mean:.2f}" for one in found)
    return Plot(made, f"{column.head} over that of {baseline}: {words}")


def labels(found: Sequence[Branch]) -> list[str]:
    """What stands beside each line: the recipe, and over how many seeds."""
    return [f"{one.name} ({one.ours.n})" for one in found]


def factors(lo: float, hi: float) -> list[float]:
    """Round ratios to mark on a logarithmic axis from `lo` to `hi`, none too near to its neighbour."""
    rows = [[tick for tick in row if lo <= tick <= hi] for row in TICKS]
    near = APART * math.log(hi / lo)
    fitting = [row for row in rows if len(row) <= ROOM and all(math.log(b / a) >= near for a, b in pairwise(row))]
    return max(fitting, key=len, default=rows[0])


def mark_ratios(axis: "Axis") -> None:
    """Mark the round ratios of a logarithmic axis within its limits."""
    ticks = factors(*axis.get_view_interval())
    axis.set_ticks(ticks, labels=[f"× {tick:g}" for tick in ticks], fontsize=SMALL)
    axis.axes.minorticks_off()


def draw(axis: "Axes", found: Sequence[Branch], metric: Metric) -> None:
    """The points, intervals and axes of a forest plot, the first branch on top."""
    axis.axvline(1, color=GREY, lw=1)
    for place, one in enumerate(found):
        colour = COLOUR[one.verdict(metric)]
        if not math.isnan(one.ours.lo):
            axis.plot([1 + one.ours.lo, 1 + one.ours.hi], [place, place], color=colour, lw=2, solid_capstyle="butt")  # ends where it ends
        axis.plot(1 + one.ours.mean, place, "o", color=colour, fillstyle="none" if one.ours.n == 1 else "full")
        axis.plot(1 + one.post, place, "D", color=POST, ms=4)
    axis.set(xscale="log", yticks=range(len(found)), yticklabels=labels(found))
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.set_xlim(min(axis.get_xlim()[0], NARROWEST[0]), max(axis.get_xlim()[1], NARROWEST[1]))
    mark_ratios(axis.xaxis)
    axis.grid(axis="y", visible=False)
    single, posted = any(one.ours.n == 1 for one in found), any(not math.isnan(one.post) for one in found)
    if single:
        axis.plot([], [], "o", color=GREY, fillstyle="none", label="one seed")
    if posted:
        axis.plot([], [], "D", color=POST, ms=4, label="in the post")
    if single or posted:
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=SMALL, borderpad=0)  # over no point
