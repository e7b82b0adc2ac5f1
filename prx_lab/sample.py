"""Sampling: from noise and captions to images, with classifier-free guidance in an interval (arXiv 2207.12598, 2404.07724)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from prx_lab.data.batch import Text
from prx_lab.errors import LabError
from prx_lab.flow import SOLVERS, Velocity, noise, scores, times, v_from_x
from prx_lab.model import PRX
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


class Predict(Protocol):
    """The network as a velocity field; `keep` (B, K) are the tokens that run through its routed blocks, None for all."""

    def __call__(self, x: Tensor, t: float, text: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Condition:
    """What guidance may read beside the state: the captions, routing scores, and the mean of the data."""

    text: Text
    score: Tensor  # (B, N) uniform, keyed by image
    mean: Tensor  # (C, H, W) mean clean latent of the training set


class Guidance(Spec, ABC):
    """How the conditional velocity is combined with a weaker one."""

    @abstractmethod
    def velocity(self, v: Predict, given: Condition) -> Velocity:
        """The guided velocity field (x_t, t) -> v under a condition."""


@dataclass(frozen=True)
class Interval(Guidance):
    """Guidance of strength `scale` (1 is none) that acts where low <= t <= high in noise time."""

    scale: float = 3.0
    low: float = 0.0
    high: float = 1.0

    def active(self, t: float) -> bool:
        return self.scale != 1.0 and self.low <= t <= self.high


@dataclass(frozen=True)
class CFG(Interval):
    """v = u + scale (c - u) where low <= t <= high in noise time, the conditional velocity c elsewhere."""

    def velocity(self, v: Predict, given: Condition) -> Velocity:
        text = given.text
        B = text.tokens.shape[0]
        both = torch.cat([text.tokens, text.null.expand(B, -1, -1)])
        both_mask = torch.cat([text.mask, text.null_mask.expand(B, -1)])

        def guided(x: Tensor, t: float) -> Tensor:
            if not self.active(t):
                return v(x, t, text.tokens, text.mask)
            c, u = v(torch.cat([x, x]), t, both, both_mask).chunk(2)
            return u + self.scale * (c - u)

        return guided


def velocity(model: PRX, predict: str, x: Tensor, t: Tensor, text: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
    """The network's velocity (B, C, H, W) at times t (B,), float32, whichever of `v` and `x` it predicts."""
    raw = model(x, t, text, mask, keep)[0].float()
    return raw if predict == "v" else v_from_x(raw, x, t)


def predictor(model: PRX, predict: str, autocast: Callable[[], object]) -> Predict:
    """The network as a velocity, whichever of `v` and `x` it predicts; the state stays float32."""

    def v(x: Tensor, t: float, text: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
        time = torch.full((x.shape[0],), t, device=x.device)
        with autocast():
            return velocity(model, predict, x, time, text, mask, keep)

    return v


@torch.inference_mode()
def generate(
    v: Predict, given: Condition, noise: Tensor, guidance: Guidance, steps: int, shift: float = 1.0, solver: str = "euler"
) -> Tensor:
    """Clean latents (B, C, H, W) from `noise` of that shape, in `steps` steps of the shifted grid from t = 1 to t = 0."""
    return SOLVERS[solver](guidance.velocity(v, given), noise, times(steps, shift))


class Sampler:
    """A trained recipe with its frozen networks: prompts in, images out."""

    def __init__(self, recipe: "Recipe", model: PRX, mean: Tensor):
        from prx_lab.spaces import load_space
        from prx_lab.teachers import load_text

        self.recipe, self.model, self.mean = recipe, model.eval(), mean
        self.device = next(model.parameters()).device
        self.space, self.encoder = load_space(recipe.space).to(self.device), load_text(recipe.text).to(self.device)

    def text(self, prompts: Sequence[str]) -> Text:
        """Prompts and the empty caption, encoded and padded to one length."""
        tokens, mask = self.encoder.encode([*prompts, ""])
        longest = int(mask.sum(1).max())
        tokens, mask = (tokens * mask[..., None])[:, :longest].to(self.device), mask[:, :longest].to(self.device)
        return Text(tokens[:-1], mask[:-1], tokens[-1:], mask[-1:])

    def __call__(self, prompts: Sequence[str], seed: int = 0, steps: int = 0, guidance: Guidance | None = None) -> Tensor:
        """Images (n, 3, H, W) in [-1, 1]; noise is keyed by (seed, i); steps (0) and guidance are the recipe's unless given."""
        if not prompts:
            raise LabError("There is no prompt; give at least one.")
        side = self.recipe.scale.size // self.space.stride
        index, recipe = list(range(len(prompts))), self.recipe
        eps = recipe.noise * noise(seed, index, (self.space.channels, side, side)).to(self.device)
        given = Condition(self.text(prompts), scores(seed, index, recipe.scale.tokens).to(self.device), self.mean.to(self.device))
        v = predictor(self.model, recipe.predict, lambda: recipe.precision.autocast(self.device))
        x = generate(v, given, eps, guidance or recipe.guidance, steps or recipe.eval_steps, recipe.shift)
        return self.space.decode(x)


def from_run(folder: str | Path) -> Sampler:
    """The sampler of a recorded run, from the averaged weights where it keeps an average."""
    from prx_lab import checkpoint
    from prx_lab.recipe import Recipe
    from prx_lab.spaces import load_space

    found = checkpoint.steps(Path(folder) / "checkpoint")
    if not found:
        raise LabError(f"{folder} has no checkpoint (records are shared without weights); run the recipe again to sample from it.")
    tensors, state = checkpoint.load(found[-1])
    recipe = Recipe.from_json(state["recipe"]).last
    prefix = "ema/" if recipe.ema.decay else "learner/model."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    space = load_space(recipe.space)
    arch = recipe.arch(space.channels, space.stride, weights["txt_in.weight"].shape[1])
    model = PRX(arch, recipe.router).to(weights["txt_in.weight"].dtype)
    model.load_state_dict(weights)
    return Sampler(recipe, model.to("cuda" if torch.cuda.is_available() else "cpu"), tensors["mean"])
