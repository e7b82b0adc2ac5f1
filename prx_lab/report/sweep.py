"""The scale of guidance, swept over recorded runs: does an order of techniques hold at another scale, or at the best of each?

`prx-lab sweep RUN...` judges the last weights of each run folder again under other guidance, on the captions and
noise of its evaluation, and records it. A run that was judged with the weights of another, as the rows that only guide
otherwise are, is swept with those. Weights of runs are not shared, so the pages read the records.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from prx_lab import record
from prx_lab.errors import LabError
from prx_lab.evaluate import bench, pictures, scores
from prx_lab.files import read_json
from prx_lab.recipe import Recipe
from prx_lab.recipes import RECIPES
from prx_lab.report.arrival import factor
from prx_lab.report.columns import METRICS, QUALITY, columns
from prx_lab.report.evidence import Estimate, change
from prx_lab.report.family import noise
from prx_lab.report.layout import counted
from prx_lab.report.listing import Listing, Note
from prx_lab.report.ranks import agreement
from prx_lab.sample import CFG, Interval, from_run
from prx_lab.show import COLOURS, STYLE, Plot, figure, plain_log
from prx_lab.siblings import trained_as, weights_of

STRENGTHS = (1.0, 1.25, 1.5, 2.0, 3.0)
FOLDER = "results/guidance"
AGAIN = "delete it and sweep the run again"


def study(folder: Path, scales: Sequence[float] = STRENGTHS) -> dict[str, Any]:
    """The metrics of a recorded run under guidance of other scales; those of its own scale are the record's.

    LabError where its guidance has no scale, or where no run that trained alike still has its weights.
    """
    run = record.Record.load(folder)
    recipe = Recipe.from_json(run.recipe)
    guidance = recipe.last.guidance
    if not isinstance(guidance, Interval):
        raise LabError(f"The guidance of {run.name}, {type(guidance).__name__}, has no scale to sweep; choose a run with CFG().")
    sampler = from_run(weights_of(folder, run, recipe))
    judge, mean, rows = bench(recipe, sampler.device), sampler.mean.to(sampler.device), {}
    for scale in sorted({*scales} - {guidance.scale}):
        other = recipe.last.but(guidance=replace(guidance, scale=scale))
        found = scores(pictures(sampler.model, other, judge, range(judge.n), mean), judge)
        rows[scale] = {metric: record.number(found.get(metric)) for metric in QUALITY}
    rows[guidance.scale] = {metric: run.metric(metric) for metric in QUALITY}
    told = {"run": record.label(folder), "name": run.name, "seed": run.seed, "own": guidance.scale, "n": judge.n}
    told |= {"env": record.env(device=str(sampler.device)), "trained": run.env}
    return told | {"rows": [{"scale": scale} | rows[scale] for scale in sorted(rows)]}


def keep(folder: Path) -> dict[str, Any]:
    """Study a run and write what was found into the folder `guidance` of its results."""
    where = folder.resolve()
    told = study(where)
    record.write_json(where.parents[2] / Path(FOLDER).name / where.parents[1].name / where.parent.name / f"{where.name}.json", told)
    return told


# ------------------------------------------------------------------------------------------------ reading
@dataclass(frozen=True)
class Swept:
    """A recipe over the scales of guidance: {seed: {scale: {metric: value}}}, and the scale it is recorded with."""

    name: str
    own: float
    seeds: dict[int, dict[float, dict[str, float]]]

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales that all of its seeds have."""
        return tuple(sorted(set.intersection(*(set(rows) for rows in self.seeds.values()))))

    def at(self, scale: float, metric: str) -> dict[int, float]:
        """{seed: value} of a metric at a scale."""
        return {seed: rows[scale][metric] for seed, rows in self.seeds.items() if scale in rows}

    def mean(self, scale: float, metric: str) -> float:
        """The mean of a metric over seeds at a scale."""
        return fmean(self.at(scale, metric).values())

    def best(self, metric: str = "fid") -> float:
        """The scale at which the mean of a metric over seeds is best."""
        sign = 1 if METRICS[metric].lower else -1
        return min(self.scales, key=lambda scale: sign * self.mean(scale, metric))


def load(scale: str = "cpu", folder: str | Path = FOLDER) -> dict[str, Swept]:
    """{recipe: what is swept of it}; LabError where nothing is, or where a file is damaged."""
    found: dict[str, Swept] = {}
    for path in sorted((record.find_root(folder) / scale).glob("*/seed*.json")):
        one = read_json(path, AGAIN)
        try:
            rows = {row["scale"]: {metric: record.number(row.get(metric)) for metric in QUALITY} for row in one["rows"]}
            swept = found.setdefault(one["name"], Swept(one["name"], one["own"], {}))
            known = {scale: row for scale, row in rows.items() if math.isfinite(row["fid"])}
            if one["own"] != swept.own or one["seed"] in swept.seeds:
                raise ValueError("another recipe of this name, or this seed of it, is recorded too")
            if one["own"] not in known:
                raise ValueError("the row of its own scale is missing")
            swept.seeds[one["seed"]] = known
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LabError(f"{path} is no record of a sweep ({error}): {AGAIN}.") from None
    if not found:
        raise LabError(f"No sweep of guidance is recorded at {scale} scale yet.")
    return found


def networks(names: Collection[str]) -> tuple[str, ...]:
    """Of recipes those that CFG guides, one for each network: the first of those that train alike. LabError where there is none."""
    found: dict[str, str] = {}
    for name in names:
        if name not in RECIPES or isinstance(RECIPES[name].last.guidance, CFG):
            found.setdefault(trained_as(RECIPES[name]) if name in RECIPES else name, name)
    if not found:
        raise LabError(f"No recipe of {', '.join(names)} is guided by CFG.")
    return tuple(found.values())


