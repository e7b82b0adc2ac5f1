"""What every data set offers: images at any size and captions, by index."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from prx_lab.flow import stream


class Source(ABC):
    """A captioned image collection with random access."""

    name: str

    @property
    def key(self) -> str:
        """What identifies the images, row by row: under it they are cached."""
        return self.name

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self, index: Sequence[int], size: int) -> np.ndarray:
        """Images `index` resized and centre-cropped: uint8 (n, size, size, 3)."""

    @abstractmethod
    def captions(self, index: Sequence[int], kind: str = "long") -> list[str]:
        """One caption per image; `kind` is `long`, `short` or `mixed` where a data set has both kinds."""


def kind_at(kind: str, i: int) -> str:
    """The kind of image i's caption: under `mixed` it is `long` or `short`, fixed by the index; another kind is itself.

    Of the neighbours 2k and 2k + 1 one is long and one short, and a draw keyed on k says which: any run is half and half.
    """
    if kind != "mixed":
        return kind
    coin = int(torch.randint(2, (), generator=stream(0, 1 << 43, i // 2)))
    return ("long", "short")[(i + coin) % 2]
