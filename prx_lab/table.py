"""The scoreboard of a scale: n, mean and sd of every metric, and the paired difference to the baseline over common seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prx_lab import layout
from prx_lab.columns import SHOWN, Metric, by_seed, columns, judges
from prx_lab.errors import LabError, nearest
from prx_lab.metrics.stats import paired, summary
from prx_lab.posts import Published, counterpart, published
from prx_lab.record import Record, Records, alike, number, records
from prx_lab.scales import SCALES

if TYPE_CHECKING:
    import pandas

Runs = tuple[Record, ...]
MANY = 8  # names in a note; more are counted


@dataclass(frozen=True)
class Cell:
    """One metric of one recipe: its values by seed, beside the baseline's."""

    values: Mapping[int, float]
    base: Mapping[int, float]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
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
    """One recipe of the table; `seeds` is empty where nothing is recorded, `borrowed` are those judged with weights of other runs."""

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
        posts: tuple[Published, ...] | None = None,
    ) -> "Table":
        """The table of `recipes` (names, or name-id; none named: all recorded ones) at `scale`, read from `root`.

        Beside `posts`, the published rows; all of them by default.
        """
        found = records(root, scale)
        if not len(found) and scale not in SCALES:
            raise LabError(f"There is no scale '{scale}'.{nearest(scale, SCALES)} The scales are {', '.join(SCALES)}.")
        return build(found, scale, recipes, baseline, metrics, published() if posts is None else posts)

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
    """Arrange records into a table: the baseline first, then the recipes in the order asked for."""
    require_known(found, (baseline, *recipes))
    base = choose(found, baseline, scale)
    base = base if len(base) == 1 else {baseline: _one(base, baseline)}
    groups = dict(base)
    for name in recipes or sorted({record.name for record in found}):
        groups |= {label: runs for label, runs in choose(found, name, scale).items() if label not in groups}
    (base_label, base_runs), *_ = base.items()
    used = [record for runs in groups.values() for record in runs]
    shown = columns(metrics, used)
    goal = {m.name: by_seed(m.name, base_runs, base_runs) for m in shown}
    rows = []
    for label, runs in groups.items():
        same = not base_runs or all(alike(run, base_runs[0]) for run in runs)
        cells = {m.name: Cell(by_seed(m.name, runs, base_runs if same else ()), goal[m.name] if same else {}) for m in shown}
        name = runs[0].name if runs else label
        post, post_base = counterpart(name, base_runs[0].name if base_runs else baseline, posts)
        borrowed = frozenset(run.seed for run in runs if run.borrows)
        rows.append(Row(label, tuple(r.seed for r in runs), cells, label == base_label, post, post_base, borrowed))
    same = [run for run in used if not base_runs or alike(run, base_runs[0])]
    return Table(scale, shown, tuple(rows), ceiling(shown, same), notes(found, groups, rows, shown))


def require_known(found: Records, names: Sequence[str]) -> None:
    """Refuse a name that is neither recorded nor in the list of recipes: a table would be silent about a slip of the pen."""
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
    """The id that a recipe of today has at `scale`, or an empty string for a recipe that is no longer in the list."""
    from prx_lab.recipes import RECIPES  # imports torch; needed only where recorded ids compete

    return RECIPES[name].at(scale).id if name in RECIPES else ""


def _one(base: Mapping[str, Runs], name: str) -> Runs:
    raise LabError(f"Several recipes are recorded as '{name}': name one of {', '.join(base)} as the baseline.")


def ceiling(shown: Sequence[Metric], used: Sequence[Record]) -> dict[str, float]:
    """Mean over records of what real images score before the same judge; only what was measured."""
    found = {}
    for metric in shown:
        values = [value for record in used if not math.isnan(value := record.ceiling(metric.name))]
        if values:
            found[metric.name] = summary(values).mean
    return found


