"""HASTE's attention alignment: where a block's image tokens look, against where a frozen teacher's do (arXiv 2505.16792).

HASTE itself is REPA and this term in a first phase, and neither in a second: see `haste` in recipes.py. h heads, d their width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab.data.batch import Batch
from prx_lab.errors import LabError
from prx_lab.flow import Point
from prx_lab.model import PRX
from prx_lab.terms.base import Out, Term, TermModule, require_all_tokens, tapped

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


def attention_cross_entropy(q: Tensor, k: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples, heads and rows of - sum_j softmax(A_teacher)_j log softmax(A_student)_j, in float32.

    q, k (B, h, N, d) are the student's, so A_student = q k^T / sqrt(d); `teacher` (B, h', N, 2 d') holds scaled queries and keys
    side by side, so A_teacher = q k^T. Heads are paired in order, as many as the side with fewer has.
    """
    heads = min(q.shape[1], teacher.shape[1])
    student = q[:, :heads].float() @ k[:, :heads].float().mT / q.shape[-1] ** 0.5  # (B, heads, N, N)
    q, k = teacher[:, :heads].float().chunk(2, -1)
    return -((q @ k.mT).softmax(-1) * student.log_softmax(-1)).sum(-1).mean()


class AttentionLoss(TermModule):
    """Mean of the attention's cross entropy over pairs of a block and a teacher's queries and keys."""

    def __init__(self, blocks: tuple[int, ...], teachers: tuple[str, ...]):
        super().__init__()
        self.taps = self.heads = blocks
        self.teachers = teachers

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        with torch.autocast(batch.x.device.type, enabled=False):  # logits in full precision
            pairs = [(out.feats[block], batch.teachers[name]) for block, name in zip(self.heads, self.teachers)]
            return torch.stack([attention_cross_entropy(feat.q, feat.k, y) for feat, y in pairs]).mean()


@dataclass(frozen=True)
class AttentionAlignment(Term):
    """The `pairs` blocks that end with block round(depth * L), counted from 1, follow the teacher's last `pairs` blocks.

    The paper: the 5th to 8th of 28 blocks follow the last 4 of DINOv2-B's 12, which is depth 0.28 and 4 pairs.
    """

    weight: float = 0.5
    teacher: str = "lab-dino-dense"
    depth: float = 0.5
    pairs: int = 2

    @property
    def teachers(self) -> tuple[str, ...]:
        return tuple(f"{self.teacher}:qk{i}" for i in range(-self.pairs, 0))

    def blocks(self, depth: int) -> tuple[int, ...]:
        """The student's blocks, counted from 0, of a network of `depth` blocks."""
        last = tapped(self.depth, depth)
        return tuple(range(last - self.pairs + 1, last + 1))

    def check(self, recipe: "Recipe") -> None:
        most = tapped(self.depth, recipe.scale.depth) + 1
        if not 1 <= self.pairs <= most:
            raise LabError(f"pairs is {self.pairs}; there are {most} blocks up to depth {self.depth}: use 1 to {most}, or a greater depth.")
        for block in self.blocks(recipe.scale.depth):
            require_all_tokens(recipe, block, "Attention alignment")

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        return AttentionLoss(self.blocks(model.arch.depth), self.teachers)
