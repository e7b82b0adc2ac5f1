"""One way to measure: arms take turns, a repeat is one turn of each, and ratios of medians carry a bootstrap interval.

A machine's speed drifts and other work comes and goes: arms that take turns see the same weather, so that their ratio is steadier
than either time, and rounds that other work disturbs are measured again. Records are JSON files in results/benchmarks, one for each
benchmark and device.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import psutil
import torch

from prx_lab.machine import cores
from prx_lab.report.speed import Record, Times
from prx_lab.run import pick_device
from prx_lab.train import tune_allocator

DEVICE = pick_device()
QUIET = 0.05  # share of the processors that other work may have in a quiet round


class Turn(NamedTuple):
    """Seconds of one turn of an arm."""

    wall: float  # by the clock
    cpu: float  # of the processor, over all threads
    spent: float  # of the processor, with what was not timed


def nothing() -> None: ...


def wait() -> None:
    """Let the device finish what was asked of it."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def once(arm: Callable[[], object], before: Callable[[], object] = nothing) -> Turn:
    """One call's times; `before` runs untimed."""
    start = processor_seconds()
    before()
    wait()
    wall, cpu = time.perf_counter(), processor_seconds()
    arm()
    wait()
    taken, end = time.perf_counter() - wall, processor_seconds()
    return Turn(taken, end - cpu, end - start)


def processor_seconds() -> float:
    """Of all threads of this process, and of the processes it has started and waited for."""
    return time.process_time() + sum(os.times()[2:4])


def busy_seconds() -> float:
    """Processor seconds of all that runs on this machine."""
    now = psutil.cpu_times()
    return now.user + now.nice + now.system


def warm_up(arm: Callable[[], object], turns: int) -> None:
    """Untimed turns."""
    tune_allocator()
    for _ in range(turns):
        arm()


def interleave(arms: Mapping[str, Callable[[], object]], repeats: int, warm: int = 2) -> dict[str, Times]:
    """`repeats` timed turns of every arm, after `warm` untimed ones."""
    for arm in arms.values():
        warm_up(arm, warm)
    return rounds({name: partial(once, arm) for name, arm in arms.items()}, repeats)


def rounds(turns: Mapping[str, Callable[[], Turn]], repeats: int) -> dict[str, Times]:
    """`repeats` rounds of turns that time themselves; each round starts with another arm.

    Rounds go on, up to twice as many, until in `repeats` of them other work had less than a twentieth of the processors;
    the quietest are kept, whatever their times.
    """
    names, found = list(turns), []
    for i in range(2 * repeats):
        begin, busy = time.perf_counter(), busy_seconds()
        taken = {name: turns[name]() for name in names[i % len(names) :] + names[: i % len(names)]}
        others = busy_seconds() - busy - sum(turn.spent for turn in taken.values())
        found.append((max(0.0, others / (time.perf_counter() - begin) / cores()), i, taken))
        if sum(share < QUIET for share, *_ in found) == repeats:
            break
    kept = sorted(sorted(found, key=lambda one: one[:2])[:repeats], key=lambda one: one[1])
    others = sum(share for share, *_ in kept) / repeats
    return {name: Times([t[name].wall for *_, t in kept], [t[name].cpu for *_, t in kept], others) for name in names}


def command(about: str, measure: Callable[..., Record], repeats: int, tokens: Sequence[int] = ()) -> None:
    """A benchmark's command line: one record, or with `tokens` one for each number of them, is measured, saved and printed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats, help="timed turns of each arm")
    if tokens:
        parser.add_argument("--tokens", type=int, nargs="*", choices=tokens, default=tokens, help="one record each")
    options = parser.parse_args()
    for given in [(n,) for n in options.tokens] if tokens else [()]:
        record = measure(*given, options.repeats)
        record.save(str(DEVICE))
        print(record)
