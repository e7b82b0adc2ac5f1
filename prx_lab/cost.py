"""What a recipe costs, computed from its shapes: multiply-adds, counted as two operations each, parameters and bytes.

N image tokens, L text tokens, D width, K kept tokens.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab.data.batch import Text
from prx_lab.model import DENSE, Arch
from prx_lab.recipe import Recipe
from prx_lab.routing import Router
from prx_lab.sample import Condition, generate
from prx_lab.steps.base import Descent
from prx_lab.terms import Term
from prx_lab.terms.haste import AttentionAlignment
from prx_lab.terms.perceptual import Perceptual

if TYPE_CHECKING:
    from rich.table import Table

    from prx_lab.footprint import Memory
    from prx_lab.train import Learner

# What the published networks make, from their configurations: a table needs none of their weights.
SPACES = {"pixels": (3, 1), "flux": (16, 8), "repa-e": (16, 8), "dc-ae": (32, 32), "flux2": (128, 16)}  # channels, stride
TEXTS = {"t5gemma-2b": (2304, 256)}  # width, places
VISION = {"s": 384, "b": 768, "l": 1024}  # widths of DINOv2 and DINOv3


@dataclass(frozen=True)
class Dims:
    """The shapes of a recipe's data: latents, text, and what each vision teacher gives for one image."""

    channels: int
    stride: int
    context: int  # width of the text features
    text: int  # text tokens of a caption, padding included
    teachers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def widths(self) -> dict[str, int]:
        """Width of what each vision teacher gives, by its name."""
        return {name: shape[-1] for name, shape in self.teachers.items()}


def dims(recipe: Recipe) -> Dims:
    """The shapes of a recipe's data in all its phases; published networks are not loaded for it. Captions are taken to fill every place."""
    from prx_lab.spaces import load_space
    from prx_lab.text import reader

    if recipe.space in SPACES:
        channels, stride = SPACES[recipe.space]
    else:
        space = load_space(recipe.space)
        channels, stride = space.channels, space.stride
    if recipe.text in TEXTS:
        width, places = TEXTS[recipe.text]
        places = recipe.text_tokens or places
    else:
        encoder = reader(recipe)
        width, places = encoder.width, encoder.length
    names = dict.fromkeys(name for _, part in recipe.plan for name in part.teachers)
    return Dims(channels, stride, width, places, {name: seen(name, recipe) for name in names})


