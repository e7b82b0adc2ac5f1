"""Runs that were trained twice: recipes whose losses are the same by construction, recorded by whichever version of the code.

Records of a scoreboard are made over months and the code moves on. Where the losses of two such runs agree to the last digit, nothing
that this training reads has changed between the two versions.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.recipe import Recipe
from prx_lab.record import Record, records
from prx_lab.report.columns import QUALITY, columns
from prx_lab.report.comparable import commits, course, losses, machine
from prx_lab.report.layout import NOTHING
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import noises


def same_losses(recipe: Recipe) -> str:
    """A recipe as text without what no training loss reads, as today's code writes it."""
    return course(recipe.to_json())


def twice(found: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pairs of runs with equal losses by construction and different code, each trained by itself: the first of a group with every other.

    Of one machine: another one rounds otherwise (`other_machine`).
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for run in (run for run in found if not run.borrows):
        try:
            groups.setdefault((run.scale, run.seed, machine(run), same_losses(Recipe.from_json(run.recipe))), []).append(run)
        except LabError:
            continue  # of a recipe that no longer exists
    return [(first, run) for first, *others in groups.values() for run in others if commits(run) != commits(first)]


def repeats(scale: str = "cpu", root: str | Path = "results") -> Listing:
    """Every run that another version of the code trained again, and how far their logged losses are apart. LabError for none."""
    rows, equal = [], 0
    for first, again in twice(records(root, scale).found):
        ours, theirs = losses(first), losses(again)
        common = ours.keys() & theirs.keys()
        if not common:
            continue
        apart = max(abs(ours[step] - theirs[step]) for step in common)
        equal += apart == 0
        told = "equal to the last digit" if apart == 0 else f"up to {apart:.1e} apart"
        rows.append((first.name, again.name, str(first.seed), *(short(run) for run in (first, again)), str(len(common)), told))
    if not rows:
        raise LabError(f"No run at {scale} scale was trained again by another version of the code yet.")
    note = (
        f"{equal} of {len(rows)} pairs have equal losses in every logged step. "
        "A pair differs in sampling, judging or an average of weights: no loss reads them."
    )
    head = ("run", "trained again as", "seed", "commit", "and", "logged steps", "losses")
    return Listing(head, tuple(rows), ("seed", "logged steps"), (note,))


def short(run: Record) -> str:
    """The commit of a run's code in seven letters."""
    return ", ".join(sorted(commit[:7] or "?" for commit in commits(run)))


def other_machine(scale: str = "cpu", again: str | Path = "results/again", root: str | Path = "results") -> Listing:
    """Runs that another machine trained and judged again, recipe, seed and draws the same: their scores over those on record.

    LabError where no run of `again` has its counterpart in `root`.
    """
    found = records(root, scale).found
    first, rows = {(run.name, run.id, run.seed): run for run in found}, []
    whole = {metric: noises(found, scale, metric).typical.value for metric in QUALITY}
    for run in records(again, scale):
        if (other := first.get((run.name, run.id, run.seed))) and machine(run) != machine(other):
            ratios = (ratio(run.metric(metric), other.metric(metric)) for metric in QUALITY)
            rows.append((run.name, str(run.seed), *(machine(one)[0] for one in (other, run)), *ratios))
    if not rows:
        raise LabError(f"No run at {scale} scale was trained again on another machine yet.")
    seeds = ("one deviation between two seeds", "", "", "", *(f"× {math.exp(math.sqrt(2 * value)):.2f}" for value in whole.values()))
    notes = (
        "Ratios of the scores on the second machine to those on the first, judged on the same images. Both draw the same variates and "
        "begin with the same weights; their products round differently, and training carries that on.",
        "Last line: one standard deviation of the ratio of two runs of the typical recipe at two seeds, without what seeds do to all "
        "recipes alike.",
    )
    head = ("run", "seed", "first on", "then on", *(metric.head for metric in columns(QUALITY, list(found))))
    return Listing(head, (*rows, seeds), ("seed", *head[4:]), notes)


def ratio(ours: float, theirs: float) -> str:
    """One score over another as a factor; a dash where one is not known."""
    return f"× {ours / theirs:.2f}" if math.isfinite(ours) and theirs > 0 else NOTHING
