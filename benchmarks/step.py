"""The training step against diffusers' transformer: `python -m benchmarks.step`.

Both arms run the same step (data, draws, objective, clip, AdamW); only the network is exchanged. The last comparison is between what
each side's user gets without asking: compiled blocks and a tuned allocator here, and there a plain loop in a process of its own.
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks.cases import SCALE, ours, recipe, store, theirs
from benchmarks.harness import DEVICE, Record, Times, interleave, once
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe

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


def plain_loop(tokens: int, weights: str) -> None:
    """A user's loop around diffusers' class with PyTorch's defaults, in this process; one line of times per line read."""
    stored = weights == "bf16 weights"
    one = case(tokens, "bf16")
    run = theirs(one.but(precision=Precision("bf16", "bf16")) if stored else one, store(one), DEVICE)
    run.optimizer = torch.optim.AdamW(run.learner.parameters(), one.scale.lr)
    run.step(), run.step()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(once(run.step)), flush=True)


class Process:
    """`plain_loop` in a process of its own: its memory allocator is the system's, untouched."""

    def __init__(self, tokens: int, weights: str):
        command = [sys.executable, "-m", "benchmarks.step", "--loop", str(tokens), weights]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def turn(self) -> tuple[float, float]:
        """Times of one step, measured inside."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return tuple(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def defaults(record: Record, tokens: int, repeats: int) -> None:
    """What `prx-lab run` does against what a loop around diffusers' class does."""
    one = case(tokens, "bf16")
    run = ours(one, store(one), DEVICE, compiled=True)
    interleave({"warm": run.step}, 0, 3)
    others = {f"diffusers, {weights}": Process(tokens, weights) for weights in ("bf16 autocast", "bf16 weights")}
    found = {name: Times([], []) for name in ("prx_lab", *others)}
    for _ in range(repeats):
        for name, turn in {"prx_lab": lambda: once(run.step), **{k: p.turn for k, p in others.items()}}.items():
            wall, cpu = turn()
            found[name].wall.append(wall)
            found[name].cpu.append(cpu)
    for process in others.values():
        process.close()
    goal = 2.0 if DEVICE.type == "cpu" else 0.0
    record.compare(f"{tokens} tokens x {SHAPES[tokens]}, by default", found, [("prx_lab", name, goal) for name in others])
    torch._dynamo.reset()


def measure(tokens: int, repeats: int = 11) -> Record:
    record = Record(f"step-{tokens}", f"The training step against diffusers' transformer, {tokens} tokens")
    for compute in ("bf16", "fp32"):
        side_by_side(record, tokens, compute, False, repeats)
    side_by_side(record, tokens, "bf16", True, repeats)
    defaults(record, tokens, repeats)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="*", choices=tuple(SHAPES), default=tuple(SHAPES))
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--loop", nargs=2, metavar=("TOKENS", "WEIGHTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        return plain_loop(int(options.loop[0]), options.loop[1])
    for tokens in options.tokens:
        measure(tokens, options.repeats).finish()


if __name__ == "__main__":
    main()
