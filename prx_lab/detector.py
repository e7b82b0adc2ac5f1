"""A small centre-point detector (CenterNet, arXiv 1904.07850): reads every object of a scene, and gives features for FID."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab.data.graph import COLOURS, FLOORS, LEVELS, LIGHTS, MATERIALS, SHAPES, SIZES, STYLES, WALLS

SIZE = 64  # the side in pixels of the images it was trained on
GRID = 16  # heads predict on GRID x GRID cells
ATTRIBUTES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "material": MATERIALS}
GLOBALS = {
    "floor": tuple(FLOORS),
    "wall": tuple(WALLS),
    "light": LIGHTS,
    "style": STYLES,
    "level": LEVELS,
    "count": ("0", "1", "2", "3", "4"),
}


@dataclass(frozen=True)
class DetectorConfig:
    """Channels at strides 2, 4 and 8; the last is the width of the pooled features."""

    channels: tuple[int, int, int] = (32, 64, 112)
    head: int = 96
    threshold: float = 0.3  # a peak below this is no object; calibrated on the validation split
    most: int = 6  # never report more objects than this


class Residual(nn.Module):
    """Two 3 x 3 convolutions, normalised before each; GroupNorm, so an image's features do not depend on its batch."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Detector(nn.Module):
    """Images (B, 3, 64, 64) in [-1, 1] to per-cell maps on a 16 x 16 grid and logits about the scene."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        a, b, c = config.channels
        self.config = config
        self.stride2 = nn.Sequential(nn.Conv2d(3, a, 5, stride=2, padding=2), Residual(a))
        self.stride4 = nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), Residual(b), Residual(b))
        self.stride8 = nn.Sequential(nn.Conv2d(b, c, 3, stride=2, padding=1), Residual(c), Residual(c))
        self.norm = nn.GroupNorm(8, c)
        self.down = nn.Conv2d(c, b, 1)
        self.merge = Residual(b)
        self.head = nn.Sequential(nn.GroupNorm(8, b), nn.ReLU(), nn.Conv2d(b, config.head, 3, padding=1), nn.ReLU())
        self.maps = nn.Conv2d(config.head, 3 + sum(map(len, ATTRIBUTES.values())), 1)
        self.scene = nn.Linear(c, sum(map(len, GLOBALS.values())))
        with torch.no_grad():
            self.maps.bias.zero_()
            self.maps.bias[0] = -4.0  # almost every cell is empty: start there, as RetinaNet does

    def stages(self, images: Tensor) -> list[Tensor]:
        """Features at strides 2, 4 and 8, (B, 32, H/2, W/2) and so on, the last normalised and rectified."""
        first = self.stride2(images)
        second = self.stride4(first)
        return [first, second, F.relu(self.norm(self.stride8(second)))]

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features at stride 4 (B, 64, 16, 16) and at stride 8 (B, 112, 8, 8), the latter normalised and rectified."""
        _, fine, coarse = self.stages(images)
        return fine, coarse

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, 3 + attributes, 16, 16): centre logit, offset x, y, attribute logits; and scene logits (B, globals)."""
        fine, coarse = self.trunk(images)
        merged = self.merge(fine + F.interpolate(self.down(coarse), scale_factor=2.0, mode="nearest"))
        return self.maps(self.head(merged)), self.scene(coarse.mean((2, 3)))

    def pooled(self, images: Tensor) -> Tensor:
        """Features for FID (B, 112): the stride-8 features averaged over the image, as Inception's pool3 is."""
        return self.trunk(images)[1].mean((2, 3))


def split(logits: Tensor, classes: dict[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Cut concatenated logits (B, sum, ...) into one block per attribute."""
    return dict(zip(classes, logits.split([len(c) for c in classes.values()], 1), strict=True))


def peaks(maps: Tensor, threshold: float, most: int) -> list[list[tuple[float, int, int]]]:
    """Per image up to `most` (score, row, column) whose centre score exceeds its 8 neighbours' and the threshold."""
    heat = maps[:, :1].sigmoid()
    heat = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
    score, cell = heat.flatten(1).topk(most)
    width = maps.shape[-1]
    return [
        [(s, c // width, c % width) for s, c in zip(row, cells, strict=True) if s >= threshold]
        for row, cells in zip(score.tolist(), cell.tolist(), strict=True)
    ]


def place(maps: Tensor, image: int, row: int, column: int) -> tuple[float, float]:
    """Image x, y in [0, 1] of the object whose peak lies in this cell."""
    dx, dy = maps[image, 1:3, row, column].tolist()
    return (column + 0.5 + dx) / maps.shape[-1], (row + 0.5 + dy) / maps.shape[-2]


def labels(maps: Tensor, image: int, row: int, column: int) -> dict[str, str]:
    """The most likely value of every attribute in this cell."""
    cell = split(maps[image : image + 1, 3:, row, column], ATTRIBUTES)
    return {name: ATTRIBUTES[name][int(logits.argmax())] for name, logits in cell.items()}
