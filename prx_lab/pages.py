"""What the notebooks share: the library's real lines, the networks' cards, and pictures and sentences read from records."""

import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prx_lab import zoo
from prx_lab.data.captions import listed
from prx_lab.errors import LabError
from prx_lab.gallery import GAP, Gallery
from prx_lab.record import CHECKOUT, Record, records
from prx_lab.report.columns import QUALITY, columns
from prx_lab.report.forest import ONE_SEED, UNDECIDED, branches
from prx_lab.report.layout import finer, mark
from prx_lab.report.listing import Note
from prx_lab.report.pairs import of_recipe
from prx_lab.report.table import require_known

if TYPE_CHECKING:
    import pandas

    from prx_lab.report.table import Table


# ------------------------------------------------------------------------------------------------ code
@dataclass(frozen=True, repr=False)
class Listing:
    """Lines of the library with the file they stand in, highlighted where Markdown is shown."""

    parts: tuple[tuple[str, str], ...]  # (file, lines)

    def _repr_markdown_(self) -> str:
        return "\n\n".join(f"`{file}`\n```python\n{lines}\n```" for file, lines in self.parts)

    def __repr__(self) -> str:
        return "\n\n".join(f"# {file}\n{lines}" for file, lines in self.parts)


def source(*objects: Any) -> Listing:
    """The source lines of classes and functions of the library, as they are now."""
    return Listing(tuple((_place(o), textwrap.dedent(inspect.getsource(o)).rstrip()) for o in objects))


def _place(thing: Any) -> str:
    path = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "?").resolve()
    return path.relative_to(CHECKOUT).as_posix() if path.is_relative_to(CHECKOUT) else path.name


# -------------------------------------------------------------------------------------------- pictures
def recorded(
    runs: Sequence[Record], count: int = 6, baseline: str = "baseline", beside: Callable[[Record], str] = lambda run: ""
) -> Gallery:
    """The first `count` recorded samples of each recipe's first run, the baseline's on top: the same captions and noise in every row.

    The others in the order in which they are given; what `beside` says of a run stands below its name. LabError where none is recorded.
    """
    first: dict[str, Record] = {}
    for run in sorted(runs, key=lambda r: r.name != baseline):
        if run.samples.exists():
            first.setdefault(f"{run.name}-{run.id}", run)
    if not first:
        raise LabError("No sample grid is recorded yet.")
    names = [run.name for run in first.values()]
    heads = (run.name if names.count(run.name) == 1 else label for label, run in first.items())
    rows = {f"{head}\n{beside(run)}".strip(): tiles(run)[:count] for head, run in zip(heads, first.values())}
    captions = {tuple(run.eval.get("captions", ())[:count]) for run in first.values()}
    return Gallery(rows, captions.pop() if len(captions) == 1 else ())


