"""A batch: everything the learner needs, already encoded by the frozen networks."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded captions and the encoded empty caption that replaces a dropped one."""

    tokens: Tensor  # (B, L, E)
    mask: Tensor  # (B, L) bool, True = attend
    null: Tensor  # (1, L, E)
    null_mask: Tensor  # (1, L) bool

    def to(self, device: torch.device | str) -> "Text":
        return Text(*(v.to(device, non_blocking=True) for v in (self.tokens, self.mask, self.null, self.null_mask)))

    def dropped(self, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and mask with the captions marked in `drop` (B,) replaced by the empty one."""
        return torch.where(drop[:, None, None], self.null, self.tokens), torch.where(drop[:, None], self.null_mask, self.mask)


@dataclass(frozen=True)
class Batch:
    """B samples: clean latents, text and teachers' patch tokens."""

    x: Tensor  # (B, C, H, W) latents or pixels, about unit variance
    text: Text
    teachers: dict[str, Tensor]  # name -> (B, N, E), or name:qk<block> -> (B, h, N, 2 d)

    def to(self, device: torch.device | str) -> "Batch":
        teachers = {k: v.to(device, non_blocking=True) for k, v in self.teachers.items()}
        return Batch(self.x.to(device, non_blocking=True), self.text.to(device), teachers)
