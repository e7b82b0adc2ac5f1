"""Images for looking at: to bytes, to one sheet, and `Samples`, a grid that shows itself in a notebook."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prx_lab.errors import LabError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def to_uint8(images: "Tensor | np.ndarray") -> np.ndarray:
    """Images as uint8 (n, H, W, 3): from float (n, 3, H, W) in [-1, 1], or from uint8 (n, H, W, 3) as they are.

    Values beyond the range are clipped. LabError for any other shape or type, or for values that are not finite.
    """
    if isinstance(images, np.ndarray):
        array = images
    else:
        array = (images.float() if images.is_floating_point() else images).detach().cpu().numpy()  # numpy has no bfloat16
    if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] == 3:
        return array
    if array.ndim != 4 or array.shape[1] != 3 or not np.issubdtype(array.dtype, np.floating):
        raise LabError(f"Images are float (n, 3, H, W) in [-1, 1] or uint8 (n, H, W, 3), not {array.dtype} {array.shape}.")
    if not np.isfinite(array).all():
        raise LabError("Some pixels are not finite: the model or its sampler diverged.")
    return np.rint((array.clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


def sheet(images: "Tensor | np.ndarray", cols: int, gap: int = 2) -> "Image":
    """All images on one white sheet, row by row, `gap` pixels apart."""
    from PIL import Image

    array = to_uint8(images)
    n, H, W, _ = array.shape
    cols = _columns(n, cols)
    rows = -(-n // cols)
    out = np.full((rows * (H + gap) - gap, cols * (W + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(array):
        y, x = (i // cols) * (H + gap), (i % cols) * (W + gap)
        out[y : y + H, x : x + W] = image
    return Image.fromarray(out)


def _columns(n: int, cols: int) -> int:
    if n < 1:
        raise LabError("There is no image to show.")
    if cols < 1:
        raise LabError(f"A grid has at least one column, not {cols}.")
    return min(n, cols)


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Images with captions (one each, or none at all), shown as a grid of `cols` columns at the end of a cell."""

    images: "Tensor | np.ndarray"
    captions: Sequence[str] = ()
    cols: int = 4

    def __post_init__(self) -> None:
        if self.captions and len(self.captions) != len(self.images):
            raise LabError(f"{len(self.images)} images need as many captions or none, not {len(self.captions)}.")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> "Image":
        from PIL import Image

        return Image.fromarray(to_uint8(self.images[index : index + 1 or None])[0])

    def save(self, path: str | Path) -> Path:
        """Write the grid, without captions, as PNG."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet(self.images, self.cols).save(path, format="PNG")
        return path

    def _repr_png_(self) -> bytes:
        from prx_lab.show import grid

        return grid(self.images, self.cols, self.captions)._repr_png_()

    def __repr__(self) -> str:
        _, H, W, _ = to_uint8(self.images).shape
        short = [textwrap.shorten(caption, 100, placeholder=" …") for caption in self.captions]
        return "\n".join([f"Samples: {len(self)} images of {W} x {H} pixels", *(f"  {i}: {text}" for i, text in enumerate(short))])
