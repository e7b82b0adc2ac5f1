"""The columns of a scoreboard: each metric's title, direction and digits, and what one run says about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prx_lab.errors import LabError, nearest
from prx_lab.record import Record
from prx_lab.report import clock
from prx_lab.report.arrival import arrival
from prx_lab.report.layout import minus


@dataclass(frozen=True)
class Metric:
    """How one number is named and printed; `judge` is the network whose numbers alone may carry the plain title.

    A timed one depends on what else the machine did: runs follow one another, so its differences get no verdict. What is `local`
    belongs to a machine and is compared on one alone.
    """

    name: str
    title: str
    lower: bool  # lower is better
    digits: int
    judge: str = ""
    percent: bool = False
    timed: bool = False
    local: bool = False

    @property
    def arrow(self) -> str:
        """↓ where lower is better, ↑ where higher is."""
        return "↓" if self.lower else "↑"

    @property
    def head(self) -> str:
        """The title of a column."""
        return f"{self.title} {self.arrow}"

    def show(self, value: float, sign: bool = False) -> str:
        """A value with this metric's digits, '–' for a missing one; a difference carries its sign."""
        if math.isnan(value):
            return "–"
        text = f"{100 * value if self.percent else value:{'+' if sign else ''}.{self.digits}f}"
        if float(text) == 0:
            text = text.lstrip("+-")  # no signed zero
        return minus(text)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("fid", "FID", True, 2, judge="inception-v3"),
        Metric("cmmd", "CMMD", True, 3, judge="clip-vit-l-14-336"),
        Metric("dino_mmd", "DINO-MMD", True, 3, judge="dinov2-l-reg"),
        Metric("composition", "composition %", False, 1, percent=True),
        Metric("shape", "shape %", False, 1, percent=True),
        Metric("colour", "colour %", False, 1, percent=True),
        Metric("size", "size %", False, 1, percent=True),
        Metric("material", "material %", False, 1, percent=True),
        Metric("relation", "relation %", False, 1, percent=True),
        Metric("images_per_s", "images/s", False, 1, timed=True, local=True),
        Metric("batches_per_s", "batches/s", False, 2, timed=True, local=True),
        Metric("peak_memory_mb", "peak MB", True, 0, local=True),
        Metric("seconds_to_baseline", "s to baseline", True, 0, timed=True, local=True),
    )
}
DISTANCES = ("fid", "cmmd", "dino_mmd")
QUALITY = (*DISTANCES, "composition")
SHOWN = ("fid", "cmmd", "dino_mmd", "composition", "images_per_s", "seconds_to_baseline")
LAB_JUDGES = {"fid": "lab-inception", "cmmd": "lab-clip", "dino_mmd": "lab-dino-eval"}


def columns(names: Sequence[str], used: Sequence[Record]) -> tuple[Metric, ...]:
    """The named metrics, titled after the networks that judged these records. Raises LabError for an unknown name."""
    for name in names:
        if name not in METRICS:
            raise LabError(f"There is no metric '{name}'.{nearest(name, METRICS)} Known: {', '.join(METRICS)}.")
    return tuple(_titled(METRICS[name], used) for name in names)


def judges(metric: Metric, used: Sequence[Record]) -> list[str]:
    """The networks behind a metric's recorded values; the embedded one where a record does not say."""
    found = (record.eval["metrics"].get(metric.name) for record in used)
    named = (str(value.get("judge") or "") if isinstance(value, dict) else "" for value in found)
    return sorted({name or LAB_JUDGES.get(metric.name, "") for name in named} - {""})


def _titled(metric: Metric, used: Sequence[Record]) -> Metric:
    """A number from an embedded network never carries the real one's plain name."""
    if not metric.judge or judges(metric, used) == [metric.judge]:
        return metric
    return replace(metric, title=f"lab-{metric.title}")


def by_seed(metric: str, runs: Sequence[Record], base: Sequence[Record]) -> dict[int, float]:
    """The metric of each run by seed, without what was not measured; infinite for a quality never reached."""
    if metric == "seconds_to_baseline":
        goal = {run.seed: run for run in base}
        found = {run.seed: arrival(run, goal[run.seed]) for run in runs if run.seed in goal}
    elif metric == "images_per_s":
        found = {run.seed: clock.images_per_second(run) for run in runs}
    else:
        found = {run.seed: run.metric(metric) for run in runs}
    return {seed: value for seed, value in found.items() if not math.isnan(value)}
