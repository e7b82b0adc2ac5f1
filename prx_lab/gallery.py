"""Rows of pictures for notebooks that stay small (JPEG inside HTML), and token features as colours."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from torch import Tensor

from prx_lab.errors import LabError
from prx_lab.images import sheet, to_uint8
from prx_lab.report.layout import counted

GAP = 2  # pixels between the images of a row, here and in a recorded samples.png


@dataclass(frozen=True, eq=False, repr=False)
class Gallery:
    """Rows of images with a label each and a caption per column (or none), as HTML with one JPEG a row.

    Images as in `prx_lab.images.to_uint8`; every row has the same number of them. LabError otherwise.
    """

    rows: Mapping[str, Tensor | np.ndarray]
    captions: Sequence[str] = ()

    def __post_init__(self) -> None:
        counts = {len(images) for images in self.rows.values()}
        if len(counts) != 1 or not counts.isdisjoint({0}):
            raise LabError("A gallery needs at least one row, and equally many images in each.")
        if self.captions and {len(self.captions)} != counts:
            raise LabError(f"{counts.pop()} columns need as many captions or none, not {len(self.captions)}.")

    @property
    def columns(self) -> int:
        """Images in a row."""
        return len(next(iter(self.rows.values())))

    def _repr_html_(self) -> str:
        plain, n = "border:none;background:none;padding:.15em .3em;text-align:left;vertical-align:", self.columns
        out = ['<table style="width:100%;max-width:56em;table-layout:fixed;border-collapse:collapse">']
        for label, images in self.rows.items():
            words = escape(f"{label}: {counted(n, 'image')} side by side").replace("\n", ", ")
            picture = f'<img src="{jpeg(images)}" alt="{words}" style="width:100%;margin:0;border-radius:3px">'
            out.append(f'<tr style="background:none"><td style="{plain}middle;width:16%;font-size:85%">{below(label)}</td>')
            out.append(f'<td colspan="{n}" style="{plain}middle">{picture}</td></tr>')
        if self.captions:
            cells = "".join(f'<td style="{plain}top;font-size:70%;line-height:1.25">{escape(text)}</td>' for text in self.captions)
            out.append(f'<tr style="background:none"><td style="{plain}top;width:16%"></td>{cells}</tr>')
        return "".join(out) + "</table>"

    def __repr__(self) -> str:
        _, H, W, _ = to_uint8(next(iter(self.rows.values()))).shape
        size = f"{counted(len(self.rows), 'row')} of {counted(self.columns, 'image')}"
        labels = (label.replace("\n", " (", 1).replace("\n", ", ") + ")" * ("\n" in label) for label in self.rows)
        return f"{size}, {W} x {H} pixels: {', '.join(labels)}"


def below(label: str) -> str:
    """A label as HTML: its first line, and further ones small below it."""
    first, *others = escape(label).split("\n")
    return first + "".join(f'<div style="font-size:80%;opacity:.75">{line}</div>' for line in others)


def jpeg(images: Tensor | np.ndarray, quality: int = 80) -> str:
    """A row of images as a data URI; JPEG at full colour resolution is a fifth of PNG and hard to tell from it."""
    out = io.BytesIO()
    sheet(images, len(images), GAP).save(out, format="JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def pca_colours(tokens: Tensor) -> np.ndarray:
    """Patch tokens (B, N, E) as pictures uint8 (B, g, g, 3): their first three principal components over all of them."""
    B, N, E = tokens.shape
    grid, rows = math.isqrt(N), tokens.reshape(-1, E).double()
    rows = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(rows, full_matrices=False)
    axes = axes[:3] * axes[:3].sum(1, keepdim=True).sign()  # a component has no sign of its own
    values = rows @ axes.T
    lo, hi = values.quantile(0.02, 0), values.quantile(0.98, 0)
    levels = ((values - lo) / (hi - lo)).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).view(B, grid, grid, 3).numpy()


def enlarge(images: Tensor | np.ndarray, side: int) -> np.ndarray:
    """Images drawn larger, pixel by pixel, at `side`, a multiple of their own: uint8 (n, side, side, 3). LabError otherwise."""
    array = to_uint8(images)
    if side % array.shape[1]:
        raise LabError(f"{side} pixels are not a multiple of {array.shape[1]}.")
    return array.repeat(side // array.shape[1], 1).repeat(side // array.shape[2], 2)
