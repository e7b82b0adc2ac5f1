"""REPA: align a block's tokens with a frozen vision teacher's patch tokens (arXiv 2410.06940, eq. 8)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab.data.batch import Batch
from prx_lab.flow import Point
from prx_lab.model import PRX
from prx_lab.routing import take
from prx_lab.terms.base import Out, Term, TermModule


class REPALoss(TermModule):
    """- mean cos(projector(h), y): -1 when aligned, about 0 at the start; h after block `tap`, y of the clean image."""

    def __init__(self, teacher: str, tap: int, width: int, hidden: int, out: int):
        super().__init__()
        self.teacher, self.taps = teacher, (tap,)
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out)
        )

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        h, keep, *_ = out.feats[self.taps[0]]  # (B, N or K, D)
        y = batch.teachers[self.teacher]  # (B, N, E)
        y = y if keep is None else take(y, keep)  # inside a route only the kept tokens are there
        return -F.cosine_similarity(self.projector(h).float(), y.float(), dim=-1).mean()


@dataclass(frozen=True)
class REPA(Term):
    """Representation alignment after block round(depth * L), counted from 1: the paper's 8th of 28 is 0.28, PRX's 8th of 16 is 0.5.

    `hidden` is the projector's width as a multiple of the model's (the paper: 2048 for width 1152).
    """

    weight: float = 0.5
    teacher: str = "lab-dino"
    depth: float = 0.5
    hidden: float = 2.0

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def block(self, depth: int) -> int:
        """The tapped block, counted from 0, of a network of `depth` blocks."""
        return min(depth, max(1, round(self.depth * depth))) - 1

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        D = model.arch.width
        return REPALoss(self.teacher, self.block(model.arch.depth), D, round(self.hidden * D), widths[self.teacher])
