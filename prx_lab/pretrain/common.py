"""What the trainings of the embedded networks share: photographs, averaged weights, a schedule, PSNR."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# skimage.data also holds photographs that must be fetched; these come with the package itself.
TRAIN_PHOTOS = (
    "astronaut.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
    "coins.png", "camera.png", "grass.png", "gravel.png", "brick.png",
)  # fmt: skip
HELD_PHOTOS = ("chelsea.png", "coffee.png")  # in no training image, and no texture of a scene


def photographs(files: Iterable[str]) -> list[Tensor]:
    """Photographs bundled with scikit-image, each float32 (3, H, W) in [0, 1]."""
    import skimage.data
    from PIL import Image

    folder = Path(skimage.data.__file__).parent
    out = []
    for file in files:
        with Image.open(folder / file) as photo:
            out.append(torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1).float() / 255)
    return out


def crop(photo: Tensor, size: int, rng: np.random.Generator, smallest: int = 48) -> Tensor:
    """A random square of a photograph, `smallest` to all of its pixels a side, resized with antialiasing: (3, size, size)."""
    _, H, W = photo.shape
    side = int(smallest * (min(H, W) / smallest) ** rng.uniform())  # every octave of scale equally often
    top, left = rng.integers(H - side + 1), rng.integers(W - side + 1)
    cut = photo[None, :, top : top + side, left : left + side]
    return F.interpolate(cut, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Random flip, contrast, tint and gamma of a picture (3, H, W) in [0, 1]."""
    if rng.uniform() < 0.5:
        image = image.flip(2)
    gain = rng.uniform(0.7, 1.25) * rng.uniform(0.85, 1.15, size=(3, 1, 1))
    image = (image ** rng.uniform(0.75, 1.35) - 0.5) * torch.tensor(gain, dtype=torch.float32) + rng.uniform(0.4, 0.6)
    return image.clamp(0, 1)


class Averaged:
    """A moving average of a module's parameters whose memory grows with the steps taken, up to `decay`."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Fold the module's present weights in: rate 1 - min(decay, (1 + n) / (10 + n)) at update n."""
        self.steps += 1
        rate = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for k, v in module.state_dict().items():
            self.state[k].lerp_(v, rate) if v.is_floating_point() else self.state[k].copy_(v)


def cosine(progress: float, warmup: float = 0.03) -> float:
    """Learning-rate factor at `progress` in [0, 1]: linear up over `warmup`, then half a cosine down to 0."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,): images (B, 3, H, W) in [-1, 1], so the peak is 2."""
    return 10 * torch.log10(4 / (a - b).pow(2).flatten(1).mean(1).clamp_min(1e-10))


def batches(n: int, batch: int) -> Iterator[slice]:
    """Consecutive slices that cover n rows."""
    return (slice(i, min(i + batch, n)) for i in range(0, n, batch))


def grid(rows: Sequence[Tensor], path: Path, zoom: int = 2) -> Path:
    """Write rows of images, each (n, 3, H, W) in [-1, 1], as one PNG, magnified by a whole number."""
    from PIL import Image

    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    sheet = sheet.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    pixels = ((sheet.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
    return path
