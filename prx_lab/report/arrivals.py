"""When recipes arrive: how many times sooner they have the baseline's final quality, read off curves and held by whole short runs."""

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from prx_lab.errors import LabError
from prx_lab.record import Record, records
from prx_lab.report import clock, fidelity
from prx_lab.report.arrival import at_equal_time, factor, geometric, speedup
from prx_lab.report.columns import QUALITY, columns
from prx_lab.report.comparable import elsewhere, judged
from prx_lab.report.layout import percent
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import base_of, of_recipe, pair
from prx_lab.scales import SCALES, along


def speedups(scale: str = "cpu", root: str | Path = "results", baseline: str = "baseline", recipes: Collection[str] = ()) -> Listing:
    """The net speedup of every recipe that is judged as the baseline is and has a curve, in steps and in seconds.

    Of `recipes` only where some are named. Beside it the score at the second at which the baseline ends, over its own.
    LabError where nothing shares a seed with the baseline.
    """
    found = records(root, scale).found
    base = base_of(found, scale, baseline)
    ends, rows = {run.seed: run for run in base}, []
    for name in sorted({run.name for run in found if not recipes or run.name in recipes} - {baseline}):
        runs, _ = pair(found, name, baseline, scale)
        steps, seconds = (speedup(runs, base, against) for against in ("step", "seconds"))
        if steps.n:
            here = [run for run in runs if run.seed in ends.keys() - elsewhere(runs, base)]
            rates = [clock.images_per_second(run) / clock.images_per_second(ends[run.seed]) for run in here]
            equal = [value for run in runs if run.seed in ends and math.isfinite(value := at_equal_time(run, ends[run.seed]))]
            fewer = f" (n={seconds.n})" * (0 < seconds.n < steps.n)
            row = (name, str(steps.n), steps.text, seconds.text + fewer, factor(geometric(equal)), percent(fmean(rates or [math.nan]) - 1))
            rows.append((steps.interval.mean, row))
    rows.sort(key=lambda row: -row[0] if row[0] == row[0] else math.inf)  # without a factor last
    if not rows:
        which = f" of {', '.join(recipes)}" if recipes else ""
        raise LabError(f"No recipe{which} has a curve, shares a seed with {baseline} and is judged as it is at {scale} scale yet.")
    fid = columns(["fid"], base)[0].title
    notes = (
        f"Net speedup: the time of {baseline} to its final {fid} over a recipe's time to the same {fid}; above 1 arrives sooner. "
        "Geometric mean over seeds with the 95 % t interval; one seed has no interval.",
        f"{fid} at equal time: at the training second at which {baseline} ends, over that of {baseline}; below 1 is better. "
        "A slower recipe is read before its learning rate has fallen to zero; a faster one keeps its last value, an upper bound.",
        "A curve is the nearest falling one and its logarithm is interpolated; the baseline's is treated alike.",
        "A step takes the median of its phase, so pauses, compilation and evaluation do not count. Teachers' features and latents are "
        "made before training and do not count either. Steps are exact. Seconds, what is read at equal time and images/s are only "
        "indicative: they are of runs that followed one another on a machine that others share. Seeds of two machines have none.",
        *judged_on(scale, root),
    )
    head = ("recipe", "n", "speedup in steps", "in seconds", f"{fid} at equal time", "images/s")
    return Listing(head, tuple(row for _, row in rows), head[1:], notes)


def sooner(goal: float, recipes: Sequence[str], scale: str = "cpu", baseline: str = "baseline", root: str | Path = "results") -> Listing:
    """Whether recipes are `goal` times sooner at the baseline's final quality, in seconds and in steps, by the intervals of `speedups`.

    LabError where none of them shares a seed with the baseline.
    """
    found, rows = records(root, scale).found, []
    base = base_of(found, scale, baseline)
    for name in recipes:
        runs, _ = pair(found, name, baseline, scale)
        seconds, steps = (speedup(runs, base, against) for against in ("seconds", "step"))
        if steps.n:
            timed = seconds.verdict(goal) if seconds.n else "undecided: another machine"
            fewer = f" (n={seconds.n})" * (0 < seconds.n < steps.n)
            rows.append((name, str(steps.n), seconds.text + fewer, timed, steps.text, steps.verdict(goal)))
    if not rows:
        raise LabError(f"No run of {', '.join(recipes)} shares a seed with {baseline} at {scale} scale yet.")
    head = ("recipe", "n", "in seconds", f"{goal:g} times sooner", "in steps", f"in 1/{goal:g} of the steps")
    notes = (
        "Reached or missed: the whole interval lies beyond the goal or short of it; where a seed never arrives there is none, and "
        "every seed must fall short. Seconds are only indicative, steps exact.",
    )
    return Listing(head, tuple(rows), ("n", "in seconds", "in steps"), notes)


