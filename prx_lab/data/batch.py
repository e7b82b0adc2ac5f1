"""A batch: everything the learner needs, already encoded by the frozen networks."""

from dataclasses import dataclass
from typing import Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded captions and the encoded empty caption that replaces a dropped one."""

    tokens: Tensor  # (B, L, E)
    mask: Tensor  # (B, L) bool, True = attend
    null: Tensor  # (1, L, E)
    null_mask: Tensor  # (1, L) bool

    def to(self, device: torch.device | str) -> "Text":
        """The same text on a device."""
        return Text(*(v.to(device, non_blocking=True) for v in (self.tokens, self.mask, self.null, self.null_mask)))

    def dropped(self, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and mask with the captions marked in `drop` (B,) replaced by the empty one."""
        return torch.where(drop[:, None, None], self.null, self.tokens), torch.where(drop[:, None], self.null_mask, self.mask)


@dataclass(frozen=True)
class Rest:
    """What a part of a batch knows of the whole (G samples), so that the losses of all parts have the whole's as their mean."""

    t: Tensor  # (G,) every sample's time
    drop: Tensor  # (G,) bool: its caption was dropped
    target: Tensor  # (P, C, H, W) of the samples that this part's are paired with, then of the one before the part's first

    def to(self, device: torch.device | str) -> "Rest":
        """The same on a device."""
        return Rest(*(v.to(device, non_blocking=True) for v in (self.t, self.drop, self.target)))


@dataclass(frozen=True)
class Batch:
    """B samples: clean latents, text and teachers' patch tokens."""

    x: Tensor  # (B, C, H, W) latents or pixels, about unit variance
    text: Text
    teachers: dict[str, Tensor]  # name -> (B, N, E), or name:qk<block> -> (B, h, N, 2 d)
    rest: Rest | None = None  # where these samples are a part of a batch

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        teachers = {k: v.to(device, non_blocking=True) for k, v in self.teachers.items()}
        rest = self.rest if self.rest is None else self.rest.to(device)
        return Batch(self.x.to(device, non_blocking=True), self.text.to(device), teachers, rest)


class Data(Protocol):
    """Encoded samples to train on, by index: a `Store`, or the `Encoded` folder that `prx-lab encode` has written."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of one sample."""

    @property
    def context(self) -> int:
        """Width E of the text features."""

    @property
    def widths(self) -> dict[str, int]:
        """Width of what each vision teacher gives, by its name in a batch."""

    @property
    def mean(self) -> Tensor:
        """Mean sample (C, h, w), float32."""

    def __len__(self) -> int:
        """The number of samples."""

    def batch(self, index: NDArray) -> Batch:
        """The samples at `index` (B,)."""
