"""Resolution binning: the sizes that a published model was trained at, and the way from any size to the nearest one and back.

The bins are diffusers' (`pipelines/prx/pipeline_prx.py`, 0.42.1). No rule makes them: sides are multiples of 32 and areas lie
between 0.86 and 1 of base^2, but at 1024 pixels not every bin's mirror image is there. So they are kept as data.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prx_lab.errors import LabError
from prx_lab.sample import Guidance, Sampler

# {side of the square: {published ratio, height over width: (height, width)}}. The ratio, not the quotient, is compared: at 256
# pixels the first is printed as 0.46 where 160/352 is 0.4545, and a request between the two bins is decided by it.
SIZES: dict[int, dict[float, tuple[int, int]]] = {
    256: {
        0.46: (160, 352), 0.6: (192, 320), 0.78: (224, 288), 1.0: (256, 256), 1.29: (288, 224), 1.67: (320, 192), 2.2: (352, 160),
    },
    512: {
        0.5: (352, 704), 0.57: (384, 672), 0.6: (384, 640), 0.68: (416, 608), 0.78: (448, 576), 0.88: (480, 544), 1.0: (512, 512),
        1.13: (544, 480), 1.29: (576, 448), 1.46: (608, 416), 1.67: (640, 384), 1.75: (672, 384), 2.0: (704, 352),
    },
    1024: {
        0.49: (704, 1440), 0.52: (736, 1408), 0.53: (736, 1376), 0.57: (768, 1344), 0.59: (768, 1312), 0.62: (800, 1280),
        0.67: (832, 1248), 0.68: (832, 1216), 0.78: (896, 1152), 0.83: (928, 1120), 0.94: (992, 1056), 1.0: (1024, 1024),
        1.06: (1056, 992), 1.13: (1088, 960), 1.21: (1120, 928), 1.29: (1152, 896), 1.37: (1184, 864), 1.46: (1216, 832),
        1.5: (1248, 832), 1.71: (1312, 768), 1.75: (1344, 768), 1.87: (1376, 736), 1.91: (1408, 736), 2.05: (1440, 704),
    },
}  # fmt: skip


def nearest_size(height: int, width: int, base: int) -> tuple[int, int]:
    """The (height, width) of the bin whose ratio is nearest to that of a request in pixels, for a model of base^2 pixels.

    LabError where there are no bins for such a model, or where a side is not positive.
    """
    if base not in SIZES:
        raise LabError(f"There are no bins for {base} pixels, only for {', '.join(map(str, SIZES))}; ask for the size itself.")
    if height < 1 or width < 1:
        raise LabError(f"An image of {height} x {width} pixels has no ratio; use positive sides.")
    return SIZES[base][min(SIZES[base], key=lambda ratio: abs(ratio - height / width))]


def fit(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, 3, H, W) scaled until they cover height x width, bilinear, and cropped around their centre.

    diffusers 0.42.1 rounds the covering size down below some requests (1027 x 1555 from 832 x 1248) and then returns one row of
    pixels; here such a side is the one asked for.
    """
    H, W = images.shape[-2:]
    if (H, W) == (height, width):
        return images
    scale = max(height / H, width / W)
    covering = max(int(H * scale), height), max(int(W * scale), width)  # rounded down, but not below what is asked for
    images = F.interpolate(images, covering, mode="bilinear", align_corners=False)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return images[..., top : top + height, left : left + width]


@torch.inference_mode()
def draw(
    sampler: Sampler, prompts: Sequence[str], height: int, width: int, seed: int = 0, steps: int = 0, guidance: Guidance | None = None
) -> Tensor:
    """Images (n, 3, height, width) in [-1, 1], drawn in the nearest bin as the pipeline does, or as they are where there are none."""
    base = sampler.recipe.scale.size
    size = nearest_size(height, width, base) if base in SIZES else (height, width)
    latents = sampler.latents(prompts, seed, steps, guidance, None, size)
    return fit(sampler.space.unclamped(latents), height, width).clamp(-1, 1)
