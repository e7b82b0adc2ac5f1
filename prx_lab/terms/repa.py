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
from prx_lab.model import PRX, attend, rope_table, rotate
from prx_lab.routing import take
from prx_lab.terms.base import Out, Term, TermModule, require_all_tokens, tapped

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

WIDEST = 1 << 17
HEADS = 4  # of the release's projector
PROJECTORS = ("convolution", "attention")


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


class Convolution(nn.Conv2d):
    """The paper's projector: a convolution over the square grid of tokens, in raster order."""

    def __init__(self, width: int, out: int, kernel: int):
        super().__init__(width, out, kernel, padding=kernel // 2)

    def forward(self, h: Tensor, g: int, keep: None = None) -> Tensor:
        """(B, g g, D) -> (B, g g, E)."""
        return super().forward(h.mT.unflatten(2, (g, g))).flatten(2).mT


class SelfAttention(nn.Module):
    """The projector of PRX's release: each token looks at the image's others, queries and keys turned by their places."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.qkv, self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, out)

    def forward(self, h: Tensor, g: int, keep: Tensor | None = None) -> Tensor:
        """(B, g g or K, D) -> (B, g g or K, E); `keep` (B, K) names the places of the tokens that are there."""
        q, k, v = self.qkv(h).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        table = rope_table(g, g, q.shape[-1], h.device)
        cos, sin = table if keep is None else (take(angles, keep) for angles in table)
        q, k = (rotate(x.float(), cos, sin).to(v.dtype) for x in (q, k))
        return self.out(self.mix(attend(q, k, v, None).transpose(1, 2).flatten(2)))


class IREPALoss(TermModule):
    """- mean cos(projector(h), spatial_norm(y)): the projector looks at other tokens too, the target says how tokens differ."""

    def __init__(self, teacher: str, tap: int, projector: Convolution | SelfAttention, gamma: float):
        super().__init__()
        self.teacher, self.taps, self.projector, self.gamma = teacher, (tap,), projector, gamma

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        h, keep, *_ = out.feats[self.taps[0]]  # (B, N or K, D)
        y = spatial_norm(batch.teachers[self.teacher], self.gamma)  # (B, N, E)
        p = self.projector(h, math.isqrt(y.shape[1]), keep).float()
        return -F.cosine_similarity(p, y if keep is None else take(y, keep), dim=-1).mean()


@dataclass(frozen=True)
class IREPA(Term):
    """REPA with a projector that sees neighbours and a target of which the share `gamma` of the image's mean token is removed.

    The paper: gamma 0.6 to 0.8, a convolution with kernel 3; its latent configuration has gamma 0.6 and weight 1, its pixel one
    0.8 and 0.5. PRX's release by default: the projector "attention" (algorithm/repa.py), for which `kernel` means nothing, and in
    effect gamma 0.
    """

    weight: float = 0.5
    teacher: str = "lab-dino"
    depth: float = 0.5
    gamma: float = 0.6
    kernel: int = 3
    projector: str = "convolution"

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,)

    def check(self, recipe: "Recipe") -> None:
        if not 0 <= self.gamma <= 1:
            raise LabError(f"gamma is {self.gamma}; iREPA removes a share of the mean token in [0, 1].")
        if self.projector not in PROJECTORS:
            raise LabError(f"iREPA has no projector '{self.projector}'; use {' or '.join(PROJECTORS)}.")
        if recipe.scale.tokens < 2:
            raise LabError("iREPA compares the tokens of an image, and here it has one; raise scale.grid.")
        tap = tapped(self.depth, recipe.scale.depth)
        if self.projector == "attention":
            if self.kernel != IREPA.kernel:
                raise LabError(f"kernel is {self.kernel}, but the projector is attention, which has none; leave it out.")
            if recipe.scale.width % (4 * HEADS):
                raise LabError(f"Width {recipe.scale.width} over the projector's {HEADS} heads is not a multiple of 4; change scale.width.")
            return
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise LabError(f"kernel is {self.kernel}; iREPA's convolution needs an odd width to keep the grid.")
        require_all_tokens(recipe, tap, "iREPA's convolution")

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        D, E, tap = model.arch.width, widths[self.teacher], tapped(self.depth, model.arch.depth)
        projector = Convolution(D, E, self.kernel) if self.projector == "convolution" else SelfAttention(D, E)
        return IREPALoss(self.teacher, tap, projector, self.gamma)
