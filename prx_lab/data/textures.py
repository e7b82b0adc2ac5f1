"""Surface colour: mip-mapped floor and wall textures, drawn or cut from photographs, and stripes and dots on solids."""

import functools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prx_lab.data.graph import COLOURS, HALF, TUBE, Object

SIDE = 512  # texels of a texture's side at its finest level
SEAM = 40  # texels over which a photograph's edges are faded into each other
# world units that a texture spans before it repeats
SPAN = {"wood": 3.2, "tiles": 2.4, "checker": 2.4, "photo-gravel": 4.5, "photo-grass": 5.0, "photo-stone": 5.0,
        "photo-brick": 4.5, "photo-cloth": 3.0, "photo-rough": 5.0}  # fmt: skip
# photograph (shipped inside scikit-image), crop (left, top, right, bottom), quarter turns, and the tone it is given
PHOTOGRAPHS = {
    "photo-gravel": ("gravel.png", (0, 0, 512, 512), 0, (0.70, 0.66, 0.61)),
    "photo-grass": ("grass.png", (0, 0, 512, 512), 0, (0.44, 0.58, 0.28)),
    "photo-stone": ("brick.png", (60, 130, 440, 510), 0, (0.66, 0.66, 0.68)),
    "photo-brick": ("brick.png", (60, 130, 440, 510), 1, (0.72, 0.50, 0.42)),
    "photo-cloth": ("astronaut.png", (62, 292, 126, 350), 0, (0.55, 0.62, 0.72)),
    "photo-rough": ("moon.png", (10, 270, 150, 410), 0, (0.74, 0.73, 0.71)),
}


def linear(c: Tensor) -> Tensor:
    """sRGB values in [0, 1] to linear light."""
    return torch.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


@functools.cache
def paint(colour: tuple[float, float, float]) -> Tensor:
    """An sRGB colour as linear light (3, 1)."""
    return linear(torch.tensor(colour)).view(3, 1)


def gamma(light: Tensor) -> Tensor:
    """Linear light to sRGB in [0, 1]."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-4) ** (1 / 2.4) - 0.055)


# ---- floors and walls


def noise(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    """Smooth periodic noise in about [-1, 1]: a (SIDE, SIDE) field with `rows` x `columns` bumps."""
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, rows, columns)).astype(np.float32))
    wide = F.interpolate(F.pad(coarse, (2, 2, 2, 2), mode="circular"), scale_factor=8, mode="bicubic")
    return F.interpolate(wide[..., 16:-16, 16:-16], (SIDE, SIDE), mode="bilinear")[0, 0]


def wood(rng: np.random.Generator) -> Tensor:
    """Four columns of two boards each, with grain along them."""
    v, u = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    plank = u // (SIDE // 4)
    board = plank * 2 + ((v + plank * 190) % SIDE) // (SIDE // 2)
    shift = torch.from_numpy(rng.uniform(-1, 1, 8).astype(np.float32))[board]
    grain = noise(rng, 4, 60) * 0.6 + noise(rng, 10, 128) * 0.4
    tone = 1 + 0.16 * shift + 0.13 * grain
    seam = ((u % (SIDE // 4)) < 5) | (((v + plank * 190) % (SIDE // 2)) < 4)
    base = torch.tensor((0.78, 0.64, 0.48)).view(3, 1, 1)
    return base * torch.where(seam, 0.55, tone)


def tiles(rng: np.random.Generator) -> Tensor:
    """Sixteen pale square tiles with grey joints."""
    v, u = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    side = SIDE // 4
    joint = ((u % side) < 7) | ((v % side) < 7)
    shift = torch.from_numpy(rng.uniform(-1, 1, 16).astype(np.float32))[(v // side) * 4 + u // side]
    tone = 0.84 + 0.035 * shift + 0.015 * noise(rng, 24, 24)
    return torch.tensor((1.0, 0.985, 0.95)).view(3, 1, 1) * torch.where(joint, 0.58, tone)


def checker(rng: np.random.Generator) -> Tensor:
    """Four light and dark squares a side."""
    v, u = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    light = ((u // (SIDE // 4)) + (v // (SIDE // 4))) % 2 == 0
    return torch.where(light, 0.88, 0.58) * torch.tensor((1.0, 1.0, 1.01)).view(3, 1, 1) + 0.012 * noise(rng, 32, 32)


DRAWN = {"wood": wood, "tiles": tiles, "checker": checker}


def photograph(name: str) -> Tensor:
    """A toned crop of a photograph (3, SIDE, SIDE) whose opposite edges are faded into each other, so that it repeats."""
    import skimage.data
    from PIL import Image

    file, crop, turns, tone = PHOTOGRAPHS[name]
    with Image.open(Path(skimage.data.__file__).parent / file) as photo:
        grey = photo.convert("L").crop(crop).resize((SIDE + SEAM, SIDE + SEAM), Image.Resampling.LANCZOS)
    image = torch.from_numpy(np.rot90(np.asarray(grey, np.float32), turns).copy())
    image = image / blur(image[None], SIDE / 6)[0].clamp_min(1)  # even out the photograph's own light
    ramp = torch.linspace(0, 1, SEAM)
    for _ in range(2):  # fade the last rows into the first, then the same for columns
        image = torch.cat((torch.lerp(image[SIDE:], image[:SEAM], ramp.view(-1, 1)), image[SEAM:SIDE])).t()
    return (image / image.mean() * torch.tensor(tone).view(3, 1, 1)).clamp(0, 1)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, h, w), edges repeated."""
    reach = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))[:, 0]


