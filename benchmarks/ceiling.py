"""How near the training step comes to the speed of a plain matrix product: `python -m benchmarks.ceiling`.

The ceiling is the fastest product of square matrices found here, by dtype; the step's operations are computed from its shapes
(`prx_lab.cost`), forward and backward, without anything that a kernel computes twice.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.cases import DIMS, SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, Record, interleave
from prx_lab.cost import step_flops
from prx_lab.precision import DTYPES, Precision

SIDES = (1024, 2048, 4096) if DEVICE.type == "cpu" else (4096, 8192, 16384)


def product(side: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    a, b = torch.randn(2, side, side, device=DEVICE).to(dtype)
    return lambda: a @ b


def measure(repeats: int = 9) -> Record:
    record, best = Record("ceiling", "The training step against the machine's matrix products"), {}
    for name, dtype in DTYPES.items():
        found = interleave({f"{side} x {side}": product(side, dtype) for side in SIDES}, repeats)
        record.compare(f"matrix product, {name}", found, [])
        speeds = {arm: 2 * side**3 / t.median for side, (arm, t) in zip(SIDES, found.items())}
        best[name] = max(speeds.values())
        record.facts[f"ceiling, {name}"] = {f"GFLOP/s, {arm}": v / 1e9 for arm, v in speeds.items()}
    for compute, compiled in (("bf16", True), ("bf16", False), ("fp32", False)):
        one = recipe().but(precision=Precision(compute=compute))
        run, how = ours(one, store(one), DEVICE, compiled), "compiled" if compiled else "eager"
        group = f"{SCALE} recipe's step, {compute}, {how}"
        found = interleave({"step": run.step}, repeats, 3)
        record.compare(group, found, [])
        speed = step_flops(one, DIMS) * one.scale.batch / found["step"].median
        record.facts[group] = {
            "GFLOP/s": speed / 1e9,
            "share of the ceiling": speed / best[compute],
            "images/s": one.scale.batch / found["step"].median,
        }
        torch._dynamo.reset()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    measure(parser.parse_args().repeats).finish()


if __name__ == "__main__":
    main()
