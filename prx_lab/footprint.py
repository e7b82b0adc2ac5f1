"""Memory of a training step and of sampling, found by running the real code on tensors that have shapes and no data.

Every storage that comes to life is counted until it is freed, as the allocator of a device would see it without fragmentation.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prx_lab.data.batch import Batch, Text
from prx_lab.flow import Draw
from prx_lab.recipe import Recipe
from prx_lab.sample import velocity

if TYPE_CHECKING:
    from prx_lab.cost import Dims

# float16 stands for bfloat16: as large, and attention is then the fused kernel that a GPU has, which keeps no scores
DTYPES = {"fp32": torch.float32, "bf16": torch.float16}


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step of `batch` images and a sampling step hold; parameters are counts."""

    batch: int
    network: int  # parameters
    trained: int  # parameters, with the terms' heads
    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int  # kept from the forward to the backward pass, with the weights' copies in the dtype of computation
    block: int  # the part of one block that sees every token
    peak: int  # of a step once the optimiser has its state
    recomputed: int  # the same where blocks are run again for their gradients
    sampling: int  # peak of one guided evaluation of `batch` images, with the weights

    def rows(self) -> list[tuple[str, int, str]]:
        """(name, bytes, remark) as the table shows them."""
        return [
            ("weights", self.weights, ""),
            ("gradients", self.gradients, ""),
            ("optimiser's state", self.optimiser, ""),
            ("average of the weights", self.average, ""),
            ("activations", self.activations, f"{self.batch} images on one device"),
            ("  of one block", self.block, "one that sees every token"),
            ("peak of a step", self.peak, f"{self.batch} images on one device"),
            ("  blocks recomputed", self.recomputed, "a third more operations"),
            ("peak of sampling", self.sampling, f"{self.batch} images at once, guided"),
        ]


class Live(TorchDispatchMode):
    """Bytes of the storages made inside this mode that are still alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # the signature is PyTorch's
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage from now until it is freed, once however many tensors share it."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        """Count a storage of `size` bytes no more."""
        self.known.discard(key)
        self.now -= size


@contextmanager
def shapes_only(dtype: torch.dtype) -> Iterator[Live]:
    """Tensors made here have no data, and weights have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(), Live() as live:
            yield live
    finally:
        torch.set_default_dtype(before)


def inputs(recipe: Recipe, shapes: "Dims", batch: int) -> tuple[Batch, Draw]:
    """A batch and a draw of the recipe's shapes; their values are never looked at."""
    side, n, f32 = recipe.scale.size // shapes.stride, recipe.scale.tokens, torch.float32
    image, length = (batch, shapes.channels, side, side), shapes.text
    rows = lambda *shape: torch.zeros(shape, dtype=f32)  # noqa: E731
    mask = torch.ones(batch, length, dtype=torch.bool)
    text = Text(rows(batch, length, shapes.context), mask, rows(1, length, shapes.context), mask[:1])
    teachers = {name: torch.zeros((batch, *shape), dtype=torch.float16) for name, shape in shapes.teachers.items()}
    yes, ids = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.long)
    return Batch(rows(*image), text, teachers), Draw(rows(batch), rows(*image), yes, rows(batch, n), rows(batch), ids)


def autocast(recipe: Recipe) -> torch.autocast:
    """The recipe's precision, with float16 in the place of bfloat16."""
    return torch.autocast("cpu", DTYPES[recipe.precision.compute], enabled=recipe.precision.compute != "fp32")


def trace(recipe: Recipe, shapes: "Dims", batch: int) -> Memory:
    """Build the recipe's learner on shapes alone, take two steps, then sample one; the second step's peak counts."""
    from prx_lab.train import Learner

    with shapes_only(DTYPES[recipe.precision.store]) as live:
        learner = Learner(recipe, shapes.channels, shapes.stride, shapes.context, shapes.widths)
        weights = live.now
        optimiser = recipe.optim.build(learner, recipe.scale.lr)
        average = [torch.empty_like(p, dtype=torch.float32) for p in learner.model.parameters()] if recipe.ema.decay else []
        averaged = live.now - weights
        step(learner, optimiser, recipe, inputs(recipe, shapes, batch), live)
        state = live.now - weights - averaged
        activations, block, gradients, peak = step(learner, optimiser, recipe, inputs(recipe, shapes, batch), live)
        learner.model.recompute = True
        recomputed = step(learner, optimiser, recipe, inputs(recipe, shapes, batch), live)[-1]
        del optimiser, average
        sampling = sample_peak(learner.model, recipe, inputs(recipe, shapes, 2 * batch), live)
    network, trained = (sum(p.numel() for p in m.parameters()) for m in (learner.model, learner))
    return Memory(batch, network, trained, weights, gradients, state, averaged, activations, block, peak, recomputed, sampling)


def step(
    learner: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, given: tuple[Batch, Draw], live: Live
) -> tuple[int, int, int, int]:
    """(activations, those of a block, gradients, peak) of one step, in bytes."""
    marks: list[int] = []
    hooks = [block.register_forward_hook(lambda *_: marks.append(live.now)) for block in learner.model.blocks]
    before = live.peak = live.now
    with autocast(recipe):
        loss, losses = learner(*given)
    activations, full = live.now - before, live.now
    for hook in hooks:
        hook.remove()
    loss.backward()
    del loss, losses
    gradients = live.now - before
    nn.utils.clip_grad_norm_(learner.parameters(), recipe.clip)
    optimiser.step()
    optimiser.zero_grad()
    block = max((b - a for a, b in zip(marks, marks[1:])), default=full - before)
    return activations, block, gradients, live.peak


def sample_peak(model: nn.Module, recipe: Recipe, given: tuple[Batch, Draw], live: Live) -> int:
    """The most that one evaluation of the network without gradients holds, with the weights and what is kept of the text."""
    batch, draw = given
    live.peak = live.now
    with torch.no_grad(), autocast(recipe):
        velocity(model, recipe.predict, batch.x, draw.t, model.context(batch.text.tokens), batch.text.mask)
    return live.peak
