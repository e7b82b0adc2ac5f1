"""Optimisers and schedules as values; learning rates are multiples of the scale's tuned one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from prx_lab.errors import require
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


class Optim(Spec, ABC):
    """An update rule over every trained parameter."""

    @abstractmethod
    def build(self, learner: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The optimiser of all parameters of `learner`, at base rate `lr`."""

    def continues(self, before: "Optim") -> bool:
        """Whether a phase under this optimiser goes on from the moments that `before` has kept."""
        return type(self) is type(before)


@dataclass(frozen=True)
class AdamW(Optim):
    """AdamW with PRX's published constants (part 2's baseline table)."""

    lr_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0

    def check(self, recipe: "Recipe") -> None:
        for name in ("lr_scale", "eps", "weight_decay"):
            require(getattr(self, name) >= 0, f"optim.{name} is {getattr(self, name)}; AdamW needs 0 or more.")
        require(all(0 <= b < 1 for b in self.betas), f"optim.betas is {self.betas}; AdamW needs two values in [0, 1).")

    def build(self, learner: nn.Module, lr: float) -> torch.optim.Optimizer:
        return self.over(learner.parameters(), lr)

    def over(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.AdamW:
        """AdamW of these parameters alone."""
        parameters = list(parameters)
        fused = not any(p.is_meta for p in parameters)  # shapes alone have no fused kernel
        return torch.optim.AdamW(parameters, lr * self.lr_scale, self.betas, self.eps, self.weight_decay, fused=fused)


@dataclass(frozen=True)
class Schedule(Spec):
    """Linear warm-up over a share of the run, then a cosine from 1 to `final`; final = 1 is PRX's constant rate."""

    warmup: float = 0.05
    final: float = 0.0

    def check(self, recipe: "Recipe") -> None:
        require(0 <= self.warmup <= 1, f"schedule.warmup is {self.warmup}; use a share of the run in [0, 1].")
        require(self.final >= 0, f"schedule.final is {self.final}; the learning rate cannot end below 0.")

    def __call__(self, step: int, steps: int) -> float:
        """The factor on the learning rate at `step` (from 0) of `steps`."""
        ramp = max(1, round(self.warmup * steps))
        if step < ramp:
            return (step + 1) / ramp
        done = (step - ramp) / max(1, steps - ramp)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class EMA(Spec):
    """An average of the weights for sampling, w <- d w + (1-d) theta with d = min(decay, (1+n)/(10+n)); decay 0 is off."""

    decay: float = 0.0

    def check(self, recipe: "Recipe") -> None:
        require(0 <= self.decay < 1, f"ema.decay is {self.decay}; use a value in [0, 1), 0 for no average.")

    def rate(self, step: int) -> float:
        """d at a step, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))
