"""Speed as recorded: what `benchmarks/` measured, one file for each benchmark and device, read and set as tables.

A time is the median of turns that arms took one after the other; a claim is a ratio of two such medians with its interval.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prx_lab.errors import LabError
from prx_lab.files import read_json
from prx_lab.machine import env
from prx_lab.record import find_root, write_json
from prx_lab.report.listing import Listing

FOLDER = "results/benchmarks"
AGAIN = "delete it, or measure again with `make bench`"


# --------------------------------------------------------------------------------------------- what is recorded
@dataclass(frozen=True)
class Times:
    """What one arm took, turn by turn: wall-clock seconds, and the processor seconds of all its threads."""

    wall: list[float]
    cpu: list[float]
    others: float = 0.0  # share of the machine's processors that other work had meanwhile

    @property
    def median(self) -> float:
        """Median of the wall times, in seconds."""
        return statistics.median(self.wall)


@dataclass(frozen=True)
class Row:
    """One arm of a comparison: `group` says under which circumstances, `median` is in seconds."""

    group: str
    arm: str
    median: float
    cpu: float  # median processor seconds
    n: int
    others: float  # share of the machine's processors that other work had meanwhile
    wall: list[float] = field(repr=False)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the turns, as a share of the median: how quiet the machine was."""
        lo, hi = np.percentile(self.wall, [25, 75])
        return float(hi - lo) / 2 / self.median


@dataclass(frozen=True)
class Goal:
    """A number and the bound it is held against."""

    group: str
    what: str
    value: float
    bound: float
    side: str = "at least"  # or "at most"

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of its bound."""
        return self.value >= self.bound if self.side == "at least" else self.value <= self.bound

    @property
    def verdict(self) -> str:
        """reached or missed."""
        return "reached" if self.reached else "missed"


@dataclass(frozen=True)
class Ratio:
    """median(slow) / median(fast), how many times faster `fast` is, with a 95 % interval; `goal` 0 is none."""

    group: str
    fast: str
    slow: str
    value: float
    lo: float
    hi: float
    cpu: float  # the same ratio of processor seconds: the steadier one on a CPU that others use too
    goal: float = 0.0

    @property
    def text(self) -> str:
        """The ratio with its interval."""
        return f"{self.value:.2f} [{self.lo:.2f}, {self.hi:.2f}]"

    def held(self) -> Goal:
        """The ratio against its goal."""
        return Goal(self.group, f"{self.fast} against {self.slow}, times as fast", self.value, self.goal)


@dataclass(repr=False)
class Record:
    """What a benchmark found: times, ratios, other numbers by group, and those of them that were to reach something."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def compare(self, group: str, found: Mapping[str, Times], pairs: Sequence[tuple[str, str, float]]) -> None:
        """Add the times of a group, and for each (fast, slow, goal) how many times faster `fast` is than `slow`."""
        self.rows += [Row(group, arm, t.median, statistics.median(t.cpu), len(t.wall), t.others, t.wall) for arm, t in found.items()]
        cpu = {row.arm: row.cpu for row in self.rows if row.group == group}
        for fast, slow, goal in pairs:
            wall = ratio(found[slow].wall, found[fast].wall)
            self.ratios.append(Ratio(group, fast, slow, *wall, cpu[slow] / max(cpu[fast], 1e-9), goal))

    def save(self, device: str, folder: str | Path = FOLDER) -> Path:
        """Write the record with the machine and the commit it was made on."""
        self.machine = env(device=device)
        path = Path(folder) / device.partition(":")[0] / f"{self.name}.json"
        write_json(path, asdict(self))
        return path

    @property
    def tables(self) -> list[Listing]:
        """Times, ratios, goals and other numbers; what there is none of is left out."""
        percent = "{:.0%}".format
        times = [(r.group, r.arm, _ms(r.median), _ms(r.cpu), percent(r.spread), percent(r.others), str(r.n)) for r in self.rows]
        ratios = [(r.group, r.fast, r.slow, r.text, f"{r.cpu:.2f}", _bound(r.held()) if r.goal else "") for r in self.ratios]
        facts = [(group, name, _number(value)) for group, values in self.facts.items() for name, value in values.items()]
        right = ("ms", "CPU ms", "spread", "others", "turns")
        made = (
            Listing(("group", "arm", *right), tuple(times), right),
            Listing(("group", "arm", "against", "times as fast [95 %]", "CPU", "goal"), tuple(ratios), ("times as fast [95 %]", "CPU")),
            Listing(("group", "number", "value"), tuple(facts), ("value",)),
            held(self.goals),
        )
        return [table for table in made if table.rows]

    @property
    def where(self) -> str:
        """The machine and its threads."""
        return f"{self.machine.get('device_name', 'not saved')}, {self.machine.get('threads', '?')} threads"

    @property
    def head(self) -> str:
        """The title, with the machine and its threads."""
        return f"{self.title} ({self.where})"

    def __repr__(self) -> str:
        return "\n\n".join([self.head, *map(repr, self.tables)])

    def _repr_html_(self) -> str:
        from html import escape

        return f"<b>{escape(self.head)}</b>" + "".join(table._repr_html_() for table in self.tables)


