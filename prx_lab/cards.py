"""Recipes and their parts as HTML tables for notebooks; what differs from the baseline stands out."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from prx_lab.spec import Spec, flatten

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

CELL = "text-align:left;padding:.15em .8em"
CHANGED = (";border-left:3px solid #d1812c", ";font-weight:600")  # of the field's name, and of its value here


def spec_html(spec: Spec) -> str:
    """A part of a recipe as a table of its fields; a whole recipe as its difference from the baseline."""
    from prx_lab.recipe import Recipe

    if isinstance(spec, Recipe):
        return recipe_html(spec)
    return f"<b>{escape(type(spec).__name__)}</b>" + _table([(path, str(value)) for path, value in flatten(spec).items()])


def recipe_html(recipe: "Recipe") -> str:
    """The fields that differ from the baseline at the same scale, marked at their left, and the others folded away."""
    from prx_lab.recipes import BASE
    from prx_lab.scales import SCALES

    base = BASE.but(scale=SCALES.get(recipe.scale.name, recipe.scale))
    changed = recipe.diff(base)
    rows = [(path, _text(here), f"baseline: {_text(there) or 'none'}") for path, (here, there) in changed.items()]
    same = [(path, _text(value)) for path, value in recipe.flat().items() if path not in changed and path != "phases"]
    told = f"{len(changed)} fields differ from the baseline" if changed else "the baseline"
    head = f"<b>Recipe {recipe.id}</b>, {escape(recipe.scale.name)} scale: {told}"
    return f"{head}{_table(rows, CHANGED)}<details><summary>{len(same)} fields as in the baseline</summary>{_table(same)}</details>"


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _table(rows: Sequence[tuple[str, ...]], looks: Sequence[str] = ("", "")) -> str:
    """Rows of texts; `looks` are more styles for their first cells. Nothing where there are no rows."""
    styles = [CELL + more for more in (*looks, "")]
    lines = ("".join(f'<td style="{style}">{escape(text)}</td>' for text, style in zip(row, styles)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="prx-table" style="border-collapse:collapse;margin:.4em 0">{body}</table>' if rows else ""
