"""SPRINT: a sparse path through the middle blocks beside a dense one around them, fused by a linear map (arXiv 2510.21986).

B batch, N tokens, K kept, D width.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prx_lab.errors import LabError
from prx_lab.routing import Route, Router, count, put, require_block, require_route, smallest

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

PATTERNS = ("structured", "uniform")


class Fuse(Route):
    """h = W [G ; f] + b: f is the dense stream that went into the span, G the deep one that came out of it,
    with the mask token in every place where nothing ran.

    The order [G ; f] and the initial values are those of the authors' code; it leaves the mask token at its random start,
    here it is learnt, as their paper has it.
    """

    def __init__(self, span: tuple[int, int], width: int):
        super().__init__(span)
        self.fuse = nn.Linear(2 * width, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        nn.init.xavier_uniform_(self.fuse.weight)
        nn.init.zeros_(self.fuse.bias)

    def forward(self, dense: Tensor, deep: Tensor, keep: Tensor | None, skip: Tensor | None) -> Tensor:
        mask = self.mask.to(dense.dtype).expand_as(dense)
        joined = deep if keep is None else put(mask, keep, deep)
        if skip is not None:  # a choice, not a product with 0: what is not chosen cannot leak a NaN
            joined = torch.where(skip[:, None, None], mask, joined)
        return self.fuse(torch.cat([joined, dense], -1))


def cell(rate: float) -> tuple[int, int]:
    """The smallest square cell, (side, tokens kept in it), of which `rate` is a whole number of tokens: 0.25 is 1 of 2x2.

    LabError where 8x8 is not enough.
    """
    for side in (1, 2, 4, 8):
        kept = rate * side**2
        if math.isclose(kept, round(kept)):
            return side, round(kept)
    raise LabError(f"A share of {rate} is no whole number of tokens in a cell of 8x8; use a multiple of 1/4, 1/16 or 1/64.")


def cells(tokens: int, side: int, device: torch.device) -> Tensor:
    """Ids (cells, side^2) of the tokens in each cell of a square grid of `tokens`."""
    g = math.isqrt(tokens) // side
    return torch.arange(tokens, device=device).view(g, side, g, side).transpose(1, 2).reshape(g * g, side * side)


@dataclass(frozen=True)
class SPRINT(Router):
    """A share `rate` of the tokens runs through the middle blocks and is fused with the stream around them; in a share
    `path_drop` of the training samples the deep stream is dropped as a whole (section 3; its drop ratio is the other share, 1 - rate).

    `structured` keeps equally many random tokens in every small cell of the grid, `uniform` keeps any (the code's
    `structured_with_random_offset` and `random`). Positions are fractions of depth, by default the paper's 2 + 24 + 2 of 28
    blocks; a block at least stays before the span and one behind it. rate = 1 keeps fusion and path drop: the second stage.
    """

    rate: float = 0.25
    start: float = 2 / 28
    end: float = 26 / 28
    pattern: str = "structured"
    path_drop: float = 0.1

    def check(self, recipe: "Recipe") -> None:
        require_route(self.rate, self.start, self.end)
        if self.pattern not in PATTERNS:
            raise LabError(f"pattern is {self.pattern!r}; use one of {', '.join(PATTERNS)}.")
        if not 0 <= self.path_drop < 1:
            raise LabError(f"path_drop is {self.path_drop}; use a probability in [0, 1).")
        if recipe.scale.depth < 3:
            raise LabError(f"SPRINT needs a block before, in and behind its route; {recipe.scale.depth} is too few: raise scale.depth.")
        require_block(self, recipe.scale.depth, behind=1)
        if self.pattern == "structured" and recipe.scale.grid % cell(self.rate)[0]:
            side = cell(self.rate)[0]
            raise LabError(f"{recipe.scale.grid} tokens a side do not divide into cells of {side}; change router.rate or scale.grid.")

    def kept(self, tokens: int) -> int:
        if self.pattern == "uniform":
            return count(tokens, self.rate)
        side, chosen = cell(self.rate)
        return tokens // side**2 * chosen

    def span(self, depth: int) -> tuple[int, int]:
        first = max(1, math.floor(self.start * depth + 0.5))
        return first, max(first, min(depth - 1, math.floor(self.end * depth + 0.5)) - 1)

    def build(self, width: int, depth: int) -> Route:
        return Fuse(self.span(depth), width)

    def keep(self, score: Tensor) -> Tensor | None:
        B, n = score.shape
        if self.kept(n) == n:
            return None
        if self.pattern == "uniform":
            return smallest(score, self.kept(n))
        side, chosen = cell(self.rate)
        ids = cells(n, side, score.device)
        first = score[:, ids].argsort(-1)[..., :chosen]  # (B, cells, chosen): places inside each cell
        return torch.sort(ids.expand(B, -1, -1).gather(-1, first).flatten(1), 1).values

    def skip(self, path: Tensor) -> Tensor | None:
        return path < self.path_drop if self.path_drop else None
