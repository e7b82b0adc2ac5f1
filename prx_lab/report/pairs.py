"""Two recipes of the records side by side: their runs, the noise of their scale, and the change from one to the other."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence

from prx_lab.errors import LabError
from prx_lab.record import Record
from prx_lab.report import luck
from prx_lab.report.comparable import alike, kind, one_at_first, repeated
from prx_lab.report.evidence import NONE, Estimate, change, shares
from prx_lab.report.family import Noise, Variance, noise
from prx_lab.report.table import choose


def of_recipe(found: tuple[Record, ...], name: str, scale: str) -> tuple[Record, ...]:
    """The runs that a recipe's name means today; none where several recipes of that name are recorded and none is today's."""
    groups = list(choose([run for run in found if run.scale == scale], name, scale).values())
    return groups[0] if len(groups) == 1 else ()


def pair(found: tuple[Record, ...], recipe: str, against: str, scale: str) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """The runs of two recipes; of the first only those that are judged as the second is."""
    runs, base = (of_recipe(found, name, scale) for name in (recipe, against))
    return tuple(run for run in runs if base and alike(run, base[0])), base


def base_of(found: tuple[Record, ...], scale: str, baseline: str) -> tuple[Record, ...]:
    """The runs of a baseline. LabError where none is recorded."""
    base = of_recipe(found, baseline, scale)
    if not base:
        raise LabError(f"No run of {baseline} is recorded at {scale} scale yet.")
    return base


def noises(found: tuple[Record, ...], scale: str, metric: str) -> Noise:
    """The noise of a metric over a scale, recipes named by their folders; only runs judged alike share the luck of a seed.

    It is learnt from trainings: a run that borrows its weights, or went through another's training again, tells nothing more
    about the luck of training.
    """
    values: dict[str, dict[Hashable, float]] = {}
    trained: dict[str, dict[Hashable, float]] = {}
    here = [run for run in found if run.scale == scale]
    again = repeated(here)
    for run in here:
        for kept in (values,) if run.borrows or run.folder in again else (values, trained):
            kept.setdefault(run.folder.parent.name, {})[kind(run), run.seed] = run.metric(metric)
    return noise(values, trained)


def changed(runs: Sequence[Record], base: Sequence[Record], metric: str, whole: Noise, images: float) -> Estimate:
    """The change of a metric from the runs of one recipe to those of another over common seeds.

    Its interval has the `noises` of their scale and the variance `images` that they share (`luck.shared`), NaN where none is recorded.
    Two recipes that are one training at first have less noise between them than two trainings, and theirs alone.
    """
    if not (runs and base):
        return NONE
    ours, theirs = ({run.seed: run.metric(metric) for run in part} for part in (runs, base))
    seeds = own(shares(ours, theirs)) if one_at_first(runs, base) else whole.between(*(part[0].folder.parent.name for part in (runs, base)))
    return change(ours, theirs, seeds, 0.0 if math.isnan(images) else images)


def own(found: Mapping[int, float]) -> Variance:
    """The variance over seeds of the log ratio of two recipes, from their changes alone; without a freedom for less than two seeds."""
    logs = [math.log(1 + share) for share in found.values() if share > -1]
    return Variance(statistics.variance(logs), len(logs) - 1) if len(logs) > 1 else Variance(math.nan, 0)


def measured(found: tuple[Record, ...], recipe: str, against: str, metric: str, scale: str, whole: Noise) -> Estimate:
    """Our change of a metric over common seeds, with the `noises` of the whole scale, as a share of the pair's baseline."""
    runs, base = pair(found, recipe, against, scale)
    return changed(runs, base, metric, whole, luck.shared(runs, base, metric))


def seed_by_seed(found: tuple[Record, ...], recipe: str, against: str, metric: str, scale: str) -> dict[int, float]:
    """{seed: the change from one recipe to the other, as a share of the latter} for every seed that both have."""
    return shares(*({run.seed: run.metric(metric) for run in runs} for runs in pair(found, recipe, against, scale)))
