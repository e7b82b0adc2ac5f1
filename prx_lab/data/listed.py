"""A list of image files with captions: fixed splits, a check of every file, squares on demand."""

import hashlib
import os
import unicodedata
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prx_lab import progress
from prx_lab.data.decode import BROKEN, Blob, problem, square
from prx_lab.data.source import Source, kind_at
from prx_lab.errors import LabError

HELD = ("val", "validation", "valid", "dev", "test")
PARTS = ("train", *HELD)
VAL_SHARE = 0.1
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Item:
    """One image and its captions."""

    name: str  # unique: a path below the folder, or a row
    key: str  # decides the split: items with one key stay together
    row: int  # of a table; 0 in a folder
    long: str
    short: str


class Listed(Source):
    """Base of sources that are a list of items; a subclass says where the bytes of an item are.

    Opening it decodes every image once at low resolution; `unreadable` maps the names of those left out to the
    reasons, `skipped` counts them.
    """

    def __init__(self, name: str, items: Sequence[Item]):
        self.name = name
        self.items = list(items)
        self.unreadable: dict[str, str] = {}
        self._drop_unreadable()

    @property
    def skipped(self) -> int:
        """The number of images that were left out because they cannot be read."""
        return len(self.unreadable)

    @cached_property
    def key(self) -> str:
        """The name with a hash of the image files in their order: two folders of one name, or two splits, are not one data set."""
        with ThreadPoolExecutor(THREADS) as pool:
            digests = pool.map(lambda item: digest(self.blob(item)), self.items)
            return f"{self.name}-{hashlib.blake2b(b''.join(digests), digest_size=8).hexdigest()}"

    @abstractmethod
    def blob(self, item: Item) -> Blob:
        """The encoded image: a path or bytes; b"" when there is none."""

    def __len__(self) -> int:
        return len(self.items)

    def images(self, index: Sequence[int], size: int) -> np.ndarray:
        """Images `index`, shorter side resized, centre-cropped: uint8 (n, size, size, 3)."""
        with ThreadPoolExecutor(THREADS) as pool:
            squares = list(pool.map(lambda i: self._square(self.items[i], size), index))
        return np.stack(squares) if squares else np.zeros((0, size, size, 3), np.uint8)

    def captions(self, index: Sequence[int], kind: str = "long") -> list[str]:
        """One caption per image, `mixed` half of each kind by index; all are equal where the data has one kind only."""
        if kind not in ("long", "short", "mixed"):
            raise LabError(f"Captions are 'long' or 'short', or 'mixed' for half of each, not '{kind}'.")
        return [self.items[i].long if kind_at(kind, i) == "long" else self.items[i].short for i in index]

    def _square(self, item: Item, size: int) -> np.ndarray:
        try:
            return square(self.blob(item), size)
        except BROKEN as error:
            raise LabError(
                f"'{item.name}' in {self.name} was readable when the data was opened and is not now "
                f"({error}); restore it, or start again without it."
            ) from error

    def _drop_unreadable(self) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            checks = pool.map(lambda item: problem(self.blob(item)), self.items)
            reasons = list(progress.bar(checks, f"checking {self.name}", len(self.items), leave=False, delay=2))
        bad = {item.name: reason for item, reason in zip(self.items, reasons, strict=True) if reason}
        if not bad:
            return
        told = "; ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:10]).encode(errors="replace").decode()
        told += "; ..." if len(bad) > 10 else ""
        if len(bad) == len(self.items):
            raise LabError(f"None of the {len(bad)} images in {self.name} can be read, replace them: {told}.")
        self.unreadable = bad
        self.items = [item for item in self.items if item.name not in bad]
        warnings.warn(
            f"{self.name}: {len(bad)} of {len(reasons)} images cannot be read and are skipped: {told}", stacklevel=6
        )  # the caller of load_source


def digest(blob: Blob) -> bytes:
    """A hash of an encoded image."""
    return hashlib.blake2b(blob if isinstance(blob, bytes) else blob.read_bytes(), digest_size=16).digest()


def place(key: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a key, the same on every machine."""
    key = unicodedata.normalize("NFC", key)  # one system stores é as one code point, another as two
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest(), "big") / 2**64


def shuffled(items: Sequence[Item]) -> list[Item]:
    """The items in a fixed shuffled order, so that the first n are a fair sample and not the first class."""
    return sorted(items, key=lambda item: (place(item.key), item.name))


def part(items: Sequence[Item], split: str) -> list[Item]:
    """The `train` or `val` share of a data set that has one part only: by key, so files added later move nothing."""
    items = shuffled(items)
    count = sum(place(item.key) < VAL_SHARE for item in items)
    if count in (0, len(items)):  # a small folder still gets one image to validate on, and always some to train on
        count = sum(item.key == items[0].key for item in items) % len(items)
    return items[:count] if split == "val" else items[count:]


def fill(template: str, label: str) -> str:
    """The caption of an image that has none: the template with its label, or "" where a label is needed and absent."""
    if "{label}" in template and not label:
        return ""
    return tidy(template.replace("{label}", label.replace("_", " ")))


def tidy(text: str) -> str:
    """A caption on one line, in composed Unicode, without control characters or halves of surrogate pairs; direction marks stay."""
    text = text.encode(errors="replace").decode()
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in unicodedata.normalize("NFC", text))
    return " ".join(text.split())
