"""A data set passed once from end to end, row by row: a folder, Parquet files or a hub name; nothing is downloaded to stay.

Rows are told apart into training and validation as `load_source` does it: by the data's own parts, else a fixed tenth by hash,
and at least one row of a table whose length is known.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prx_lab.data.decode import Blob
from prx_lab.data.folder import SHORT_COLUMNS, all_items, first, long_column, text_of
from prx_lab.data.listed import HELD, VAL_SHARE, Item, fill, part, place, shuffled
from prx_lab.data.load import LABEL, cached, choose, kind_of, parted, reachable, tops_of, unreachable
from prx_lab.data.tabular import LABEL_COLUMNS, blob_of, image_column, parquet_splits
from prx_lab.errors import LabError

if TYPE_CHECKING:
    from datasets import IterableDataset

TRAIN, VALIDATION = PARTS = ("train", "validation")
FEW = 100  # rows of which some are always below VAL_SHARE
Split = TypeVar("Split")


@dataclass(frozen=True)
class Row:
    """One image, not decoded, and its captions; "" for a caption that is not there."""

    index: int  # in its stream
    name: str
    part: str  # one of PARTS
    blob: Callable[[], Blob]  # the encoded image, fetched when asked for
    long: str
    short: str


class Stream(ABC):
    """Rows in an order that is the same at every reading; `parts` are those that they belong to, `total` how many, 0 if unknown."""

    name: str
    parts: tuple[str, ...]
    total: int

    @abstractmethod
    def rows(self, start: int = 0) -> Iterator[Row]:
        """The rows from number `start` on."""


class Files(Stream):
    """The image files of a folder, all of one part."""

    def __init__(self, root: Path, name: str, items: Sequence[Item]):
        self.root, self.items, self.total = root, items, len(items)
        self.name, self.parts = str(root), (name,)

    def rows(self, start: int = 0) -> Iterator[Row]:
        for index, item in enumerate(self.items[start:], start):
            yield Row(index, item.name, self.parts[0], partial(Path, self.root, item.name), item.long, item.short)


class Table(Stream):
    """The rows of a streamed table, all of one part, or of both where a table has one split only."""

    def __init__(self, name: str, table: "IterableDataset", parts: tuple[str, ...], root: Path, total: int, caption: str, asked: str):
        from datasets import ClassLabel

        if table.features is None:  # a hub data set without a card: its first rows tell
            table = table._resolve_features()
        features = table.features
        self.name, self.parts, self.root, self.total, self.caption = name, parts, root.resolve(), total, caption
        self.table, self.column = image_column(table, name)
        self.long, self.short = long_column(asked, list(features), name), first(SHORT_COLUMNS, list(features))
        self.label = label = first(LABEL_COLUMNS, list(features))
        self.classes = features[label] if label and isinstance(features[label], ClassLabel) else None
        own = range(min(total, FEW)) if total > 1 else ()  # a small table still gets one row to validate on, as `listed.part` does it
        self.lowest = min(own, key=lambda index: place(str(index)), default=None)

    def rows(self, start: int = 0) -> Iterator[Row]:
        for index, cells in enumerate(self.table.skip(start) if start else self.table, start):
            held = index == self.lowest or place(str(index)) < VAL_SHARE
            named = self.parts[0] if len(self.parts) == 1 else PARTS[held]
            long = text_of(cells.get(self.long)) or fill(self.caption, self.label_of(cells))
            short = text_of(cells.get(self.short)) or long
            yield Row(index, f"row {index}", named, partial(fetch, cells[self.column], self.root), long, short)

    def label_of(self, cells: dict) -> str:
        """The label of a row: the name of its class, or the cell where that is text; "" where there is neither."""
        value = cells.get(self.label)
        if self.classes is None:
            return text_of(value)
        return self.classes.int2str(value) if value is not None and value >= 0 else ""


def fetch(cell: dict | bytes | None, root: Path) -> Blob:
    """The encoded image of a cell, over the network where a hub data set names its files; LabError when that fails."""
    path = str(cell.get("path") or "") if isinstance(cell, dict) and not cell.get("bytes") else ""
    if not path.rpartition("::")[2].startswith("hf://"):  # only the hub's own files are fetched
        return blob_of(cell, root)
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except OSError as error:  # not a bad image: the sample would be lost for a reason that passes
        raise LabError(f"{path} could not be fetched ({error}); run the same command again to go on.") from error


def peek(stream: Stream, n: int, part: str) -> list[Row]:
    """The first n rows of a part."""
    return list(islice((row for row in stream.rows() if row.part == part), n))


def open_streams(data: str, caption: str = LABEL) -> list[Stream]:
    """The streams that hold the training and validation rows of a folder, Parquet files or a hub name (`owner/name[:config]`).

    `#column` behind any of these names the column of the captions. caption: for images without one; `{label}` is the class name.
    LabError where there is nothing of that name, no images, no such column, or no training part.
    """
    data, asked = parted(data)
    kind, path, names = kind_of(data)
    if kind == "folder":
        return folder_streams(path.resolve(), names, caption, asked)
    if kind == "parquet":
        return parquet_streams(path, names, caption, asked)
    return hub_streams(data, caption, asked)


def folder_streams(root: Path, names: Sequence[str], caption: str, asked: str) -> list[Stream]:
    """The streams of a folder's images: its own splits, or a fixed tenth by hash to validate on.

    LabError where there are no images, or no such column.
    """
    items = all_items(root, names, caption, asked)
    tops, divided = tops_of(items)
    streams: list[Stream] = []
    for split, name in (("train", TRAIN), ("val", VALIDATION)):
        base, whole = choose(split, tops if divided else {"train"}, root)
        mine = [item for item in items if not divided or Path(item.name).parts[0] == base]
        chosen = shuffled(mine) if whole else part(mine, split)
        if chosen:
            streams.append(Files(root, name, chosen))
    return streams


def parquet_streams(root: Path, names: Sequence[str], caption: str, asked: str) -> list[Stream]:
    """The streams of the Parquet files below `root`, their splits read from their paths; LabError where they cannot be read."""
    from datasets import load_dataset
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    def table(files: list[str], parts: tuple[str, ...]) -> Table:
        try:
            total = sum(read_metadata(file).num_rows for file in files)
            rows = load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)
        except (ArrowException, OSError) as error:
            raise LabError(f"The Parquet files of {root} cannot be read: {str(error).strip().splitlines()[0]}.") from error
        return Table(str(root), rows, parts, root, total, caption, asked)

    return [table(files, parts) for files, parts in divided(parquet_splits(root, names), root)]


def hub_streams(data: str, caption: str, asked: str = "") -> list[Stream]:
    """A data set of the hub, streamed, or what its local cache holds of it; scripts are never run. LabError where it cannot be had."""
    from datasets import load_dataset

    name, _, config = data.partition(":")
    if not Path(name).is_dir() and not reachable() and not cached(name):
        raise LabError(unreachable(data))
    try:
        tables = load_dataset(name, config, streaming=True) if config else load_dataset(name, streaming=True)
    except Exception as error:  # network, gating, a missing config, scripts: the library's sentence says which
        cause = str(error).strip().split("\n")[0]
        raise LabError(
            f"the hub data set '{data}' cannot be streamed: {cause}; "
            "download it and give its folder, or name a config as owner/name:config."
        ) from error
    found = []
    for split, parts in divided({name: name for name in tables}, data):
        known = (tables[split].info.splits or {}).get(split)
        found.append(Table(data, tables[split], parts, Path(name), known.num_examples if known else 0, caption, asked))
    return found


def divided(splits: dict[str, Split], where: Path | str) -> list[tuple[Split, tuple[str, ...]]]:
    """(split, its parts): the training and the held-out split, or one split that is both."""
    base, whole = choose("train", splits, where)
    if not whole:
        return [(splits[base], PARTS)]
    held = next(name for name in HELD if name in splits)
    return [(splits[base], (TRAIN,)), (splits[held], (VALIDATION,))]
