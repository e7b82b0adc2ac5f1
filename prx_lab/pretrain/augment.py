"""Mirror images, and the defects that generated pictures have: a judge must read through them, not be surprised by them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from prx_lab.data.scenes import LIGHTS

LEFT, RIGHT = LIGHTS.index("left"), LIGHTS.index("right")


def flip(images: Tensor, objects: Tensor, scene: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror half of the images (B, 3, H, W), with the x of their objects (B, 4, 7) and the side of their light (B, 6)."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    objects = objects.clone()
    objects[..., 4] = torch.where(mirrored[:, None], 1 - objects[..., 4], objects[..., 4])
    light = scene[:, 2]
    turned = torch.where(light == LEFT, RIGHT, torch.where(light == RIGHT, LEFT, light))
    scene = scene.clone()
    scene[:, 2] = torch.where(mirrored, turned, light)
    return images, objects, scene


def defects(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each defect on about a third of the images, at random strength: blur, resampling, noise, contrast, quantised blocks."""
    n = len(images)

    def chosen(share: float) -> Tensor:
        return (torch.rand(n, generator=generator) < share)[:, None, None, None]

    def strength(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    images = torch.where(chosen(0.35), torch.lerp(images, blur(images), strength(0.2, 1.0)), images)
    images = torch.where(chosen(0.2), resample(images), images)
    images = torch.where(chosen(0.25), quantise(images), images)
    noise = torch.randn(images.shape, generator=generator)
    images = torch.where(chosen(0.35), images + noise * strength(0.01, 0.10), images)
    images = torch.where(chosen(0.4), images * strength(0.85, 1.1) + strength(-0.08, 0.08), images)
    return images.clamp(-1, 1)


def blur(images: Tensor) -> Tensor:
    """A 3 x 3 binomial filter, edges repeated."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    weight = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), weight, groups=3)


def resample(images: Tensor) -> Tensor:
    """Down to three quarters and back: what a decoder with too little detail gives."""
    side = images.shape[-1]
    small = F.interpolate(images, (side * 3 // 4,) * 2, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, (side, side), mode="bilinear", align_corners=False)


def quantise(images: Tensor) -> Tensor:
    """JPEG's effect without its codec: 8 x 8 cosine coefficients rounded more coarsely the higher their frequency."""
    basis = _cosine_basis()
    b, c, h, w = images.shape
    blocks = images.view(b, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
    step = 0.06 * (1 + torch.arange(8.0)[:, None] + torch.arange(8.0))
    coefficients = torch.round(basis @ blocks @ basis.T / step) * step
    return (basis.T @ coefficients @ basis).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)


def _cosine_basis() -> Tensor:
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    basis = torch.cos(torch.pi * (n + 0.5) * k / 8) * 0.5
    basis[0] /= 2**0.5
    return basis
