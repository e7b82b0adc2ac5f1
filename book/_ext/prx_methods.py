"""The methods page: book/methods.yml says what papers and PRX's release do; what is done here is read from the recipes."""

import importlib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

PLACE = re.compile(r"\{([\w.@-]+):([\w.\[\]]+)\}")  # {recipe:path}, {recipe@scale:path} or {module:NAME}


@cache
def flat(recipe: str, scale: str) -> dict[str, object]:
    """Every field of a recipe by its path; KeyError for a recipe that does not exist."""
    from prx_lab.recipes import PUBLISHED, RECIPES

    found = (RECIPES | PUBLISHED)[recipe]
    return (found.at(scale) if scale else found).flat()


def filled(text: str) -> str:
    """`text` with every place replaced by the value that stands in the code; KeyError or AttributeError where there is none."""
    return PLACE.sub(lambda match: value(*match.groups()), text)


def value(owner: str, path: str) -> str:
    """The value at `path` of a recipe, or the constant `path` of a module of the package."""
    if owner.startswith("prx_lab"):
        return shown(getattr(importlib.import_module(owner), path))
    recipe, _, scale = owner.partition("@")
    return shown(flat(recipe, scale)[path])


def shown(found: object) -> str:
    """A field's value as it is read in a table: numbers with three digits, names as code."""
    if isinstance(found, tuple):
        return "(" + ", ".join(map(shown, found)) + ")"
    if isinstance(found, float):
        return f"{found:.3g}"
    return f"{found:,}" if isinstance(found, int) else f"`{found}`"


def entries(source: Path) -> list[dict]:
    """The methods of the file, every plain value as text: `no` is a word here."""
    return yaml.load(source.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def pages(source: Path) -> dict[str, str]:
    """Recipe -> the page that treats it; the first page that names it."""
    found: dict[str, str] = {}
    for method in entries(source):
        for recipe in method["recipes"]:
            found.setdefault(recipe, method["page"])
    return found


def heads(source: Path) -> list[str]:
    """The recipes of a gallery: those that a method names for it, or its first one."""
    return [name for method in entries(source) for name in method.get("gallery", method["recipes"][:1])]


def methods_page(source: Path) -> str:
    """The part of the page that is made: a table for each method, then every recipe as a diff."""
    return "\n".join(section(**method) for method in entries(source)) + "\n" + recipes_table()


def section(
    name: str,
    page: str,
    cite: str,
    recipes: list[str],
    rows: list[list[str]],
    why: str,
    first: str = "the paper",
    gallery: Sequence[str] = (),  # what the landing page shows of it
) -> str:
    """One method: where it is treated and cited, its settings side by side, and why they differ."""
    head = f"## {name}\n\nTreated on [its page]({page}) {{cite}}`{cite}`." + (f" Recipes: {names(recipes)}." if recipes else "")
    lines = [f"| | {first} | PRX's release and posts | here |", "|---|---|---|---|"]
    lines += [f"| {what} | {paper or '–'} | {prx or '–'} | {filled(ours) or '–'} |" for what, paper, prx, ours in rows]
    table = "\n".join(lines)
    return f"{head}\n\n{table}\n\n**Why different.** {filled(why).strip()}\n"


def names(recipes: list[str]) -> str:
    return ", ".join(f"`{recipe}`" for recipe in recipes)


def recipes_table() -> str:
    """Every recipe by what differs from the baseline; a part's fields at their defaults are left out."""
    from prx_lab.recipes import RECIPES

    lines = ["## Every recipe as a diff", "", "Fields of a part that have their default are left out.", ""]
    lines += ["| recipe | what differs from the baseline |", "|---|---|"]
    for name, recipe in RECIPES.items():
        lines.append(f"| `{name}` | {'; '.join(changes(recipe, RECIPES['baseline'])) or 'nothing'} |")
    return "\n".join(lines) + "\n"


def changes(recipe: "Recipe", base: "Recipe") -> list[str]:
    """What `recipe` has and `base` has not, field by field; of a phase what differs from the recipe itself."""
    found = []
    for field in fields(recipe):
        here, there = getattr(recipe, field.name), getattr(base, field.name)
        if field.name == "terms":
            found += [f"`+ {code(term)}`" for term in here if term not in there]
            found += [f"`− {type(term).__name__}`" for term in there if term not in here]
        elif here != there and field.name not in ("scale", "phases"):
            found.append(f"`{field.name} = {code(here)}`")
    for phase in recipe.phases:
        inner = changes(phase.recipe, replace(recipe, phases=()))
        found.append(f"from {shown(phase.start)} of the steps: {', '.join(inner) or 'the same'}")
    return found


def code(value: object) -> str:
    """A value as it is written in Python, without the fields that have their default."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if not is_dataclass(value):
        return repr(value).replace("'", '"')
    given = (f for f in fields(value) if getattr(value, f.name) != f.default)
    return f"{type(value).__name__}({', '.join(f'{f.name}={code(getattr(value, f.name))}' for f in given)})"