def goals(goal: float, recipes: Sequence[str], scale: str = "cpu", baseline: str = "baseline", root: str | Path = "results") -> Listing:
    """How many times sooner, in steps, recipes have each of the baseline's final scores, and whether that is `goal` times.

    Of composition what is wrong is read, which falls as a distance does. LabError where none of them shares a seed with the baseline.
    """
    found, rows = records(root, scale).found, []
    base = base_of(found, scale, baseline)
    shown = columns(QUALITY, list(base))
    for name in recipes:
        runs, _ = pair(found, name, baseline, scale)
        each = [speedup(runs, base, "step", metric.name) for metric in shown]
        if any(one.n for one in each):
            told = (f"{one.text}, {one.verdict(goal).partition(':')[0]}" if one.n else "" for one in each)
            rows.append((name, str(max(one.n for one in each)), *told))
    if not rows:
        raise LabError(f"No run of {', '.join(recipes)} shares a seed with {baseline} at {scale} scale yet.")
    notes = (
        f"Times sooner at the score with which {baseline} ends, with the 95 % t interval over seeds, and whether the whole of it is "
        f"{goal:g} or more. Of composition it is the share of what is wrong that arrives. The luck of the images, which all seeds share, "
        "is in no interval: along a curve it is large.",
    )
    return Listing(("recipe", "n", *(metric.title for metric in shown)), tuple(rows), ("n",), notes)


def shortened(
    recipes: Sequence[str], short: str = "cpu-short", scale: str = "cpu", baseline: str = "baseline", root: str | Path = "results"
) -> Listing:
    """Whole runs at a short scale against the baseline's whole runs at `scale`: lab-FID and the training time, as ratios over seeds.

    The strictest reading of a speedrun: every run ends with a learning rate of zero, so no curve is read before its time.
    LabError where no recipe shares a seed with the baseline, and where the two scales are not judged alike.
    """
    ours, theirs = records(root, short).found, records(root, scale).found
    base = {run.seed: run for run in of_recipe(theirs, baseline, scale)}
    known = [(run, base[run.seed]) for name in recipes for run in of_recipe(ours, name, short) if run.seed in base]
    paired = {run.folder: run for run, other in known if judging(run) == judging(other)}
    if known and not paired:
        raise LabError(f"{short} and {scale} are not judged alike: their FIDs do not compare.")
    rows = []
    for name in recipes:
        runs = [run for run in of_recipe(ours, name, short) if run.folder in paired]
        fids = [run.metric("fid") / base[run.seed].metric("fid") for run in runs]
        here = [run for run in runs if run.seed not in elsewhere(runs, base.values())]
        times = [clock.training_seconds(run) / clock.training_seconds(base[run.seed]) for run in here]
        if runs:
            rows.append((name, str(len(runs)), *(factor(geometric([v for v in own if math.isfinite(v)])) for own in (fids, times))))
    if not rows:
        raise LabError(f"No run of {', '.join(recipes)} at {short} scale shares a seed with {baseline} at {scale} scale yet.")
    fid = columns(["fid"], list(base.values()))[0].title
    notes = (
        f"Ratios to {baseline} at {scale} scale, same seeds, judged on the same captions: a {fid} of 1.00 or less has its quality. "
        "Geometric mean with the 95 % t interval over seeds; one seed has no interval.",
        f"{steps_of(paired.values())} steps against {steps_of(base.values())}. The time is that of training "
        "steps, compiled or not as the length of a run decides, on a machine that others share.",
    )
    head = ("recipe", "n", f"{fid}, ratio", "training time, ratio (indicative)")
    return Listing(head, tuple(rows), head[1:], notes)


def judging(run: Record) -> tuple[object, ...]:
    """What decides how a run is judged: against which images, of which size and level, on how many and in how many steps."""
    scale = run.recipe.get("scale", {})
    return judged(run), *(scale.get(name) for name in ("size", "level", "eval_n", "eval_steps"))


def steps_of(runs: Iterable[Record]) -> str:
    """How many steps recorded runs have, as far as they say so."""
    return " or ".join(map(str, sorted({run.recipe["scale"]["steps"] for run in runs if "scale" in run.recipe}))) or "?"


def judged_on(scale: str, root: str | Path) -> list[str]:
    """What the images alone do to a FID of this scale, at the end of a curve and along it; nothing where that was not studied."""
    if scale not in SCALES:
        return []
    sizes = SCALES[scale].eval_n, along(SCALES[scale].eval_n)
    try:
        end, earlier = (f"{fidelity.image_noise(scale, n, Path(root) / 'judges'):.0%}".replace("%", " %") for n in sizes)
    except LabError:
        return []
    return [f"lab-FID on {sizes[0]} images has about {end} noise from the images alone, on the {sizes[1]} along a curve {earlier}."]
