"""A tiny recipe and an encoded data set of random tensors, for tests that need no frozen network."""

from dataclasses import replace

import numpy as np
import torch

from prx_lab.data.store import Store
from prx_lab.recipe import SCALES, Recipe

TINY = replace(SCALES["smoke"], size=32, grid=4, width=32, depth=4, heads=2, steps=6, batch=8, images=32)
CPU = torch.device("cpu")


def tiny(recipe: Recipe) -> Recipe:
    """`recipe` at a size that trains in a second, in float32 so that equalities can be exact."""
    return recipe.but(scale=TINY, precision=replace(recipe.precision, compute="fp32"))


def store(teachers: tuple[str, ...] = ("lab-dino", "lab-dino-dense"), n: int = 32) -> Store:
    g = np.random.default_rng(0)
    lengths = g.integers(2, 7, n + 1)
    text = {
        "tokens": g.standard_normal((n + 1, 6, 12)).astype(np.float16),
        "mask": np.arange(6)[None] < lengths[:, None],
    }
    x = g.standard_normal((n, 16, 4, 4)).astype(np.float16)
    features = {name: g.standard_normal((n, 16, 10)).astype(np.float16) for name in teachers}
    return Store(np.zeros((n, 32, 32, 3), np.uint8), x, text, features)
