"""What a recipe does at one scale beside what it does at another: its ratio to the baseline of each, with intervals."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prx_lab.errors import LabError, require
from prx_lab.record import Record, records
from prx_lab.report.columns import columns
from prx_lab.report.evidence import Estimate
from prx_lab.report.forest import NARROWEST, SMALL, Branch, branches, mark_ratios
from prx_lab.report.pairs import of_recipe
from prx_lab.show import COLOURS, GREY, STYLE, Plot, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

APART = 0.12  # of the way from a scale to the next, between two recipes
MARKS = "osD^"
FAR = 10  # a panel shows so many times a point on either side of it; an interval that is wider leaves the panel


def across(
    names: Sequence[str], places: Mapping[str, str], metrics: Sequence[str], baseline: str = "baseline", root: str | Path = "results"
) -> Plot:
    """Each recipe's value of some metrics over that of the baseline at the same scale and seeds, at several scales from left to right.

    `places` has the scales and what to call them. Intervals and open points are those of `forest`; what is not recorded has no point,
    and no line goes across the gap. LabError where no recipe is recorded with the baseline at two of the scales, or for more recipes
    than there are marks.
    """
    from matplotlib import rc_context

    require(len(names) <= len(MARKS), f"This figure has marks for {len(MARKS)} recipes and was asked for {len(names)}; draw two figures.")
    every = records(root).found
    shown = columns(metrics, [run for run in every if run.scale in places])
    lines = {metric.name: drawn(every, metric.name, names, tuple(places), baseline) for metric in shown}
    if all(len(one) < 2 for found in lines.values() for one in found.values()):
        raise LabError(f"No recipe of {', '.join(names)} is recorded with {baseline} at two of the scales {', '.join(places)} yet.")
    height = math.ceil(len(shown) / 2)
    made, axes = figure(6.6, 0.6 + 2.2 * height, height, 2)
    with rc_context(STYLE):
        for axis, metric in zip(axes.flat, shown):
            draw(axis, list(lines[metric.name].values()), tuple(places.values()))
            axis.set_title(metric.head)
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        for nth, name in enumerate(names):
            axes[0, 0].plot([], [], MARKS[nth], color=COLOURS[nth], label=name)
        made.legend(loc="outside lower center", ncols=len(names), fontsize=SMALL)
        ours = [branch.ours for found in lines.values() for one in found.values() for branch in one.values()]
        beyond = "; a line that meets an edge goes on" if any(map(leaves, ours)) else ""
        made.suptitle(f"over {baseline} of the same scale{beyond}", x=0.01, ha="left", fontsize=11)
    told = [
        f"{metric.head} of {name} " + ", ".join(f"{list(places)[place]} {1 + branch.ours.mean:.2f}" for place, branch in one.items())
        for metric in shown
        for name, one in lines[metric.name].items()
        if one
    ]
    return Plot(made, f"over {baseline} of the same scale: {'; '.join(told)}")


def draw(axis: "Axes", found: Sequence[Mapping[int, Branch]], places: Sequence[str]) -> None:
    """One panel: the branches of each recipe by the place of their scale, side by side."""
    axis.axhline(1, color=GREY, lw=1)
    for nth, one in enumerate(found):
        colour, aside = COLOURS[nth], APART * (nth - (len(found) - 1) / 2)
        means = [1 + one[place].ours.mean if place in one else math.nan for place in range(len(places))]
        axis.plot([place + aside for place in range(len(places))], means, color=colour, lw=1, ls=":")
        for place, branch in one.items():
            axis.plot([place + aside] * 2, [1 + branch.ours.lo, 1 + branch.ours.hi], color=colour, lw=2, solid_capstyle="butt")
            fill = "none" if branch.ours.n == 1 else "full"
            axis.plot(place + aside, 1 + branch.ours.mean, MARKS[nth], color=colour, fillstyle=fill)
    axis.set(yscale="log", xticks=range(len(places)), xticklabels=places, xlim=(-0.5, len(places) - 0.5))
    axis.set_ylim(limits([branch.ours for one in found for branch in one.values()]))
    mark_ratios(axis.yaxis)


def leaves(change: Estimate) -> bool:
    """Whether an interval is too wide to be shown whole; false for none."""
    return 1 + change.hi > FAR * (1 + change.mean) or 1 + change.lo < (1 + change.mean) / FAR


def limits(changes: Sequence[Estimate]) -> tuple[float, float]:
    """The lowest and the highest ratio of a panel: its points with their intervals, as far as they are not FAR from their point."""
    if not changes:
        return NARROWEST
    ends = [1 + one.mean for one in changes]
    for one in changes:
        if not math.isnan(one.lo):
            ends += [max(1 + one.lo, (1 + one.mean) / FAR), min(1 + one.hi, (1 + one.mean) * FAR)]
    edge = (max(ends) / min(ends)) ** 0.05
    return min(min(ends) / edge, NARROWEST[0]), max(max(ends) * edge, NARROWEST[1])


def drawn(
    found: tuple[Record, ...], metric: str, names: Sequence[str], scales: Sequence[str], baseline: str
) -> dict[str, dict[int, Branch]]:
    """{recipe: {place of the scale: its branch there}}, where it is recorded with the baseline."""
    made = {name: {} for name in names}
    for place, scale in enumerate(scales):
        if of_recipe(found, baseline, scale):
            for one in branches(found, metric, names, scale, baseline):
                made[one.name][place] = one
    return made
