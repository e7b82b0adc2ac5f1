"""Flow matching as algebra: draws, the straight path, v <-> x, time samplers, Euler and Heun (arXiv 2210.02747, 2209.03003).

Noise time everywhere: t = 0 is data, t = 1 is noise, x_t = (1-t) x + t eps, v = eps - x. JiT's papers use the opposite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab.errors import LabError
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

T_MIN = 0.05  # floor of t in v = (x_t - x) / t, JiT's t_eps: bounds the weight of the x-error at 1 / T_MIN^2


@dataclass(frozen=True)
class Draw:
    """All randomness of one step, as data: the loss is a pure function of (weights, batch, draw)."""

    t: Tensor  # (B,) time in [0, 1]
    eps: Tensor  # (B, C, H, W) standard normal
    drop: Tensor  # (B,) bool: replace this caption by the empty one
    score: Tensor  # (B, N) uniform: a router keeps the tokens with the smallest scores
    path: Tensor  # (B,) uniform: decides whether a sample's routed path is dropped
    other: Tensor  # (B,) index of another sample of the batch, uniform over them (the sample itself when B = 1)

    def to(self, device: torch.device | str) -> "Draw":
        """The same draws on a device."""
        return Draw(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


@dataclass(frozen=True)
class Point:
    """A point of the straight path from data to noise, with both of its ends."""

    x: Tensor  # (B, C, H, W) clean
    eps: Tensor  # (B, C, H, W) noise
    t: Tensor  # (B,)
    x_t: Tensor  # (B, C, H, W)

    @property
    def v(self) -> Tensor:
        """The velocity of the path, eps - x."""
        return self.eps - self.x


@dataclass(frozen=True)
class LogitNormal(Spec):
    """t = sigmoid(mean + std z), then shifted, with a share of uniform draws (SD3, arXiv 2403.03206; PRX's 90/10 mixture).

    `shift` k maps t to k t / (1 + (k-1) t), which adds ln k to the logit.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    uniform: float = 0.1

    def check(self, recipe: "Recipe") -> None:
        require_shift(self.shift)
        if not (self.std >= 0 and 0 <= self.uniform <= 1):
            raise LabError(f"time has std {self.std} and a uniform share of {self.uniform}; use std >= 0 and a share in [0, 1].")

    def __call__(self, z: Tensor, u: Tensor, choose: Tensor) -> Tensor:
        """Times (B,) in [0, 1] from a standard normal `z` and two uniforms `u`, `choose`, all (B,)."""
        t = shift_time(torch.sigmoid(self.mean + self.std * z), self.shift)
        return torch.where(choose < self.uniform, u, t)


@dataclass(frozen=True)
class Uniform(Spec):
    """t uniform in [0, 1], then shifted."""

    shift: float = 1.0

    def check(self, recipe: "Recipe") -> None:
        require_shift(self.shift)

    def __call__(self, z: Tensor, u: Tensor, choose: Tensor) -> Tensor:
        return shift_time(u, self.shift)


def require_shift(shift: float) -> None:
    """Refuse, with a LabError, a shift under which times leave [0, 1]."""
    if not shift > 0:
        raise LabError(f"time.shift is {shift}; the time shift must be positive.")


def shift_time(t: Tensor, k: float) -> Tensor:
    """SD3's resolution shift k t / (1 + (k-1) t): k > 1 moves time towards noise; the inverse is k -> 1/k."""
    return k * t / (1 + (k - 1) * t)


def stream(*key: int) -> torch.Generator:
    """A CPU generator keyed by integers, such as (seed, step): equal keys give equal draws on every machine.

    torch seeds it with the lower 32 bits, so of 100,000 different keys about one pair has equal draws.
    """
    state = 0x9E3779B97F4A7C15
    for k in key:  # splitmix64, so that neighbouring keys give unrelated streams
        state = (state + (k & (2**64 - 1)) + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


def draw(key: tuple[int, ...], shape: tuple[int, ...], tokens: int, time: LogitNormal | Uniform, drop: float) -> Draw:
    """Draw a global batch's randomness from the stream `key`, in training (seed, step, 0, 0); `parallel.cut` slices it.

    Every recipe consumes the same variates in the same order, with the noise last because its shape
    depends on the space: recipes that share a space are compared on identical draws. What only some methods read
    comes from a stream of its own, which leaves the others' draws as they are.
    """
    B, g = shape[0], stream(*key)
    z, u, choose = torch.randn(B, generator=g), torch.rand(B, generator=g), torch.rand(B, generator=g)
    dropped = torch.rand(B, generator=g) < drop
    score = torch.rand(B, tokens, generator=g)
    eps, extra = torch.randn(shape, generator=g), stream(*key, 1)
    path, ahead = torch.rand(B, generator=extra), torch.randint(1, max(B, 2), (B,), generator=extra)
    return Draw(time(z, u, choose), eps, dropped, score, path, (torch.arange(B) + ahead) % B)


def noise(seed: int, index: list[int] | Tensor, shape: tuple[int, ...]) -> Tensor:
    """Evaluation noise (n, *shape) for images `index`: keyed on the image alone, so equal for every recipe and batch size."""
    return torch.stack([torch.randn(shape, generator=stream(seed, 1 << 40, int(i))) for i in index])


def scores(seed: int, index: list[int] | Tensor, tokens: int) -> Tensor:
    """Routing scores (n, tokens) of sampling for images `index`, keyed as their noise is."""
    return torch.stack([torch.rand(tokens, generator=stream(seed, 1 << 42, int(i))) for i in index])


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """View t (B,) so that it broadcasts over `like` (B, ...)."""
    return t.view(-1, *[1] * (like.ndim - 1))


def corrupt(x: Tensor, eps: Tensor, t: Tensor) -> Point:
    """The point x_t = (1-t) x + t eps of the path; x, eps (B, ...), t (B,)."""
    s = per_sample(t, x)
    return Point(x, eps, t, (1 - s) * x + s * eps)


def velocity_to(predict: str, point: Point) -> Tensor:
    """The velocity that a network's is compared with; of one that predicts x it is clamped as the network's own is."""
    return point.v if predict == "v" else v_from_x(point.x, point.x_t, point.t)


def v_from_x(x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """v = (x_t - x) / max(t, T_MIN): the only place where the clamp stands (JiT, arXiv 2511.13720, eq. 5)."""
    return (x_t - x) / per_sample(t, x).clamp(min=T_MIN)


def x_from_v(v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """x = x_t - t v."""
    return x_t - per_sample(t, v) * v


def eps_from_v(v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """eps = x_t + (1-t) v."""
    return x_t + (1 - per_sample(t, v)) * v


def times(steps: int, shift: float = 1.0) -> Tensor:
    """The sampling grid (steps + 1,) from t = 1 to t = 0, shifted."""
    return shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def scheduler_times(steps: int, shift: float = 1.0) -> Tensor:
    """The grid (steps + 1,) of diffusers' FlowMatchEulerDiscreteScheduler: `steps` times from 1 to a thousandth, then 0.

    It ends at a thousandth in place of one even step above 0, so for the same number of steps it is not `times`: the last step
    starts nearer to the data. That end is shifted twice, by itself and with the grid. Float64; the scheduler rounds to float32.
    """
    end = shift_time(torch.tensor(1e-3, dtype=torch.float64), shift).item()
    return torch.cat([shift_time(torch.linspace(1, end, steps, dtype=torch.float64), shift), torch.zeros(1, dtype=torch.float64)])


Grid = Callable[[int, float], Tensor]  # (steps, shift) -> times (steps + 1,) from 1 to 0
Velocity = Callable[[Tensor, float], Tensor]  # (x_t, t) -> v


def euler(v: Velocity, x: Tensor, ts: Tensor) -> Tensor:
    """Integrate dx/dt = v from ts[0] to ts[-1] with Euler steps; x (B, ...)."""
    for t, s in zip(ts[:-1].tolist(), ts[1:].tolist()):
        x = x + (s - t) * v(x, t)
    return x


def heun(v: Velocity, x: Tensor, ts: Tensor) -> Tensor:
    """Integrate with Heun steps, the last one Euler (v at t = 0 is ill-defined for a network); two evaluations a step."""
    for t, s in zip(ts[:-1].tolist(), ts[1:].tolist()):
        d = v(x, t)
        if not math.isclose(s, 0.0, abs_tol=1e-12):
            d = (d + v(x + (s - t) * d, s)) / 2
        x = x + (s - t) * d
    return x


SOLVERS = {"euler": euler, "heun": heun}
