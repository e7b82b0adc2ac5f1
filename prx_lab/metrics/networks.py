"""Feature networks and their published preprocessing: FID (arXiv 1706.08500), CMMD (2401.09603), DINO-MMD, and the embedded ones."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab.errors import LabError

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean, std
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class FeatureNetwork(nn.Module, ABC):
    """A frozen network with its preprocessing: uint8 (B, 3, H, W) on any device to float32 features (B, E) on its own."""

    name: str

    def __init__(self, name: str, network: nn.Module):
        super().__init__()
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("here", torch.empty(0), persistent=False)

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Levels 0..255 as float32 (B, 3, H, W) to the network's input."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """The network's input to features (B, E)."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, E); LabError for images of another dtype."""
        if images.dtype != torch.uint8:
            raise LabError(f"'{self.name}' takes uint8 images, not {images.dtype}: pass floats through `extract`, which rounds them.")
        here = next((p.device for p in self.network.parameters()), self.here.device)  # a teacher that is shared may have been moved
        return self.embed(self.prepare(images.to(here).float())).float()


class LabJudge(FeatureNetwork):
    """The embedded judge's pooled features, for lab FID: it takes [-1, 1] and resizes by itself."""

    def prepare(self, images: Tensor) -> Tensor:
        return images / 127.5 - 1

    def embed(self, images: Tensor) -> Tensor:
        return self.network.features(images)


class LabTeacher(FeatureNetwork):
    """An embedded tower's image embedding, L2-normalised, for the lab MMDs: it takes [-1, 1] and resizes by itself."""

    def prepare(self, images: Tensor) -> Tensor:
        return images / 127.5 - 1

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.network.pooled(images).float(), dim=1)


class Inception(FeatureNetwork):
    """FID as clean-fid has it: antialiased bicubic to 299 x 299 in float, clipped to 0..255, not rounded again, (x - 128) / 128.

    The aspect ratio is not kept (as published). The TF-1 resize of the first FIDs has no antialiasing; their numbers differ.
    """

    def prepare(self, images: Tensor) -> Tensor:
        return (bicubic(images, 299, 299).clamp(0, 255) - 128) / 128

    def embed(self, images: Tensor) -> Tensor:
        return self.network(images)


class Clip(FeatureNetwork):
    """CMMD: shorter side antialiased bicubic to 336 and rounded to levels, centre crop, CLIP mean/std, projected embedding, L2 norm."""

    def prepare(self, images: Tensor) -> Tensor:
        return standardise(square(images, 336), *CLIP)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(pixel_values=images).image_embeds.float(), dim=1)


class Dino(FeatureNetwork):
    """DINO-MMD: antialiased bicubic to 518 x 518, ImageNet mean/std, normed class token, L2 norm. (PRX resizes without antialias.)"""

    def prepare(self, images: Tensor) -> Tensor:
        return standardise(bicubic(images, 518, 518).clamp(0, 255), *IMAGENET)

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.network.forward_features(images)[:, 0].float(), dim=1)


def bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bicubic resize, the filter of PIL; values may leave their range a little and are to be clipped."""
    return F.interpolate(images, size=(height, width), mode="bicubic", antialias=True, align_corners=False)


def square(images: Tensor, size: int) -> Tensor:
    """Shorter side to `size`, then the central size x size: (B, 3, H, W) to (B, 3, size, size), in whole levels.

    As PIL does it for 8-bit images: across, rounded to levels, then down, rounded again.
    """
    h, w = images.shape[-2:]
    tall, wide = (max(size, size * side // min(h, w)) for side in (h, w))
    across = bicubic(images, h, wide).round().clamp(0, 255)
    top, left = (tall - size) // 2, (wide - size) // 2
    return bicubic(across, tall, wide)[..., top : top + size, left : left + size].round().clamp(0, 255)


def standardise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Levels 0..255 to (x / 255 - mean) / std per channel."""
    centre, spread = (images.new_tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (images / 255 - centre) / spread
