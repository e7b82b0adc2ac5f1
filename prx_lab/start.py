"""The weights that training starts from: `Recipe.init`, read before step 0 and refused where they do not fit the recipe."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab import stored, zoo
from prx_lab.data.batch import Data
from prx_lab.errors import LabError
from prx_lab.interop import arch_of, compare, find, infer
from prx_lab.model import PRX
from prx_lab.stored import Stored

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

FIELDS = {"width": "scale.width", "depth": "scale.depth", "heads": "scale.heads", "bottleneck": "bottleneck", "channels": "space",
          "patch": "scale.grid", "context": "text", "mlp_ratio": ""}  # of a recipe, for a part of the shape  # fmt: skip


def initial(recipe: "Recipe", store: Data) -> dict[str, Tensor]:
    """The tensors that training starts from, by a learner's names, mapped from their files; none for a recipe without init."""
    if not recipe.init:
        return {}
    channels, side, _ = store.shape
    arch = recipe.arch(channels, recipe.scale.size // side, store.context)
    found = find(recipe.init)
    require_fit(recipe, found, {f.name: getattr(arch, f.name) for f in fields(arch)})
    with torch.device("meta"):
        compare(found, PRX(arch, recipe.router))
    return {f"learner/model.{name}": tensor for name, tensor in found.tensors()}


def foresee(recipe: "Recipe") -> None:
    """Refuse an init that cannot fit, before any data is encoded: what the recipe alone and the embedded networks tell."""
    if not recipe.init:
        return
    s = recipe.scale
    wanted = {"width": s.width, "depth": s.depth, "heads": s.heads, "bottleneck": recipe.bottleneck}
    if recipe.space == "pixels":
        wanted |= {"channels": 3, "patch": s.size // s.grid}
    elif recipe.space in zoo.EMBEDDED:
        config = stored.read(zoo.folder(recipe.space) / "config.json")
        stride = 2 ** (len(config["block_out_channels"]) - 1)
        wanted |= {"channels": config["latent_channels"], "patch": s.size // stride // s.grid}
    if recipe.text in zoo.EMBEDDED:
        wanted["context"] = stored.read(zoo.folder(recipe.text) / "config.json")["encoder"]["hidden_size"]
    require_fit(recipe, find(recipe.init), wanted)


def require_fit(recipe: "Recipe", found: Stored, wanted: Mapping[str, int | float]) -> None:
    """Refuse, with a LabError, weights of another shape than `wanted`, naming the field of the recipe that changes it."""
    channels = found.channels
    if not found.config and not channels and "channels" in wanted:
        length = found.shapes.get("img_in.0.weight", found.shapes.get("img_in.weight", (0, 0)))[-1]
        channels = wanted["channels"] if length == wanted["channels"] * wanted["patch"] ** 2 else 0
    arch = arch_of(found.config) if found.config else infer(found.shapes, channels)
    for name in (name for name in FIELDS if name in wanted):
        has, needs = getattr(arch, name), wanted[name]
        if has != needs:
            raise LabError(f"init '{recipe.init}' has {name} {has} where this recipe has {needs}; {change(recipe, name, has)}.")


def change(recipe: "Recipe", name: str, value: int | float) -> str:
    """What to change in the recipe, so that this part of its shape becomes `value`."""
    another = "or start from another init"
    if name in ("width", "depth", "heads", "bottleneck"):
        return f"set {FIELDS[name]} to {value}, {another}"
    if name == "patch":
        cells = recipe.scale.grid
        return f"change scale.grid (now {cells}) or scale.size, so that a token covers {value} cells a side, {another}"
    if name == "channels":
        return f"use a space with {value} channels in place of '{recipe.space}', {another}"
    if name == "context":
        return f"use a text encoder of width {value} in place of '{recipe.text}', {another}"
    return "recipes have no such field: start from another init"
