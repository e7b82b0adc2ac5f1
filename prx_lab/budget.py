"""What a grid will take before it runs: recorded times of the same machine where there are some, computed operations elsewhere.

Training time is recorded or computed; the time of evaluations is always computed, from the operations of their samples.
Compilation, encoding of data and the judges' own networks come on top: about a minute a run, and a few minutes once.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prx_lab.cost import Dims, dims, run_flops, sampling_flops, uncounted
from prx_lab.errors import LabError
from prx_lab.grid import Job
from prx_lab.machine import device_name
from prx_lab.recipe import Recipe
from prx_lab.record import Record, records
from prx_lab.report.clock import training_seconds
from prx_lab.report.comparable import machine
from prx_lab.report.listing import Listing
from prx_lab.run import milestones, pick_device
from prx_lab.scales import along
from prx_lab.siblings import trained_as, with_weights

RECORDED, TRAIN, EVALUATE = "recorded", "train", "evaluate"
SHAPES: dict[tuple, Dims] = {}


def shapes_of(recipe: Recipe) -> Dims:
    """`dims`, which loads networks to look at what they make, once for all recipes on the same ones."""
    teachers = tuple(dict.fromkeys(name for _, part in recipe.plan for name in part.teachers))
    key = (recipe.scale.size, recipe.scale.grid, recipe.space, recipe.text, recipe.text_tokens, teachers)
    if key not in SHAPES:
        SHAPES[key] = dims(recipe)
    return SHAPES[key]


@dataclass(frozen=True)
class Cost:
    """Operations of a recipe's training and of its evaluations."""

    training: float
    evaluations: float
    final: float  # the last evaluation alone

    @staticmethod
    def of(recipe: Recipe) -> "Cost":
        """What a recipe costs: its training, the evaluations along the run with fewer images, and the last one."""
        shapes, s = shapes_of(recipe), recipe.scale
        each = sampling_flops(recipe.last, shapes)
        final = each * s.eval_n
        earlier = each * along(s.eval_n) * (len(milestones(s.steps, s.evals)) - 1)
        return Cost(run_flops(recipe, shapes), final + earlier, final)


@dataclass(frozen=True)
class Step:
    """A job of the plan: what is to be done, and its seconds (NaN where they cannot be told)."""

    job: Job
    what: str
    seconds: float
    source: str


def whats(jobs: Sequence[Job], root: str | Path) -> list[str]:
    """For each job in order: is it recorded, to be trained, or to be evaluated from a run that trains alike before it."""
    places = {(job.recipe.scale.name, job.seed) for job in jobs}
    trained = {(*place, key) for place in places for key in with_weights(root, *place)}
    found = []
    for job in jobs:
        key = (job.recipe.scale.name, job.seed, trained_as(job.recipe))
        found.append(RECORDED if job.recorded(root) else EVALUATE if key in trained else TRAIN)
        trained |= {key} if found[-1] == TRAIN else set()
    return found


def here(root: str | Path, scale: str) -> dict[str, list[Record]]:
    """Runs at a scale that were trained on a machine like this one, by recipe id."""
    device, found = str(pick_device()), {}
    this = device_name(device), torch.get_num_threads()
    for run in records(root, scale):
        if machine(run) == this and not run.borrows and training_seconds(run) > 0:
            found.setdefault(run.id, []).append(run)
    return found


def rate(known: dict[str, list[Record]]) -> float:
    """Operations per second of training, the median over recorded recipes; NaN where nothing is recorded."""
    rates = []
    for runs in known.values():
        try:
            cost = Cost.of(Recipe.from_json(runs[0].recipe))
        except LabError:
            continue  # a recipe of an older version
        rates.append(cost.training / statistics.fmean(map(training_seconds, runs)))
    return statistics.median(rates) if rates else math.nan


def cost(job: Job) -> Cost:
    """The cost of a job. LabError, with the recipe's name, for a recipe that does not fit its scale."""
    try:
        return Cost.of(job.recipe)
    except LabError as error:
        raise LabError(f"{job.name}: {error}") from None


def priced(jobs: Sequence[Job], root: str | Path) -> list[Step]:
    """The plan of a grid, job by job."""
    todo = whats(jobs, root)
    known = {scale: here(root, scale) for scale in {job.recipe.scale.name for job in jobs}}
    rates = {scale: rate(found) for scale, found in known.items()}
    costs = {job.name: cost(job) for job, what in zip(jobs, todo) if what != RECORDED}
    found = []
    for job, what in zip(jobs, todo):
        scale = job.recipe.scale.name
        if what == RECORDED:
            found.append(Step(job, what, 0.0, ""))
        elif what == EVALUATE:
            found.append(Step(job, what, costs[job.name].final / rates[scale], "computed"))
        else:
            runs = known[scale].get(job.recipe.id, [])
            training = statistics.fmean(map(training_seconds, runs)) if runs else costs[job.name].training / rates[scale]
            source = "recorded" if runs else "computed"
            found.append(Step(job, what, training + costs[job.name].evaluations / rates[scale], source))
    return found


def plan(jobs: Sequence[Job], root: str | Path) -> Listing:
    """The plan of a grid, a line per recipe, with the hours that are left."""
    made = priced(jobs, root)
    rows = []
    for name in dict.fromkeys(job.name for job in jobs):
        own = [step for step in made if step.job.name == name]
        counts = [str(sum(step.what == what for step in own)) for what in (RECORDED, TRAIN, EVALUATE)]
        seconds, source = sum(step.seconds for step in own), next((step.source for step in own if step.source), "")
        told = "" if not source else "?" if math.isnan(seconds) else f"{seconds / 60:.0f}"
        rows.append((name, *counts, told, source))
    head = ("recipe", "recorded", "to train", "to evaluate", "minutes", "time is")
    return Listing(head, tuple(rows), head[1:5], tuple(notes(made)))


def notes(made: Sequence[Step]) -> list[str]:
    """The total of a plan, and what its hours are made of."""
    n = {what: sum(step.what == what for step in made) for what in (RECORDED, TRAIN, EVALUATE)}
    lines = [f"{n[RECORDED]} of {len(made)} runs are recorded; {n[TRAIN]} are to be trained, {n[EVALUATE]} only to be evaluated."]
    left = [step for step in made if step.what != RECORDED]
    if any(math.isnan(step.seconds) for step in left):
        return [*lines, "No run of this scale is recorded on such a machine: its hours cannot be told before the baseline is recorded."]
    hours = {source: sum(step.seconds for step in left if step.source == source) / 3600 for source in ("recorded", "computed")}
    parts = f"{hours['recorded']:.1f} from recorded training times of this scale and kind of machine"
    parts = f"{parts}, {hours['computed']:.1f} computed from operations at the rate of the recorded recipes"
    lines += [f"About {sum(hours.values()):.1f} hours in one process: {parts}."] * bool(left)
    lines += ["Evaluations are computed. Compilation, encoding of data and the judges come on top, about a minute a run."] * bool(left)
    parts = sorted({name for step in left if step.what == TRAIN for name in uncounted(step.job.recipe)})
    return lines + [f"Not counted where nothing is recorded: the work of {', '.join(parts)}."] * bool(parts)
