"""Token routing: which tokens run through the middle of the network, as data (TREAD, arXiv 2501.04765).

A router is a value; its kept ids are drawn outside the model and passed in. B batch, N tokens, K kept, D width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from prx_lab.spec import Spec


def take(x: Tensor, keep: Tensor) -> Tensor:
    """Rows `keep` (B, K) of x (B, N, D), or of a shared table (1, N, D): (B, K, D)."""
    x = x.expand(keep.shape[0], -1, -1)
    return x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def put(x: Tensor, keep: Tensor, z: Tensor) -> Tensor:
    """x (B, N, D) with rows `keep` (B, K) replaced by z (B, K, D)."""
    return x.scatter(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]), z.to(x.dtype))


class Router(Spec, ABC):
    """Decides how many tokens run through a span of blocks."""

    @abstractmethod
    def kept(self, tokens: int) -> int:
        """The number of kept tokens out of `tokens`."""

    @abstractmethod
    def span(self, depth: int) -> tuple[int, int]:
        """First and last routed block, counted from 0, both inclusive."""

    def keep(self, score: Tensor) -> Tensor | None:
        """Sorted ids (B, K) of the K tokens with the smallest scores (B, N); None when every token is kept."""
        n = score.shape[1]
        k = self.kept(n)
        return None if k == n else torch.sort(score.argsort(1)[:, :k], 1).values


@dataclass(frozen=True)
class Dense(Router):
    """No routing: every token runs through every block."""

    def kept(self, tokens: int) -> int:
        return tokens

    def span(self, depth: int) -> tuple[int, int]:
        return 0, depth - 1


@dataclass(frozen=True)
class TREAD(Router):
    """A random share `rate` of the tokens skips the blocks from `start` to `end` unchanged (arXiv 2501.04765, section 3).

    Positions are fractions of depth: block round(start * depth) to block round(end * depth) - 1. PRX's 2..12 of 16
    blocks are 0.125 and 0.8125. Routed tokens are carried around the span by identity.
    """

    rate: float = 0.5
    start: float = 0.125
    end: float = 0.8125

    def kept(self, tokens: int) -> int:
        return max(1, tokens - int(tokens * self.rate))

    def span(self, depth: int) -> tuple[int, int]:
        return round(self.start * depth), max(round(self.start * depth), round(self.end * depth) - 1)
