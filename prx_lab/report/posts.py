"""The tables of the PRX posts, as numbers: results/published.csv, read and looked up by recipe."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.record import CHECKOUT

PUBLISHED = Path("results", "published.csv")  # here, or in the checkout
USUAL = "256"  # tokens of a row that says nothing of them
FEW, MANY = "cpu-256", "cpu-1024"  # scales with as many tokens as the post's rows have: 256, and 1024
STANDS = {  # {scale: {recipe there: the recipe whose published row it stands for}}
    FEW: {"jit": "baseline", "jit-tread": "tread", "jit-sprint": "sprint"},  # the post's 256 tokens are latents
    MANY: {"jit-muon": "jit", "jit-muon-tread": "jit-tread", "jit-muon-sprint": "jit-sprint"},  # the post's optimiser is AdamW
}
NUMBERS = ("fid", "cmmd", "dino_mmd", "batches_per_s", "images_per_s", "mse", "memory_gb")


@dataclass(frozen=True)
class Published:
    """One published row: its table, its name there, its numbers, and the recipe here that stands for it (or '')."""

    table: str
    row: str
    recipe: str
    values: dict[str, float]
    resolution: str
    tokens: str
    source: str

    @property
    def label(self) -> str:
        """The row as a table of ours names it, with its tokens where they are not the post's usual ones."""
        return f"post{f', {self.tokens} tokens' * (self.tokens not in ('', USUAL))}: {self.row}"


def published(path: Path = PUBLISHED) -> tuple[Published, ...]:
    """All rows in file order, of `path` from here or from the checkout; none where it is in neither."""
    path = path if path.is_file() else CHECKOUT / path
    if not path.is_file():
        return ()
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(_row(line) for line in csv.DictReader(file))


def at(scale: str, rows: Sequence[Published]) -> tuple[Published, ...]:
    """The rows that recipes at a scale stand beside: those of its tokens, 1024 at MANY, the others elsewhere, by their names there."""
    own = tuple(row for row in rows if (row.tokens == "1024") == (scale == MANY))
    stands = STANDS.get(scale, {})
    routing = [row for row in own if row.table.startswith("token routing")]  # a baseline stands in many tables
    return own + tuple(replace(row, recipe=name) for name, other in stands.items() for row in routing if row.recipe == other)


def required() -> tuple[Published, ...]:
    """All rows; LabError where they are not to be found."""
    if not (rows := published()):
        raise LabError(f"The post's numbers are not here: {PUBLISHED} belongs to the repository; run this in a checkout of it.")
    return rows


def _row(line: dict[str, str]) -> Published:
    values = {name: float(line[name]) for name in NUMBERS if line[name]}
    return Published(line["table"], line["row"], line["recipe"], values, line["resolution"], line["tokens"], line["source"])


def counterpart(recipe: str, baseline: str, rows: tuple[Published, ...]) -> tuple[Published | None, Published | None]:
    """The published row of `recipe` and, from the same table, that of `baseline`; None for what was not published."""
    mine = [row for row in rows if row.recipe == recipe]
    for row in mine:
        for other in rows:
            if other.recipe == baseline and other.table == row.table:
                return row, other
    return (mine[0] if mine else None), None


def share(recipe: str, baseline: str, metric: str, rows: tuple[Published, ...]) -> float:
    """The published change of a metric as a share of the baseline of the same table; NaN where none was printed."""
    row, base = counterpart(recipe, baseline, rows)
    moved = change(row, base, metric)
    return moved / base.values[metric] if base and base.values.get(metric) else math.nan


def change(row: Published | None, base: Published | None, metric: str) -> float:
    """The published difference of a metric to the baseline of the same table; NaN where one of the two is missing."""
    if row is None or base is None or metric not in row.values or metric not in base.values:
        return math.nan
    return row.values[metric] - base.values[metric]


def across(recipe: str, other: str, metric: str, rows: tuple[Published, ...], origin: str = "baseline") -> float:
    """The change from one row to a row of another table, as a share of the latter, where both tables have the same `origin`; else NaN."""
    (ours, mine), (theirs, its) = counterpart(recipe, origin, rows), counterpart(other, origin, rows)
    if ours is None or theirs is None or mine is None or its is None or mine.values.get(metric) != its.values.get(metric):
        return math.nan
    moved = change(ours, theirs, metric)
    return moved / theirs.values[metric] if theirs.values.get(metric) else math.nan