def against(found: dict[str, Swept], baseline: str) -> Swept:
    """The sweep of a baseline. LabError where there is none."""
    if baseline not in found:
        raise LabError(f"No sweep of guidance is recorded for {baseline}; there are {', '.join(sorted(found))}.")
    return found[baseline]


def compared(found: dict[str, Swept], baseline: str, scales: dict[str, float]) -> dict[str, Estimate]:
    """{recipe: its lab-FID over the baseline's}, each at its own of `scales`, with a noise learnt from all trainings among them."""
    values = {name: one.at(scales[name], "fid") for name, one in found.items()}
    whole = noise(values, {name: values[name] for name in networks(found)})
    changes = {name: change(own, values[baseline], whole.between(name, baseline)) for name, own in values.items()}
    return {name: Estimate(one.n, 1 + one.mean, 1 + one.lo, 1 + one.hi) for name, one in changes.items()}


# ------------------------------------------------------------------------------------------------ showing
def ranking(scale: str = "cpu", baseline: str = "baseline", folder: str | Path = FOLDER, recipes: Collection[str] = ()) -> Listing:
    """Every swept recipe at the scale it is recorded with and at that of its lowest lab-FID, both over the baseline's, the best first.

    Of `recipes` and the baseline only where some are named.
    """
    found = load(scale, folder)
    base = against(found, baseline)
    lowest = {name: one.best() for name, one in found.items()}
    tuned, fixed = (compared(found, baseline, scales) for scales in (lowest, {name: one.own for name, one in found.items()}))
    rows = []
    shown = [name for name in found if not recipes or name in (*recipes, baseline)]
    for name in sorted(shown, key=lambda name: found[name].mean(lowest[name], "fid")):
        one, best = found[name], lowest[name]
        ratios = ("", "") if one is base else (factor(fixed[name]), factor(tuned[name]))
        as_recorded = (f"{one.mean(one.own, 'fid'):.2f}", ratios[0])
        there = (f"{best:g}", f"{one.mean(best, 'fid'):.2f}", ratios[1], f"{100 * one.mean(best, 'composition'):.1f}")
        rows.append((name, str(len(one.seeds)), *as_recorded, *there))
    head = ("recipe", "n", "lab-FID as recorded", "ratio", "best scale", "lab-FID there", "ratio there", "composition % there")
    swept = ", ".join(f"{s:g}" for s in base.scales)
    notes = (
        f"Scales of guidance: {swept}; best: of these, the one with the lowest mean lab-FID. n: seeds.",
        f"Ratio: over {baseline}, each at the scale in question, seeds in common, 95 % t interval with a noise learnt from all swept "
        "networks; the luck of images is not in it, and one seed has no interval. The choice of the lowest of several flatters every "
        "recipe, and a noisy one most. A best at either end of the scales may lie beyond.",
    )
    return Listing(head, tuple(rows), head[1:], notes)


def order(scale: str = "cpu", folder: str | Path = FOLDER, recipes: Collection[str] = ()) -> Note:
    """Whether the recipes stand in the same order at the recorded scale of guidance and at the best of each; LabError below four.

    Of `recipes` only where some are named.
    """
    found, lines = {name: one for name, one in load(scale, folder).items() if not recipes or name in recipes}, []
    for metric in columns(QUALITY, ()):  # evaluations have the embedded judges
        own = [one.mean(one.own, metric.name) for one in found.values()]
        ranks = agreement(own, [one.mean(one.best(), metric.name) for one in found.values()])
        tau, chance = ranks.texts
        lines.append(f"{metric.title}: tau-b {tau} over {ranks.n} recipes, chance {chance}")
    seeds = max(len(one.seeds) for one in found.values())
    luck = f"At most {counted(seeds, 'seed')} each: the luck of training is in both orders alike, and not in the interval."
    return Note("Order as recorded against order where each recipe's lab-FID is lowest:\n" + "\n".join([*lines, luck]))


def curve(names: Sequence[str], scale: str = "cpu", folder: str | Path = FOLDER) -> Plot:
    """lab-FID and composition against the scale of guidance, one line per recipe of `names` that is swept. LabError where none is."""
    from matplotlib import rc_context

    found = load(scale, folder)
    shown = [found[name] for name in names if name in found]
    if not shown:
        raise LabError(f"No sweep of guidance is recorded for {', '.join(names)} at {scale} scale yet.")
    made, axes = figure(6.6, 3.2, 1, 2)
    with rc_context(STYLE):
        for one, colour in zip(shown, cycle(COLOURS)):
            axes[0, 0].plot(one.scales, [one.mean(s, "fid") for s in one.scales], "o-", ms=4, color=colour, label=one.name)
            axes[0, 1].plot(one.scales, [100 * one.mean(s, "composition") for s in one.scales], "o-", ms=4, color=colour)
        axes[0, 0].set(xlabel="scale of guidance", title="lab-FID")
        plain_log(axes[0, 0])
        axes[0, 1].set(xlabel="scale of guidance", title="composition, %")
        made.legend(loc="outside lower center", ncols=min(len(shown), 5), fontsize=8)
    lowest = ", ".join(f"{one.name} {one.mean(one.best(), 'fid'):.2f} at {one.best():g}" for one in shown)
    return Plot(made, f"lab-FID and composition against the scale of guidance; lowest lab-FID: {lowest}")
