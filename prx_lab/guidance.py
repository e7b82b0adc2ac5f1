"""Guidance for networks trained on part of their tokens: the weaker prediction comes from fewer tokens, not only from no caption.

Token ids come from `Condition.score` and stay the same for all steps of an image. B batch, N tokens, K kept.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab.errors import LabError
from prx_lab.flow import Velocity
from prx_lab.routing import Dense, count, smallest
from prx_lab.sample import Condition, Interval, Predict
from prx_lab.sprint import SPRINT

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


@dataclass(frozen=True)
class Against(Interval):
    """v = weak + scale (strong - weak) where low <= t <= high in noise time, the strong velocity alone elsewhere."""

    @abstractmethod
    def both(self, v: Predict, given: Condition) -> tuple[Velocity, Velocity]:
        """The strong and the weak velocity field."""

    def velocity(self, v: Predict, given: Condition) -> Velocity:
        strong, weak = self.both(v, given)

        def guided(x: Tensor, t: float) -> Tensor:
            if not self.active(t):
                return strong(x, t)
            u = weak(x, t)
            return u + self.scale * (strong(x, t) - u)

        return guided


def sparse(v: Predict, given: Condition, rate: float) -> Velocity:
    """The conditional velocity with a share `rate` of the tokens in the routed blocks."""
    n = given.score.shape[1]
    keep = None if count(n, rate) == n else smallest(given.score, count(n, rate))
    return lambda x, t: v(x, t, given.text.tokens, given.text.mask, keep)


def require_uniform_route(name: str, recipe: "Recipe") -> None:
    """Refuse, with a LabError, a network that was never trained on a random part of its tokens."""
    if isinstance(recipe.router, Dense):
        raise LabError(f"{name} compares predictions from more and fewer tokens; give the recipe a router, such as TREAD().")
    if isinstance(recipe.router, SPRINT) and recipe.router.pattern != "uniform":
        raise LabError(f"{name} keeps tokens anywhere and this SPRINT() kept some in every cell; use pattern='uniform' or PathDrop().")


@dataclass(frozen=True)
class SelfGuidance(Against):
    """v = r + scale (f - r): f from all tokens, r with a share `rate` of them in the route, both with the caption (PRX, part 3).

    As in PRX the scale is that of classifier-free guidance.
    """

    rate: float = 0.5

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        require_uniform_route("SelfGuidance", recipe)
        if not 0 < self.rate < 1:
            raise LabError(f"guidance.rate is {self.rate}; use a share of kept tokens in (0, 1).")

    def both(self, v: Predict, given: Condition) -> tuple[Velocity, Velocity]:
        return sparse(v, given, 1.0), sparse(v, given, self.rate)


@dataclass(frozen=True)
class SparseGuidance(Against):
    """v = w + scale (s - w): s and w with shares `strong` > `weak` of the tokens in the route, both with the caption
    (arXiv 2601.01608, section 3; its gammas are the other shares, 1 - strong and 1 - weak).
    """

    scale: float = 1.5
    strong: float = 0.7
    weak: float = 0.3

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        require_uniform_route("SparseGuidance", recipe)
        if not 0 < self.weak < self.strong <= 1:
            raise LabError(f"guidance keeps {self.strong} strongly and {self.weak} weakly; use 0 < weak < strong <= 1.")

    def both(self, v: Predict, given: Condition) -> tuple[Velocity, Velocity]:
        return sparse(v, given, self.strong), sparse(v, given, self.weak)


@dataclass(frozen=True)
class PathDrop(Against):
    """v = u + scale (c - u): c as always, u without the caption and without the routed path, whose blocks are then not
    run at all (path-drop guidance, arXiv 2510.21986, section 3).
    """

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        if not isinstance(recipe.router, SPRINT) or not recipe.router.path_drop:
            raise LabError("PathDrop() needs a network that has learnt to do without its middle; use router=SPRINT() with path_drop > 0.")

    def both(self, v: Predict, given: Condition) -> tuple[Velocity, Velocity]:
        text, B = given.text, len(given.text.tokens)
        null, null_mask = text.null.expand(B, -1, -1), text.null_mask.expand(B, -1)
        none = torch.empty(B, 0, dtype=torch.long, device=text.tokens.device)
        return lambda x, t: v(x, t, text.tokens, text.mask), lambda x, t: v(x, t, null, null_mask, none)
