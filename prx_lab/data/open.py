"""Which source a recipe trains on, is judged against, and is tested for composition with."""

from prx_lab.data.scenes import Scenes
from prx_lab.data.source import Source
from prx_lab.errors import LabError
from prx_lab.recipe import Recipe

VAL_SEED = 0  # validation and held-out scenes are the same for every recipe and seed


def open_source(recipe: Recipe, split: str) -> Source:
    """The `train` or `val` part of a recipe's data; the embedded world also has `heldout`, unseen attribute combinations.

    LabError for the images of an encoded folder, unless they are those to validate with.
    """
    if recipe.data == "scenes":
        style = recipe.style if split == "train" else recipe.reference.style
        return Scenes(recipe.scale.level, style, recipe.scale.images if split == "train" else 10**6, VAL_SEED, split)
    from prx_lab.data.encoded import is_encoded, validation_part
    from prx_lab.data.load import load_source

    if is_encoded(recipe.data):
        if split != "val":
            raise LabError(f"{recipe.data} holds encoded samples and validation images, but no '{split}' images; name the data itself.")
        return validation_part(recipe)
    return load_source(recipe.data, split, limit=recipe.scale.images)
