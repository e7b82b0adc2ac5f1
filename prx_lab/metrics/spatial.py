"""Spatial structure of patch tokens: four measures that predict how good a REPA teacher is, without training (arXiv 2512.10794).

All take tokens (B, N, E) in raster order on a square grid, N = g * g, work on cosines, and return one value per image (B,).
Larger means more structure. Defaults are those of the released code, made for 16 x 16 grids; compare equal grids only.
"""

import math

import torch
import torch.nn.functional as F

from prx_lab.errors import LabError


def lds(tokens: torch.Tensor, far: int = 6) -> torch.Tensor:
    """Local against distant similarity: mean cosine of 4-neighbours minus that of pairs at Manhattan distance >= `far`."""
    cosine, distance = _cosines(tokens)
    return cosine[:, distance == 1].mean(1) - cosine[:, distance >= far].mean(1)


def cds(tokens: torch.Tensor, reach: int = 8) -> torch.Tensor:
    """Correlation decay slope: minus the least-squares slope of the mean cosine over Manhattan distance 1..`reach`."""
    cosine, distance = _cosines(tokens)
    steps = torch.arange(1, min(reach, int(distance.max())) + 1)
    curve = torch.stack([cosine[:, distance == d].mean(1) for d in steps.tolist()], 1)  # (B, reach)
    lever = (steps - steps.float().mean()).to(curve)
    return -(curve - curve.mean(1, keepdim=True)) @ lever / (lever @ lever)


def srss(tokens: torch.Tensor, regions: torch.Tensor, near: int = 1, far: int = 6) -> torch.Tensor:
    """Semantic-region self-similarity: cosine within an object's patches minus cosine to patches far outside it.

    `regions` (B, N) holds one id per patch, negative for background. The paper draws one random object mask per image;
    we know the scene, so every object patch is an anchor once, its own region is its mask, and the expectation is exact.
    Positives lie within `near`, negatives at `far` or beyond; an image without such pairs gives nan: use `nanmean`.
    """
    cosine, distance = _cosines(tokens)
    same = regions[:, :, None] == regions[:, None, :]  # (B, N, N)
    positive = same & (distance > 0) & (distance <= near)
    negative = ~same & (distance >= far)
    anchor = (regions >= 0) & positive.any(2) & negative.any(2)
    gap = _masked_mean(cosine, positive) - _masked_mean(cosine, negative)  # (B, N)
    count = anchor.sum(1)
    return torch.where(count > 0, (gap * anchor).sum(1) / count.clamp(min=1), torch.nan)


def rmsc(tokens: torch.Tensor) -> torch.Tensor:
    """RMS spatial contrast: root mean square distance of the unit-norm tokens from their mean, in [0, 1]."""
    unit = F.normalize(tokens.float(), dim=-1)
    return (unit - unit.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()


def _cosines(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grid = math.isqrt(tokens.shape[1])
    if grid * grid != tokens.shape[1]:
        raise LabError(f"Spatial measures need a square grid of tokens, not {tokens.shape[1]} tokens.")
    unit = F.normalize(tokens.float(), dim=-1)
    axis = torch.arange(grid, device=tokens.device)
    place = torch.cartesian_prod(axis, axis)  # raster order: row, column
    return unit @ unit.mT, (place[:, None] - place[None]).abs().sum(-1)


def _masked_mean(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (value * mask).sum(-1) / mask.sum(-1).clamp(min=1)
