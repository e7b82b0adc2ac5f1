"""The training step against diffusers' transformer: `python -m benchmarks.step`.

Both arms run the same step (data, draws, objective, clip, AdamW); only the network is exchanged. The last comparison is between what
each side's user gets without asking: compiled blocks and a tuned allocator here, and there a plain loop in a process of its own.
"""

import json
import subprocess
import sys

import torch

from benchmarks.cases import SCALE, ours, recipe, store, theirs
from benchmarks.harness import DEVICE, Turn, command, interleave, once, rounds, warm_up
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe
from prx_lab.report.speed import Record
from prx_lab.train import Training

SHAPES = {64: 64, 256: 16} if SCALE == "cpu" else {256: 256}  # tokens: images per step


def case(tokens: int, compute: str) -> Recipe:
    return recipe(tokens, SHAPES[tokens]).but(precision=Precision(compute=compute))


def side_by_side(record: Record, tokens: int, compute: str, compiled: bool, repeats: int) -> None:
    """Our network and diffusers' in the same step."""
    one = case(tokens, compute)
    data = store(one)
    runs = {"prx_lab": ours(one, data, DEVICE, compiled), "diffusers": theirs(one, data, DEVICE, compiled)}
    found = interleave({name: run.step for name, run in runs.items()}, repeats)
    goal = (1.1 if compiled else 1.15) if DEVICE.type == "cpu" else 1.2 * compiled
    group = f"{tokens} tokens x {SHAPES[tokens]}, {compute}, {'compiled' if compiled else 'eager'}"
    record.compare(group, found, [("prx_lab", "diffusers", goal)])
    torch._dynamo.reset()


def after_a_step(run: Training) -> Turn:
    """Times of a step that finds the caches as a loop leaves them, and not as another process does."""
    return once(run.step, before=run.step)


class Process:
    """`benchmarks.plain` in a process of its own: its memory allocator is the system's, untouched."""

    def __init__(self, tokens: int, weights: str):
        command = [sys.executable, "-m", "benchmarks.plain", str(tokens), weights]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def turn(self) -> Turn:
        """Times of one step, measured inside."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Turn(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def defaults(record: Record, tokens: int, repeats: int) -> None:
    """What `prx-lab run` does against what a loop around diffusers' class does."""
    one = case(tokens, "bf16")
    run = ours(one, store(one), DEVICE, compiled=True)
    warm_up(run.step, 3)
    others = {f"diffusers, {weights}": Process(tokens, weights) for weights in ("bf16 autocast", "bf16 weights")}
    found = rounds({"prx_lab": lambda: after_a_step(run), **{name: process.turn for name, process in others.items()}}, repeats)
    for process in others.values():
        process.close()
    goal = 2.0 if DEVICE.type == "cpu" else 0.0
    record.compare(f"{tokens} tokens x {SHAPES[tokens]}, by default", found, [("prx_lab", name, goal) for name in others])
    torch._dynamo.reset()


def measure(tokens: int, repeats: int) -> Record:
    record = Record(f"step-{tokens}", f"The training step against diffusers' transformer, {tokens} tokens")
    for compute in ("bf16", "fp32"):
        side_by_side(record, tokens, compute, False, repeats)
    side_by_side(record, tokens, "bf16", True, repeats)
    defaults(record, tokens, repeats)
    return record


if __name__ == "__main__":
    command(__doc__, measure, 11, tuple(SHAPES))
