"""Recipes that train alike: the fields that only sampling and evaluation read, and a record made from a sibling's weights."""

import json
from pathlib import Path

from prx_lab import checkpoint, record, stored
from prx_lab.errors import LabError
from prx_lab.evaluate import bench, ceiling, judged, pictures
from prx_lab.recipe import Recipe
from prx_lab.record import Record
from prx_lab.report import luck
from prx_lab.report.comparable import losses, trimmed
from prx_lab.run import SHOWN, alone, finished, pick_device, save_grid
from prx_lab.sample import from_run


def trained_as(recipe: Recipe) -> str:
    """A recipe as text without what only sampling and evaluation read: equal for recipes whose training steps are equal."""
    return json.dumps(trimmed(recipe.to_json()), sort_keys=True)


def with_weights(root: str | Path, scale: str, seed: int) -> dict[str, Path]:
    """{`trained_as`: folder} of the finished runs of a scale and seed whose last weights are still there."""
    found: dict[str, Path] = {}
    for folder in sorted((Path(root) / scale).glob(f"*/seed{seed}")):
        if finished(folder) and checkpoint.steps(folder / "checkpoint"):
            try:
                found.setdefault(trained_as(Recipe.from_json(stored.read(folder / "recipe.json"))), folder)
            except LabError:
                continue  # damaged, or of a recipe that no longer exists
    return found


def sibling_of(recipe: Recipe, seed: int, root: str | Path) -> Path | None:
    """A finished run with this seed that trained as `recipe` would and still has its weights; None where there is none."""
    return with_weights(root, recipe.scale.name, seed).get(trained_as(recipe))


def weights_of(folder: Path, run: Record, recipe: Recipe) -> Path:
    """The run folder that has a recorded run's last weights: its own, or that of a run with the same losses. LabError where none has."""
    if checkpoint.steps(folder / "checkpoint"):
        return folder
    found = sibling_of(recipe, run.seed, folder.resolve().parents[2])
    if found is None:
        again = "delete its folder and train it again with prx-lab run"
        raise LabError(f"No run that trained as {record.label(folder)} did has its weights; {again}.")
    if losses(Record.load(found)) != losses(run):  # the same recipe on another processor ends with other weights
        raise LabError(f"{record.label(found)} trained as {record.label(folder)} did, but logged other losses: it has other weights.")
    return found


def evaluated(recipe: Recipe, seed: int, root: str | Path, sibling: Path) -> Path:
    """Evaluate and record `recipe` with the last weights of a run that trained alike; returns the new run folder.

    The log, the speed and the parameter counts are the sibling's, and env.json says so under `trained`. The weights along
    its run are gone: the record has no curve, and nothing can be said about its time to a quality.
    """
    folder = record.run_folder(root, recipe, seed)
    with alone(folder):
        if finished(folder):
            return folder
        device, theirs = pick_device(), Record.load(sibling)
        sampler, judge = from_run(sibling), bench(recipe, device)
        images = pictures(sampler.model, recipe.last, judge, range(judge.n), sampler.mean.to(device))
        own = record.env(theirs.env.get("dtypes", {}), str(device))
        record.write_json(folder / "recipe.json", recipe.to_json())
        record.write_json(folder / "env.json", own | {"trained": {"run": record.label(sibling), "env": theirs.env}})
        record.write_lines(folder / "train.jsonl", theirs.train)
        save_grid(images[:SHOWN], folder / "samples.png")
        found = judged(images, judge)
        luck.write(folder, found.influences())
        shared = {key: theirs.eval[key] for key in ("throughput", "parameters") if key in theirs.eval}
        captions = judge.source.captions(range(min(SHOWN, judge.n)), recipe.reference.captions)
        told = {"n": judge.n, "seed": seed, "metrics": found.scores(), "ceiling": ceiling(judge), **shared, "curve": []}
        record.write_json(folder / "eval.json", told | {"captions": captions})
        (folder / "curve.jsonl").unlink(missing_ok=True)  # of a run that was stopped here: with it this one would never count as finished
    return folder
