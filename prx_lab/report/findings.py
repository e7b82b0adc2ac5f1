"""The evidence behind a scoreboard as tables: what its seeds and its images could see, and how its recipes scatter."""

import math
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from prx_lab.errors import LabError
from prx_lab.record import records
from prx_lab.report import luck
from prx_lab.report.columns import QUALITY, columns
from prx_lab.report.comparable import alike
from prx_lab.report.evidence import detectable, error, typical_sd
from prx_lab.report.family import Noise, Variance, noise
from prx_lab.report.listing import Listing, Note
from prx_lab.report.pairs import base_of, noises, of_recipe
from prx_lab.report.table import Row, Table

MUCH = 100  # degrees of freedom that draw every recipe to the typical one


def detectables(table: Table) -> Listing:
    """For each metric of a table: the paired standard deviation over seeds of its median row, and the difference it could see.

    LabError where no row has an interval.
    """
    rows, others = [], [row for row in table.rows if not row.is_baseline]
    counts = sorted({len(cell.common) for row in others for cell in row.cells.values()} - {0, 1})
    for metric in table.metrics:
        cells = [row.cells[metric.name] for row in others]
        sd = typical_sd([[c.values[s] - c.base[s] for s in c.common] for c in cells])
        if math.isnan(sd):
            continue
        base = next(row.cells[metric.name].mean for row in table.rows if row.is_baseline)
        own = [detectable(sd / math.sqrt(n), n - 1) for n in counts]
        logs = [detectable(error(one, counts[-1]), one.freedom) for one in variances(table, metric.name).values()]
        log = float(np.median([math.inf if math.isnan(one) else one for one in logs]))
        shared = -math.expm1(-log) if metric.lower else math.expm1(log)  # an improvement
        improved = f"{100 * shared:.0f} %" if math.isfinite(log) else "–"
        used = str(sum(len(c.common) > 1 for c in cells))
        seen = (metric.show(d) + (f" ({100 * d / base:.0f} %)" if base else "") for d in own)
        rows.append((metric.head, used, metric.show(sd), *seen, improved))
    if not rows:
        raise LabError(f"No recipe shares two seeds with the baseline at {table.scale} scale yet: nothing can be said about seeds.")
    head = ("measure", "recipes", "paired sd", *(f"a row sees with {n}" for n in counts), f"with {counts[-1]}, learning from all rows")
    return Listing(head, tuple(rows), head[1:], SEEN)


SEEN = (
    "Seen: the true difference to the baseline whose 95 % t interval over so many paired seeds excludes zero in 80 % of all repetitions; "
    "in brackets its share of the baseline's mean. The spread is that of the median row, as few seeds estimate it: rows far from the "
    "baseline scatter in proportion to their distance, and see less than this.",
    "Learning from all rows: an improvement as a share of the baseline, of the median row; the noise in log value = recipe + seed + "
    "noise is each row's own, drawn towards the typical one, and has more degrees of freedom than a row alone. Of seeds only: the luck of "
    "the images comes on top of it.",
)


def noise_of(table: Table, metric: str) -> Noise:
    """The noise of a metric in a table, over the rows that are judged as the baseline is, learnt from the trainings among them."""
    rows = {row.label: row for row in table.rows if row.cells[metric].base}
    values = {label: row.cells[metric].values for label, row in rows.items()}
    return noise(values, {label: {s: v for s, v in own.items() if s not in rows[label].borrowed} for label, own in values.items()})


def variances(table: Table, metric: str) -> dict[str, Variance]:
    """{row: the variance of its log ratio to the baseline at one seed} for each row that shares two seeds with it."""
    whole, base = noise_of(table, metric), next(row.label for row in table.rows if row.is_baseline)
    rows = [row.label for row in table.rows if not row.is_baseline and len(row.cells[metric].common) > 1]
    return {label: whole.between(label, base) for label in rows}


