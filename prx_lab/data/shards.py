"""The shards of an encoded data set, and the two parts that they belong to.

A folder holds encoded.json (a `Manifest`), null.safetensors (the empty caption), train/NNNNN.HASH.safetensors,
validation/validation-NNNNN.HASH.parquet (images and captions to be judged with) and, last of all, complete.json.
A shard's name ends with the hash of its bytes, and inside it says where in the data the next one begins.
"""

import io
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prx_lab.data.streams import Row
from prx_lab.errors import LabError
from prx_lab.zoo import digest

DONE, NULL = "complete.json", "null.safetensors"
SHARD = 1024  # samples
EXAMPLES = 5  # skipped samples that a shard names


@dataclass
class Note:
    """What a shard says of itself: the rows of its stream that it covers, how many are in it, and which were skipped."""

    first: int = 0
    next: int = 0
    rows: int = 0
    cut: int = 0  # captions with more tokens than places
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> how many
    examples: list[str] = field(default_factory=list)


@dataclass
class Part(ABC):
    """Training or validation: the shards on disk, and the samples that are to become the next one."""

    folder: Path
    wanted: int
    size: int = SHARD  # samples of a shard
    shards: list[tuple[str, int]] = field(default_factory=list)  # (name, rows) of those on disk, up to the first missing one
    rows: int = 0  # in them
    next: int = 0  # first row of the stream that no shard covers
    seen: int = 0  # first row that has not been looked at
    pending: list[tuple[Row, NDArray]] = field(default_factory=list)
    note: Note = field(default_factory=Note)
    total: Counter[str] = field(default_factory=Counter)  # of what was skipped, by reason
    examples: list[str] = field(default_factory=list)

    suffix = ""
    prefix = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for draft in self.folder.glob(".part-*"):
            draft.unlink()
        self.catch_up()

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the pending samples and the note."""

    @staticmethod
    @abstractmethod
    def read(path: Path) -> Note:
        """The note of a shard; raises one of `UNREADABLE`."""

    @property
    def full(self) -> bool:
        """Whether as many samples are there as are wanted, the pending ones with them."""
        return self.rows + len(self.pending) >= self.wanted

    @property
    def held(self) -> int:
        """Samples on disk, about: those behind a missing shard count too."""
        return min(self.wanted, self.size * len(list(self.folder.glob(f"*{self.suffix}"))))

    def path(self, k: int) -> Path | None:
        """Shard k on disk, if it is there."""
        return next(iter(self.folder.glob(f"{self.prefix}{k:05d}.*{self.suffix}")), None)

    def catch_up(self) -> None:
        """Pass over the shards that are there, up to the first missing one."""
        while path := self.path(len(self.shards)):
            note = note_of(path, self.read)
            if note.first != self.next:
                raise LabError(f"The shard {path} does not follow the one before it: the data have changed; use another --out.")
            self.shards.append((path.name, note.rows))
            self.rows, self.next = self.rows + note.rows, note.next
            self.tally(note)
        self.seen, self.note = self.next, Note(self.next)

    def tally(self, note: Note) -> None:
        """Count what the note of a shard says was skipped or cut, and keep some of its examples."""
        self.total.update(note.skipped | ({"caption cut": note.cut} if note.cut else {}))
        self.examples += note.examples[: EXAMPLES - len(self.examples)]

    def skip(self, index: int, reason: str, name: str) -> None:
        """Count a sample that cannot be used."""
        self.seen = index + 1
        self.note.skipped[reason] = self.note.skipped.get(reason, 0) + 1
        if len(self.note.examples) < EXAMPLES:
            self.note.examples.append(f"{name}: {reason}" if reason not in name else name)

    def add(self, row: Row, image: NDArray) -> None:
        """Take a sample, and write the shard that it completes or, as the last that is wanted, ends."""
        self.seen = row.index + 1
        self.pending.append((row, image))
        if len(self.pending) == self.size or self.full:
            self.flush()

    def flush(self) -> None:
        """Make a shard of the pending samples; whatever interrupts it, it is there as a whole or not at all."""
        if not self.pending and not self.note.skipped:
            return
        self.note.rows, self.note.next = len(self.pending), self.seen
        name = f"{self.prefix}{len(self.shards):05d}"
        draft = self.folder / f".part-{name}{self.suffix}"
        whole(draft, self.save, lambda: f"{name}.{digest(draft)[:16]}{self.suffix}")
        self.pending = []
        self.catch_up()


def whole(draft: Path, save: Callable[[Path], None], name: Callable[[], str]) -> None:
    """Write a draft, then give it its name: a reader sees the whole file or none, also after a power cut.

    LabError where the disk refuses it.
    """
    try:
        save(draft)
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        draft.chmod(0o644)  # safetensors writes for the owner alone
        draft.replace(draft.with_name(name()))
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise LabError(f"Cannot write into {draft.parent} ({error}); free some space and run the same command again.") from None


def save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file that is never seen in part."""
    whole(path.with_name(f".part-{path.name}"), lambda draft: save_file(tensors, draft), lambda: path.name)


