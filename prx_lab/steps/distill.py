"""Distillation of a guided sampler into few unguided steps (Meng et al., arXiv 2210.03142), in two stages, on velocities.

Stage 1 puts the guidance into the network. Stage 2 halves the number of steps (Salimans & Ho, arXiv 2202.00512). In both the
teacher is a frozen copy of the weights with which the phase begins, and the recipe's own terms are not used.
"""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab.data.batch import Batch, Text
from prx_lab.errors import LabError
from prx_lab.flow import Draw, corrupt, per_sample, shift_time, times
from prx_lab.model import PRX
from prx_lab.sample import CFG, velocity
from prx_lab.steps.base import Rule, RuleModule
from prx_lab.terms import FlowMatching

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe
    from prx_lab.train import Learner


class Distillation(RuleModule):
    """mean (v_student - v_target)^2 at a point of the path; the target is the frozen teacher's.

    The student always sees a sample's own caption, whatever `draw.drop` says: it will be sampled without guidance and never
    be asked for the empty one. The teacher keeps its own weights for that.
    """

    names = ("Distillation",)

    def __init__(self, model: PRX, predict: str):
        super().__init__()
        self.teacher, self.predict = copy.deepcopy(model).eval().requires_grad_(False), predict

    @abstractmethod
    def times(self, t: Tensor) -> Tensor:
        """The times (B,) at which the student is taught, from the drawn ones."""

    @abstractmethod
    def target(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """The velocity (B, C, H, W) the student should have at x_t (B, C, H, W), t (B,)."""

    def forward(self, learner: "Learner", batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        point = corrupt(batch.x, learner.recipe.noise * draw.eps, self.times(draw.t))
        with torch.no_grad():
            target = self.target(point.x_t, point.t, batch.text)
        v = velocity(learner.model, self.predict, point.x_t, point.t, batch.text.tokens, batch.text.mask)
        loss = (v - target).square().mean()
        return loss, torch.stack([loss])


class Guided(Distillation):
    """The target is the teacher's guided velocity u + w(t) (c - u) = c + (w(t) - 1) (c - u); c with the caption, u with the empty one."""

    def __init__(self, model: PRX, predict: str, guidance: CFG):
        super().__init__(model, predict)
        self.guidance = guidance

    def times(self, t: Tensor) -> Tensor:
        return t

    def target(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        everywhere = torch.ones_like(t, dtype=torch.bool)
        c = velocity(self.teacher, self.predict, x_t, t, text.tokens, text.mask)
        u = velocity(self.teacher, self.predict, x_t, t, *text.dropped(everywhere))
        inside = (self.guidance.low <= t) & (t <= self.guidance.high)
        return c + per_sample(torch.where(inside, self.guidance.scale - 1, 0.0), c) * (c - u)  # exactly c at scale 1


class Halved(Distillation):
    """The target is the mean velocity of two Euler steps of the teacher, so one step of the student ends where they do."""

    nodes: Tensor  # (2 steps + 1,) the teacher's grid from 1 to 0; every second node is the student's

    def __init__(self, model: PRX, predict: str, steps: int, shift: float):
        super().__init__(model, predict)
        self.steps, self.shift = steps, shift
        self.register_buffer("nodes", times(2 * steps, shift).float(), persistent=False)

    def places(self, t: Tensor) -> Tensor:
        """The student's step (B,), from 0 at t = 1, in whose interval each t lies."""
        even = shift_time(t, 1 / self.shift) * self.steps  # the shift undone, nodes are whole numbers, up to rounding
        return (self.steps - torch.ceil(even - 1e-3)).clamp(0, self.steps - 1).long()

    def times(self, t: Tensor) -> Tensor:
        return self.nodes[2 * self.places(t)]

    def target(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        i = 2 * self.places(t)
        middle, end = self.nodes[i + 1], self.nodes[i + 2]
        first, second = per_sample(middle - t, x_t), per_sample(end - middle, x_t)
        v = velocity(self.teacher, self.predict, x_t, t, text.tokens, text.mask)
        w = velocity(self.teacher, self.predict, x_t + first * v, middle, text.tokens, text.mask)
        return (first * v + second * w) / (first + second)  # (x after both steps - x_t) / (end - t)


@dataclass(frozen=True)
class Distil(Rule):
    """A rule whose teacher is the network with which its phase begins."""

    def check(self, recipe: "Recipe") -> None:
        name = type(self).__name__
        if recipe.guidance != CFG(1.0):
            raise LabError(f"{name} trains a network that is sampled without guidance; set guidance=CFG(1.0) in its phase.")
        if recipe.router.kept(recipe.scale.tokens) != recipe.scale.tokens:
            raise LabError(f"{name} teaches the network as it is sampled, with every token; set the router's rate to 1 in its phase.")
        unused = [type(term).__name__ for term in recipe.terms if not isinstance(term, FlowMatching)]
        if unused:
            raise LabError(f"{name} replaces the loss, so {', '.join(unused)} would do nothing; leave only FlowMatching() in its phase.")

    def check_after(self, before: tuple["Recipe", ...]) -> None:
        if not before:
            name = type(self).__name__
            raise LabError(f"{name} needs a trained network to distil; make it a later phase, such as BASE.then(0.6, ...), or set init.")


@dataclass(frozen=True)
class GuidanceDistillation(Distil):
    """Stage 1: the student alone has the velocity of the teacher under `guidance` (arXiv 2210.03142, section 3.1).

    The paper's student also takes the scale as an input and learns a range of them (its w is scale - 1); this one learns one.
    """

    guidance: CFG = CFG()

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        if type(self.guidance) is not CFG:
            raise LabError(f"{type(self.guidance).__name__} cannot be distilled: only the scale of CFG(...) is known at every time.")
        self.guidance.check(recipe)

    def build(self, learner: "Learner") -> Guided:
        return Guided(learner.model, learner.recipe.predict, self.guidance)


@dataclass(frozen=True)
class ProgressiveDistillation(Distil):
    """Stage 2: `steps` steps of the student go where twice as many of the teacher go (arXiv 2202.00512, algorithm 2).

    A drawn time is rounded up to the node of the sampling grid that begins its step; `time=Uniform(shift)`, with the
    recipe's shift, draws every step equally often as the paper does. Each further halving is a phase of its own.
    """

    steps: int = 8

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        if self.steps < 1:
            raise LabError(f"ProgressiveDistillation to {self.steps} steps does not exist; use at least one step.")

    def check_after(self, before: tuple["Recipe", ...]) -> None:
        super().check_after(before)
        last = before[-1].rule
        if isinstance(last, ProgressiveDistillation) and last.steps != 2 * self.steps:
            raise LabError(f"A student of {last.steps} steps cannot be halved to {self.steps}; give each halving a phase of its own.")

    def sampler_steps(self, steps: int) -> int:
        return self.steps

    def build(self, learner: "Learner") -> Halved:
        return Halved(learner.model, learner.recipe.predict, self.steps, learner.recipe.shift)