@functools.cache
def pyramid(name: str) -> list[Tensor]:
    """Linear-light texels (side * side, 3) of a texture at sides SIDE, SIDE / 2, ..., 1."""
    rng = np.random.default_rng(len(name) * 1000 + sum(map(ord, name)))
    level = linear((DRAWN[name](rng) if name in DRAWN else photograph(name)).clamp(0, 1))
    levels = [level]
    while level.shape[-1] > 1:
        level = F.avg_pool2d(level, 2)
        levels.append(level)
    return [texels.flatten(1).t().contiguous() for texels in levels]


def bilinear(texels: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Periodic bilinear look-up of (side * side, 3) texels at u, v in turns: (n,) -> (n, 3)."""
    side = math.isqrt(texels.shape[0])
    x, y = u * side - 0.5, v * side - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    column, row = left.long() & (side - 1), (top.long() & (side - 1)) * side
    right, below = (column + 1) & (side - 1), ((row + side) & (side * side - 1))
    upper = torch.lerp(texels[row + column], texels[row + right], fx)
    lower = torch.lerp(texels[below + column], texels[below + right], fx)
    return torch.lerp(upper, lower, fy)


def texture(name: str, a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """Linear colour (3, n) at surface coordinates a, b (world units), averaged over about `width` world units."""
    u, v = a / SPAN[name], b / SPAN[name]
    levels = pyramid(name)
    level = (width * (SIDE / SPAN[name])).clamp_min(1).log2().clamp_max(len(levels) - 1.001)
    out = torch.zeros(a.shape[0], 3)
    for k in range(int(level.min()), int(level.max()) + 2):
        weight = (1 - (level - k).abs()).clamp_min(0)
        near = weight.nonzero()[:, 0]
        out.index_add_(0, near, bilinear(levels[k], u[near], v[near]) * weight[near, None])
    return out.t()


# ---- solids


def second(colour: str) -> Tensor:
    """The other colour of stripes and dots: cream, or slate on the palest objects."""
    return paint((0.30, 0.33, 0.40) if colour == "white" else (0.96, 0.94, 0.88))


def stripes(p: Tensor, blur: Tensor) -> Tensor:
    """Coverage by slanted stripes of a solid pattern, in the solid's frame: (3, n) -> (n,) in [0, 1]."""
    phase = (0.42 * p[0] + 0.85 * p[1] + 0.32 * p[2]) * 2.1 + 0.18
    inside = 0.19 - (phase - phase.round()).abs()
    return (inside / (2.1 * blur) + 0.5).clamp(0, 1)


def unroll(shape: str, p: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn (radians), arc length along the profile, and the profile's radius, on a solid of revolution."""
    if shape == "torus":
        rho = torch.hypot(p[0], p[1])
        tilt = torch.atan2(p[2], TUBE[0] - rho)
        return torch.atan2(p[1], p[0]), tilt * TUBE[1], rho
    around = torch.atan2(p[2], p[0])
    if shape == "sphere":
        return around, torch.asin(p[1].clamp(-1, 1)), torch.hypot(p[0], p[2])
    return around, p[1] * (1.1 if shape == "cone" else 1.0), torch.hypot(p[0], p[2])


def dots(shape: str, p: Tensor, normal: Tensor, blur: Tensor, spacing: float = 0.50) -> Tensor:
    """Coverage by round dots laid on the surface, in the solid's frame: (3, n) -> (n,) in [0, 1]."""
    flat = normal.abs() > 0.99
    if shape == "cube":  # each face has its own grid
        face = normal.abs().argmax(0)
        a = torch.where(face == 0, p[2], p[0])
        b = torch.where(face == 1, p[2], p[1])
        spacing = HALF["cube"][0] * 2 / 3
        cell = torch.stack((a, b)) / spacing
        gap = cell - cell.round()
    else:
        around, along, radius = unroll(shape, p, normal)
        row = (along / spacing).round()
        reach = row_radius(shape, row * spacing)
        count = (2 * math.pi * reach / spacing).round().clamp_min(1)
        column = around * count / (2 * math.pi) + 0.5 * (row % 2)
        gap = torch.stack(((column - column.round()) * (2 * math.pi) * radius / (count * spacing), along / spacing - row))
        if shape == "cylinder":  # the lid has a flat grid
            lid = torch.stack((p[0], p[2])) / spacing
            gap = torch.where(flat[1], lid - lid.round(), gap)
    inside = 0.29 - torch.hypot(gap[0], gap[1])
    return (inside * spacing / blur + 0.5).clamp(0, 1)


def row_radius(shape: str, along: Tensor) -> Tensor:
    """Radius of a solid of revolution at arc length `along` of its profile."""
    if shape == "torus":
        return TUBE[0] - TUBE[1] * torch.cos(along / TUBE[1])
    if shape == "sphere":
        return torch.cos(along.clamp(-1.57, 1.57))
    width, half = HALF[shape]
    return torch.full_like(along, width) if shape == "cylinder" else width * (half - along / 1.1).clamp(0, 2 * half) / (2 * half)


def albedo(obj: Object, p: Tensor, normal: Tensor, blur: Tensor) -> Tensor:
    """Linear colour (3, n) at points of a solid, all in its own frame; `blur` is a pixel's width there."""
    base = paint(COLOURS[obj.colour])
    if obj.material == "striped":
        cover = stripes(p, blur)
    elif obj.material == "dotted":
        cover = dots(obj.shape, p, normal, blur)
    else:
        return base.expand(3, p.shape[1])
    return torch.lerp(base, second(obj.colour), cover)
