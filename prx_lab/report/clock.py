"""How long a run trained, told by its steps, so that the pauses of a stopped process or a shared machine do not count.

The record keeps wall seconds, which run on while a process is suspended. Here a step of a phase takes the median of that
phase's logged steps, and a point of the curve lies at the sum of the steps before it. Compilation, evaluation and data
preparation are not part of a step, so they do not count either.
"""

import math
import statistics
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from prx_lab.record import Record, number

WARM_UP = 2  # logged steps of a phase that are left out where there are more: compilation, caches


def starts(recipe: Mapping[str, Any]) -> list[int]:
    """The first step of every phase of a recorded recipe, then the number of steps; empty where the recipe does not tell."""
    scale, phases = recipe.get("scale"), recipe.get("phases", ())
    if not isinstance(scale, Mapping) or not isinstance(scale.get("steps"), int):
        return []
    return [0, *(round(phase["start"] * scale["steps"]) for phase in phases), scale["steps"]]


def step_seconds(run: Record) -> list[float]:
    """Median seconds of a step, one number per phase; NaN for a phase without a logged rate."""
    scale = run.recipe.get("scale")
    rates = [(number(row.get("step")), number(row.get("images_per_s"))) for row in run.train]
    found = []
    for first, behind in pairwise(starts(run.recipe)):
        own = [rate for step, rate in rates if first <= step < behind and rate > 0]
        own = own[WARM_UP:] or own
        found.append(scale["batch"] / statistics.median(own) if own else math.nan)
    return found


def seconds_after(run: Record, step: float) -> float:
    """Training seconds of the first `step` steps; NaN where the log does not tell."""
    spans = pairwise(starts(run.recipe))
    parts = [(min(behind, step) - first) * each for (first, behind), each in zip(spans, step_seconds(run)) if step > first]
    return sum(parts) if parts else math.nan


def training_seconds(run: Record) -> float:
    """Training seconds of the whole run, as `seconds_after`; the recorded wall seconds where the log does not tell."""
    found = seconds_after(run, starts(run.recipe)[-1]) if starts(run.recipe) else math.nan
    return number(run.eval.get("throughput", {}).get("seconds")) if math.isnan(found) else found


def images_per_second(run: Record) -> float:
    """Training images over training seconds of the whole run, all phases; the recorded median step where the log does not tell."""
    found = seconds_after(run, starts(run.recipe)[-1]) if starts(run.recipe) else math.nan
    return run.metric("images_per_s") if math.isnan(found) else run.recipe["scale"]["batch"] * starts(run.recipe)[-1] / found


def curve(run: Record, metric: str = "fid") -> list[dict[str, float]]:
    """The points of a run's curve that have the metric: step, seconds by the clock of its steps, value.

    The seconds are the recorded ones for all points of a run whose log does not tell.
    """
    points = [{"step": number(p.get("step")), "seconds": number(p.get("seconds")), "value": number(p.get(metric))} for p in run.curve]
    points = [p for p in points if not math.isnan(p["value"])]
    told = [seconds_after(run, p["step"]) for p in points]
    if any(math.isnan(t) for t in told):
        return points
    return [p | {"seconds": t} for p, t in zip(points, told)]