def notes(found: Records, groups: Mapping[str, Runs], rows: Sequence[Row], shown: Sequence[Metric]) -> tuple[str, ...]:
    """What a reader must know to read the numbers: evaluation size, judges, machines, code, and what was left out."""
    lines, used, base = [], [record for runs in groups.values() for record in runs], next(iter(groups.values()))
    if any(len(row.seeds) > 1 for row in rows):
        lines.append("n: seeds. Value: mean ± sd. Δ: paired difference to the baseline over common seeds [95 % t interval].")
    elif used:
        lines.append("n: seeds. Δ: paired difference to the baseline; one seed gives no interval.")
    most = max((len(row.seeds) for row in rows if row.is_baseline), default=0)
    behind = [f"{row.label} ({len(row.seeds)})" for row in rows if 0 < len(row.seeds) < most]
    if behind:
        named = ", ".join(behind) if len(behind) <= MANY else f"{len(behind)} rows, see n"
        lines.append(f"Fewer than the baseline's {most} seeds: {named}.")
    lines += shared(rows, shown)
    apart = [label for label, runs in groups.items() if runs and base and not all(alike(run, base[0]) for run in runs)]
    if apart:
        lines.append(
            f"Judged on other images, given other captions or trained at other settings, so without a difference: {', '.join(apart)}."
        )
    sizes = sorted({int(n) for record in used if (n := number(record.eval.get("n"))) >= 1})
    if sizes:
        text = " or ".join(map(str, sizes))
        lines.append(f"Each run is judged on {text} images." + (" Sizes differ: FID is not comparable." * (len(sizes) > 1)))
    named = [f"{m.title} by {' and '.join(judges(m, used))}" for m in shown if judges(m, used)]
    if named and used:
        lines.append("; ".join(named) + ".")
    if any(metric.timed for metric in shown) and used:
        lines.append(
            "Times and rates are indicative and get no verdict: runs followed one another, and other work may have shared their machine."
        )
    machines = sorted({str(record.env.get("device_name", "")) for record in used} - {""})
    if len(machines) > 1:
        lines.append(f"Speeds come from different machines ({', '.join(machines)}): do not compare them.")
    lines += versions(groups)
    if any(row.post for row in rows):
        lines.append("post: the published row and its change to the published baseline; one run each, other networks, data and scale.")
    return tuple(lines + [f"Skipped: {reason}" for _, reason in found.skipped])


def shared(rows: Sequence[Row], shown: Sequence[Metric]) -> list[str]:
    """The baseline's mean over the seeds that a row with fewer of them is compared on, metric by metric."""
    base = next((row for row in rows if row.is_baseline), None)
    if base is None:
        return []
    sets = {cell.common for row in rows if row is not base for cell in row.cells.values() if 0 < len(cell.common) < len(cell.base)}
    lines = []
    for seeds in sorted(sets):
        means = {m: [v for seed, v in base.cells[m.name].values.items() if seed in seeds and math.isfinite(v)] for m in shown}
        told = ", ".join(f"{m.title} {m.show(sum(values) / len(values))}" for m, values in means.items() if values)
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        lines.append(f"The baseline over {which} alone, from which a Δ over {'it' if len(seeds) == 1 else 'them'} is counted: {told}.")
    return lines


def versions(groups: Mapping[str, Runs]) -> list[str]:
    """Rows whose seeds have different code, and rows whose code is not that of the baseline (the first) at the same seed."""
    mixed = sorted(label for label, runs in groups.items() if len({code(run) for run in runs}) > 1)
    base = {run.seed: code(run) for run in next(iter(groups.values()))}
    other = sorted(label for label, runs in groups.items() if any(code(run) != base.get(run.seed, code(run)) for run in runs))
    lines = [f"Seeds recorded with different versions of the code: {', '.join(mixed)}. Their speeds do not compare."] * bool(mixed)
    told = f"Recorded with other code than the baseline's same seed: {', '.join(other)}."
    told = f"{told} Speeds do not compare, and a small difference may be the code's."
    return lines + [told] * bool(other)


def code(run: Record) -> frozenset[str]:
    """The commits a run was recorded and, where it took the weights of another run, trained with; "" for one that is not known."""
    trained = run.env.get("trained")
    places = [run.env, trained["env"]] if isinstance(trained, dict) and isinstance(trained.get("env"), dict) else [run.env]
    found = [place.get("git") for place in places]
    return frozenset(str(git.get("commit", "")) if isinstance(git, dict) else "" for git in found)
