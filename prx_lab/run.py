"""One experiment from start to record: prepare the data, train, evaluate along the way, write the run folder."""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prx_lab import checkpoint, parallel, record, start
from prx_lab.data.encoded import Encoded, is_encoded, training_part
from prx_lab.data.open import open_source
from prx_lab.data.store import Store, prepare
from prx_lab.errors import LabError
from prx_lab.evaluate import Bench, bench, ceiling, judged, pictures, scores
from prx_lab.files import read_json
from prx_lab.gallery import GAP
from prx_lab.images import sheet
from prx_lab.locks import locked
from prx_lab.machine import pick_device
from prx_lab.metrics.throughput import Memory, images_per_second, peak_memory, reset_peak
from prx_lab.parallel import ALONE, USUAL, Budget, World
from prx_lab.precision import audit
from prx_lab.recipe import Recipe
from prx_lab.report import luck
from prx_lab.text import reader
from prx_lab.train import Training

LOGGED = 200  # rows of train.jsonl, about
GRACE = 6.0  # seconds: the data workers of a killed run take five to notice, and hold its lock until then
SHOWN = 16  # pictures of the recorded grid: the first validation captions, the same noise for every recipe


def store_of(recipe: Recipe, device: torch.device) -> Store | Encoded:
    """The recipe's training data, encoded by its frozen networks, now or by `prx-lab encode`."""
    if is_encoded(recipe.data):
        return training_part(recipe)
    source, s = open_source(recipe, "train"), recipe.scale
    n = min(max(1, round(recipe.subset * s.images)), len(source))
    return prepare(source, n, s.size, recipe.captions, recipe.space, reader(recipe), recipe.teachers, s.grid, device)


def worth_compiling(recipe: Recipe) -> bool:
    """Compilation costs about a minute and a C++ compiler: used for runs of at least 500 steps where one is found."""
    compiler = torch.cuda.is_available() or shutil.which(os.environ.get("CXX", "g++"))
    return bool(compiler) and recipe.scale.steps >= 500 and sys.platform == "linux"


def milestones(steps: int, evals: int) -> list[int]:
    """The steps of the evaluations along a run, evenly spaced, the last one at its end."""
    return [round(steps * (i + 1) / evals) for i in range(evals)] or [steps]


def run(recipe: Recipe, seed: int = 0, root: str | Path = "results", budget: Budget = USUAL) -> Path:
    """Train and evaluate a recipe with a seed and record it; an interrupted run continues, a finished one is not repeated.

    Under `accelerate launch` every process calls this, and all of them share the work.
    """
    folder, world = record.run_folder(root, recipe, seed), parallel.world()
    if world.any(world.main and not finished(folder)):
        with ExitStack() as held:
            with world.agreed():
                if world.main:
                    if not checkpoint.steps(folder / "checkpoint"):
                        start.foresee(recipe)  # a run that is refused leaves no folder
                    held.enter_context(alone(folder))
            if world.any(world.main and not (folder / "eval.json").exists()):
                work(recipe, seed, folder, budget, world)
            if world.main:
                (folder / "curve.jsonl").unlink(missing_ok=True)  # it is in eval.json now
                (folder / record.ERROR).unlink(missing_ok=True)  # of an earlier attempt
    return folder


