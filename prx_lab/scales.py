"""Scales: how big an experiment is, from seconds on a laptop to the published run; any recipe runs at any of them."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prx_lab.errors import require
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

LARGEST = {"size": 1 << 14, "grid": 1 << 10, "width": 1 << 15, "depth": 1 << 10, "batch": 1 << 20}


@dataclass(frozen=True)
class Scale(Spec):
    """How big an experiment is: image, model, data, steps and evaluation; the same recipe runs at any of them."""

    name: str
    size: int  # pixels
    level: str  # difficulty of the embedded world
    images: int  # training images
    grid: int  # tokens per side
    width: int
    depth: int
    heads: int
    steps: int
    batch: int
    lr: float  # chosen for AdamW
    eval_n: int  # generated images per evaluation
    eval_steps: int  # sampler steps
    evals: int  # evaluations along the run, the last one at its end

    def check(self, recipe: "Recipe") -> None:
        folder = re.fullmatch(r"[\w.-]+", self.name) and self.name not in (".", "..")
        require(bool(folder), f"scale.name is {self.name!r}, which names the folder of its runs; use letters, digits, '.', '_' and '-'.")
        for name in ("size", "images", "grid", "width", "depth", "heads", "steps", "batch", "eval_n", "eval_steps", "evals"):
            require(getattr(self, name) > 0, f"scale.{name} is {getattr(self, name)}; it must be positive.")
        for name, most in LARGEST.items():
            value = getattr(self, name)
            require(value <= most, f"scale.{name} is {value}, beyond any machine's memory; use at most {most}.")
        require(self.lr > 0, f"scale.lr is {self.lr}; the learning rate must be positive.")
        fits = self.width % (4 * self.heads) == 0
        require(fits, f"Width {self.width} over {self.heads} heads is not a multiple of 4; change scale.width or scale.heads.")
        fits = self.size % self.grid == 0
        require(fits, f"A {self.size}-pixel image does not split into {self.grid} tokens a side; change scale.size or scale.grid.")
        require(self.evals <= self.steps, f"{self.evals} evaluations do not fit in {self.steps} steps; lower scale.evals.")

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.grid**2


def along(n: int) -> int:
    """Images of an evaluation along a run whose final one has n."""
    return max(2, n // 2)


SCALES = {
    "smoke": Scale("smoke", 32, "simple", 512, 4, 96, 4, 3, 120, 32, 2e-3, 64, 8, 1),
    "cpu": Scale("cpu", 64, "simple", 16384, 8, 128, 6, 4, 600, 64, 3e-3, 512, 16, 4),
    # `cpu` in a third of the steps, the learning rate falling to zero there: what a speedrun is held against
    "cpu-short": Scale("cpu-short", 64, "simple", 16384, 8, 128, 6, 4, 200, 64, 3e-3, 512, 16, 2),
    # `cpu` at four times the steps, for what needs a late part of training: ending a teacher, fine-tuning, storage in bf16
    "cpu-long": Scale("cpu-long", 64, "simple", 16384, 8, 128, 6, 4, 2400, 64, 3e-3, 512, 16, 4),
    # the same steps in a harder world (other shapes, colours and materials, up to three objects)
    "cpu-standard": Scale("cpu-standard", 64, "standard", 16384, 8, 128, 6, 4, 2400, 64, 3e-3, 512, 16, 4),
    # 256 tokens of 4x4 pixels on the images of `cpu`, between it and `cpu-1024`; the learning rate is interpolated, not tuned
    "cpu-256": Scale("cpu-256", 64, "simple", 16384, 16, 128, 6, 4, 560, 32, 2.5e-3, 256, 10, 2),
    # 1024 tokens of 2x2 pixels on the images of `cpu`: a dense run in pixels trains for about 20 minutes on one core and is
    # judged in 7 (about 6 images/s); the learning rate is scaled from `cpu`'s, not tuned
    "cpu-1024": Scale("cpu-1024", 64, "simple", 16384, 32, 96, 6, 3, 560, 12, 2e-3, 256, 10, 2),
    "gpu": Scale("gpu", 128, "standard", 65536, 16, 768, 10, 12, 2000, 256, 5e-4, 4096, 28, 4),
}

# The post's baseline. Not among SCALES: it is a published experiment's own size, and no lever to pull on the others.
PRX_256 = Scale("prx-256", 256, "full", 1_000_000, 16, 1792, 16, 28, 100_000, 256, 1e-4, 10_000, 50, 10)