def tiles(run: Record) -> np.ndarray:
    """The images of a recorded sample grid, uint8 (n, H, W, 3)."""
    from PIL import Image

    grid, side = np.asarray(Image.open(run.samples).convert("RGB")), int(run.recipe["scale"]["size"])
    rows, columns = ((length + GAP) // (side + GAP) for length in grid.shape[:2])
    places = [(y * (side + GAP), x * (side + GAP)) for y in range(rows) for x in range(columns)]
    return np.stack([grid[y : y + side, x : x + side] for y, x in places])


# ------------------------------------------------------------------------------------------------ cards
@dataclass(frozen=True, repr=False)
class Cards:
    """The embedded networks: what each is, its size on disk, and its card in a fold."""

    entries: tuple[tuple[str, str, str], ...]  # (name, what it is, card)

    def _repr_html_(self) -> str:
        card = '<pre style="white-space:pre-wrap;font-size:75%">{}</pre>'
        fold = '<details style="margin:.3em 0"><summary><b>{}</b>: {}</summary>' + card + "</details>"
        return "".join(fold.format(*map(escape, entry)) for entry in self.entries)

    def __repr__(self) -> str:
        return "\n".join(f"{name:<17} {what}" for name, what, _ in self.entries)


def cards() -> Cards:
    """A card for each embedded network, in the order of the zoo; one that is not there says so."""
    sizes, entries = zoo.sizes(), []
    for name, what in zoo.EMBEDDED.items():
        if name in sizes:
            entries.append((name, f"{what}, {sizes[name] / 1e6:.2f} MB", (zoo.folder(name) / "card.md").read_text()))
        else:
            entries.append((name, f"{what}; not shipped yet", "No card."))
    return Cards(tuple(entries))


# ------------------------------------------------------------------------------------------- sentences
def shown(make: Callable[[], Any]) -> Any:
    """What `make` returns or, where it raises LabError because nothing is recorded, its sentence as a `Note`."""
    try:
        return make()
    except LabError as error:
        return Note(str(error))


def verdict(table: "Table", name: str, metric: str) -> str:
    """One sentence: a recipe's paired difference to the baseline, its interval, and better, worse or within noise.

    LabError where the table has no such column.
    """
    row = next((row for row in table.rows if row.label == name), None)
    column = next((m for m in table.metrics if m.name == metric), None)
    if column is None:
        raise LabError(f"The table has no column '{metric}'; it has {', '.join(m.name for m in table.metrics)}.")
    if row is None or not row.cells[metric].common:
        return f"{name}, {column.head}: no seeds in common with the baseline at {table.scale} scale yet"
    cell = row.cells[metric]
    mean, lo, hi = cell.difference()
    fine = finer(cell, column)
    start = f"{name}, {column.head}: {fine.show(mean, sign=True)}"
    if math.isnan(lo):
        return f"{start} over one seed: no interval, no verdict"
    if math.isclose(lo, hi):
        return f"{start} in each of {len(cell.common)} seeds: no spread, no verdict"
    word = "indicative, no verdict" if column.timed else {1: "better", -1: "worse", 0: "within noise"}[mark(cell, column)]
    return f"{start} [{fine.show(lo, sign=True)}, {fine.show(hi, sign=True)}] over {len(cell.common)} seeds: {word}"


def verdicts(table: "Table", *names: str, metrics: Sequence[str] = QUALITY) -> Note:
    """`verdict` of each recipe in each metric, a line each; recipes without a run in common with the baseline share one line."""
    rows = {row.label: row for row in table.rows}
    known = [name for name in names if name in rows and any(rows[name].cells[m].common for m in metrics)]
    lines = [verdict(table, name, metric) for name in known for metric in metrics]
    missing = ", ".join(name for name in names if name not in known)
    lines += [f"No pair of runs with the same seed is recorded at {table.scale} scale yet for {missing}."] * bool(missing)
    return Note("\n".join(lines))


def decided(
    *names: str, baseline: str = "baseline", scale: str = "cpu", metrics: Sequence[str] = QUALITY, root: str | Path = "results"
) -> Note:
    """In which metrics each recipe is better, worse or undecided by the intervals of the claims and figures; a line for each recipe.

    LabError for the name of no recipe or metric.
    """
    every = records(root)
    require_known(every, (baseline, *names))
    shown = columns(metrics, [run for run in every if run.scale == scale])
    known, lines = of_recipe(every.found, baseline, scale), []
    found = {m: {one.name: one for one in branches(every.found, m.name, names, scale, baseline)} if known else {} for m in shown}
    for name in names:
        told = {m.title.removesuffix(" %"): by_name[name].told(m) for m, by_name in found.items() if name in by_name}
        if not told:
            lines.append("judged otherwise, or no seed in common" if known and of_recipe(every.found, name, scale) else "not recorded yet")
        elif set(told.values()) == {ONE_SEED}:
            lines.append(ONE_SEED)
        else:
            words = sorted(set(told.values()), key=lambda word: (word.startswith(UNDECIDED), word))
            lines.append("; ".join(f"{word} in {listed([m for m in told if told[m] == word])}" for word in words))
    return Note("\n".join(f"{scale}, {name} over {baseline}: {line}" for name, line in zip(names, lines)))


def trials(root: str | Path = "results/search") -> "pandas.DataFrame":
    """Every recorded trial of a search, one line each, the best shape accuracy first. LabError when there is none."""
    import pandas

    found = records(root)
    if not len(found):
        raise LabError("No trials are recorded yet.")
    lines = []
    for run in found:
        scale, curve = run.recipe["scale"], run.curve
        line = {key: scale[key] for key in ("level", "width", "depth", "grid", "batch", "lr", "steps", "eval_steps")}
        line |= {"space": run.recipe["space"], "drop": run.recipe["drop"], "guidance": run.recipe["guidance"].get("scale", math.nan)}
        line |= {name: run.metric(name) for name in ("shape", "colour", "composition")}
        line[columns(["fid"], [run])[0].title] = run.metric("fid")
        seconds = run.eval.get("throughput", {}).get("seconds", curve[-1]["seconds"] if curve else math.nan)
        lines.append({"trial": f"{run.id}, seed {run.seed}"} | line | {"seconds": seconds})
    return pandas.DataFrame(lines).sort_values(["shape", "trial"], ascending=[False, True]).set_index("trial")
