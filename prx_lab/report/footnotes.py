"""What stands below a scoreboard: what a reader must know to read its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prx_lab.record import Records, number
from prx_lab.report.columns import Metric, judges
from prx_lab.report.comparable import alike, commits, elsewhere, machine
from prx_lab.report.evidence import detectable, typical_sd

if TYPE_CHECKING:
    from prx_lab.report.table import Row, Runs

MANY = 8  # names in a note; more are counted


def notes(found: Records, groups: Mapping[str, "Runs"], rows: Sequence["Row"], shown: Sequence[Metric]) -> tuple[str, ...]:
    """What a reader must know to read the numbers: evaluation size, judges, machines, code, and what was left out."""
    lines, used, base = [], [record for runs in groups.values() for record in runs], next(iter(groups.values()))
    if any(len(row.seeds) > 1 for row in rows):
        lines.append("n: seeds. Value: mean ± sd. Δ: paired difference to the baseline over common seeds [95 % t interval].")
    elif used:
        lines.append("n: seeds. Δ: paired difference to the baseline; one seed gives no interval.")
    most = max((len(row.seeds) for row in rows if row.is_baseline), default=0)
    behind = [f"{row.label} ({len(row.seeds)})" for row in rows if 0 < len(row.seeds) < most]
    if behind:
        lines.append(f"Fewer than the baseline's {most} seeds: {few(behind, 'see n')}.")
    lines += shared(rows, shown) + sees(rows, shown)
    apart = [label for label, runs in groups.items() if runs and base and not all(alike(run, base[0]) for run in runs)]
    if apart:
        lines.append(
            f"Judged on other images, given other captions or trained at other settings, so without a difference: {', '.join(apart)}."
        )
    sizes = sorted({int(n) for record in used if (n := number(record.eval.get("n"))) >= 1})
    if sizes:
        text = " or ".join(map(str, sizes))
        lines.append(f"Each run is judged on {text} images." + (" Sizes differ: FID is not comparable." * (len(sizes) > 1)))
    named = [f"{m.title} by {' and '.join(judges(m, used))}" for m in shown if judges(m, used)]
    if named and used:
        lines.append("; ".join(named) + ".")
    if any(metric.timed for metric in shown) and used:
        lines.append(
            "Times and rates are indicative and get no verdict: runs followed one another, and other work may have shared their machine."
        )
    lines += machines(groups)
    lines += versions(groups)
    if any(row.post for row in rows):
        lines.append("post: the published row and its change to the published baseline; one run each, other networks, data and scale.")
    return tuple(lines + [f"Skipped: {reason}" for _, reason in found.skipped])


def shared(rows: Sequence["Row"], shown: Sequence[Metric]) -> list[str]:
    """The baseline's mean over the seeds that a row with fewer of them is compared on, metric by metric."""
    base = next((row for row in rows if row.is_baseline), None)
    if base is None:
        return []
    sets = {cell.common for row in rows if row is not base for cell in row.cells.values() if 0 < len(cell.common) < len(cell.base)}
    lines = []
    for seeds in sorted(sets):
        means = {m: [v for seed, v in base.cells[m.name].values.items() if seed in seeds and math.isfinite(v)] for m in shown}
        told = ", ".join(f"{m.title} {m.show(sum(values) / len(values))}" for m, values in means.items() if values)
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        lines.append(f"The baseline over {which} alone, from which a Δ over {'it' if len(seeds) == 1 else 'them'} is counted: {told}.")
    return lines


def sees(rows: Sequence["Row"], shown: Sequence[Metric]) -> list[str]:
    """The smallest difference that the median row of each column would show, with the most seeds that a row shares with the baseline.

    A share of more than the whole is none that could be seen.
    """
    told: dict[int, list[str]] = {}
    for metric in (metric for metric in shown if not metric.local):
        cells = [row.cells[metric.name] for row in rows if not row.is_baseline]
        n = max((len(cell.common) for cell in cells), default=0)
        sd = typical_sd([[cell.values[s] - cell.base[s] for s in cell.common] for cell in cells])
        if n > 1 and math.isfinite(sd):
            seen = detectable(sd / math.sqrt(n), n - 1)
            told.setdefault(n, []).append(f"{metric.title} {'none' if metric.percent and seen > 1 else metric.show(seen)}")
    head = "seeds the median row of a column would show, 80 times of 100, a true difference of"
    return [f"With {n} {head} {', '.join(found)}." for n, found in told.items()]


def few(names: Sequence[str], where: str = "see their env.json") -> str:
    """Names one after the other, or their number and where they can be seen where they are too many for a note."""
    return ", ".join(names) if len(names) <= MANY else f"{len(names)} rows, {where}"


def machines(groups: Mapping[str, "Runs"]) -> list[str]:
    """Rows with seeds of another machine than the baseline's (the first), and which machines there are."""
    base = next(iter(groups.values()))
    names = sorted({machine(run)[0] for runs in groups.values() for run in runs} - {""})
    away = sorted(label for label, runs in groups.items() if elsewhere(runs, base))
    if not away:
        return [f"Speeds come from different machines ({', '.join(names)}): do not compare them."] * (len(names) > 1)
    told = f"Trained on another machine than the baseline's same seed, so without a difference of times or of memory: {few(away)}."
    told += f" The machines are {' and '.join(names)}." * (len(names) > 1)
    return [told + " What another machine does to a score is told on page 02."]


def versions(groups: Mapping[str, "Runs"]) -> list[str]:
    """Rows whose seeds have different code, and rows whose code is not that of the baseline (the first) at the same seed."""
    mixed = sorted(label for label, runs in groups.items() if len({commits(run) for run in runs}) > 1)
    base = {run.seed: commits(run) for run in next(iter(groups.values()))}
    other = sorted(label for label, runs in groups.items() if any(commits(run) != base.get(run.seed, commits(run)) for run in runs))
    lines = [f"Seeds recorded with different versions of the code: {few(mixed)}. Their speeds do not compare."] * bool(mixed)
    told = f"Recorded with other code than the baseline's same seed: {few(other)}."
    told = f"{told} Speeds do not compare; whether the code moves a result is seen in runs that were trained again (page 02)."
    return lines + [told] * bool(other)
