"""A folder of images with captions beside them: NAME.txt, metadata.jsonl / .csv, or class sub-folders."""

import codecs
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from prx_lab.data.decode import SUFFIXES, Blob
from prx_lab.data.listed import PARTS, Item, Listed, fill, tidy
from prx_lab.errors import LabError, nearest

CAPTION_COLUMNS = ("caption", "text", "prompt", "long_caption", "description", "captions", "txt", "llava")  # the first that is there
SHORT_COLUMNS = ("short_caption", "caption_short", "short")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
ADVICE = "add NAME.txt beside each image, or a metadata.jsonl, or name the column of a table as DATA#column"


class Folder(Listed):
    """Images under `root`; item names are paths relative to it."""

    def __init__(self, root: Path, items: Sequence[Item]):
        self.root = root
        super().__init__(root.name or str(root), items)

    def blob(self, item: Item) -> Blob:
        return self.root / item.name


def walk(root: Path) -> list[str]:
    """Every visible file below `root` as a sorted relative POSIX path; links to folders are not followed."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)


def folder_items(root: Path, names: Sequence[str], caption: str, column: str = "") -> list[Item]:
    """As `all_items`; LabError when some image is left without a caption."""
    return captioned(all_items(root, names, caption, column), root)


def all_items(root: Path, names: Sequence[str], caption: str, column: str = "") -> list[Item]:
    """The images among the files `names` below `root`, with "" where one has no caption.

    Captions come from metadata files, there from `column` where it is named, else from sidecars, else from class sub-folders and the
    template `caption`. Raises LabError when there are no images, or no such column.
    """
    metadata = [name for name in names if PurePosixPath(name).name in METADATA]
    if metadata:
        texts = {image: pair for name in metadata for image, pair in read_metadata(root, name, column).items()}
    elif column:
        raise LabError(f"{root} has no {METADATA[0]} or other metadata file, so no column '{column}'; leave out #{column}.")
    else:
        images = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
        texts = {image: (text, text) for image, text in read_sidecars(root, images, set(names)).items()}
    if not texts:
        raise LabError(no_images(root, names))
    labels = {} if any(long for long, _ in texts.values()) else class_labels(list(texts))
    items = []
    for name, (long, short) in sorted(texts.items()):
        long = long or fill(caption, labels.get(name, ""))
        items.append(Item(name, str(PurePosixPath(name).with_suffix("")), 0, long, short or long))
    return items


def captioned(items: list[Item], where: Path | str) -> list[Item]:
    """The items, if every one has a caption; LabError naming some that have none otherwise."""
    bare = [item.name for item in items if not item.long]
    if bare:
        some = ", ".join(bare[:3]) + (", ..." if len(bare) > 3 else "")
        raise LabError(f"{len(bare)} of {len(items)} images in {where} have no caption ({some}): {ADVICE}.")
    return items


def no_images(root: Path, names: Sequence[str]) -> str:
    """The sentence for a folder without images, with a hint where the files there suggest one."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    if suffixes[".heic"] + suffixes[".heif"]:
        return f"{root} holds HEIC photographs, which Pillow cannot read: export them as JPEG first."
    if suffixes[".tar"] + suffixes[".zip"]:
        return f"{root} holds archives and no images: unpack them first."
    there = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common(3)) or "empty"
    return f"{root} has no images ({there}): name a folder with {', '.join(SUFFIXES[:5])} files or Parquet files."


def class_labels(images: Sequence[str]) -> dict[str, str]:
    """Image -> name of its folder, if the folders look like classes: two or more, all at one depth."""
    parents = [PurePosixPath(name).parent for name in images]
    classes, depths = {parent.name for parent in parents}, {len(parent.parts) for parent in parents}
    if len(classes) < 2 or len(depths) > 1 or classes <= set(PARTS):
        return {}
    return {name: parent.name for name, parent in zip(images, parents)}


def read_sidecars(root: Path, images: Sequence[str], present: set[str]) -> dict[str, str]:
    """Image -> the text of IMAGE.jpg.txt, else of IMAGE.txt, else ""."""
    texts = {}
    for name in images:
        beside = [f"{name}.txt", str(PurePosixPath(name).with_suffix(".txt"))]
        texts[name] = next((tidy(read_text(root / path)) for path in beside if path in present), "")
    return texts


def read_text(path: Path) -> str:
    """A text file in UTF-8, in UTF-16 with its mark, or else in Latin-1."""
    raw = path.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_metadata(root: Path, name: str, column: str = "") -> dict[str, tuple[str, str]]:
    """Image -> (long, short) caption from one metadata file, as Hugging Face's imagefolder reads it.

    LabError where it names no files, or one that is not below its folder.
    """
    rows = read_rows(root / name)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if "file_name" not in columns:
        raise LabError(f"{root / name} needs a 'file_name' column; it has {', '.join(columns) or 'no rows'}.")
    long, short = long_column(column, columns, root / name), first(SHORT_COLUMNS, columns)
    folder = PurePosixPath(name).parent
    texts = {}
    for row in rows:
        raw = str(row.get("file_name") or "").replace("\\", "/")
        path = PurePosixPath(raw)
        odd = any("\ud800" <= c <= "\udfff" or c == "\0" for c in raw)  # no file system has such a name
        if odd or not path.parts or path.is_absolute() or ".." in path.parts or "://" in raw or PureWindowsPath(raw).drive:
            raise LabError(f"{root / name}: file_name {ascii(raw)} must be a relative path below that folder.")
        texts[str(folder / path)] = (text_of(row.get(long)), text_of(row.get(short)))
    return texts


def first(names: Sequence[str], columns: Sequence[str]) -> str:
    """The first of `names` among the columns, or ""."""
    return next((name for name in names if name in columns), "")


def long_column(asked: str, columns: Sequence[str], where: Path | str) -> str:
    """The column of the captions: the one asked for, else the first usual one, else "". LabError where the one asked for is not there."""
    if asked and asked not in columns:
        raise LabError(f"{where} has no column '{asked}' for captions.{nearest(asked, columns)} It has {', '.join(columns)}.")
    return asked or first(CAPTION_COLUMNS, columns)


def text_of(value: object) -> str:
    """A caption cell as text: the first of several captions, "" for a missing one."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return tidy(value) if isinstance(value, str) else ""


def read_rows(path: Path) -> list[dict]:
    """The rows of a metadata file; LabError where it cannot be read, which names a line that is no JSON object."""
    if path.suffix == ".jsonl":
        rows = []
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                try:
                    rows.append(dict(json.loads(line)))
                except (ValueError, TypeError, RecursionError) as error:
                    raise LabError(f"Line {number} of {path} is not a JSON object: {error}.") from error
        return rows
    import pandas

    try:
        table = (
            pandas.read_parquet(path)
            if path.suffix == ".parquet"
            else pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        )
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise LabError(f"{path} cannot be read: {str(error).strip()}.") from error
    return table.to_dict("records")