# ------------------------------------------------------------------------------------------------------ reading
def load(device: str = "cpu", folder: str | Path = FOLDER) -> dict[str, Record]:
    """Every record of a kind of device by name, as written by `Record.save`; LabError where a file is not such a record."""
    found = {}
    for path in sorted((find_root(folder) / device).glob("*.json")):
        data = read_json(path, AGAIN)
        try:
            parts = {"rows": Row, "ratios": Ratio, "goals": Goal}
            found[path.stem] = Record(**data | {key: [kind(**one) for one in data[key]] for key, kind in parts.items()})
        except (ValueError, TypeError, KeyError) as error:
            raise LabError(f"{path} is no record of a benchmark ({error}): {AGAIN}.") from None
    return found


def devices(folder: str | Path = FOLDER) -> list[str]:
    """The kinds of device that there are records of."""
    return sorted(path.name for path in find_root(folder).glob("*") if any(path.glob("*.json")))


def ratio(slow: Sequence[float], fast: Sequence[float], resamples: int = 2000) -> tuple[float, float, float]:
    """median(slow) / median(fast) with its 95 % percentile bootstrap interval over rounds; turn i of both is one round."""
    a, b = np.asarray(slow), np.asarray(fast)
    index = np.random.default_rng(0).integers(0, len(a), (resamples, len(a)))
    draws = np.median(a[index], 1) / np.median(b[index], 1)
    lo, hi = np.percentile(draws, [2.5, 97.5])
    return float(np.median(a) / np.median(b)), float(lo), float(hi)


# ------------------------------------------------------------------------------------------------------ tables
def board(found: Mapping[str, Record]) -> Listing:
    """Every claim that has a goal, one line each, over all records of a device; what was missed says so."""
    rows, several = [], len({record.where for record in found.values()}) > 1
    for record in found.values():
        place = f" on {record.where}" * several
        against = [(r, f"{r.fast} against {r.slow}") for r in record.ratios if r.goal]
        ratios = [(r.group + place, what, f"{r.text} ×", f"{r.cpu:.2f} ×", _bound(r.held())) for r, what in against]
        others = [(g.group + place, g.what, _number(g.value), "", _bound(g)) for g in record.goals]
        rows += ratios + others
    machines = {f"{r.where}, torch {r.machine['packages']['torch']}" for r in found.values()}
    busy = [row.others for record in found.values() for row in record.rows]
    notes = [*sorted(machines), "Medians of interleaved turns [95 % bootstrap interval]; CPU: the same ratio in processor seconds."]
    if busy:
        notes.append(f"Other work had {min(busy):.0%} to {max(busy):.0%} of the processors meanwhile.")
    return Listing(("circumstances", "what", "found", "CPU", "goal"), tuple(rows), ("found", "CPU"), tuple(notes) if rows else ())


def held(goals: Sequence[Goal]) -> Listing:
    """Numbers against their bounds."""
    rows = tuple((goal.group, goal.what, _number(goal.value), _bound(goal)) for goal in goals)
    return Listing(("group", "number", "found", "goal"), rows, ("found",))


def _bound(goal: Goal) -> str:
    sign = "≥" if goal.side == "at least" else "≤"
    return f"{sign} {_number(goal.bound)} {goal.verdict}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 1 else f"{1000 * seconds:.4g}"


def _number(value: Any) -> str:
    return (
        f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else f"{value:.3g}" if isinstance(value, float) else str(value)
    )