def finished(folder: Path) -> bool:
    """Whether the record of a run is complete: eval.json is there, and the curve has gone into it."""
    return (folder / "eval.json").exists() and not (folder / "curve.jsonl").exists()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process at work on a run, and remove what a killed one left half written; LabError where another is at it."""
    busy = f"Another process is at work on {folder}; wait until it has finished, or use another --root or --seed."
    with locked(folder / "checkpoint" / ".lock", GRACE, busy):
        checkpoint.sweep(folder / "checkpoint")
        for draft in folder.glob(".*.tmp"):
            draft.unlink()
        yield


def work(recipe: Recipe, seed: int, folder: Path, budget: Budget, world: World) -> None:
    """Train, evaluate and record one run in its folder, from its newest checkpoint on."""
    device = world.place(pick_device())
    with world.first():
        stores, judge = [store_of(part, device) for _, part in recipe.plan], bench(recipe, device)
        if world.main:
            record.write_json(folder / "recipe.json", recipe.to_json())
        began = origin(folder, record.env(device=str(device))) if world.main else {}
    training = Training(recipe, stores, seed, device, worth_compiling(recipe), folder, budget, world)
    curve, peaks = resume(training, folder), []
    for until in milestones(recipe.scale.steps, recipe.scale.evals):
        last = until == recipe.scale.steps
        if not last and (until < training.step_index or any(row["step"] == until for row in curve)):
            continue  # measured, or its weights are gone
        reset_peak()  # a device's peak is that of training: what encoding and evaluation take depends on caches
        before = training.step_index
        log_steps(training, until, folder)
        if training.step_index > before:  # not where a run goes on that was killed in its last evaluation
            peaks.append(peak_memory())
        (shown,) = world.share(judge.n if last else judge.n_curve)
        images = pictures(training.sampler_model(), training.recipe, judge, shown, training.store.mean)
        here = max(0, judge.n_curve - shown.start)  # every point of the curve from as many images: FID depends on n
        found = scores(images[:here], judge, world)
        point = {"step": until, "seconds": training.seconds, "n": judge.n_curve} | {k: v["value"] for k, v in found.items()}
        curve = [row for row in curve if row["step"] != until] + [point]
        if world.main:
            record.append_json(folder / "curve.jsonl", point)
    dtypes = audit(training.learner, training.optimizer, training.recipe.precision, device)
    grid, found = world.gather(images[: max(0, SHOWN - shown.start)]), judged(images, judge, world)
    with world.agreed():
        if world.main:
            record.write_json(folder / "env.json", record.env(dtypes, str(device)) | layout(world, budget) | began)
            save_grid(grid, folder / "samples.png")
            luck.write(folder, found.influences())
            finish(folder, training, judge, found.scores(), curve, peaks)


def layout(world: World, budget: Budget) -> dict[str, Any]:
    """How a run was spread, for its record; nothing for the usual one process and whole batches."""
    usual = (world.kind, budget) == (ALONE.kind, USUAL)
    return {} if usual else {"parallel": {"kind": world.kind, "processes": world.size} | asdict(budget)}


def origin(folder: Path, env: dict[str, Any]) -> dict[str, str]:
    """The machine on which a run began, where it goes on elsewhere: its times are of both, and compare with none.

    A folder's env.json tells of the beginning until the end writes it anew. LabError for a damaged one.
    """
    file = folder / "env.json"
    if not checkpoint.steps(folder / "checkpoint"):
        record.write_json(file, env)
    began = read_json(file, "delete the run's folder and run it again").get("device_name") if file.exists() else env["device_name"]
    return {"began_on": began} if began != env["device_name"] else {}


def log_steps(training: Training, until: int, folder: Path) -> None:
    """Train to a step, with about LOGGED rows of train.jsonl over the whole run."""
    every = max(1, training.recipe.scale.steps // LOGGED)
    for row in training.fit(until, folder):
        if row["step"] % every == 0 and training.world.main:
            record.append_json(folder / "train.jsonl", row)


def finish(
    folder: Path, training: Training, judge: Bench, metrics: dict[str, Any], curve: list[dict[str, Any]], peaks: list[Memory]
) -> None:
    """Write eval.json, last of all: it says that the record is complete."""
    recipe, memory = training.whole, peak_memory()
    if memory.kind == "cuda":  # since the last reset, evaluation with it
        memory = max(peaks, key=lambda peak: peak.mib, default=Memory(math.nan, "cuda"))
    captions = judge.source.captions(range(min(SHOWN, judge.n)), recipe.reference.captions)
    rate = images_per_second([row["images_per_s"] for row in lines(folder / "train.jsonl") if "images_per_s" in row])
    throughput = {"images_per_s": rate, "batches_per_s": rate and rate / recipe.scale.batch, "seconds": training.seconds}
    record.write_json(
        folder / "eval.json",
        {
            "n": judge.n,
            "seed": training.seed,
            "metrics": metrics,
            "ceiling": ceiling(judge),
            "throughput": throughput | {"peak_memory_mb": memory.mib, "peak_memory_kind": memory.kind},
            "parameters": {"model": count(training.learner.model), "trained": count(training.learner)},
            "curve": curve,
            "captions": captions,
        },
    )


def resume(training: Training, folder: Path) -> list[dict[str, Any]]:
    """Continue a run and its log from the newest checkpoint; log lines beyond it belong to steps that will be repeated.

    LabError where the log of the steps before it is gone: the record would tell of a part of the run alone.
    """
    logs = {name: list(lines(folder / name)) for name in ("train.jsonl", "curve.jsonl")}
    training.resume(folder)
    kept = {
        "train.jsonl": [row for row in logs["train.jsonl"] if row["step"] < training.step_index],
        "curve.jsonl": [row for row in logs["curve.jsonl"] if row["step"] <= training.step_index],
    }
    if training.step_index and not any(row["step"] == 0 for row in kept["train.jsonl"]):
        raise LabError(
            f"{folder} has a checkpoint of step {training.step_index} and no log of the steps before it: put train.jsonl back, or delete "
            f"{folder / 'checkpoint'} to train from the start."
        )
    for name, rows in kept.items() if training.world.main else ():
        record.write_lines(folder / name, rows)  # whole: these rows are not made again
    return kept["curve.jsonl"]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; a last line cut by an interruption is left out. Raises LabError for damage before it."""
    found = path.read_bytes().split(b"\n") if path.exists() else []  # bytes: a cut may split a character
    for number, line in enumerate(found, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row
        elif number < len(found):  # every whole row ends its line
            raise LabError(f"Line {number} of {path} is damaged; delete the folder and run again.")


def count(module: torch.nn.Module) -> int:
    """The number of a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def save_grid(images: np.ndarray, path: Path) -> None:
    """Tile uint8 images (n, H, W, 3) into one PNG, eight in a row."""
    content = BytesIO()
    sheet(images, 8, GAP).save(content, format="PNG")
    record.write_bytes(path, content.getvalue())
