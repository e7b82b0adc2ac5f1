"""What is measured: recipes on data of the right shapes, and the same training step around diffusers' transformer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from prx_lab.cost import Dims
from prx_lab.data.store import Store
from prx_lab.model import PRX, Arch, Feat
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE
from prx_lab.scales import SCALES
from prx_lab.train import Training

WORDS = 35  # text tokens of the embedded world's long captions, and their usual number of empty places
CONTEXT = 128  # width of lab-t5
DIMS = Dims(channels=16, stride=4, context=CONTEXT, text=WORDS)
SCALE = "gpu" if torch.cuda.is_available() else "cpu"


def recipe(tokens: int = 0, batch: int = 0, base: Recipe = BASE) -> Recipe:
    """The recipe at the device's scale, or with other numbers of tokens and images per step."""
    scale = SCALES[SCALE]
    side = round((tokens or scale.tokens) ** 0.5)
    return base.but(scale=replace(scale, grid=side, size=scale.size * side // scale.grid, batch=batch or scale.batch))


def store(recipe: Recipe, teachers: dict[str, int] | None = None) -> Store:
    """Random latents, captions and teachers' tokens (width by name) of a recipe's shapes, two batches of them."""
    g, s = np.random.default_rng(0), recipe.scale
    n, side = 2 * s.batch, s.size // 4  # lab-vae turns 4 x 4 pixels into one cell
    lengths = np.append(g.integers(24, WORDS + 1, n), 2)
    lengths[: n : s.batch] = WORDS  # the longest caption of a batch fills its row, as in real batches
    text = {
        "tokens": g.standard_normal((n + 1, WORDS, CONTEXT), np.float32).astype(np.float16),
        "mask": np.arange(WORDS)[None] < lengths[:, None],
    }
    x = g.standard_normal((n, 16, side, side), np.float32).astype(np.float16)
    seen = {k: g.standard_normal((n, s.tokens, E), np.float32).astype(np.float16) for k, E in (teachers or {}).items()}
    return Store(np.zeros((n, s.size, s.size, 3), np.uint8), x, text, seen)


def diffusers_transformer(arch: Arch, weights: dict[str, Tensor]):
    """diffusers' PRXTransformer2DModel with a PRX network's weights."""
    from diffusers import PRXTransformer2DModel

    d = arch.width // arch.heads
    theirs = PRXTransformer2DModel(
        in_channels=arch.channels, patch_size=arch.patch, context_in_dim=arch.context, hidden_size=arch.width, mlp_ratio=arch.mlp_ratio,
        num_heads=arch.heads, depth=arch.depth, axes_dim=[d // 2, d // 2], bottleneck_size=arch.bottleneck or None,
    )  # fmt: skip
    theirs.load_state_dict(weights)
    return theirs


class Theirs(nn.Module):
    """diffusers' transformer behind the call of PRX, without routing and taps."""

    def __init__(self, model: PRX):
        super().__init__()
        self.arch, self.transformer = model.arch, diffusers_transformer(model.arch, model.state_dict())

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor,
        keep: None,
        skip: None,
        taps: Sequence[int] = (),
        heads: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Feat]]:
        return self.transformer(x_t, t, text, mask, return_dict=False)[0], {}


def ours(recipe: Recipe, data: Store, device: torch.device, compiled: bool = False) -> Training:
    """A training run at its first step."""
    return Training(recipe, data, 0, device, compiled)


def theirs(recipe: Recipe, data: Store, device: torch.device, compiled: bool = False) -> Training:
    """The same run with diffusers' transformer in place of PRX: objective, draws, data, clipping and AdamW are the same code."""
    training = Training(recipe, data, 0, device)
    training.learner.model = Theirs(training.learner.model).to(device)
    training.optimizer = recipe.optim.build(training.learner, recipe.scale.lr)
    if compiled:
        for block in training.learner.model.transformer.blocks:
            block.compile()
    return training


def randomised(model: nn.Module, std: float = 0.02) -> nn.Module:
    """Weights away from their start, where gates are zero and nothing would be seen of a block."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=g).to(p.device)
    return model
