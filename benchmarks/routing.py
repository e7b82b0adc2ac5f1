"""What token routing saves, in time and in operations: `python -m benchmarks.routing`.

A method that computes less is worth its name only where the clock agrees: the ratio of step times beside the ratio of operations.
"""

import torch

from benchmarks.cases import DIMS, ours, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.cost import step_flops
from prx_lab.report.speed import Goal, Record
from prx_lab.routing import TREAD, Dense
from prx_lab.sprint import SPRINT

SHAPES = {64: 64, 256: 16, 1024: 4} if DEVICE.type == "cpu" else {64: 1024, 256: 256, 1024: 64}  # tokens: images per step
LATE = 0.15  # at many tokens, how much longer a routed step may take than its operations
ROUTERS = {"dense": Dense(), "TREAD": TREAD(), "SPRINT": SPRINT()}


def measure(tokens: int, repeats: int) -> Record:
    record = Record(f"routing-{tokens}", f"Token routing, time against operations, {tokens} tokens")
    recipes = {name: recipe(tokens, SHAPES[tokens]).but(router=router) for name, router in ROUTERS.items()}
    runs = {name: ours(one, store(one), DEVICE, compiled=True) for name, one in recipes.items()}
    found = interleave({name: run.step for name, run in runs.items()}, repeats, 3)
    group = f"{tokens} tokens x {SHAPES[tokens]}, bf16, compiled"
    record.compare(group, found, [("TREAD", "dense", 0.0), ("SPRINT", "dense", 0.0)])
    operations = {name: step_flops(one, DIMS) for name, one in recipes.items()}
    for one in record.ratios:
        expected = operations["dense"] / operations[one.fast]
        record.facts[f"{group}, {one.fast}"] = {
            "times fewer operations": expected,
            "times faster": one.value,
            "times fewer CPU seconds": one.cpu,
            "time beyond the operations' share": expected / one.value - 1,
        }
        if tokens == max(SHAPES):
            record.goals.append(
                Goal(group, f"{one.fast}, step time beyond its share of operations", expected / one.value - 1, LATE, "at most")
            )
    torch._dynamo.reset()
    return record


if __name__ == "__main__":
    command(__doc__, measure, 9, tuple(SHAPES))
