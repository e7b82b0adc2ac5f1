"""The scoreboard of a scale: n, mean and sd of every metric, and the paired difference to the baseline over common seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prx_lab.errors import LabError, nearest
from prx_lab.metrics.stats import paired, summary
from prx_lab.record import Record, Records, records
from prx_lab.report import layout
from prx_lab.report.columns import SHOWN, Metric, by_seed, columns
from prx_lab.report.comparable import alike, elsewhere, repeated
from prx_lab.report.footnotes import notes
from prx_lab.report.posts import Published, at, counterpart, published
from prx_lab.scales import SCALES

if TYPE_CHECKING:
    import pandas

Runs = tuple[Record, ...]


@dataclass(frozen=True)
class Cell:
    """One metric of one recipe: its values by seed, beside the baseline's."""

    values: Mapping[int, float]
    base: Mapping[int, float]

    @property
    def n(self) -> int:
        """Seeds that have a value."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN for none."""
        return sum(self.values.values()) / self.n if self.n else math.nan

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds; NaN for fewer than two."""
        finite = self.n > 1 and all(map(math.isfinite, self.values.values()))
        return summary(list(self.values.values())).sd if finite else math.nan

    @property
    def common(self) -> tuple[int, ...]:
        """The seeds in which this recipe and the baseline were measured; none where one is infinite, as the rest would flatter."""
        shared = tuple(sorted(self.values.keys() & self.base.keys()))
        return shared if all(math.isfinite(v[s]) for v in (self.values, self.base) for s in shared) else ()

    def difference(self) -> tuple[float, float, float]:
        """Mean paired difference to the baseline and its 95 % t interval; no interval (NaN) for one common seed."""
        ours, theirs = [self.values[s] for s in self.common], [self.base[s] for s in self.common]
        if not ours:
            return math.nan, math.nan, math.nan
        found = paired(variant=ours, baseline=theirs)
        return found.mean, math.nan if found.lo is None else found.lo, math.nan if found.hi is None else found.hi


@dataclass(frozen=True)
class Row:
    """One recipe of the table; `seeds` is empty where nothing is recorded, `borrowed` are those that tell of no training of their own."""

    label: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    is_baseline: bool
    post: Published | None
    post_base: Published | None
    borrowed: frozenset[int]


@dataclass(frozen=True, repr=False)
class Table:
    """Recorded runs of one scale against a baseline; shows itself in a notebook, a terminal and Markdown."""

    scale: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    ceiling: Mapping[str, float]  # real images through the same judge
    notes: tuple[str, ...]

    @staticmethod
    def of(
        scale: str,
        recipes: Sequence[str] = (),
        baseline: str = "baseline",
        metrics: Sequence[str] = SHOWN,
        root: str | Path = "results",
        posts: Callable[[], tuple[Published, ...]] = published,
    ) -> "Table":
        """The table of `recipes` (names, or name-id; none named: all recorded ones) at `scale`, read from `root`.

        Beside what `posts` reads, the published rows with the tokens of the scale; `tuple` reads none.
        """
        found = records(root, scale)
        if not len(found) and scale not in SCALES:
            raise LabError(f"There is no scale '{scale}'.{nearest(scale, SCALES)} The scales are {', '.join(SCALES)}.")
        return build(found, scale, recipes, baseline, metrics, at(scale, posts()))

    def __repr__(self) -> str:
        return layout.text(self)

    def _repr_html_(self) -> str:
        return layout.html(self)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, notes below it."""
        return layout.markdown(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """One line per recipe and metric: n, mean, sd, common seeds, paired difference, its interval, the post's value."""
        import pandas

        lines = []
        for row in self.rows:
            for metric in self.metrics:
                cell = row.cells[metric.name]
                post = row.post.values.get(metric.name, math.nan) if row.post else math.nan
                lines.append((row.label, metric.name, cell.n, cell.mean, cell.sd, len(cell.common), *cell.difference(), post))
        names = ["recipe", "metric", "n", "mean", "sd", "common", "difference", "lo", "hi", "published"]
        return pandas.DataFrame(lines, columns=names)


# ---------------------------------------------------------------------------------------------- arranging
def build(
    found: Records,
    scale: str,
    recipes: Sequence[str],
    baseline: str,
    metrics: Sequence[str],
    posts: tuple[Published, ...],
) -> Table:
    """Arrange records into a table: the baseline first, then the recipes in the order asked for.

    LabError for an unknown or ambiguous name.
    """
    require_known(found, (baseline, *recipes))
    base = choose(found, baseline, scale)
    if len(base) > 1:
        raise LabError(f"Several recipes are recorded as '{baseline}': name one of {', '.join(base)} as the baseline.")
    groups = dict(base)
    for name in recipes or sorted({record.name for record in found}):
        groups |= {label: runs for label, runs in choose(found, name, scale).items() if label not in groups}
    (base_label, base_runs), *_ = base.items()
    used = [record for runs in groups.values() for record in runs]
    shown = columns(metrics, used)
    goal = {m.name: by_seed(m.name, base_runs, base_runs) for m in shown}
    rows, again = [], repeated(found)
    for label, runs in groups.items():
        same = not base_runs or all(alike(run, base_runs[0]) for run in runs)
        values = {m.name: by_seed(m.name, runs, base_runs if same else ()) for m in shown}
        cells = {m.name: Cell(values[m.name], held(m, goal[m.name], elsewhere(runs, base_runs)) if same else {}) for m in shown}
        name = runs[0].name if runs else label
        post, post_base = counterpart(name, base_runs[0].name if base_runs else baseline, posts)
        borrowed = frozenset(run.seed for run in runs if run.borrows or run.folder in again)
        rows.append(Row(label, tuple(r.seed for r in runs), cells, label == base_label, post, post_base, borrowed))
    same = [run for run in used if not base_runs or alike(run, base_runs[0])]
    return Table(scale, shown, tuple(rows), ceiling(shown, same), notes(found, groups, rows, shown))


def held(metric: Metric, base: Mapping[int, float], away: frozenset[int]) -> Mapping[int, float]:
    """The baseline's values that a row is held against; those of a machine without the seeds that are of two machines (`away`)."""
    return {seed: value for seed, value in base.items() if seed not in away} if metric.local else base


def require_known(found: Records, names: Sequence[str]) -> None:
    """Refuse, with a LabError, a name that is neither recorded nor known: a table would be silent about a slip of the pen."""
    recorded = {name for run in found for name in (run.name, f"{run.name}-{run.id}")}
    if not recorded.issuperset(names):
        from prx_lab.recipes import PUBLISHED, RECIPES  # imports torch; needed only for what is not recorded

        known = [*RECIPES, *PUBLISHED, *recorded]
        for name in names:
            if name not in known:
                raise LabError(f"There is no recipe '{name}', recorded or known.{nearest(name, known)} `prx-lab recipes` lists them.")


def choose(found: Sequence[Record], name: str, scale: str) -> dict[str, Runs]:
    """The runs of a recipe as {row label: runs}; one row per id, so that different recipes are never averaged.

    `name` is a recipe's name or name-id. Where several ids are recorded under a name, the one that the recipe has
    today is taken; the others are older recipes. When none of them is today's, each has its own row.
    """
    exact = tuple(r for r in found if f"{r.name}-{r.id}" == name)
    if exact:
        return {name: exact}
    ids = sorted({r.id for r in found if r.name == name})
    groups = {id: tuple(r for r in found if (r.name, r.id) == (name, id)) for id in ids}
    if len(ids) > 1:
        today = current_id(name, scale)
        return {name: groups[today]} if today in groups else {f"{name}-{id}": runs for id, runs in groups.items()}
    return {name: groups[ids[0]] if ids else ()}


def current_id(name: str, scale: str) -> str:
    """The id that a recipe of today has at `scale`; empty for one that is no longer in the list, and at a scale of the user's own."""
    from prx_lab.recipes import PUBLISHED, RECIPES  # imports torch; needed only where recorded ids compete

    recipe = (RECIPES | PUBLISHED).get(name)
    try:
        return "" if recipe is None else recipe.id if recipe.scale.name == scale else recipe.at(scale).id
    except LabError:
        return ""


def ceiling(shown: Sequence[Metric], used: Sequence[Record]) -> dict[str, float]:
    """Mean over records of what real images score before the same judge; only what was measured."""
    found = {}
    for metric in shown:
        values = [value for record in used if not math.isnan(value := record.ceiling(metric.name))]
        if values:
            found[metric.name] = summary(values).mean
    return found
