"""Tables of images and captions: Parquet files, a folder in hub layout, or a hub data set, through `datasets`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prx_lab.data.decode import Blob
from prx_lab.data.folder import SHORT_COLUMNS, captioned, first, long_column, text_of
from prx_lab.data.listed import Item, Listed, fill
from prx_lab.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp", "picture", "photo")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")


class Table(Listed):
    """Rows of a `datasets.Dataset` with an image column; the table stays memory-mapped on disk."""

    def __init__(self, name: str, table: "Dataset", column: str, items: Sequence[Item], root: Path):
        self.cells = table.select_columns([column]).with_format("python")
        self.column, self.root = column, root.resolve()
        super().__init__(name, items)

    def blob(self, item: Item) -> Blob:
        return blob_of(self.cells[item.row][self.column], self.root)


def blob_of(cell: dict | bytes | None, root: Path) -> Blob:
    """The encoded image of a cell: its bytes, or the file it names; b"" where there is neither."""
    if isinstance(cell, bytes):
        return cell
    cell = cell or {}
    if cell.get("bytes"):
        return cell["bytes"]
    # A table may name files instead of holding them; only those under its own root are opened.
    path = (root / (cell.get("path") or "")).resolve()
    return path if path.is_file() and path.is_relative_to(root) else b""


def table_items(table: "Dataset", asked: str, caption: str, where: str) -> list[Item]:
    """One item per row: the caption column that is asked for or a usual one, else the label under the template `caption`."""
    count, columns = len(table), table.column_names
    long, short = (texts(table, column, count) for column in (long_column(asked, columns, where), first(SHORT_COLUMNS, columns)))
    label = label_names(table, first(LABEL_COLUMNS, columns), count)
    items = []
    for row in range(count):
        text = long[row] or fill(caption, label[row])
        items.append(Item(f"row {row}", str(row), row, text, short[row] or text))
    return captioned(items, where)


def texts(table: "Dataset", column: str, count: int) -> list[str]:
    """A text column as captions; empty ones without the column."""
    return [text_of(value) for value in table.with_format("python")[column][:]] if column else [""] * count


def label_names(table: "Dataset", column: str, count: int) -> list[str]:
    """The class name of each row; "" where the table has bare numbers or no label."""
    from datasets import ClassLabel

    if not column:
        return [""] * count
    feature, values = table.features[column], table.with_format("python")[column][:]
    if isinstance(feature, ClassLabel):
        return [feature.int2str(value) if value is not None and value >= 0 else "" for value in values]
    return [text_of(value) for value in values]


def image_column(table: "Dataset", where: str) -> tuple["Dataset", str]:
    """The table with its image column undecoded, and that column's name; LabError where it has none."""
    from datasets import Image, Value

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    raw = [
        name
        for name in IMAGE_COLUMNS
        if name in features and (isinstance(features[name], dict) and "bytes" in features[name] or features[name] == Value("binary"))
    ]
    if not images + raw:
        raise LabError(f"{where} has no image column: it has {', '.join(features)}; name one 'image'.")
    column = first(IMAGE_COLUMNS, images) or (images + raw)[0]
    return (table.cast_column(column, Image(decode=False)) if column in images else table), column


def open_table(table: "Dataset", name: str, caption: str, asked: str) -> tuple["Dataset", str, list[Item]]:
    """A table ready to become a `Table`: itself, its image column, its captioned items."""
    table, column = image_column(table, name)
    return table, column, table_items(table, asked, caption, name)


def parquet_splits(root: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Split -> Parquet files below `root`, from the words of their paths (`data/train-00000-of-00001.parquet`)."""
    words = {
        "train": "train",
        "training": "train",
        "test": "test",
        "testing": "test",
        "eval": "test",
        "val": "validation",
        "valid": "validation",
        "validation": "validation",
        "dev": "validation",
    }
    splits: dict[str, list[str]] = {}
    for name in names:
        found = [words[word] for word in re.split(r"[^a-z0-9]+", name.lower()) if word in words]
        splits.setdefault(found[0] if found else "train", []).append(str(root / name))
    return splits


def read_parquet(files: Sequence[str], where: str) -> "Dataset":
    """Parquet files as one memory-mapped table; class names come from their Hugging Face metadata.

    LabError where they cannot be read.
    """
    from datasets import load_dataset

    try:
        return load_dataset("parquet", data_files={"train": list(files)}, split="train")
    except Exception as error:  # the builder wraps every cause, from a bad magic number to two schemas
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise LabError(f"The Parquet files of {where} cannot be read: {cause}.") from error