def seen(name: str, recipe: Recipe) -> tuple[int, ...]:
    """The shape of what a vision teacher gives for one image."""
    from prx_lab.teachers import look

    base, mark, _ = name.partition(":qk")
    family, _, size = base.removesuffix("-reg").partition("-")
    n = recipe.scale.tokens
    if family in ("dinov2", "dinov3") and size in VISION:
        return (VISION[size] // 64, n, 128) if mark else (n, VISION[size])  # heads of width 64
    side = recipe.scale.size
    return tuple(look(name, torch.zeros(1, 3, side, side), recipe.scale.grid).shape[1:])


# ------------------------------------------------------------------------------------------------ operations
def block_flops(arch: Arch, tokens: int, text: int) -> int:
    """One block on `tokens` image tokens of one sample: matrix products alone, as norms, gates and rotations are few."""
    D, hidden = arch.width, int(arch.mlp_ratio * arch.width)
    linear = tokens * (3 * D * D + D * D + 3 * D * hidden) + 6 * D * D  # qkv, out, GEGLU; modulation
    attention = 2 * tokens * (text + tokens) * D  # q k^T and its product with v, over all heads
    return 2 * (linear + attention)


def text_flops(arch: Arch, text: int) -> int:
    """What reads the text of one sample: its map to the width, then keys and values for every block."""
    return 2 * text * (arch.context * arch.width + arch.depth * 2 * arch.width**2)


def outer_flops(arch: Arch, tokens: int) -> int:
    """What is outside the blocks, for one sample: patch embedding, time, the final layer."""
    D, patch = arch.width, arch.channels * arch.patch**2
    embed = (patch + D) * arch.bottleneck if arch.bottleneck else patch * D
    return 2 * (tokens * (embed + D * patch) + 256 * D + D * D + 2 * D * D)


def image_flops(arch: Arch, tokens: int, text: int, router: Router, kept: int) -> int:
    """A pass for one image whose text is read already, with `kept` tokens in the routed blocks; with none those do not run."""
    first, last = router.span(arch.depth)
    routed = last - first + 1 if kept < tokens else 0
    blocks = (arch.depth - routed) * block_flops(arch, tokens, text) + routed * bool(kept) * block_flops(arch, kept, text)
    with torch.device("meta"):
        joined = sum(p.numel() for p in router.build(arch.width, arch.depth).parameters() if p.ndim == 2)  # SPRINT's fusion
    return blocks + outer_flops(arch, tokens) + 2 * tokens * joined


def forward_flops(arch: Arch, tokens: int, text: int, router: Router = DENSE) -> int:
    """Operations of the network's forward pass for one image of `tokens` tokens and `text` text tokens, in training under a router.

    Every text token that is there counts, also a masked one.
    """
    return image_flops(arch, tokens, text, router, router.kept(tokens)) + text_flops(arch, text)


def unread_flops(arch: Arch, tokens: int, text: int) -> int:
    """Gradients that a backward pass leaves out: those of the noisy image, the text features and the time's sinusoid."""
    patch = arch.channels * arch.patch**2
    return 2 * (tokens * patch * (arch.bottleneck or arch.width) + text * arch.context * arch.width + 256 * arch.width)


def head_flops(learner: "Learner", tokens: int) -> int:
    """A forward pass of the terms' trained heads for one image: each of their matrices works once on every token it sees."""
    first, last = learner.model.route.span
    kept, total = learner.recipe.router.kept(tokens), 0
    for term in learner.terms:
        seen = kept if all(first <= tap <= last for tap in term.taps) else tokens
        total += 2 * seen * sum(p.numel() for p in term.parameters() if p.ndim > 1)
    return total


def step_flops(recipe: Recipe, shapes: Dims) -> int:
    """Operations of a training step for one image: forward, and backward at twice the forward less what nobody reads.

    Attention is counted without the recomputation of its scores that fused kernels do. See `uncounted` for what is left out.
    """
    learner, n = on_meta(recipe, shapes), recipe.scale.tokens
    forward = forward_flops(learner.model.arch, n, shapes.text, recipe.router) + head_flops(learner, n)
    return 3 * forward - unread_flops(learner.model.arch, n, shapes.text)


def run_flops(recipe: Recipe, shapes: Dims) -> int:
    """Operations of all training steps of all phases."""
    ends = [start for start, _ in recipe.plan[1:]] + [recipe.scale.steps]
    return sum(step_flops(part, shapes) * recipe.scale.batch * (end - start) for (start, part), end in zip(recipe.plan, ends))


def uncounted(recipe: Recipe) -> tuple[str, ...]:
    """Names of the parts whose work in a step is not counted: frozen networks, and products that no weight takes part in."""
    found = [type(term).__name__ for term in recipe.terms if isinstance(term, Perceptual | AttentionAlignment)]
    return tuple(found) if isinstance(recipe.rule, Descent) else (*found, type(recipe.rule).__name__)


def trained_terms(recipe: Recipe) -> tuple[Term, ...]:
    """The terms that need no frozen network to be built."""
    return tuple(term for term in recipe.terms if not isinstance(term, Perceptual))


def on_meta(recipe: Recipe, shapes: Dims) -> "Learner":
    """The recipe's learner as shapes without data, and without frozen networks."""
    from prx_lab.train import Learner

    with torch.device("meta"):
        return Learner(recipe.but(phases=(), terms=trained_terms(recipe)), shapes.channels, shapes.stride, shapes.context, shapes.widths)


def sampling_flops(recipe: Recipe, shapes: Dims, steps: int = 0) -> int:
    """Operations of the network for one sampled image: the recipe's guidance is asked for its passes, step by step.

    A text is read once, however many steps ask for it.
    """
    arch, n, total = recipe.arch(shapes.channels, shapes.stride, shapes.context), recipe.scale.tokens, 0
    read: list[Tensor] = []

    def v(x: Tensor, t: float, text: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
        nonlocal total
        if not any(text is known for known in read):
            read.append(text)
            total += len(x) * text_flops(arch, shapes.text)
        total += len(x) * image_flops(arch, n, shapes.text, recipe.router, n if keep is None else keep.shape[1])
        return torch.zeros_like(x)

    word = torch.ones(1, 1, dtype=torch.bool)
    text = Text(torch.zeros(1, 1, 1), word, torch.zeros(1, 1, 1), word)
    x = torch.zeros(1, 1, 1, 1)  # only the number of samples is looked at
    generate(v, Condition(text, torch.rand(1, n), x[0]), x, recipe.guidance, steps or recipe.eval_steps, recipe.shift)
    return total


# ------------------------------------------------------------------------------------------------ the table
def memory(recipe: Recipe, shapes: Dims, batch: int = 0) -> "Memory":
    """Bytes of a training step of `batch` images (the recipe's when 0) and of sampling, found by running them on shapes alone."""
    from prx_lab.footprint import trace

    return trace(recipe.but(phases=(), terms=trained_terms(recipe)), shapes, batch or recipe.scale.batch)


def table(recipe: Recipe, shapes: Dims | None = None, batch: int = 0) -> "Table":
    """The recipe's cost, of its first phase where there are several, as a table; nothing in it is measured."""
    from rich.table import Table

    shapes = shapes or dims(recipe)
    s, found = recipe.scale, memory(recipe, shapes, batch)
    arch = recipe.arch(shapes.channels, shapes.stride, shapes.context)
    title = f"{s.tokens} image and {shapes.text} text tokens"
    shown = Table("what", "computed", "of", title=title, box=None, caption_style="italic")  # rich's own is too pale
    shown.columns[1].justify = "right"
    rows = [
        ("parameters, network", f"{found.network:,}", ""),
        ("parameters, trained", f"{found.trained:,}", "with the terms' heads"),
        ("forward pass", flop(forward_flops(arch, s.tokens, shapes.text, recipe.router)), "an image"),
        ("training step", flop(step_flops(recipe, shapes)), "an image"),
        ("training run", flop(run_flops(recipe, shapes)), f"{s.steps:,} steps of {s.batch} images"),
        ("sampling", flop(sampling_flops(recipe, shapes)), f"an image, {recipe.eval_steps} steps"),
        *((name, size(value), what) for name, value, what in found.rows()),
    ]
    for row in rows:
        shown.add_row(*row)
    left = "".join(f", {name}" for name in uncounted(recipe))
    shown.caption = f"Computed, not measured. Not counted: frozen networks{left}. Compiled blocks keep fewer activations."
    return shown


def flop(n: int) -> str:
    """A number of operations to three digits."""
    return scaled(n, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"))


def size(n: int) -> str:
    """A number of bytes to three digits."""
    return scaled(n, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def scaled(n: int, base: int, units: tuple[str, ...]) -> str:
    """A number to three digits in the first of the `units`, each `base` times the one before, in which it is below 1000, or in the last."""
    power = 0
    while n >= 999.5 * base**power and power + 1 < len(units):  # not 1,000 but 1 of the next
        power += 1
    value = n / base**power
    return f"{value:,.{max(0, 2 - len(str(int(value))) + 1)}f} {units[power]}" if power else f"{n} {units[0]}"
