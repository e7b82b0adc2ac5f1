"""One experiment from start to record: prepare the data, train, evaluate along the way, write the run folder."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prx_lab import record
from prx_lab.data.open import open_source
from prx_lab.data.store import Store, prepare
from prx_lab.errors import LabError
from prx_lab.evaluate import Bench, bench, ceiling, pictures, scores
from prx_lab.metrics.throughput import images_per_second, peak_memory, reset_peak
from prx_lab.precision import audit
from prx_lab.recipe import Recipe
from prx_lab.train import Training

LOGGED = 200  # rows of train.jsonl, about
SHOWN = 16  # pictures of the recorded grid: the first validation captions, the same noise for every recipe


def pick_device() -> torch.device:
    """The GPU where there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def store_of(recipe: Recipe, device: torch.device) -> Store:
    """The recipe's training data, encoded by its frozen networks."""
    source, s = open_source(recipe, "train"), recipe.scale
    n = min(max(1, round(recipe.subset * s.images)), len(source))
    return prepare(source, n, s.size, recipe.captions, recipe.space, recipe.text, recipe.teachers, s.grid, device)


def worth_compiling(recipe: Recipe) -> bool:
    """Compilation costs about a minute and a C++ compiler: used for runs of at least 500 steps where one is found."""
    compiler = torch.cuda.is_available() or shutil.which(os.environ.get("CXX", "g++"))
    return bool(compiler) and recipe.scale.steps >= 500 and sys.platform == "linux"


def milestones(steps: int, evals: int) -> list[int]:
    """The steps of the evaluations along a run, evenly spaced, the last one at its end."""
    return [round(steps * (i + 1) / evals) for i in range(evals)] or [steps]


def run(recipe: Recipe, seed: int = 0, root: str | Path = "results") -> Path:
    """Train and evaluate a recipe with a seed and record it; an interrupted run continues, a finished one is not repeated."""
    folder = record.run_folder(root, recipe, seed)
    if (folder / "eval.json").exists():
        return folder
    device = pick_device()
    reset_peak()
    record.write_json(folder / "recipe.json", recipe.to_json())
    stores = [store_of(part, device) for _, part in recipe.plan]
    training = Training(recipe, stores, seed, device, worth_compiling(recipe))
    judge = bench(recipe, device)
    curve = resume(training, folder)
    for until in milestones(recipe.scale.steps, recipe.scale.evals):
        last = until == recipe.scale.steps
        if not last and any(row["step"] == until for row in curve):
            continue
        log_steps(training, until, folder)
        shown = range(judge.n if last else judge.n_curve)
        images = pictures(training.sampler_model(), training.recipe, judge, shown, training.store.mean)
        found = scores(images[: judge.n_curve], judge)  # every point of the curve from as many images: FID depends on n
        point = {"step": until, "seconds": training.seconds, "n": judge.n_curve} | {k: v["value"] for k, v in found.items()}
        curve = [row for row in curve if row["step"] != until] + [point]
        record.append_json(folder / "curve.jsonl", point)
    dtypes = audit(training.learner, training.optimizer, training.recipe.precision, device)
    record.write_json(folder / "env.json", record.env(dtypes, str(device)))
    save_grid(images[:SHOWN], folder / "samples.png")
    finish(folder, training, judge, images, curve)
    return folder


def log_steps(training: Training, until: int, folder: Path) -> None:
    """Train to a step, with about LOGGED rows of train.jsonl over the whole run."""
    every = max(1, training.recipe.scale.steps // LOGGED)
    for row in training.fit(until, folder):
        if row["step"] % every == 0:
            record.append_json(folder / "train.jsonl", row)


def finish(folder: Path, training: Training, judge: Bench, images: np.ndarray, curve: list[dict[str, Any]]) -> None:
    """Write eval.json, last of all: it says that the record is complete."""
    recipe, memory = training.whole, peak_memory()
    captions = judge.source.captions(range(min(SHOWN, judge.n)), recipe.reference.captions)
    rate = images_per_second([row["images_per_s"] for row in lines(folder / "train.jsonl")])
    throughput = {"images_per_s": rate, "batches_per_s": rate and rate / recipe.scale.batch, "seconds": training.seconds}
    record.write_json(
        folder / "eval.json",
        {
            "n": judge.n,
            "seed": training.seed,
            "metrics": scores(images, judge),
            "ceiling": ceiling(judge),
            "throughput": throughput | {"peak_memory_mb": memory.mib, "peak_memory_kind": memory.kind},
            "parameters": {"model": count(training.learner.model), "trained": count(training.learner)},
            "curve": curve,
            "captions": captions,
        },
    )
    (folder / "curve.jsonl").unlink(missing_ok=True)


def resume(training: Training, folder: Path) -> list[dict[str, Any]]:
    """Continue a run and its log from the newest checkpoint; log lines beyond it belong to steps that will be repeated."""
    logs = {name: list(lines(folder / name)) for name in ("train.jsonl", "curve.jsonl")}
    training.resume(folder)
    kept = {
        "train.jsonl": [row for row in logs["train.jsonl"] if row["step"] < training.step_index],
        "curve.jsonl": [row for row in logs["curve.jsonl"] if row["step"] <= training.step_index],
    }
    for name, rows in kept.items():
        (folder / name).unlink(missing_ok=True)
        for row in rows:
            record.append_json(folder / name, row)
    return kept["curve.jsonl"]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; a last line cut by an interruption is left out."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def save_grid(images: np.ndarray, path: Path, columns: int = 8, gap: int = 2) -> None:
    """Tile uint8 images (n, H, W, 3) into one PNG, row by row."""
    n, H, W, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (H + gap) - gap, min(n, columns) * (W + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = divmod(i, columns)
        sheet[y * (H + gap) : y * (H + gap) + H, x * (W + gap) : x * (W + gap) + W] = image
    try:
        Image.fromarray(sheet).save(path)
    except OSError as error:
        raise LabError(f"Cannot write {path} ({error.strerror}); free some space and run again.") from None
