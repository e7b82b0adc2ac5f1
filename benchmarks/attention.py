"""PRX's attention with its gradient against PyTorch's fused one, at a step's shapes: `python -m benchmarks.attention`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import DIMS
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.model import attend
from prx_lab.report.speed import Record

SHAPES = {64: 64, 256: 16, 1024: 4} if DEVICE.type == "cpu" else {64: 1024, 256: 256, 1024: 64}  # tokens: images
HEADS, SIZE = (4, 32) if DEVICE.type == "cpu" else (12, 64)


def with_gradient(attention: Callable[..., Tensor], given: tuple[Tensor, Tensor, Tensor], mask: Tensor) -> Callable[[], object]:
    def run() -> None:
        out = attention(*given, mask)
        torch.autograd.grad(out, given, torch.ones_like(out))

    return run


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def measure(repeats: int) -> Record:
    record = Record("attention", "Attention and its gradient")
    for tokens, B in SHAPES.items():
        lengths = (tokens, DIMS.text + tokens, DIMS.text + tokens)
        given = tuple(torch.randn(B, HEADS, n, SIZE, device=DEVICE).bfloat16().requires_grad_() for n in lengths)
        mask = torch.ones(B, 1, 1, lengths[1], dtype=torch.bool, device=DEVICE)
        mask[..., DIMS.text // 2 : DIMS.text] = False
        found = interleave({"attend": with_gradient(attend, given, mask), "fused": with_gradient(fused, given, mask)}, repeats)
        record.compare(f"{tokens} tokens x {B}, bf16", found, [("attend", "fused", 0.0)])
    return record


if __name__ == "__main__":
    command(__doc__, measure, 15)
