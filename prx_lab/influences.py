"""By how much each image moves each score of a recorded run; `luck` reads what is kept here."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from prx_lab import record
from prx_lab.data.scenes import Scenes
from prx_lab.errors import LabError
from prx_lab.evaluate import Bench, bench, network, pictures, seen
from prx_lab.luck import NOTHING, Influences, place
from prx_lab.metrics.features import extract
from prx_lab.metrics.fid import fid_influences
from prx_lab.metrics.mmd import mmd_influences, unit
from prx_lab.recipe import Recipe
from prx_lab.record import Record
from prx_lab.sample import from_run
from prx_lab.siblings import sibling_of


def influences(images: NDArray, judge: Bench) -> dict[str, Influences]:
    """Those of all scores of images uint8 (n, H, W, 3), generated for the bench's first captions."""
    found = {}
    for metric, reference in judge.reference.items():
        features = extract(network(metric), images)
        value, ours, real = fid_influences(features, reference) if metric == "fid" else mmd_influences(unit(features), unit(reference))
        found[metric] = Influences(ours / value, real / value)
    if isinstance(judge.source, Scenes):
        told = seen(images, judge.source, judge.recipe.reference.captions)
        if told.accuracy("composition"):
            found["composition"] = Influences(told.influence("composition") / told.accuracy("composition"), NOTHING)
    return found


def keep(folder: Path) -> Path:
    """Draw the images of a recorded run again and write their influences, in half precision; returns the file.

    LabError where no run that trained alike still has its weights.
    """
    run, file = Record.load(folder), place(folder)
    recipe = Recipe.from_json(run.recipe)
    weights = sibling_of(recipe, run.seed, folder.resolve().parents[2])
    if weights is None:
        raise LabError(f"No run that trained as {record.label(folder)} did has its weights; train it again with prx-lab run.")
    sampler = from_run(weights)
    judge = bench(recipe, sampler.device)
    found = influences(pictures(sampler.model, recipe.last, judge, range(judge.n), sampler.mean.to(sampler.device)), judge)
    tensors = {f"{metric}.{side}": array for metric, one in found.items() for side, array in vars(one).items() if len(array)}
    told = {"run": record.label(folder), "n": judge.n, "env": record.env(device=str(sampler.device))}
    halved = {name: array.astype(np.float16) for name, array in tensors.items()}
    record.write_bytes(file, save(halved, {"told": json.dumps(record.plain(told))}))
    return file
