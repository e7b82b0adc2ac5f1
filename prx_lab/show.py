"""Figures and rich displays for notebooks: one style that reads on white and on dark, sample grids, curves, bars."""

import io
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from prx_lab.cards import recipe_html as recipe_html
from prx_lab.cards import spec_html as spec_html
from prx_lab.errors import LabError
from prx_lab.images import Samples as Samples
from prx_lab.images import _columns, to_uint8
from prx_lab.record import Record, number
from prx_lab.report import clock
from prx_lab.report.columns import METRICS, columns

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from prx_lab.report.table import Table

GREY = "#77808c"  # text and axes: the same contrast on white and on #121212
COLOURS = ("#4a86c5", "#d1812c", "#3f9b6c", "#c25b93", "#8b6fc0")
STYLE: dict[str, Any] = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 11,
    "axes.grid": True, "grid.color": GREY, "grid.alpha": 0.18, "grid.linewidth": 0.6,
    "font.size": 10, "legend.frameon": False, "lines.linewidth": 1.8, "figure.dpi": 110, "savefig.dpi": 110,
}  # fmt: skip


def live() -> bool:
    """Whether a person can move widgets here: a Jupyter kernel, and not a stored page (PRX_STATIC=1)."""
    if os.environ.get("PRX_STATIC") == "1" or "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


@dataclass(frozen=True, eq=False, repr=False)
class Plot:
    """A finished figure that shows itself once, as the last value of a cell, and has a repr without addresses."""

    figure: "Figure"
    text: str

    def _repr_png_(self) -> bytes:
        from matplotlib import rc_context
        from PIL import Image

        drawn, small = io.BytesIO(), io.BytesIO()
        with rc_context(STYLE):
            self.figure.savefig(drawn, format="png", bbox_inches="tight", transparent=True, metadata={"Software": None})
        palette = Image.open(drawn).quantize(256, method=Image.Quantize.FASTOCTREE)  # a third of the size in a stored page
        palette.save(small, format="png", optimize=True)
        return small.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the figure as PNG."""
        Path(path).write_bytes(self._repr_png_())
        return Path(path)

    def __repr__(self) -> str:
        return self.text


def figure(width: float = 6.6, height: float = 3.4, rows: int = 1, cols: int = 1) -> tuple["Figure", "np.ndarray"]:
    """A figure in the house style and its axes (rows, cols); inches. It is not registered with pyplot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        return made, made.subplots(rows, cols, squeeze=False)


