"""Encoded: the training samples that `prx-lab encode` has written, as a memory-mapped data set."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from prx_lab.data.batch import Batch, Text
from prx_lab.data.listed import Listed
from prx_lab.data.load import load_source
from prx_lab.data.manifest import ASKED, Manifest
from prx_lab.data.shards import NULL, REMEDY, UNREADABLE, listed
from prx_lab.data.store import to_float
from prx_lab.data.streams import TRAIN
from prx_lab.errors import LabError
from prx_lab.recipe import Recipe

STEP = 32  # text is padded to a multiple of it: a compiled network meets few shapes


class Encoded:
    """What a `Store` offers, read from shards: samples by index, in the order of the data.

    A batch's text is padded to its longest caption, rounded up to a multiple of 32, or to `places` where that is given.
    """

    def __init__(self, folder: Path, n: int = 0, teachers: Sequence[str] = (), places: int = 0):
        self.folder, self.teachers, self.places = folder, tuple(teachers), places
        self.files, lengths = [], []
        for name, rows in listed(folder)[TRAIN]:
            file, ends = opened(folder / "train" / name, rows)
            if rows:
                self.files.append(file)
                lengths.append(ends)
        self.starts = np.cumsum([0, *(len(ends) - 1 for ends in lengths)])  # of the shards, in samples
        self.ends = lengths  # per shard: where each caption's tokens begin, and where the last one's end
        self.n = min(n, int(self.starts[-1])) if n else int(self.starts[-1])
        with safe_open(folder / NULL, "pt") as file:
            self.null = file.get_tensor("tokens")  # (L, E)
        self.longest = max(len(self.null), *(int(np.diff(ends).max()) for ends in lengths))

    def __len__(self) -> int:
        return self.n

    @property
    def x(self) -> str:
        """The name of the clean samples in a shard."""
        return "x" if "x" in self.files[0].keys() else "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of one sample."""
        a, b, c = self.files[0].get_slice(self.x).get_shape()[1:]
        return (a, b, c) if self.x == "x" else (c, a, b)

    @property
    def context(self) -> int:
        """Width of the text features."""
        return self.null.shape[1]

    @property
    def widths(self) -> dict[str, int]:
        """Width of what each vision teacher gives, by its name."""
        return {name: self.files[0].get_slice(f"teacher/{name}").get_shape()[-1] for name in self.teachers}

    @cached_property
    def mean(self) -> Tensor:
        """Mean sample (C, h, w), float32, of at most 4096 of them."""
        every = max(1, len(self) // 4096)
        total = torch.zeros(self.shape, dtype=torch.float64)
        rows = range(0, len(self), every)
        for i in rows:
            total += self.clean([i])[0]
        return (total / len(rows)).float()

    def batch(self, index: NDArray) -> Batch:
        """The samples at `index`."""
        teachers = {name: torch.cat(self.gather(f"teacher/{name}", index)) for name in self.teachers}
        return Batch(self.clean(index), self.text(index), teachers)

    def clean(self, index: Sequence[int] | NDArray) -> Tensor:
        """Latents or pixels (B, C, h, w), float32."""
        found = torch.cat(self.gather(self.x, index))
        return found.float() if self.x == "x" else to_float(found.numpy())

    def text(self, index: NDArray) -> Text:
        """The captions at `index`, padded to one length, and the empty one."""
        parts = []
        for i in index:
            shard, row = self.find(i)
            a, b = self.ends[shard][row : row + 2]
            parts.append(self.files[shard].get_slice("tokens")[int(a) : int(b)])
        tokens, mask = padded(parts, self.length(max(map(len, parts))))
        null, null_mask = padded([self.null], tokens.shape[1])
        return Text(tokens, mask, null, null_mask)

    def length(self, longest: int) -> int:
        """The places that a batch's text gets when its longest caption fills `longest`."""
        rounded = -(-max(longest, len(self.null)) // STEP) * STEP
        return self.places or min(rounded, self.longest)

    def gather(self, name: str, index: Sequence[int] | NDArray) -> list[Tensor]:
        """One row (1, ...) for each index."""
        found = []
        for i in index:
            shard, row = self.find(i)
            found.append(self.files[shard].get_slice(name)[row : row + 1])
        return found

    def find(self, i: int) -> tuple[int, int]:
        """(shard, row in it) of a sample."""
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return shard, int(i - self.starts[shard])


def padded(parts: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Captions (L_i, E) as float32 (B, length, E), zero behind their ends, and the mask (B, length)."""
    tokens = torch.zeros(len(parts), length, parts[0].shape[1])
    for row, part in zip(tokens, parts):
        row[: len(part)] = part
    return tokens, torch.arange(length) < torch.tensor([len(part) for part in parts])[:, None]


def opened(path: Path, rows: int) -> tuple[safe_open, NDArray]:
    """A shard, mapped, and the places (rows + 1,) at which the captions' tokens begin; LabError where it is missing, cut or another."""
    try:
        file = safe_open(path, "pt")
        if not rows:
            return file, np.zeros(1, np.int64)
        ends = np.cumsum([0, *file.get_tensor("lengths").tolist()])
        held = {key: file.get_slice(key).get_shape()[0] for key in file.keys()}
        if ends[-1] != held["tokens"] or any(n != rows for key, n in held.items() if key != "tokens"):
            raise ValueError(f"it does not hold {rows} samples")
        return file, ends
    except UNREADABLE as error:
        raise LabError(f"The shard {path} is damaged ({str(error).splitlines()[0]}); {REMEDY}") from None


def is_encoded(data: str) -> bool:
    """Whether a recipe's data is a folder that `prx-lab encode` has written."""
    return (Path(data).expanduser() / ASKED).is_file()


def training_part(recipe: Recipe) -> Encoded:
    """The training samples of a recipe whose data is an encoded folder; LabError where it was encoded for another kind of recipe."""
    folder = Path(recipe.data).expanduser()
    Manifest.read(folder).require_fit(recipe, folder)
    found = Encoded(folder, teachers=recipe.teachers, places=recipe.text_tokens)
    found.n = min(max(1, round(recipe.subset * recipe.scale.images)), len(found))
    return found


def validation_part(recipe: Recipe) -> Listed:
    """The images and captions of an encoded folder that a recipe is judged with."""
    folder = Path(recipe.data).expanduser()
    Manifest.read(folder).require_fit(recipe, folder)
    return load_source(str(folder / "validation"), "validation", limit=recipe.scale.images)
