"""What every data set offers: images at any size and captions, by index."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np


class Source(ABC):
    """A captioned image collection with random access."""

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self, index: Sequence[int], size: int) -> np.ndarray:
        """Images `index` resized and centre-cropped: uint8 (n, size, size, 3)."""

    @abstractmethod
    def captions(self, index: Sequence[int], kind: str = "long") -> list[str]:
        """One caption per image; `kind` is `long` or `short` where a data set has both."""
