"""Runs that were trained twice: recipes whose losses are the same by construction, recorded by whichever version of the code.

Records of a scoreboard are made over months and the code moves on. Where the losses of two such runs agree to the last digit, nothing
that this training reads has changed between the two versions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prx_lab.errors import LabError
from prx_lab.recipe import Recipe
from prx_lab.record import Record, records
from prx_lab.report.comparable import commits, losses
from prx_lab.report.listing import Listing
from prx_lab.siblings import trimmed


def same_losses(recipe: Recipe) -> str:
    """A recipe as text without what no training loss reads: how it is sampled and judged, and its average of weights."""
    kept = trimmed(recipe.to_json())
    whole = kept | {"phases": [phase | {"recipe": without_average(phase["recipe"])} for phase in kept["phases"]]}
    return json.dumps(without_average(whole), sort_keys=True)


def without_average(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields as JSON, without its average of weights."""
    return {k: v for k, v in data.items() if k != "ema"}


def twice(found: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pairs of runs with equal losses by construction and different code, each trained by itself: the first of a group with every other."""
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for run in (run for run in found if not run.borrows):
        try:
            groups.setdefault((run.scale, run.seed, same_losses(Recipe.from_json(run.recipe))), []).append(run)
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
