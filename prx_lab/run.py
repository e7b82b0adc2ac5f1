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
from prx_lab.metrics.throughput import Meter, peak_memory
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
    n = min(s.images, len(source))
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
    record.write_json(folder / "recipe.json", recipe.to_json())
    store, judge = store_of(recipe, device), bench(recipe, device)
    training = Training(recipe, store, seed, device, worth_compiling(recipe))
    curve = resume(training, folder)
    meter, every = Meter(warmup=10), max(1, recipe.scale.steps // LOGGED)
    for until in milestones(recipe.scale.steps, recipe.scale.evals):
        if until <= training.step_index and any(row["step"] == until for row in curve):
            continue
        meter.resume()
        for row in training.fit(until, folder):
            if row["step"] % every == 0:
                record.append_json(folder / "train.jsonl", row)
            meter.tick(recipe.scale.batch)
        meter.pause()
        memory = peak_memory()
        images = pictures(training.sampler_model(), recipe, judge, range(len(judge.text["mask"]) - 1), store.shape)
        metrics = scores(images, judge)
        point = {"step": until, "seconds": training.seconds} | {k: v["value"] for k, v in metrics.items()}
        curve.append(point)
        record.append_json(folder / "curve.jsonl", point)
    record.write_json(folder / "env.json", record.env(audit(training.learner, training.optimizer, recipe.precision, device), str(device)))
    save_grid(images[:SHOWN], folder / "samples.png")
    throughput = {"images_per_s": meter.images_per_s, "batches_per_s": meter.batches_per_s, "seconds": training.seconds}
    throughput |= {"peak_memory_mb": memory.mib, "peak_memory_kind": memory.kind}
    parameters = {"model": count(training.learner.model), "trained": count(training.learner)}
    finish(folder, recipe, seed, judge, metrics, {"throughput": throughput, "curve": curve, "parameters": parameters})
    return folder


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


def finish(folder: Path, recipe: Recipe, seed: int, judge: Bench, metrics: dict, rest: dict[str, Any]) -> None:
    """Write eval.json last: its presence says that the run is complete; its checkpoint keeps the weights for sampling."""
    n = len(judge.text["mask"]) - 1
    data = {"n": n, "seed": seed, "metrics": metrics, "ceiling": ceiling(judge), "captions": judge.source.captions(range(min(SHOWN, n)), recipe.captions)}
    record.write_json(folder / "eval.json", data | rest)
    (folder / "curve.jsonl").unlink(missing_ok=True)


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
