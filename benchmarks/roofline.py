"""The machine's two ceilings, and how near the step and its parts come: `python -m benchmarks.roofline`.

Intensity is operations per byte. Of a part, the bytes are its inputs and outputs; of the step, what all its eager operations read and
write, as if nothing stayed in a cache. A compiled step moves fewer, so its place is at least as far to the right as is drawn.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cases import DIMS, SCALE, ours, recipe, store
from benchmarks.ceiling import SIDES, product
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.cost import step_flops
from prx_lab.model import attend, norm
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe
from prx_lab.report.speed import Record

Part = tuple[Callable[[], object], float, float]  # what runs, its operations, its bytes
BIG = 1 << (28 if DEVICE.type == "cuda" else 25)  # float32 numbers, far beyond any cache


class Traffic(TorchDispatchMode):
    """Bytes that the operations inside this mode read and write; a view moves none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # the signature is PyTorch's
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            seen = {id(t): t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
            self.bytes += sum(t.numel() * t.element_size() for t in seen.values())
        return out


def traffic(run: Callable[[], object]) -> int:
    """Bytes that the operations of one call read and write."""
    with Traffic() as seen:
        run()
    return seen.bytes


def size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def moved() -> dict[str, Part]:
    """Copies and sums of numbers that no cache holds."""
    a, b, c = (torch.ones(BIG, device=DEVICE) for _ in range(3))
    return {"copy": (lambda: c.copy_(a), 0, size(a, c)), "sum": (lambda: torch.add(a, b, out=c), BIG, size(a, b, c))}


def matmul(a: Tensor, b: Tensor) -> Part:
    out = a @ b
    return lambda: a @ b, 2 * out.numel() * a.shape[-1], size(a, b, out)


def parts(one: Recipe) -> dict[str, Part]:
    """Parts of one block's step at the recipe's shapes, in bf16."""
    s, arch = one.scale, one.arch(DIMS.channels, DIMS.stride, DIMS.context)
    B, N, D, h, hidden = s.batch, s.tokens, s.width, s.heads, int(arch.mlp_ratio * s.width)
    x, g = (torch.randn(B * N, width, device=DEVICE).bfloat16() for width in (D, hidden))
    w = torch.randn(D, hidden, device=DEVICE).bfloat16()
    q = torch.randn(B, h, N, D // h, device=DEVICE).bfloat16()
    k, v = torch.randn(2, B, h, DIMS.text + N, D // h, device=DEVICE).bfloat16()
    scale = torch.randn(B, 1, D, device=DEVICE)
    z = torch.randn(B, N, D, device=DEVICE)
    return {
        "MLP, forward": matmul(x, w),
        "MLP, input gradient": matmul(g, w.mT),
        "MLP, weight gradient": matmul(x.mT, g),
        "attention, forward": (lambda: attend(q, k, v, None), 4 * B * N * (DIMS.text + N) * D, size(q, k, v, q)),
        "GEGLU": (lambda: F.gelu(g, approximate="tanh") * g, 10 * g.numel(), 3 * size(g)),
        "norm and modulation": (lambda: (1 + scale) * norm(z) + scale, 9 * z.numel(), 2 * size(z)),
    }


def measure(repeats: int) -> Record:
    record, one = Record("roofline", "Ceilings of the machine, and what the step reaches"), recipe().but(precision=Precision())
    runs = {how: ours(one, store(one), DEVICE, compiled=how == "compiled") for how in ("eager", "compiled")}
    moves, inside = moved(), parts(one)
    products = {f"{side} x {side}": product(side, torch.bfloat16) for side in SIDES}
    arms = products | {name: run for name, (run, *_) in (moves | inside).items()} | {f"step, {how}": run.step for how, run in runs.items()}
    found = interleave(arms, repeats, 3)
    record.compare(f"{SCALE} recipe, bf16", found, [])
    record.facts["roof"] = {
        "GFLOP/s": max(2 * int(name.split()[0]) ** 3 / found[name].median for name in products) / 1e9,
        "GB/s": max(n / found[name].median for name, (_, _, n) in moves.items()) / 1e9,
    }
    work = {name: part[1:] for name, part in inside.items()}
    work |= dict.fromkeys((f"step, {how}" for how in runs), (step_flops(one, DIMS) * one.scale.batch, traffic(runs["eager"].step)))
    for name, (operations, n) in work.items():
        record.facts[name] = {"FLOP per byte": operations / n, "GFLOP/s": operations / found[name].median / 1e9}
    torch._dynamo.reset()
    return record


if __name__ == "__main__":
    command(__doc__, measure, 9)
