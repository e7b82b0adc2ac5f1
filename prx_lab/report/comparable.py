"""Which recorded runs may be compared, and which of them are one training."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from prx_lab.record import Record, number

REFERENCE = {"style": "render", "captions": "long", "split": "val"}  # of a record whose recipe had no such field yet
SCENES = "scenes"  # its data
TOGETHER = 0.2  # of its logged steps: a start that two recipes have in common only because nothing differs yet is shorter
# `shift` is not among them although a sampler reads it: progressive distillation trains on the shifted grid.
JUDGED = ("guidance", "sampler_steps", "reference")
JUDGED_OF_SCALE = ("eval_n", "eval_steps", "evals")


def judged(run: Record) -> str:
    """What a run is judged against: the images, of one part of a data set and one style, and the kind of captions."""
    told = REFERENCE | (run.recipe.get("reference") or {}) | {"data": run.recipe.get("data", SCENES)}
    return json.dumps([told[key] for key in (*REFERENCE, "data")], sort_keys=True)


def kind(run: Record) -> str:
    """What runs must share to be compared: what they are judged against, and every field of their scale, which `--set` may have changed."""
    return f"{judged(run)} {json.dumps(run.recipe.get('scale'), sort_keys=True)}"


def alike(run: Record, base: Record) -> bool:
    """Whether two runs are judged against the same images, given captions of the same kind, and have the same settings of their scale."""
    return kind(run) == kind(base)


def commits(run: Record) -> frozenset[str]:
    """The commits a run was recorded and, where it took the weights of another run, trained with; "" for one that is not known."""
    trained = run.env.get("trained")
    places = [run.env, trained["env"]] if isinstance(trained, dict) and isinstance(trained.get("env"), dict) else [run.env]
    found = [place.get("git") for place in places]
    return frozenset(str(git.get("commit", "")) if isinstance(git, dict) else "" for git in found)


def machine(run: Record) -> tuple[str, int]:
    """The device on which a run was trained and its threads: only times of one machine compare; ("", 0) where the record does not say.

    A run that began on one machine and ended on another has a name of its own.
    """
    trained = run.env.get("trained")
    env = trained["env"] if isinstance(trained, dict) and isinstance(trained.get("env"), dict) else run.env
    threads = number(env.get("threads"))
    names = (str(env[key]) for key in ("began_on", "device_name") if env.get(key))
    return " and ".join(names), 0 if math.isnan(threads) else int(threads)


def elsewhere(runs: Iterable[Record], base: Iterable[Record]) -> frozenset[int]:
    """The seeds at which two recipes were trained on two machines, or with other numbers of threads."""
    there = {run.seed: machine(run) for run in base}
    return frozenset(run.seed for run in runs if run.seed in there and machine(run) != there[run.seed])


def losses(run: Record) -> dict[int, float]:
    """{step: loss} of a run's log, where both are numbers."""
    return {row["step"]: loss for row in run.train if "step" in row and math.isfinite(loss := number(row.get("loss")))}


def trimmed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's JSON, and that of its phases, without what only sampling and evaluation read."""
    kept = {k: v for k, v in recipe.items() if k not in JUDGED}
    scale = {k: v for k, v in recipe["scale"].items() if k not in JUDGED_OF_SCALE}
    return kept | {"scale": scale, "phases": [phase | {"recipe": trimmed(phase["recipe"])} for phase in recipe.get("phases", ())]}


def course(recipe: Mapping[str, Any]) -> str:
    """A recipe's JSON as text without what no training loss reads: how it is sampled and judged, and its average of weights."""
    kept = trimmed(recipe)
    phases = [phase | {"recipe": without_average(phase["recipe"])} for phase in kept["phases"]]
    return json.dumps(without_average(kept) | {"phases": phases}, sort_keys=True)


def without_average(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's fields as JSON, without its average of weights."""
    return {k: v for k, v in recipe.items() if k != "ema"}


def repeated(found: Iterable[Record]) -> frozenset[Path]:
    """The folders of runs whose training, or the first half of it, another run has been through at the same seed.

    A training that is recorded twice is one piece of luck, and so is what two recipes have in common that part late. Two runs are one
    training where the losses of the first half are equal to the last digit, or where no loss reads what their recipes differ in: another
    processor rounds otherwise, and the losses of the same training drift apart there. Of such runs the one whose recipe has the most
    trainings is not named.
    """
    own = [(run, seen) for run in found if not run.borrows and (seen := losses(run))]
    many = Counter(run.folder.parent for run, _ in own)
    first: set[Any] = set()
    again: set[Path] = set()
    for run, seen in sorted(own, key=lambda one: (-many[one[0].folder.parent], str(one[0].folder))):
        half = tuple(seen.items())[: (len(seen) + 1) // 2]
        keys = {(run.scale, run.seed, half)} | ({(run.scale, run.seed, course(run.recipe))} if run.recipe.get("scale") else set())
        again |= {run.folder} if keys & first else set()
        first |= keys
    return frozenset(again)


def one_at_first(runs: Sequence[Record], base: Sequence[Record]) -> bool:
    """Whether two recipes are one training at first: equal losses over TOGETHER of the logged steps at every seed that both have.

    Seeds of two machines do not count: there the losses of one training drift apart.
    """
    theirs = {run.seed: run for run in base}
    common = [(run, theirs[run.seed]) for run in runs if run.seed in theirs]
    logs = [(losses(run), losses(other)) for run, other in common if machine(run) == machine(other)]
    return bool(logs) and all(together(*both) for both in logs)


def together(ours: Mapping[int, float], theirs: Mapping[int, float]) -> bool:
    """Whether two logs have the same losses from the first step on, over TOGETHER of the steps that both have."""
    steps = sorted(ours.keys() & theirs.keys())
    same = list(takewhile(lambda step: ours[step] == theirs[step], steps))
    return len(same) > 1 and len(same) >= TOGETHER * len(steps)
