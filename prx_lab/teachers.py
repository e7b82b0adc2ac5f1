"""Frozen networks as functions of images: to features, and to detected objects.

Embedded ones come from the package; real ones (DINOv2, DINOv3, CLIP, Inception) are the same code under another
name or a local folder, read from the local cache or fetched once. Their pooled and patch features follow REPA (arXiv 2410.06940).
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.autoencoders import freeze
from prx_lab.detector import SIZE, Detector, DetectorConfig, labels, peaks, place
from prx_lab.errors import LabError, nearest
from prx_lab.metrics.composition import Detection

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LAB_MEAN, LAB_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # embedded networks see the project's own [-1, 1]
EMBEDDED_VISION = ("lab-dino", "lab-dino-dense", "lab-dino-eval", "lab-clip")


class VisionTeacher(nn.Module, ABC):
    """A frozen image network; `width` is E, `patch` the side of a token in its input pixels, `side` its usual input size."""

    name: str
    width: int
    patch: int
    side: int

    @torch.no_grad()
    def tokens(self, images: Tensor, grid: int) -> Tensor:
        """Final-normed patch tokens (B, grid * grid, E) of images (B, 3, H, W) in [-1, 1], in raster order."""
        return self.patches(resize(images, grid * self.patch).clamp(-1, 1))

    @abstractmethod
    def patches(self, images: Tensor) -> Tensor:
        """The same of images whose sides are multiples of `patch`, as they are; gradients reach every pixel."""

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """One vector per image (B, E): the network's own global embedding, at its usual input size."""

    def attention(self, images: Tensor, grid: int, block: int) -> Tensor:
        """Queries, scaled, beside keys (B, h, N, 2 d) of the patch tokens in a block, counted as Python counts: -1 is the last.

        The products q k^T are the block's attention logits without the rows and columns of CLS and registers.
        """
        raise LabError(f"The queries and keys of '{self.name}' cannot be read; use an embedded teacher or a DINOv2.")


def resize(images: Tensor, side: int) -> Tensor:
    """Square images of another side, bicubic with antialiasing; (B, 3, H, W) in, (B, 3, side, side) out, unclamped."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)


class Normalise(nn.Module):
    """From the project's [-1, 1] to a network's own mean and standard deviation, given for images in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        return (images * 0.5 + 0.5 - self.mean) / self.std


class TimmTeacher(VisionTeacher):
    """A timm vision transformer (DINOv2, DINOv3, the embedded ones); pooled is the CLS token where it has one."""

    def __init__(self, name: str, network: nn.Module, mean: Sequence[float], std: Sequence[float], side: int):
        super().__init__()
        self.name, self.network, self.side = name, network, side
        self.width = network.embed_dim
        self.patch = network.patch_embed.patch_size[0]
        self.prefix = network.num_prefix_tokens  # CLS and registers
        self.normalise = Normalise(mean, std)

    def patches(self, images: Tensor) -> Tensor:
        return self.network.forward_features(self.normalise(images))[:, self.prefix :].float()

    @torch.no_grad()
    def attention(self, images: Tensor, grid: int, block: int) -> Tensor:
        from timm.models import VisionTransformer

        network = self.network
        if not isinstance(network, VisionTransformer):  # timm's other transformers turn queries and keys outside of `attn`
            return super().attention(images, grid, block)
        depth = len(network.blocks)
        if not -depth <= block < depth:
            raise LabError(f"'{self.name}' has {depth} blocks, so no block {block}; use {-depth} to {depth - 1}.")
        x = network.patch_embed(self.normalise(resize(images, grid * self.patch).clamp(-1, 1)))
        x = network.norm_pre(network.patch_drop(network._pos_embed(x)))
        *before, last = network.blocks[: block % depth + 1]
        for part in before:
            x = part(x)
        attn = last.attn
        q, k, _ = attn.qkv(last.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, 1+N, d) each
        return torch.cat([attn.q_norm(q) * attn.scale, attn.k_norm(k)], -1)[:, :, self.prefix :].float()

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        features = self.network.forward_features(self.normalise(resize(images, self.side).clamp(-1, 1)))
        return (features[:, 0] if self.prefix else features.mean(1)).float()


