"""What an encoded data set was made for, and whether another recipe may use it."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from prx_lab.data.store import fingerprint
from prx_lab.errors import LabError
from prx_lab.recipe import Recipe
from prx_lab.record import write_json

ASKED = "encoded.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder was encoded for; another recipe may use it where these fit."""

    data: str
    images: int  # samples wanted, at most
    validation: int  # images wanted, at most
    size: int
    captions: str
    space: str
    text: str
    cleaning: str
    places: int  # for the tokens of a caption
    teachers: tuple[str, ...]
    grid: int  # of the teachers' tokens
    networks: tuple[str, ...]  # what identifies the weights
    shard: int  # samples of a shard

    @staticmethod
    def of(recipe: Recipe, places: int, teachers: tuple[str, ...], validation: int, shard: int) -> "Manifest":
        """What an encoding for `recipe` would be made for, with the fingerprints that its networks have now."""
        s, networks = recipe.scale, tuple(fingerprint(name) for name in (recipe.space, recipe.text, *teachers))
        asked = (recipe.data, s.images, validation, s.size, recipe.captions, recipe.space, recipe.text, recipe.cleaning)
        return Manifest(*asked, places, teachers, s.grid, networks, shard)

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a folder; LabError where there is none that can be read."""
        try:
            found = json.loads((folder / ASKED).read_text())
            return Manifest(**found | {name: tuple(found[name]) for name in ("teachers", "networks")})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LabError(f"{folder / ASKED} cannot be read ({error}); encode the data again into another folder.") from None

    def write(self, folder: Path) -> None:
        """Write it into a folder, as encoded.json."""
        write_json(folder / ASKED, asdict(self))

    def require_same(self, other: "Manifest", folder: Path) -> None:
        """Refuse to go on in a folder that was begun for something else."""
        for name in (f.name for f in fields(self)):
            begun, now = getattr(self, name), getattr(other, name)
            if begun != now:
                raise LabError(f"{folder} was begun with {name} {begun!r}, and this is {now!r}; use another --out.")

    def require_fit(self, recipe: Recipe, folder: Path) -> None:
        """Refuse a recipe whose data this is not."""
        s = recipe.scale
        places = recipe.text_tokens or self.places
        wanted = {"size": s.size, "captions": recipe.captions, "space": recipe.space, "text": recipe.text, "cleaning": recipe.cleaning}
        wanted |= {"places": places} | ({"grid": s.grid} if recipe.teachers else {})
        for name, value in wanted.items():
            if getattr(self, name) != value:
                told = "text_tokens" if name == "places" else name
                raise LabError(
                    f"{folder} was encoded with {told} {getattr(self, name)!r} and the recipe has {value!r}; encode the data for this "
                    "recipe into another folder."
                )
        for name in recipe.teachers:
            if name not in self.teachers:
                raise LabError(f"{folder} holds no tokens of the teacher '{name}'; encode the data for this recipe into another folder.")
        changed = [old for old in self.networks if fingerprint(old.partition(":")[0]) not in self.networks and ":qk" not in old]
        if changed:
            raise LabError(f"{folder} was encoded with other weights of '{changed[0].partition(':')[0]}'; encode the data again.")
