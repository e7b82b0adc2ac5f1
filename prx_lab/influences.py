"""Influences of images for a run that was recorded without them: its images are drawn again from its last weights."""

import math
from pathlib import Path

from prx_lab import record
from prx_lab.errors import LabError
from prx_lab.evaluate import bench, judged, pictures
from prx_lab.recipe import Recipe
from prx_lab.record import Record
from prx_lab.report import luck
from prx_lab.sample import from_run
from prx_lab.siblings import weights_of

CLOSE = 0.02  # two machines round differently


def keep(folder: Path) -> Path:
    """Draw the images of a recorded run again and write their influences beside it; returns the file.

    LabError where neither it nor a run that trained alike still has its weights, and where the images do not score as recorded.
    """
    run = Record.load(folder)
    recipe = Recipe.from_json(run.recipe)
    sampler = from_run(weights_of(folder, run, recipe))
    judge = bench(recipe, sampler.device)
    found = judged(pictures(sampler.model, recipe.last, judge, range(judge.n), sampler.mean.to(sampler.device)), judge)
    for metric, score in found.scores().items():
        then = run.metric(metric)
        if not math.isclose(score["value"], then, rel_tol=CLOSE, abs_tol=CLOSE / 10):
            raise LabError(f"{record.label(folder)} has {then:.4g} as its {metric}, and its images drawn again have {score['value']:.4g}.")
    luck.write(folder, found.influences())
    return folder / luck.FILE
