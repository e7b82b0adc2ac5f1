"""What every ablation page does live: the diff, the neutral and live test, and a paired run at `smoke` scale."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from prx_lab import show
from prx_lab.errors import LabError
from prx_lab.gallery import Gallery
from prx_lab.generic import Answers, Data, equal, smoke, trained
from prx_lab.pages import Note, recorded, shown
from prx_lab.recipe import Recipe
from prx_lab.recipes import RECIPES
from prx_lab.record import Record, Records, records
from prx_lab.report.columns import SHOWN, columns
from prx_lab.report.comparable import elsewhere
from prx_lab.report.table import Table
from prx_lab.run import run


@dataclass(frozen=True, repr=False)
class Diff:
    """The fields in which recipes differ from a baseline, old and new value."""

    names: tuple[str, ...]
    baseline: str

    def __repr__(self) -> str:
        lines = []
        for name in self.names:
            changed = RECIPES[self.baseline].diff(RECIPES[name])
            lines += [name] + [f"    {path}: {brief(old)} -> {brief(new)}" for path, (old, new) in changed.items()]
        return "\n".join(lines)


def brief(value: object) -> object:
    """A value as it is, a fraction with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else value


def diff(*names: str, baseline: str = "baseline") -> Diff:
    """What recipes change against a baseline, by name."""
    return Diff(names, baseline)


def neutral(off: Recipe, on: Recipe, base: Recipe = RECIPES["baseline"], steps: int = 5, data: Data = smoke) -> Answers:
    """Train `base`, the method switched `off`, and the method `on`, for some steps on the same draws, and compare weights."""
    plain, silent, active = (trained(recipe, steps, data) for recipe in (base, off, on))
    return Answers({"neutral equals the baseline bit for bit": equal(silent, plain), "on differs from it": not equal(active, plain)})


@dataclass(frozen=True, repr=False)
class Pair:
    """Recipes trained side by side, one seed, same draws; shows itself as a table."""

    runs: Records
    table: Table
    root: TemporaryDirectory

    def __getitem__(self, name: str) -> Record:
        return next(run for run in self.runs if run.name == name)

    def curve(self, what: str = "terms.FlowMatching", smooth: int = 8) -> show.Plot:
        """A row of the training log, such as `loss` or `terms.REPA`, along each run."""
        return show.curves(self.runs, what, smooth=smooth)

    def samples(self, count: int = 6) -> Gallery:
        """The first samples of each recipe: the same captions and noise in every row."""
        return recorded(self.runs, count, self.table.rows[0].label)

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def pair(*names: str, baseline: str = "baseline", scale: str = "smoke", metrics: Sequence[str] = SHOWN) -> Pair:
    """Train a baseline and recipes, by name, at a small scale, now and here; their folder lives as long as the result.

    The table has no published rows: a run of a minute is nothing to hold against them.
    """
    root = TemporaryDirectory()
    for name in (baseline, *names):
        run(RECIPES[name].at(scale), seed=0, root=root.name)
    return Pair(records(root.name, scale), Table.of(scale, names, baseline, metrics, root.name, tuple), root)


def recorded_of(names: Sequence[str], baseline: str, scale: str) -> list[Record]:
    """The records of recipes and their baseline. LabError when none of the recipes has one."""
    found = [r for r in records("results", scale) if r.name in (baseline, *names)]
    if {r.name for r in found} <= {baseline}:
        raise LabError(f"No run of {', '.join(names)} is recorded at {scale} scale yet.")
    return found


def single_seeds(runs: Sequence[Record], baseline: str) -> set[str]:
    """The recipes with a single seed, where the baseline and some other have more; none otherwise."""
    counts = Counter(run.name for run in runs)
    several = {name for name, n in counts.items() if n > 1}
    return counts.keys() - several if baseline in several and len(several) > 1 else set()


def in_common(runs: Sequence[Record]) -> list[Record]:
    """The runs of the seeds that every recipe among them has; all of them where there is no such seed."""
    seeds: dict[str, set[int]] = {}
    for one in runs:
        seeds.setdefault(one.name, set()).add(one.seed)
    shared = set.intersection(*seeds.values()) if seeds else set()
    return [one for one in runs if one.seed in shared] or list(runs)


def table(*names: str, baseline: str = "baseline", scale: str = "cpu", metrics: Sequence[str] = SHOWN) -> Table | Note:
    """The table of recorded recipes against their baseline, or a line that says that nothing is recorded yet."""
    return shown(lambda: recorded_of(names, baseline, scale) and Table.of(scale, names, baseline, metrics))


def curves(*names: str, baseline: str = "baseline", scale: str = "cpu", metric: str = "fid", against: str = "step") -> show.Plot | Note:
    """Recorded curves of recipes and their baseline at the seeds they have in common, or a line that says that nothing is recorded yet.

    Where some have several seeds, those with one are named below the axis and not drawn: they would leave one seed of the others. Against
    seconds the same holds of a recipe with a seed that was trained on another machine than the baseline's.
    """

    def drawn() -> show.Plot:
        found = recorded_of(names, baseline, scale)
        left_out = {"one seed": single_seeds(found, baseline)}
        if against == "seconds":
            base = [run for run in found if run.name == baseline]
            left_out["another machine"] = {name for name in names if elsewhere([run for run in found if run.name == name], base)}
        told = "; ".join(f"{why}, not drawn: {', '.join(name for name in names if name in them)}" for why, them in left_out.items() if them)
        return show.curves(in_common([run for run in found if run.name not in set().union(*left_out.values())]), metric, against, note=told)

    return shown(drawn)


def samples(*names: str, baseline: str = "baseline", scale: str = "cpu", count: int = 6) -> Gallery | Note:
    """Recorded samples at the same captions and noise with the scores of their runs, or a line that says that nothing is recorded yet."""
    order = (baseline, *names)
    found = lambda: sorted(recorded_of(names, baseline, scale), key=lambda run: (order.index(run.name), run.id, run.seed))  # noqa: E731
    return shown(lambda: recorded(found(), count, baseline, scored))


def scored(run: Record) -> str:
    """Two scores of a run in a line each: of pictures that cannot be counted by eye."""
    return "\n".join(
        f"{metric.title.rstrip(' %')} {metric.show(run.metric(metric.name))}" for metric in columns(("fid", "composition"), [run])
    )
