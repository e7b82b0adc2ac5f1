"""What a recipe does at one scale beside what it does at another: its ratio to the baseline of each, with intervals."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.record import records
from prx_lab.report.columns import columns
from prx_lab.report.forest import NARROWEST, SMALL, Branch, branches, factors
from prx_lab.report.pairs import pair
from prx_lab.show import COLOURS, GREY, STYLE, Plot, figure

APART = 0.12  # of the way from a scale to the next, between two recipes
MARKS = "osD^"


def across(
    names: Sequence[str], places: Mapping[str, str], metrics: Sequence[str], baseline: str = "baseline", root: str | Path = "results"
) -> Plot:
    """Each recipe's value of some metrics over that of the baseline at the same scale and seeds, at several scales from left to right.

    `places` has the scales and what to call them. Intervals and open points are those of `forest`; what is not recorded has no point.
    LabError where no recipe is recorded with the baseline at two of the scales.
    """
    from matplotlib import rc_context

    shown = columns(metrics, list(records(root).found))
    lines = {metric.name: [line(metric.name, name, tuple(places), baseline, root) for name in names] for metric in shown}
    if all(len(one) < 2 for one in lines[shown[0].name]):
        raise LabError(f"No recipe of {', '.join(names)} is recorded with {baseline} at two of the scales {', '.join(places)} yet.")
    height = math.ceil(len(shown) / 2)
    made, axes = figure(6.6, 0.6 + 2.2 * height, height, 2)
    with rc_context(STYLE):
        for axis, metric in zip(axes.flat, shown):
            axis.axhline(1, color=GREY, lw=1)
            for nth, one in enumerate(lines[metric.name]):
                aside = APART * (nth - (len(names) - 1) / 2)
                x, y = [place + aside for place in one], [1 + branch.ours.mean for branch in one.values()]
                axis.plot(x, y, color=COLOURS[nth], lw=1, ls=":")
                for at, branch in zip(x, one.values()):
                    axis.plot([at, at], [1 + branch.ours.lo, 1 + branch.ours.hi], color=COLOURS[nth], lw=2, solid_capstyle="butt")
                    fill = "none" if branch.ours.n == 1 else "full"
                    axis.plot(at, 1 + branch.ours.mean, MARKS[nth], color=COLOURS[nth], fillstyle=fill)
            axis.set(yscale="log", xticks=range(len(places)), xticklabels=places.values(), xlim=(-0.5, len(places) - 0.5))
            axis.set_title(metric.head)
            axis.set_ylim(min(axis.get_ylim()[0], NARROWEST[0]), max(axis.get_ylim()[1], NARROWEST[1]))
            ticks = factors(*axis.get_ylim())
            axis.set_yticks(ticks, labels=[f"× {tick:g}" for tick in ticks], fontsize=SMALL)
            axis.minorticks_off()
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        for nth, name in enumerate(names):
            axes[0, 0].plot([], [], MARKS[nth], color=COLOURS[nth], label=name)
        made.legend(loc="outside lower center", ncols=len(names), fontsize=SMALL)
        made.suptitle(f"over {baseline} of the same scale", x=0.01, ha="left", fontsize=11)
    told = [
        f"{metric.head} of {name} " + ", ".join(f"{list(places)[place]} {1 + branch.ours.mean:.2f}" for place, branch in one.items())
        for metric in shown
        for name, one in zip(names, lines[metric.name])
        if one
    ]
    return Plot(made, f"over {baseline} of the same scale: {'; '.join(told)}")


def line(metric: str, name: str, scales: Sequence[str], baseline: str, root: str | Path) -> dict[int, Branch]:
    """{place of the scale: the recipe's branch there}, where it is recorded with the baseline."""
    found = records(root).found
    there = [(place, scale) for place, scale in enumerate(scales) if all(pair(found, name, baseline, scale))]
    return {place: one for place, scale in there for one in branches(metric, (name,), scale, baseline, root)}
