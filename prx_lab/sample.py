"""Sampling: from noise and captions to images, with classifier-free guidance in an interval (arXiv 2207.12598, 2404.07724)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prx_lab.data.batch import Text
from prx_lab.flow import SOLVERS, Velocity, times, v_from_x
from prx_lab.model import PRX
from prx_lab.spec import Spec

Predict = Callable[[Tensor, float, Tensor, Tensor], Tensor]  # (x_t, t, text, mask) -> v


class Guidance(Spec, ABC):
    """How the conditional velocity is combined with a weaker one."""

    @abstractmethod
    def velocity(self, v: Predict, text: Text) -> Velocity:
        """The guided velocity field (x_t, t) -> v for these captions."""


@dataclass(frozen=True)
class CFG(Guidance):
    """v = u + scale (c - u) where low <= t <= high in noise time, the conditional velocity c elsewhere."""

    scale: float = 3.0
    low: float = 0.0
    high: float = 1.0

    def active(self, t: float) -> bool:
        return self.scale != 1.0 and self.low <= t <= self.high

    def velocity(self, v: Predict, text: Text) -> Velocity:
        B = text.tokens.shape[0]
        both = torch.cat([text.tokens, text.null.expand(B, -1, -1)])
        both_mask = torch.cat([text.mask, text.null_mask.expand(B, -1)])

        def guided(x: Tensor, t: float) -> Tensor:
            if not self.active(t):
                return v(x, t, text.tokens, text.mask)
            c, u = v(torch.cat([x, x]), t, both, both_mask).chunk(2)
            return u + self.scale * (c - u)

        return guided


def predictor(model: PRX, predict: str, autocast: Callable[[], object]) -> Predict:
    """The network as a velocity, whichever of `v` and `x` it predicts; the state stays float32."""

    def v(x: Tensor, t: float, text: Tensor, mask: Tensor) -> Tensor:
        time = torch.full((x.shape[0],), t, device=x.device)
        with autocast():
            raw = model(x, time, text, mask)[0].float()
        return raw if predict == "v" else v_from_x(raw, x, time)

    return v


@torch.inference_mode()
def generate(
    v: Predict, text: Text, noise: Tensor, guidance: Guidance, steps: int, shift: float = 1.0, solver: str = "euler"
) -> Tensor:
    """Clean latents (B, C, H, W) from `noise` of that shape, in `steps` steps of the shifted grid from t = 1 to t = 0."""
    return SOLVERS[solver](guidance.velocity(v, text), noise, times(steps, shift))