UNREADABLE = (OSError, ValueError, TypeError, KeyError, SafetensorError)  # pyarrow's errors are ValueErrors and OSErrors


def note_of(path: Path, read: Callable[[Path], Note]) -> Note:
    """The note of a shard as its part's `read` finds it; LabError where the shard is damaged."""
    try:
        return read(path)
    except UNREADABLE as error:
        raise LabError(f"The shard {path} is damaged ({str(error).splitlines()[0]}); {REMEDY}") from None


REMEDY = "delete it and run `prx-lab encode` again as before: it alone is made anew."


@dataclass
class Samples(Part):
    """Training: what the frozen networks make of the samples."""

    networks: Callable[[NDArray, list[str]], dict[str, Tensor]] = field(kw_only=True)
    caption: Callable[[Row], str] = field(kw_only=True)
    lengths: Callable[[list[str]], list[int]] = field(kw_only=True)
    places: int = field(kw_only=True)
    chunk: int = field(kw_only=True, default=64)
    suffix = ".safetensors"

    def save(self, path: Path) -> None:
        captions = [self.caption(row) for row, _ in self.pending]
        self.note.cut = sum(n > self.places for n in self.lengths(captions)) if captions else 0
        parts = []
        for i in range(0, len(captions), self.chunk):
            images = np.stack([image for _, image in self.pending[i : i + self.chunk]])
            parts.append(self.networks(images, captions[i : i + self.chunk]))
        tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]} if parts else {}
        # one entry, as several would be written in any order
        save_file(tensors, path, metadata={"prx": json.dumps(asdict(self.note))})

    @staticmethod
    def read(path: Path) -> Note:
        with safe_open(path, "pt") as file:
            return Note(**json.loads(file.metadata()["prx"]))


@dataclass
class Pictures(Part):
    """Validation: the images as PNG, of the recipe's size, and both captions."""

    suffix = ".parquet"
    prefix = "validation-"

    def save(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow.parquet import write_table

        rows = [row for row, _ in self.pending]
        columns = {"image": pa.array([png(image) for _, image in self.pending], pa.binary())}
        columns |= {"caption": pa.array([row.long for row in rows], pa.string())}
        columns |= {"short_caption": pa.array([row.short for row in rows], pa.string())}
        table = pa.table(columns).replace_schema_metadata({"prx": json.dumps(asdict(self.note))})
        write_table(table, path, compression="none")

    @staticmethod
    def read(path: Path) -> Note:
        from pyarrow.parquet import read_schema

        return Note(**json.loads(read_schema(path).metadata[b"prx"]))


def png(image: NDArray) -> bytes:
    """An image, uint8 (H, W, 3), as the bytes of a PNG file."""
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return held.getvalue()


def listed(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """{part: [(name, rows)]} of a complete folder; LabError for another."""
    if not (folder / DONE).exists():
        raise LabError(f"{folder} is not complete; run the `prx-lab encode` command that began it again.")
    try:
        parts = json.loads((folder / DONE).read_text())["shards"]
        return {part: [(str(name), int(rows)) for name, rows in shards] for part, shards in parts.items()}
    except (*UNREADABLE, AttributeError) as error:
        raise LabError(f"{folder / DONE} cannot be read ({error}); delete it and run `prx-lab encode` again as before.") from None


def verify(paths: Iterable[Path]) -> None:
    """Refuse, with a LabError, a shard whose bytes are not those that were written."""
    for path in paths:
        if digest(path)[:16] != path.name.split(".")[1]:
            raise LabError(f"The shard {path} is damaged (its hash differs); {REMEDY}")