# -------------------------------------------------------------------------------------------------- images
def grid(images: "Tensor | np.ndarray", cols: int = 4, captions: Sequence[str] = (), size: float = 1.6) -> Plot:
    """Images (see `to_uint8`) row by row, `size` inches each, with wrapped captions where there are any.

    LabError where their numbers differ, or cols is not positive.
    """
    array = to_uint8(images)
    n, H, W, _ = array.shape
    if captions and len(captions) != n:
        raise LabError(f"{n} images need as many captions or none, not {len(captions)}.")
    cols = _columns(n, cols)
    rows = -(-n // cols)
    wrapped = [textwrap.fill(textwrap.shorten(caption, 90, placeholder=" …"), int(14 * size)) for caption in captions]
    lines = max((text.count("\n") + 1 for text in wrapped), default=0)
    made, axes = figure(cols * size, rows * (size * H / W + 0.13 * lines), rows, cols)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < n:
            axis.imshow(array[i], interpolation="nearest")
            if captions:
                axis.set_title(wrapped[i], fontsize=7, color=GREY, loc="left", pad=2, parse_math=False)
    return Plot(made, f"grid of {n} images, {W} x {H} pixels")


# -------------------------------------------------------------------------------------------------- curves
def curves(records: Iterable[Record], metric: str = "fid", against: str = "step", smooth: int = 1, note: str = "") -> Plot:
    """One line per recipe: the mean over seeds, with a band of one sd where there are two seeds or more.

    `metric` is one of the evaluations during training (fid, ...) or of the training log (loss, lr, terms.REPA, ...);
    `against` is step or seconds; `smooth` averages that many rows of the log; `note` stands below the axis. LabError where nothing was
    recorded.
    """
    from matplotlib import rc_context

    runs = list(records)
    if smooth < 1:
        raise LabError(f"smooth is {smooth}; it averages 1 or more rows.")
    groups = {label: [s for run in members if (s := series(run, metric, against, smooth))] for label, members in grouped(runs).items()}
    groups = {label: members for label, members in groups.items() if members}
    if not groups:
        raise LabError(f"None of the {len(runs)} records has '{metric}' against '{against}'.")
    made, axes = figure()
    axis, title = axes[0, 0], axis_label(metric, runs, smooth)
    with rc_context(STYLE):
        for (label, members), colour in zip(groups.items(), cycle(COLOURS)):
            _band(axis, members, f"{label} (n={len(members)})", colour)
        axis.set_xlabel("\n".join(filter(None, ("training time, s" if against == "seconds" else against, note))))
        axis.set_ylabel(title)
        if metric in METRICS and METRICS[metric].lower and all(y > 0 for members in groups.values() for run in members for *_, y in run):
            plain_log(axis)
        if metric in METRICS and METRICS[metric].percent:
            axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
        axis.legend() if len(groups) < len(COLOURS) else made.legend(loc="outside lower center", ncols=3)  # many cover the lines
    seeds = ", ".join(f"{label} n={len(members)}" for label, members in groups.items())
    return Plot(made, f"{title} against {against}: {seeds}" + (note and f"; {note}"))


def grouped(runs: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs by recipe; a name recorded under several ids is told apart by the id."""
    ids: dict[str, set[str]] = {}
    for run in runs:
        ids.setdefault(run.name, set()).add(run.id)
    groups: dict[str, list[Record]] = {}
    for run in runs:
        groups.setdefault(run.name if len(ids[run.name]) == 1 else f"{run.name}-{run.id}", []).append(run)
    return groups


def series(run: Record, metric: str, against: str, smooth: int) -> list[tuple[float, float, float]]:
    """(step, x, y) of one run, from its evaluations where they have the metric, else from its training log."""
    if judged(run, metric):
        points, width = [(p["step"], p.get(against, math.nan), p["value"]) for p in clock.curve(run, metric)], 1
    else:
        points, width = logged(run, metric, against), smooth
    points = [p for p in points if all(v == v for v in p)]  # without NaN
    chunks = [points[i : i + width] for i in range(0, len(points), width)]
    return [tuple(fmean(column) for column in zip(*chunk)) for chunk in chunks]


def judged(run: Record, metric: str) -> bool:
    """Whether the evaluations along a run have the metric."""
    return any(metric in row for row in run.curve)


def logged(run: Record, metric: str, against: str) -> list[tuple[float, float, float]]:
    """(step, x, y) of one run from its training log; seconds are those of its steps, without pauses (see `clock`)."""
    name, _, part = metric.partition(".")
    points = []
    for row in run.train:
        y = number(row.get(name, {}).get(part) if part and isinstance(row.get(name), Mapping) else row.get(metric))
        step, told = number(row.get("step")), number(row.get(against))
        after = clock.seconds_after(run, step) if against == "seconds" else told
        points.append((step, told if math.isnan(after) else after, y))
    return points


def axis_label(metric: str, runs: Sequence[Record], smooth: int) -> str:
    """A curve's axis in words: the scoreboard's title, or a term of the loss and over how many logged steps it is averaged."""
    if metric in METRICS:
        return columns([metric], runs)[0].head
    name = f"{metric.removeprefix('terms.')} term" if metric.startswith("terms.") else metric
    over = smooth > 1 and not any(judged(run, metric) for run in runs)
    return f"{name}, mean of {smooth} logged steps" if over else name


def plain_log(axis: "Axes") -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5."""
    axis.set_yscale("log")
    lo, hi = axis.get_ylim()
    ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5) if lo <= m * 10.0**e <= hi]
    if len(ticks) < 2:  # a narrow range: matplotlib's own
        axis.yaxis.set_minor_formatter("{x:g}")
        return
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _band(axis: "Axes", members: list[list[tuple[float, float, float]]], label: str, colour: str) -> None:
    """Mean and sd over seeds at the steps that all of them have."""
    by_step = [{step: (x, y) for step, x, y in points} for points in members]
    steps = sorted(set.intersection(*(set(points) for points in by_step)))
    xs = [fmean(points[step][0] for points in by_step) for step in steps]
    ys = [fmean(points[step][1] for points in by_step) for step in steps]
    axis.plot(xs, ys, color=colour, label=label, marker="o" if len(steps) < 12 else "", markersize=4)
    if len(members) > 1:
        sds = [stdev(points[step][1] for points in by_step) for step in steps]
        axis.fill_between(xs, [y - s for y, s in zip(ys, sds)], [y + s for y, s in zip(ys, sds)], color=colour, alpha=0.2, lw=0)


def bars(table: "Table", metric: str = "fid") -> Plot:
    """One bar per recipe of a table: the mean over seeds, each seed as a dot, the baseline's mean as a dashed line.

    LabError for a metric that the table or no record has.
    """
    from matplotlib import rc_context

    shown = next((m for m in table.metrics if m.name == metric), None)
    if shown is None:
        raise LabError(f"The table has no column '{metric}'; it has {', '.join(m.name for m in table.metrics)}.")
    scale = 100 if shown.percent else 1
    rows = [row for row in table.rows if row.cells[metric].n]
    if not rows:
        raise LabError(f"No record at {table.scale} scale has '{metric}'.")
    made, axes = figure(6.6, 0.9 + 0.42 * len(rows))
    axis = axes[0, 0]
    with rc_context(STYLE):
        for i, (row, colour) in enumerate(zip(rows, cycle(COLOURS))):
            cell = row.cells[metric]
            axis.barh(i, scale * cell.mean, color=colour, alpha=0.55, height=0.62)
            axis.plot([scale * v for v in cell.values.values()], [i] * cell.n, "o", color=colour, markersize=4)
            if row.is_baseline:
                axis.axvline(scale * cell.mean, color=GREY, lw=1, ls="--")
        axis.set_yticks(range(len(rows)), [f"{row.label} (n={row.cells[metric].n})" for row in rows])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"{shown.head}, {table.scale} scale")
    return Plot(made, f"{shown.head} of {', '.join(row.label for row in rows)}")
