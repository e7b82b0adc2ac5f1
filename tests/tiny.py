"""A tiny recipe and an encoded data set of random tensors, for tests that need no frozen network."""

from dataclasses import replace

import numpy as np
import torch

from prx_lab.data.store import Store
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES
from prx_lab.scales import SCALES

TINY = replace(SCALES["smoke"], size=32, grid=4, width=32, depth=4, heads=2, steps=6, batch=8, images=32)
CPU = torch.device("cpu")
CHANNELS = {"lab-vae-semantic": 32}  # of the latents; 16 elsewhere


def tiny(recipe: Recipe) -> Recipe:
    """`recipe` at a size that trains in a second, in float32 so that equalities can be exact."""
    compute = "bf16" if recipe.precision.store == "bf16" else "fp32"  # weights in bf16 cannot compute in float32
    scale = replace(TINY, steps=8) if len(recipe.phases) > 2 else TINY  # every phase needs a step
    return recipe.but(scale=scale, precision=replace(recipe.precision, compute=compute))


def store(recipe: Recipe | None = None, n: int = 32) -> Store:
    """Random data of the shape that `recipe` trains on: pixels, or latents; every teacher there is.

    Latents differ from space to space and from style to style, text from one kind of captions to the next.
    """
    recipe = recipe or BASE
    space, n = recipe.space, max(1, round(recipe.subset * n))
    g = np.random.default_rng(0)
    lengths = g.integers(2, 7, n + 1)
    text = {
        "tokens": g.standard_normal((n + 1, 6, 12)).astype(np.float16),
        "mask": np.arange(6)[None] < lengths[:, None],
    }
    x = g.standard_normal((n, 16, 4, 4)).astype(np.float16)
    names = {"lab-dino", "lab-dino-dense"} | {name for r in RECIPES.values() for _, part in r.plan for name in part.teachers}
    seen = {name: (n, 3, 16, 8) if ":qk" in name else (n, 16, 10) for name in sorted(names)}
    features = {name: np.random.default_rng([*name.encode()]).standard_normal(s).astype(np.float16) for name, s in seen.items()}
    images = g.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    if recipe.captions != BASE.captions:
        text["tokens"] = np.random.default_rng([*recipe.captions.encode()]).standard_normal((n + 1, 6, 12)).astype(np.float16)
    if (space, recipe.style) != (BASE.space, BASE.style):
        x = np.random.default_rng([*(space + recipe.style).encode()]).standard_normal((n, CHANNELS.get(space, 16), 4, 4)).astype(np.float16)
    return Store(images, None if space == "pixels" else x, text, features)


def shape(recipe: Recipe, batch: int = 8) -> tuple[int, ...]:
    """The shape of a batch of `store(recipe)`."""
    return (batch, *store(recipe, 2).shape)


AS_THE_BASELINE = {  # recipes whose training is the baseline's: they differ in how they are judged or sampled
    "baseline",
    "no-guidance",
    "half-guidance",
    "long-short-prompts",
    "render-on-camera",
    "baseline-on-polished",
    "baseline-on-heldout",
    "twenty-eight-steps",
    "eight-steps",
    "eight-steps-cfg1",
}
