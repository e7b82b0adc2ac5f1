"""When a technique arrives at the quality with which the baseline ends: the post's net speedup, measured on recorded curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from prx_lab.metrics.throughput import time_to
from prx_lab.record import Record
from prx_lab.report import clock
from prx_lab.report.comparable import machine
from prx_lab.report.evidence import NONE, Estimate, estimate
from prx_lab.report.layout import upper

TINY = 1e-9
RISING = ("composition", "shape", "colour", "size", "material", "relation")  # shares of what is right


def falling(values: Sequence[float]) -> np.ndarray:
    """The non-increasing values nearest to `values` in the sum of squared logarithms (isotonic regression).

    A distance measured on few images goes up and down along a curve. Taking its lowest point so far would credit a run with
    its luckiest evaluation; here a point that rises again is averaged with the ones before it.
    """
    logs = np.log(np.maximum(np.asarray(values, float), TINY))
    return np.exp(isotonic_regression(logs, increasing=False).x)


def remaining(run: Record, metric: str) -> list[dict[str, float]]:
    """A run's curve of a distance or, of a score that rises, of what it lacks to 1."""
    points = clock.curve(run, metric)
    return points if metric not in RISING else [p | {"value": 1 - p["value"]} for p in points]


def apart(run: Record, base: Record, against: str) -> bool:
    """Whether two runs have no common clock: seconds of two machines."""
    return against == "seconds" and machine(run) != machine(base)


def arrival(run: Record, base: Record, against: str = "seconds", metric: str = "fid") -> float:
    """Seconds (or steps) until the falling curve of `run` has the value with which that of `base` ends; inf if it never has.

    Between points the logarithm is interpolated, as quality improves by shares. Both curves are treated alike, so a run
    arrives at its own end when its curve stops falling. NaN without curves, and for seconds of two machines; a first point that
    is good enough counts itself.
    """
    ours, theirs = remaining(run, metric), remaining(base, metric)
    if not ours or not theirs or apart(run, base, against):
        return math.nan
    goal = math.log(falling([p["value"] for p in theirs])[-1])
    logs = np.log(falling([p["value"] for p in ours]))
    found = time_to([{"seconds": p[against], "value": float(v)} for p, v in zip(ours, logs)], goal + TINY, lower_is_better=True)
    return math.inf if found is None else found


def at_equal_time(run: Record, base: Record, against: str = "seconds", metric: str = "fid") -> float:
    """The value of `run` at the time at which `base` ends over the value with which that one ends, both on falling curves.

    Between points the logarithm is interpolated. A run that ends sooner keeps its last value; NaN without curves, for seconds of
    two machines, and where the base ends before the first point of the run.
    """
    ours, theirs = remaining(run, metric), remaining(base, metric)
    if not ours or not theirs or apart(run, base, against) or theirs[-1][against] < ours[0][against]:
        return math.nan
    logs = np.log(falling([p["value"] for p in ours]))
    now = np.interp(theirs[-1][against], [p[against] for p in ours], logs)
    return math.exp(float(now) - math.log(falling([p["value"] for p in theirs])[-1]))


@dataclass(frozen=True)
class Speedup:
    """How many times sooner a technique arrives at the baseline's final quality: each seed's factor, and what it had when not."""

    factors: tuple[float, ...]  # of the seeds that arrive
    missed: tuple[float, ...]  # of those that do not: the factor is below this

    @property
    def n(self) -> int:
        """Seeds that both sides have."""
        return len(self.factors) + len(self.missed)

    @property
    def interval(self) -> Estimate:
        """Geometric mean with a t interval over log factors; none where some seed never arrives."""
        if self.missed or not self.factors:
            return NONE
        return geometric(self.factors)

    @property
    def text(self) -> str:
        """The factor with its interval, or how many seeds arrive where not all do."""
        if self.missed:
            rest = f"below {max(self.missed):.2f}" if not self.factors else f"{len(self.factors)} of {self.n} arrive"
            return f"not reached, {rest}" if not self.factors else rest
        return factor(self.interval)

    def verdict(self, goal: float) -> str:
        """Whether it is `goal` times sooner: reached or missed by the whole interval, or by every seed where some never arrive.

        One seed decides nothing.
        """
        if self.n == 1:
            return "undecided: one seed"
        if self.missed:
            below = max((*self.factors, *self.missed)) < goal
            return f"{'missed' if below else 'undecided'}: {len(self.missed)} of {self.n} never arrive"
        if math.isnan(self.interval.lo):
            return "not recorded yet"
        return "reached" if self.interval.lo >= goal else "missed" if self.interval.hi < goal else "undecided"


def geometric(factors: Sequence[float]) -> Estimate:
    """The geometric mean of one factor per seed with the t interval of their logarithms."""
    found = estimate([math.log(f) for f in factors])
    return Estimate(found.n, *(math.exp(v) for v in (found.mean, found.lo, found.hi)))


def factor(found: Estimate) -> str:
    """A factor with its interval where it has one."""
    return "" if not found.n else f"{found.mean:.2f}" + ("" if math.isnan(found.lo) else f" [{found.lo:.2f}, {upper(found.hi)}]")


def speedup(runs: Sequence[Record], base: Sequence[Record], against: str = "seconds", metric: str = "fid") -> Speedup:
    """The net speedup over the seeds in common: the baseline's time to its final score over the technique's to the same score."""
    theirs, factors, missed = {run.seed: run for run in base}, [], []
    for run in runs:
        if run.seed in theirs:
            there, here = (arrival(one, theirs[run.seed], against, metric) for one in (theirs[run.seed], run))
            if math.isinf(here):
                missed.append(there / clock.curve(run, metric)[-1][against])
            elif not math.isnan(here):
                factors.append(there / here)
    return Speedup(tuple(factors), tuple(missed))
