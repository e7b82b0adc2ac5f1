"""The one training loop of the embedded networks: AdamW, warm-up and cosine, gradient clipping, an average of the weights."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; `average` is the EMA's final decay, reached by a warm-up."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.05
    average: float = 0.998
    clip: float = 1.0
    half: bool = True  # bfloat16 autocast in the forward pass


@dataclass(frozen=True)
class Trained:
    """What a run leaves: the averaged network, its seconds and its last running loss."""

    network: nn.Module
    seconds: float
    loss: float


def train(network: nn.Module, draw: Callable[[int], Batch], loss: Callable[[nn.Module, Batch], Tensor], schedule: Schedule) -> Trained:
    """Minimise `loss(network, draw(step))`, `draw` in full precision; returns the averaged weights in evaluation mode.

    Prints a line every 100 steps.
    """
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.98))
    average = copy.deepcopy(network).requires_grad_(False)
    start, running = time.perf_counter(), math.nan
    network.train()
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * rate(step, schedule)
        batch = draw(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.half):
            value = loss(network, batch)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), schedule.clip)
        optimiser.step()
        blend(average, network, min(schedule.average, (1 + step) / (10 + step)))
        now = value.item()
        running = now if math.isnan(running) else 0.98 * running + 0.02 * now
        if step % 100 == 0 or step == schedule.steps - 1:
            spent = time.perf_counter() - start
            pace = (step + 1) * schedule.batch / spent
            print(f"step {step:5d}/{schedule.steps}  loss {running:.4f}  {pace:.0f}/s  {spent:.0f} s", flush=True)
    return Trained(average.eval(), time.perf_counter() - start, running)


def rate(step: int, schedule: Schedule) -> float:
    """Learning-rate factor in [0, 1]: linear warm-up, then half a cosine down to 1 % of the peak."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(schedule.steps - schedule.warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, in place."""
    pairs = list(zip(average.parameters(), network.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)


def batches(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Rows (batch,) of this step: a new shuffle of `count` rows every epoch, a pure function of (seed, step)."""
    first = step * batch
    rows = torch.arange(first, first + batch)
    epochs = rows // count
    out = torch.empty(batch, dtype=torch.long)
    for epoch in epochs.unique().tolist():
        mine = epochs == epoch
        out[mine] = permutation(count, seed * 100_003 + epoch)[rows[mine] % count]
    return out


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def permutation(count: int, seed: int) -> Tensor:
    """The order of an epoch's rows."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
