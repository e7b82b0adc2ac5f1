"""How near the training step comes to the speed of a plain matrix product: `python -m benchmarks.ceiling`.

The ceiling is the fastest product of square matrices found here, by dtype; it takes turns with the step, so that both see the same
machine. The step's operations are computed from its shapes (`prx_lab.cost`), forward and backward, nothing counted twice.
"""

from collections.abc import Callable

import torch

from benchmarks.cases import DIMS, SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.cost import step_flops
from prx_lab.precision import DTYPES, Precision
from prx_lab.report.speed import Goal, Record

SIDES = (1024, 2048, 4096) if DEVICE.type == "cpu" else (4096, 8192, 16384)


def product(side: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    a, b = torch.randn(2, side, side, device=DEVICE).to(dtype)
    return lambda: a @ b


def measure(repeats: int) -> Record:
    record, best = Record("ceiling", "The training step against the machine's matrix products"), {}
    for name, dtype in DTYPES.items():
        found = interleave({f"{side} x {side}": product(side, dtype) for side in SIDES}, repeats)
        record.compare(f"matrix product, {name}", found, [])
        speeds = {side: 2 * side**3 / t.median for side, t in zip(SIDES, found.values())}
        best[name] = max(SIDES, key=lambda side: speeds[side])
        record.facts[f"ceiling, {name}"] = {f"GFLOP/s, {side} x {side}": v / 1e9 for side, v in speeds.items()}
    for compute, compiled in (("bf16", True), ("bf16", False), ("fp32", False)):
        one = recipe().but(precision=Precision(compute=compute))
        run, how = ours(one, store(one), DEVICE, compiled), "compiled" if compiled else "eager"
        group = f"{SCALE} recipe's step, {compute}, {how}"
        side = best[compute]
        found = interleave({"step": run.step, "matrix product": product(side, DTYPES[compute])}, repeats, 3)
        record.compare(group, found, [("matrix product", "step", 0.0)])
        operations = step_flops(one, DIMS) * one.scale.batch
        record.facts[group] = {
            "GFLOP/s": operations / found["step"].median / 1e9,
            "GFLOP/s of the product beside it": 2 * side**3 / found["matrix product"].median / 1e9,
            "share of the ceiling": operations / (2 * side**3) / record.ratios[-1].value,
            "share by CPU seconds": operations / (2 * side**3) / record.ratios[-1].cpu,
            "images/s": one.scale.batch / found["step"].median,
        }
        if (DEVICE.type, compute, compiled) == ("cuda", "bf16", True):
            record.goals.append(Goal(group, "share of the matrix-product ceiling", record.facts[group]["share of the ceiling"], 0.45))
        torch._dynamo.reset()
    return record


if __name__ == "__main__":
    command(__doc__, measure, 9)
