"""What alignment costs a step, with the teacher's features cached and with the teacher run in every step: `python -m benchmarks.repa`."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.cases import SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.data.store import to_float
from prx_lab.recipes import BASE
from prx_lab.report.speed import Record
from prx_lab.scales import SCALES
from prx_lab.teachers import look
from prx_lab.terms import REPA
from prx_lab.train import Training

TEACHER = "lab-dino-dense"
SCALES_HERE = ("smoke", "cpu") if SCALE == "cpu" else ("cpu", "gpu")


def with_teacher(run: Training) -> Callable[[], object]:
    """A step before which the teacher looks at a batch of images."""
    scale = run.recipe.scale
    images = to_float(np.random.default_rng(0).integers(0, 256, (scale.batch, scale.size, scale.size, 3), np.uint8)).to(DEVICE)

    def step() -> None:
        look(TEACHER, images, scale.grid)
        run.step()

    return step


def measure(repeats: int) -> Record:
    record = Record("repa", "What alignment costs a step")
    for name in SCALES_HERE:
        scale = SCALES[name]
        plain = recipe().but(scale=scale)
        aligned = BASE.but(scale=scale).plus(REPA(teacher=TEACHER))
        width = look(TEACHER, torch.zeros(1, 3, scale.size, scale.size, device=DEVICE), scale.grid).shape[-1]
        run = ours(aligned, store(aligned, {TEACHER: width}), DEVICE, compiled=True)
        arms = {
            "baseline": ours(plain, store(plain), DEVICE, compiled=True).step,
            "REPA, cached features": run.step,
            "REPA, teacher in the step": with_teacher(run),
        }
        found = interleave(arms, repeats, 3)
        record.compare(f"{name} scale", found, [("baseline", arm, 0.0) for arm in list(arms)[1:]])
        cached, alive = (one.value - 1 for one in record.ratios[-2:])
        record.facts[f"{name} scale"] = {"overhead, cached": cached, "overhead, teacher in the step": alive}
        torch._dynamo.reset()
    return record


if __name__ == "__main__":
    command(__doc__, measure, 9)
