"""The table of contents: BASE and every ablation, one line each."""

from prx_lab.errors import LabError, nearest
from prx_lab.recipe import SCALES, Recipe
from prx_lab.terms import REPA

BASE = Recipe(scale=SCALES["smoke"])

RECIPES: dict[str, Recipe] = {
    "baseline": BASE,
    # alignment
    "repa": BASE.plus(REPA(teacher="lab-dino")),
    "repa-dense": BASE.plus(REPA(teacher="lab-dino-dense")),
    # latent spaces
    # objectives
    # routing
    # data
    # optimisation
    # stacked, and distilled
}


def recipe(name: str, scale: str = "smoke") -> Recipe:
    """The recipe of that name at a scale."""
    if name not in RECIPES:
        raise LabError(f"Unknown recipe '{name}'.{nearest(name, RECIPES)} `prx-lab recipes` lists them all.")
    return RECIPES[name].at(scale)