def pairing(table: Table) -> Note:
    """By how much the seeds that recipes share narrow a ratio: the deviation of its logarithm over that of runs that share nothing.

    Over trainings of their own that are judged as the baseline is, each weighed alike: a row that scatters most would speak for all.
    """
    lines = []
    for metric in (metric for metric in table.metrics if metric.name in QUALITY):
        both = [logs for row in table.rows if not row.is_baseline and len(logs := log_pairs(row, metric.name)) > 1]
        unpaired, paired = ([float(np.var(own, axis=0, ddof=1).sum()) for own in part] for part in (both, [np.diff(b) for b in both]))
        if sum(unpaired):
            narrowed = math.sqrt(float(np.median(paired)) / float(np.median(unpaired)))
            lines.append(f"{metric.title}: the standard deviation of a log ratio is {narrowed:.2f} times that of unpaired runs")
    lines += ["All of them rest on the few seeds of one baseline."] * bool(lines)
    return Note("\n".join(lines) or "No recipe shares two seeds with the baseline yet: nothing can be said about seeds.")


def log_pairs(row: Row, metric: str) -> NDArray:
    """The logarithms (n, 2) of a metric of the baseline and of a row, over common seeds at which the row is a training of its own."""
    cell = row.cells[metric]
    pairs = [(cell.base[seed], cell.values[seed]) for seed in cell.common if seed not in row.borrowed]
    return np.log([pair for pair in pairs if min(pair) > 0]).reshape(-1, 2)


def factor_of(found: Variance) -> str:
    """One standard deviation of a log value, as the factor that it is of the value."""
    return f"× {math.exp(math.sqrt(found.value)):.2f}"


def evenness(table: Table) -> Note:
    """By which factor runs of a recipe scatter, one standard deviation, and whether all of a table do alike. LabError for no seeds."""
    lines, known = [], 0
    for metric in (metric for metric in table.metrics if metric.name in QUALITY):
        whole = noise_of(table, metric.name)
        family = len(whole.own) - len(whole.apart)
        known += bool(whole.freedom)
        alike = whole.typical.freedom > MUCH
        told = "alike, as far as seeds tell" if alike else f"more or less (freedom {whole.typical.freedom:.0f})"
        others = ", ".join(f"{factor_of(whole.own[name])} for {name}" for name in sorted(whole.apart))
        line = (
            f"{factor_of(whole.typical)}, {told if family > 2 else 'of too few recipes to compare'}"
            + f"; apart from them {others}" * bool(others)
        )
        lines.append(f"{metric.title}: {line if whole.freedom else 'no two recipes share two seeds'}")
    if not known:
        raise LabError(f"No two recipes share two seeds at {table.scale} scale yet: nothing can be said about seeds.")
    return Note("\n".join(lines))


# ------------------------------------------------------------------------------------------------- images
def images(scale: str = "cpu", root: str | Path = "results", baseline: str = "baseline") -> Listing:
    """How far the images move a score and a difference, beside what the luck of training does: medians over recipes judged alike.

    LabError where no influences of images are recorded.
    """
    found, rows = records(root, scale).found, []
    base = base_of(found, scale, baseline)
    names = sorted({run.name for run in found if not run.borrows} - {baseline})
    others = [runs for runs in (of_recipe(found, name, scale) for name in names) if runs and alike(runs[0], base[0])]
    for metric in columns(QUALITY, list(base)):
        whole, known = noises(found, scale, metric.name), []
        for runs in others:
            common = luck.both(runs, base, metric.name)
            if len(common) > 1:
                folders = (part[0].folder.parent.name for part in (runs, base))
                seeds = len({run.seed for run in runs} & {run.seed for run in base})
                alone = fmean(luck.alone(side) for pair in common for side in pair)
                paired = fmean(luck.paired(*pair) for pair in common)
                known.append((alone, paired, luck.shared(runs, base, metric.name), whole.between(*folders).value / seeds))
        if known:
            rows.append((metric.head, str(len(known)), *(factor_of(Variance(float(np.median(column)), 1)) for column in zip(*known))))
    if not rows:
        raise LabError(f"No influences of images are recorded at {scale} scale for two seeds of a recipe and of {baseline} yet.")
    head = ("measure", "recipes", "images: a score", "a ratio at one seed", "a ratio over seeds", "seeds: a ratio over seeds")
    return Listing(head, tuple(rows), head[1:], IMAGES)


IMAGES = (
    "One standard deviation as a factor; medians over recipes, each against the baseline.",
    "Images: as many other scenes, that is captions, noises and real images. What they do alike to two recipes leaves the ratio of these; "
    "what they do differently from seed to seed is part of the luck of seeds.",
    "The last two columns are independent; the intervals of the claims and forest plots hold both.",
)


# ---------------------------------------------------------------------------------------------- speedups