class CLIPTeacher(VisionTeacher):
    """The image tower of a transformers CLIP; pooled is its projected embedding, not yet normalised."""

    def __init__(self, name: str, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.name, self.network = name, network
        config = network.config
        self.width, self.patch, self.side = config.hidden_size, config.patch_size, config.image_size
        self.normalise = Normalise(mean, std)

    def patches(self, images: Tensor) -> Tensor:
        model = self.network.vision_model
        hidden = model(pixel_values=self.normalise(images), interpolate_pos_encoding=True).last_hidden_state
        return model.post_layernorm(hidden[:, 1:]).float()

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=self.normalise(resize(images, self.side).clamp(-1, 1))).image_embeds.float()


class InceptionFeatures(nn.Module):
    """torchvision's Inception-v3 graph up to the 2048 pooled features; a FID only with the FID weights (see `load_features`)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.name, self.width, self.side, self.network = "inception-v3", 2048, 299, network

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """Pooled features (B, 2048) of images (B, 3, H, W) in [-1, 1]: antialiased bicubic to 299, as clean-fid does."""
        return self.network(resize(images, self.side).clamp(-1, 1)).float()


class Judge(nn.Module):
    """The embedded detector, frozen: features for FID, and what it sees in an image."""

    def __init__(self, name: str, network: Detector):
        super().__init__()
        self.name, self.network, self.width = name, network, network.config.channels[-1]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, 112) of images (B, 3, H, W) in [-1, 1]; float32."""
        return self.network.pooled(resize(images, SIZE).clamp(-1, 1)).float()

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[list[Detection]]:
        """The objects seen in each image, best first; x and y in [0, 1], y down; score in [0, 1]."""
        maps = self.network(resize(images, SIZE).clamp(-1, 1))[0].float().cpu()
        found = peaks(maps, self.network.config.threshold, self.network.config.most)
        return [[self._read(maps, i, *peak) for peak in image] for i, image in enumerate(found)]

    @staticmethod
    def _read(maps: Tensor, image: int, score: float, row: int, column: int) -> Detection:
        x, y = place(maps, image, row, column)
        return Detection(**labels(maps, image, row, column), x=x, y=y, score=score)


@functools.lru_cache(maxsize=8)
def load_vision(name: str) -> VisionTeacher:
    """A frozen vision teacher by name or from a local folder of a timm or transformers CLIP model; cached per process.

    LabError for an unknown name.
    """
    from prx_lab import published  # timm and transformers are heavy: only what is asked for is imported

    if name in ("lab-dino", "lab-dino-dense", "lab-dino-eval"):
        return freeze(_embedded_vit(name))
    if name == "lab-clip":
        return freeze(_embedded_clip(name))
    known = [*EMBEDDED_VISION, *(n for n, real in zoo.REAL.items() if published.is_vision(real))]
    if name in known or Path(name).is_dir():
        return freeze(published.vision(name))
    raise LabError(f"There is no vision teacher '{name}'.{nearest(name, known)} Known: {', '.join(known)}, or a local folder.")


def look(name: str, images: Tensor, grid: int) -> Tensor:
    """What a teacher sees in images: its patch tokens (B, N, E), or (B, h, N, 2 d) the queries and keys of one of its blocks,
    whose number follows the name after `:qk`, as in `lab-dino:qk-1`."""
    base, mark, block = name.partition(":qk")
    teacher = load_vision(base).to(images.device)
    return teacher.attention(images, grid, int(block)) if mark else teacher.tokens(images, grid)


@functools.cache
def load_judge(name: str = "lab-inception") -> Judge:
    """The frozen judge of composition and source of FID features; LabError for another name than `lab-inception`."""
    if name != "lab-inception":
        raise LabError(f"There is no judge '{name}'.{nearest(name, ['lab-inception'])} Known: lab-inception.")
    state, config = zoo.load(name)
    network = Detector(DetectorConfig(**{**config, "channels": tuple(config["channels"])}))
    network.load_state_dict(state)
    return freeze(Judge(name, network))


def _embedded_vit(name: str) -> TimmTeacher:
    from timm.models import VisionTransformer

    state, config = zoo.load(name)
    network = VisionTransformer(**config)
    network.load_state_dict(state)
    return TimmTeacher(name, network, LAB_MEAN, LAB_STD, config["img_size"])


def _embedded_clip(name: str) -> CLIPTeacher:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    state, config = zoo.load(name)
    network = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["vision_config"]))
    network.load_state_dict({k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_projection."))})
    return CLIPTeacher(name, network, LAB_MEAN, LAB_STD)
