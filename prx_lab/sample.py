"""Sampling: from noise and captions to images, with classifier-free guidance in an interval (arXiv 2207.12598, 2404.07724)."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from prx_lab.data.batch import Text
from prx_lab.errors import LabError
from prx_lab.flow import SOLVERS, Grid, Velocity, noise, scores, times, v_from_x
from prx_lab.machine import pick_device
from prx_lab.model import PRX, Words
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

    def check(self, recipe: "Recipe") -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise LabError(f"Guidance acts from {self.low} to {self.high}; use times with 0 <= low <= high <= 1.")

    def active(self, t: float) -> bool:
        """Whether there is guidance at time t: its scale is not 1, and low <= t <= high."""
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


def velocity(
    model: PRX, predict: str, x: Tensor, t: Tensor, text: Tensor | tuple[Words, ...], mask: Tensor, keep: Tensor | None = None
) -> Tensor:
    """The network's velocity (B, C, H, W) at times t (B,), float32, whichever of `v` and `x` it predicts."""
    raw = model(x, t, text, mask, keep)[0].float()
    return raw if predict == "v" else v_from_x(raw, x, t)


class Network:
    """A network as a velocity; the state stays float32."""

    def __init__(self, model: PRX, predict: str, autocast: Callable[[], AbstractContextManager]):
        self.model, self.predict, self.autocast = model, predict, autocast

    def __call__(self, x: Tensor, t: float, text: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
        time = torch.full((x.shape[0],), t, device=x.device)
        with self.autocast():
            return velocity(self.model, self.predict, x, time, self.read(text), mask, keep)

    def read(self, text: Tensor) -> Tensor | tuple[Words, ...]:
        """What the network is given as the text."""
        return text


class Frozen(Network):
    """A network whose weights do not change for a while: the keys and values of the last two texts it was asked about are kept.

    They take 2 depth B L D numbers for a text of B rows, 29 MB a row in bf16 for PRX's 1.2 B network and 256 words.
    """

    def __init__(self, network: Network):
        super().__init__(network.model, network.predict, network.autocast)
        self.seen: deque[tuple[Tensor, tuple[Words, ...]]] = deque(maxlen=2)  # guidance asks with and without an empty half

    def read(self, text: Tensor) -> tuple[Words, ...]:
        for known, words in self.seen:
            if known is text:
                return words
        self.seen.append((text, self.model.context(text)))
        return self.seen[-1][1]


@torch.inference_mode()
def generate(
    v: Predict, given: Condition, noise: Tensor, guidance: Guidance, steps: int, shift: float = 1.0, solver: str = "euler",
    grid: Grid = times,
) -> Tensor:  # fmt: skip
    """Clean latents (B, C, H, W) from `noise` of that shape, in `steps` steps of the shifted grid from t = 1 to t = 0."""
    v, precision = (Frozen(v), v.autocast()) if isinstance(v, Network) else (v, nullcontext())
    with precision:  # around all steps, or the weights would be cast again in each of them
        return SOLVERS[solver](guidance.velocity(v, given), noise, grid(steps, shift))


class Sampler:
    """A trained recipe with its frozen networks, weights in `frozen`: prompts in, images out; `grid` gives the times of its steps."""

    def __init__(self, recipe: "Recipe", model: PRX, mean: Tensor, grid: Grid = times, frozen: torch.dtype = torch.float32):
        from prx_lab.spaces import load_space
        from prx_lab.text import reader

        self.recipe, self.model, self.mean, self.grid = recipe, model.eval(), mean, grid
        self.device = next(model.parameters()).device
        self.space, self.encoder = load_space(recipe.space).weights_in(frozen).to(self.device), reader(recipe, frozen).to(self.device)

    def text(self, prompts: Sequence[str]) -> Text:
        """Prompts and the empty caption, encoded and padded to one length; a warning names what cleaning or cutting loses."""
        self.encoder.surveyed(prompts)
        tokens, mask = self.encoder.encode([*prompts, ""])
        longest = int(mask.sum(1).max())
        tokens, mask = (tokens * mask[..., None])[:, :longest].to(self.device), mask[:, :longest].to(self.device)
        return Text(tokens[:-1], mask[:-1], tokens[-1:], mask[-1:])

    def latent(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """The shape (C, H, W) of the latents of an image of (height, width) pixels, by default of the recipe's size."""
        height, width = size or (self.recipe.scale.size,) * 2
        stride, cell = self.space.stride, self.space.stride * self.model.arch.patch
        if min(height, width) < cell or height % cell or width % cell:
            raise LabError(f"{height} x {width} pixels do not split into tokens of {cell} x {cell}; use multiples of {cell}.")
        return self.space.channels, height // stride, width // stride

    def __call__(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        steps: int = 0,
        guidance: Guidance | None = None,
        grid: Grid | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Images (n, 3, H, W) in [-1, 1]; noise is keyed by (seed, i); steps (0) and guidance are the recipe's unless given.

        On `grid=scheduler_times` they are those of the exported diffusers pipeline for the same noise. `size` is (height, width)
        in pixels, the recipe's square by default.
        """
        return self.space.decode(self.latents(prompts, seed, steps, guidance, grid, size))

    def latents(
        self, prompts: Sequence[str], seed: int, steps: int, guidance: Guidance | None, grid: Grid | None, size: tuple[int, int] | None
    ) -> Tensor:
        """The clean latents (n, C, h, w) that a call decodes."""
        if not prompts:
            raise LabError("There is no prompt; give at least one.")
        index, recipe, shape = list(range(len(prompts))), self.recipe, self.latent(size)
        eps = recipe.noise * noise(seed, index, shape).to(self.device)
        tokens = shape[1] * shape[2] // self.model.arch.patch**2
        mean = F.interpolate(self.mean[None].float(), shape[1:], mode="bilinear")[0]  # itself at the size it was taken at
        given = Condition(self.text(prompts), scores(seed, index, tokens).to(self.device), mean.to(self.device))
        v = Network(self.model, recipe.predict, lambda: recipe.precision.autocast(self.device))
        steps, guidance = steps or recipe.eval_steps, guidance or recipe.guidance
        return generate(v, given, eps, guidance, steps, recipe.shift, grid=grid or self.grid)


def from_run(folder: str | Path) -> Sampler:
    """The sampler of a recorded run, from the averaged weights where it keeps an average; LabError without a sound checkpoint."""
    from prx_lab import checkpoint
    from prx_lab.spaces import load_space

    where, tensors, recipe, prefix = checkpoint.sampled(Path(folder), f"{folder}", "sample from")
    space, probe = load_space(recipe.space), tensors.get(f"{prefix}txt_in.weight", torch.zeros(0, 1))
    model = PRX(recipe.arch(space.channels, space.stride, probe.shape[-1]), recipe.router).to(probe.dtype)
    side = recipe.scale.size // space.stride
    expected = {f"{prefix}{k}": v for k, v in model.state_dict().items()} | {"mean": torch.zeros(space.channels, side, side)}
    checkpoint.require(tensors, expected, (prefix, "mean"), where)
    model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return Sampler(recipe, model.to(pick_device()), tensors["mean"])
