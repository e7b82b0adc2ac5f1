"""Which recorded runs may be compared, and which of them are one training."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prx_lab.record import Record, number

REFERENCE = {"style": "render", "captions": "long", "split": "val"}  # of a record whose recipe had no such field yet
SCENES = "scenes"  # its data


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
    """The device on which a run was trained and its threads: only times of one machine compare; ("", 0) where the record does not say."""
    trained = run.env.get("trained")
    env = trained["env"] if isinstance(trained, dict) and isinstance(trained.get("env"), dict) else run.env
    threads = number(env.get("threads"))
    return str(env.get("device_name") or ""), 0 if math.isnan(threads) else int(threads)


def elsewhere(runs: Iterable[Record], base: Iterable[Record]) -> frozenset[int]:
    """The seeds at which two recipes were trained on two machines, or with other numbers of threads."""
    there = {run.seed: machine(run) for run in base}
    return frozenset(run.seed for run in runs if run.seed in there and machine(run) != there[run.seed])


def losses(run: Record) -> dict[int, float]:
    """{step: loss} of a run's log, where both are numbers."""
    return {row["step"]: loss for row in run.train if "step" in row and math.isfinite(loss := number(row.get("loss")))}


def repeated(found: Iterable[Record]) -> frozenset[Path]:
    """The folders of runs whose training another run has been through step for step: equal logged losses at the same seed.

    Recipes that differ in sampling alone are trained alike, and a training that is recorded twice is one piece of luck. Of such
    runs the one whose recipe has the most trainings is not named.
    """
    own = [(run, seen) for run in found if not run.borrows and (seen := losses(run))]
    many = Counter(run.folder.parent for run, _ in own)
    first: dict[Any, Path] = {}
    for run, seen in sorted(own, key=lambda one: (-many[one[0].folder.parent], str(one[0].folder))):
        first.setdefault((run.scale, run.seed, tuple(seen.items())), run.folder)
    return frozenset(run.folder for run, _ in own) - frozenset(first.values())
