"""REPA: align a block's tokens with a frozen vision teacher's patch tokens (arXiv 2410.06940, eq. 8); and iREPA (arXiv 2512.10794)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab.data.batch import Batch
from prx_lab.errors import LabError
from prx_lab.flow import Point
from prx_lab.model import PRX
from prx_lab.routing import take
from prx_lab.terms.base import Out, Term, TermModule, require_all_tokens, tapped

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

WIDEST = 1 << 17


class REPALoss(TermModule):
    """- mean cos(projector(h), y): -1 when aligned, about 0 at the start; h after block `tap`, y of the clean image."""

    def __init__(self, teacher: str, tap: int, width: int, hidden: int, out: int):
        super().__init__()
        self.teacher, self.taps = teacher, (tap,)
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out))

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

    def check(self, recipe: "Recipe") -> None:
        self.block(recipe.scale.depth)
        if not 0 < round(self.hidden * recipe.scale.width) <= WIDEST:
            raise LabError(f"The projector's width is {self.hidden} times the model's; use a multiple that gives 1 to {WIDEST}.")

    def block(self, depth: int) -> int:
        """The tapped block, counted from 0, of a network of `depth` blocks."""
        return tapped(self.depth, depth)

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        D = model.arch.width
        return REPALoss(self.teacher, self.block(model.arch.depth), D, round(self.hidden * D), widths[self.teacher])


def spatial_norm(y: Tensor, gamma: float) -> Tensor:
    """(y - gamma mean) / (std + 1e-6) over the tokens of y (B, N, E), for each image and channel; float32, unbiased std."""
    y = y.float()
    return (y - gamma * y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 1e-6)


class IREPALoss(TermModule):
    """- mean cos(conv(h), spatial_norm(y)): the projector looks at a token's neighbours, the target says how tokens differ."""

    def __init__(self, teacher: str, tap: int, width: int, out: int, gamma: float, kernel: int):
        super().__init__()
        self.teacher, self.taps, self.gamma = teacher, (tap,), gamma
        self.projector = nn.Conv2d(width, out, kernel, padding=kernel // 2)

    def project(self, h: Tensor) -> Tensor:
        """The convolution over the square grid of tokens, in raster order: (B, N, D) -> (B, N, E)."""
        g = math.isqrt(h.shape[1])
        return self.projector(h.mT.unflatten(2, (g, g))).flatten(2).mT

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        p, y = self.project(out.feats[self.taps[0]].tokens), spatial_norm(batch.teachers[self.teacher], self.gamma)
        return -F.cosine_similarity(p.float(), y, dim=-1).mean()


@dataclass(frozen=True)
class IREPA(Term):
    """REPA with a convolution as projector and a target of which the share `gamma` of the image's mean token is removed.

    The paper: gamma 0.6 to 0.8, kernel 3; its latent configuration has gamma 0.6 and weight 1, its pixel one 0.8 and 0.5.
    """

    weight: float = 0.5
    teacher: str = "lab-dino"
    depth: float = 0.5
    gamma: float = 0.6
    kernel: int = 3

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def check(self, recipe: "Recipe") -> None:
        if not 0 <= self.gamma <= 1:
            raise LabError(f"gamma is {self.gamma}; iREPA removes a share of the mean token in [0, 1].")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise LabError(f"kernel is {self.kernel}; iREPA's convolution needs an odd width to keep the grid.")
        if recipe.scale.tokens < 2:
            raise LabError("iREPA compares the tokens of an image, and here it has one; raise scale.grid.")
        require_all_tokens(recipe, tapped(self.depth, recipe.scale.depth), "iREPA's convolution")

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        tap = tapped(self.depth, model.arch.depth)
        return IREPALoss(self.teacher, tap, model.arch.width, widths[self.teacher], self.gamma, self.kernel)
