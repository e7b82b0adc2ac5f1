"""One way to measure: arms take turns, a repeat is one turn of each, and ratios of medians carry a bootstrap interval.

A machine's speed drifts and other work comes and goes: arms that take turns see the same weather, so that their ratio is steadier
than either time. Records are JSON files in results/benchmarks, one for each benchmark and device.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prx_lab.machine import env
from prx_lab.run import pick_device
from prx_lab.train import tune_allocator

FOLDER = Path("results/benchmarks")
DEVICE = pick_device()


@dataclass(frozen=True)
class Times:
    """What one arm took, turn by turn: wall-clock seconds, and the processor seconds of all its threads."""

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


@dataclass(frozen=True)
class Row:
    """One arm of a comparison: `group` says under which circumstances, `median` is in seconds."""

    group: str
    arm: str
    median: float
    cpu: float  # median processor seconds
    n: int
    wall: list[float] = field(repr=False)


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


@dataclass
class Record:
    """What a benchmark found: times, ratios, and other numbers by group."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def compare(self, group: str, found: Mapping[str, Times], pairs: Sequence[tuple[str, str, float]]) -> None:
        """Add the times of a group, and for each (fast, slow, goal) how many times faster `fast` is than `slow`."""
        self.rows += [Row(group, arm, t.median, statistics.median(t.cpu), len(t.wall), t.wall) for arm, t in found.items()]
        cpu = {row.arm: row.cpu for row in self.rows if row.group == group}
        for fast, slow, goal in pairs:
            wall = ratio(found[slow].wall, found[fast].wall)
            self.ratios.append(Ratio(group, fast, slow, *wall, cpu[slow] / max(cpu[fast], 1e-9), goal))

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the record with the machine and the commit it was made on."""
        self.machine = env(device=str(DEVICE))
        path = folder / DEVICE.type / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    def finish(self) -> None:
        """Save the record and print it."""
        self.save()
        show({self.name: self})


def load(folder: Path = FOLDER, device: str = "cpu") -> dict[str, Record]:
    """Every record of a device by name, as written by `Record.save`."""
    found = {}
    for path in sorted((folder / device).glob("*.json")):
        data = json.loads(path.read_text())
        rows, ratios = [Row(**row) for row in data["rows"]], [Ratio(**one) for one in data["ratios"]]
        found[path.stem] = Record(data["name"], data["title"], rows, ratios, data["facts"], data["machine"])
    return found


def wait() -> None:
    """Let the device finish what was asked of it."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def once(arm: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds of one call."""
    wait()
    wall, cpu = time.perf_counter(), processor_seconds()
    arm()
    wait()
    return time.perf_counter() - wall, processor_seconds() - cpu


def processor_seconds() -> float:
    """Of all threads of this process, and of the processes it has started and waited for."""
    return time.process_time() + sum(os.times()[2:4])


def interleave(arms: Mapping[str, Callable[[], object]], repeats: int, warm: int = 2) -> dict[str, Times]:
    """`repeats` timed turns of every arm, after `warm` untimed ones; each round starts with another arm."""
    tune_allocator()
    names = list(arms)
    for name in names:
        for _ in range(warm):
            arms[name]()
    found = {name: Times([], []) for name in names}
    for i in range(repeats):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            wall, cpu = once(arms[name])
            found[name].wall.append(wall)
            found[name].cpu.append(cpu)
    return found


def ratio(slow: Sequence[float], fast: Sequence[float], resamples: int = 2000) -> tuple[float, float, float]:
    """median(slow) / median(fast) with its 95 % percentile bootstrap interval over rounds; turn i of both is one round."""
    a, b = np.asarray(slow), np.asarray(fast)
    index = np.random.default_rng(0).integers(0, len(a), (resamples, len(a)))
    draws = np.median(a[index], 1) / np.median(b[index], 1)
    lo, hi = np.percentile(draws, [2.5, 97.5])
    return float(np.median(a) / np.median(b)), float(lo), float(hi)


def show(found: Mapping[str, Record]) -> None:
    """Print what records hold as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    for record in found.values():
        machine = record.machine
        console.print(f"\n[bold]{record.title}[/bold]  ({machine.get('device_name')}, {machine.get('threads')} threads)")
        times = Table("group", "arm", "ms", "CPU ms", "turns")
        for row in record.rows:
            times.add_row(row.group, row.arm, f"{1000 * row.median:.1f}", f"{1000 * row.cpu:.1f}", str(row.n))
        ratios = Table("group", "faster arm", "than", "times", "95 %", "CPU", "goal")
        for one in record.ratios:
            goal = f"{one.goal:g} {'reached' if one.value >= one.goal else 'missed'}" if one.goal else ""
            ratios.add_row(one.group, one.fast, one.slow, f"{one.value:.2f}", f"{one.lo:.2f} to {one.hi:.2f}", f"{one.cpu:.2f}", goal)
        for table in (times, ratios):
            if table.row_count:
                console.print(table)
        for group, values in record.facts.items():
            console.print(f"{group}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()))
