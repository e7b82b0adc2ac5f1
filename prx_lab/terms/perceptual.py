"""Perceptual losses on the predicted clean image (PixelGen, arXiv 2602.02493; LPIPS, arXiv 1801.03924; DINOv2 features).

Two images are compared by what frozen networks make of them: a convolutional one, stage by stage, and a vision teacher,
patch by patch. In a latent space both x and its prediction are decoded first, so a perfect prediction costs nothing.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import spaces
from prx_lab.data.batch import Batch
from prx_lab.errors import LabError, nearest
from prx_lab.flow import Point
from prx_lab.model import PRX
from prx_lab.teachers import load_judge, load_vision, resize
from prx_lab.terms.base import Out, Term, TermModule, rescaled

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

STAGED = ("lab-inception", "lab-vae")  # networks whose stages can be compared
load_space = cache(spaces.load_space)


def stage_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """sum_l mean_hw || a_l / |a_l| - b_l / |b_l| ||^2 with unit vectors across channels; stages (B, C_l, h_l, w_l) -> (B,)."""
    pairs = ((F.normalize(f.float(), dim=1, eps=1e-10), F.normalize(g.float(), dim=1, eps=1e-10)) for f, g in zip(a, b, strict=True))
    return torch.stack([(f - g).square().sum(1).mean((1, 2)) for f, g in pairs]).sum(0)


def patch_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over patches of 1 - cos; tokens (B, N, E) -> (B,)."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1).mean(1)


def gated(values: Tensor, t: Tensor, until: float) -> Tensor:
    """Mean of `values` (B,) over the samples with t < until, in noise time; 0 when there is none."""
    passes = (t < until).to(values.dtype)
    return (values * passes).sum() / passes.sum().clamp(min=1)


class PerceptualLoss(TermModule):
    """distance(view(decode(x_theta)), view(decode(x))) per sample, averaged over the samples that pass the gate.

    The frozen networks follow the module from device to device and are no part of it otherwise: they are not trained, not
    saved, not counted, and keep their own dtype.
    """

    def __init__(self, until: float, space: spaces.Space, network: nn.Module):
        super().__init__()
        self.until, self.frozen = until, (space, network)  # a tuple, which registers nothing
        self.register_buffer("here", torch.empty(0), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PerceptualLoss":
        super()._apply(fn, recurse)
        for network in self.frozen:
            network.to(self.here.device)
        return self

    @abstractmethod
    def distance(self, predicted: Tensor, clean: Tensor) -> Tensor:
        """Distance (B,) of images (B, 3, H, W); gradients reach `predicted`."""

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        space = self.frozen[0]
        with torch.no_grad():
            clean = space.unclamped(point.x)
        loss, rest = gated(self.distance(space.unclamped(out.x), clean), point.t, self.until), out.rest
        return loss if rest is None else rescaled(loss, point.t < self.until, rest.t < self.until)


class LPIPSLoss(PerceptualLoss):
    """LPIPS without learnt channel weights: unit-normalised features of every stage, squared difference, mean over places."""

    def __init__(self, until: float, space: spaces.Space, network: nn.Module, scale: float):
        super().__init__(until, space, network)
        self.scale = scale

    def distance(self, predicted: Tensor, clean: Tensor) -> Tensor:
        side = round(self.scale * clean.shape[-1])
        stages = self.frozen[1].stages
        with torch.no_grad():
            target = stages(resize(clean, side))
        return stage_distance(stages(resize(predicted, side)), target)


class PerceptualDINOLoss(PerceptualLoss):
    """1 - cos of a vision teacher's patch tokens on grid x grid patches of the whole image."""

    def __init__(self, until: float, space: spaces.Space, network: nn.Module, grid: int):
        super().__init__(until, space, network)
        self.side = grid * network.patch

    def distance(self, predicted: Tensor, clean: Tensor) -> Tensor:
        patches = self.frozen[1].patches
        with torch.no_grad():
            target = patches(resize(clean, self.side))
        return patch_distance(patches(resize(predicted, self.side)), target)


class Encoder(nn.Module):
    """The encoder of an embedded autoencoder, whose blocks are the stages."""

    def __init__(self, space: spaces.KLSpace):
        super().__init__()
        self.encoder = space.vae.encoder

    def stages(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> features (B, C_l, h_l, w_l) after every block."""
        h, found = self.encoder.conv_in(images), []
        for block in self.encoder.down_blocks:
            h = block(h)
            found.append(h)
        return found


def staged(name: str) -> nn.Module:
    """The network whose stages an `LPIPS` compares; a copy of the judge, which evaluates where it is when the learner moves."""
    return copy.deepcopy(load_judge(name).network) if name == "lab-inception" else Encoder(load_space(name))


@dataclass(frozen=True)
class Perceptual(Term):
    """What the two losses share: the decoder they look through, and the gate in noise time (PixelGen: 0.7; PRX: 1, always)."""

    space: str = "pixels"  # the recipe's space, whose decoder turns x into an image
    until: float = 0.7

    def check(self, recipe: "Recipe") -> None:
        kind = type(self).__name__
        if self.space != recipe.space:
            raise LabError(
                f"{kind} decodes from '{self.space}' and the recipe works in '{recipe.space}'; use {kind}(space={recipe.space!r})."
            )
        if self.weight < 0:
            raise LabError(f"The weight of {kind} is {self.weight}; a distance is made smaller, so use a weight of at least 0.")
        if not 0 < self.until <= 1:
            raise LabError(f"{kind} counts samples with t < {self.until}; use a noise time in (0, 1], 1 for all.")


@dataclass(frozen=True)
class LPIPS(Perceptual):
    """Distance of the stages of a convolutional network; `scale` resizes the images first (PRX: 0.5 at 1024 pixels).

    The embedded networks stand where the paper has VGG-16; they carry no weights learnt from human judgements. Mind that
    lab-inception is also the judge of FID and composition.
    """

    weight: float = 0.1
    network: str = "lab-inception"
    scale: float = 1.0

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        if self.network not in STAGED:
            known = f"Known: {', '.join(STAGED)}; VGG-16 and its LPIPS weights are not part of the package."
            raise LabError(f"LPIPS has no network '{self.network}'.{nearest(self.network, STAGED)} {known}")
        if not 0 < self.scale <= 1:
            raise LabError(f"LPIPS looks at images scaled by {self.scale}; use a factor in (0, 1].")
        side = self.scale * recipe.scale.size
        if side < 16:
            raise LabError(f"LPIPS would see {side:g} pixels a side, fewer than its stages need (16); raise scale.")

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        with torch.random.fork_rng(devices=[]):  # a network draws weights when it is first loaded: not from the next term's
            return LPIPSLoss(self.until, load_space(self.space), staged(self.network), self.scale)


@dataclass(frozen=True)
class PerceptualDINO(Perceptual):
    """1 - cos of the patch tokens of a vision teacher that sees the image as grid x grid patches (the authors: 16 of DINOv2-B)."""

    weight: float = 0.01
    teacher: str = "lab-dino-dense"
    grid: int = 8

    def check(self, recipe: "Recipe") -> None:
        super().check(recipe)
        if self.grid < 1:
            raise LabError(f"PerceptualDINO compares {self.grid} patches a side; use at least 1.")

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        with torch.random.fork_rng(devices=[]):
            return PerceptualDINOLoss(self.until, load_space(self.space), load_vision(self.teacher), self.grid)
