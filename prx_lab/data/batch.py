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

    def dropped(self, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and mask with the captions marked in `drop` (B,) replaced by the empty one."""
        return torch.where(drop[:, None, None], self.null, self.tokens), torch.where(drop[:, None], self.null_mask, self.mask)


@dataclass(frozen=True)
class Batch:
    """B samples: clean latents, text and teachers' patch tokens."""

    x: Tensor  # (B, C, H, W) latents or pixels, about unit variance
    text: Text
    teachers: dict[str, Tensor]  # name -> (B, N, E)

    def to(self, device: torch.device | str) -> "Batch":
        def move(v: Tensor) -> Tensor:
            return v.to(device, non_blocking=True)

        t = self.text
        text = Text(move(t.tokens), move(t.mask), move(t.null), move(t.null_mask))
        return Batch(move(self.x), text, {k: move(v) for k, v in self.teachers.items()})
