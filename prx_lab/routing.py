"""Token routing: which tokens run through the middle of the network, as data (TREAD, arXiv 2501.04765).

A router is a value; its kept ids are drawn outside the model and passed in. B batch, N tokens, K kept, D width.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prx_lab.errors import LabError
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


def take(x: Tensor, keep: Tensor) -> Tensor:
    """Rows `keep` (B, K) of x (B, N, D), or of a shared table (1, N, D): (B, K, D)."""
    x = x.expand(keep.shape[0], -1, -1)
    return x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def put(x: Tensor, keep: Tensor, z: Tensor) -> Tensor:
    """x (B, N, D) with rows `keep` (B, K) replaced by z (B, K, D)."""
    return x.scatter(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]), z.to(x.dtype))


def smallest(score: Tensor, k: int) -> Tensor:
    """Sorted ids (B, k) of the k tokens with the smallest scores (B, N)."""
    return torch.sort(score.argsort(1)[:, :k], 1).values


def count(tokens: int, rate: float) -> int:
    """How many of `tokens` a share `rate` keeps: all but the whole part of the others, and one at least."""
    return max(1, tokens - int(round(tokens * (1 - rate), 6)))  # rounded: 1 - 0.9 is a little less than 0.1


def require_route(rate: float, start: float, end: float) -> None:
    """Refuse, with a LabError, a share of kept tokens, or a stretch of the depth, that does not exist."""
    if not 0 < rate <= 1:
        raise LabError(f"The routing rate is {rate}; use a share of kept tokens in (0, 1].")
    if not 0 <= start < end <= 1:
        raise LabError(f"A route from {start} to {end} of the depth does not exist; use 0 <= start < end <= 1.")


def require_block(router: "Router", depth: int, behind: int = 0) -> None:
    """Refuse, with a LabError, a route that begins where no block is left for it, with `behind` blocks at the end that it may not have."""
    if router.span(depth)[0] >= depth - behind:
        raise LabError(f"The route begins so late that none of {depth} blocks is in it; lower router.start.")


class Route(nn.Module, ABC):
    """The part of a network that a router owns: which blocks are routed, and how the two streams join behind them."""

    def __init__(self, span: tuple[int, int]):
        super().__init__()
        self.span = span  # first and last routed block, counted from 0, both inclusive

    @abstractmethod
    def forward(self, dense: Tensor, deep: Tensor, keep: Tensor | None, skip: Tensor | None) -> Tensor:
        """Tokens (B, N, D) behind the span.

        `dense` (B, N, D) went into it; `deep` (B, K, D) came out of it for the tokens `keep` (B, K), or (B, N, D) for
        all of them when `keep` is None; in samples marked by `skip` (B,) the deep stream is to be ignored.
        """


class Around(Route):
    """Tokens that are not kept go around the span unchanged."""

    def forward(self, dense: Tensor, deep: Tensor, keep: Tensor | None, skip: Tensor | None) -> Tensor:
        joined = deep if keep is None else put(dense, keep, deep)
        return joined if skip is None else torch.where(skip[:, None, None], dense, joined)


class Router(Spec, ABC):
    """Decides which tokens run through a span of blocks."""

    @abstractmethod
    def kept(self, tokens: int) -> int:
        """The number of kept tokens out of `tokens`."""

    @abstractmethod
    def span(self, depth: int) -> tuple[int, int]:
        """First and last routed block, counted from 0, both inclusive."""

    def build(self, width: int, depth: int) -> Route:
        """The route through a network of `depth` blocks of `width` channels."""
        return Around(self.span(depth))

    def keep(self, score: Tensor) -> Tensor | None:
        """Sorted ids (B, K) of the kept tokens, from scores (B, N); None when every token is kept."""
        n = score.shape[1]
        k = self.kept(n)
        return None if k == n else smallest(score, k)

    def skip(self, path: Tensor) -> Tensor | None:
        """Which samples (B,) drop the routed path, from uniforms (B,); None when the method never does."""
        return None


@dataclass(frozen=True)
class Dense(Router):
    """No routing: every token runs through every block."""

    def kept(self, tokens: int) -> int:
        return tokens

    def span(self, depth: int) -> tuple[int, int]:
        return 0, depth - 1


@dataclass(frozen=True)
class TREAD(Router):
    """A random share `rate` of the tokens runs through the blocks from `start` to `end`, the rest goes around them
    (arXiv 2501.04765, section 3; its `selection_ratio` is the other share, 1 - rate).

    Positions are fractions of depth: block round(start * depth) to block round(end * depth) - 1, halves rounded up. PRX's
    2..12 of 16 blocks are 0.125 and 0.8125.
    """

    rate: float = 0.5
    start: float = 0.125
    end: float = 0.8125

    def check(self, recipe: "Recipe") -> None:
        require_route(self.rate, self.start, self.end)
        require_block(self, recipe.scale.depth)

    def kept(self, tokens: int) -> int:
        return count(tokens, self.rate)

    def span(self, depth: int) -> tuple[int, int]:
        first, behind = math.floor(self.start * depth + 0.5), math.floor(self.end * depth + 0.5)
        return first, max(first, behind - 1)
