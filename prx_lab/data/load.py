"""Opens a folder of images, Parquet files or a hub data set as a `Source`, by what its name turns out to be."""

import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from prx_lab.data.decode import SUFFIXES
from prx_lab.data.folder import Folder, folder_items, walk
from prx_lab.data.listed import HELD, PARTS, Item, Listed, part, shuffled
from prx_lab.data.tabular import Table, open_table, parquet_splits, read_parquet
from prx_lab.errors import LabError, nearest

LABEL = "a photo of a {label}"


def load_source(data: str, split: str = "train", caption: str = LABEL, limit: int = sys.maxsize) -> Listed:
    """Images with captions from a folder, a Parquet file or folder, or a hub name (`owner/name`, `owner/name:config`).

    `#column` behind any of these names the column that the captions are in, where it is not a usual one or not the first of them.

    split: a split the data has, or `train` / `val`: `val` is the data's own validation (else test) part, else a fixed
    tenth chosen by hashed file name. caption: for images without one; `{label}` is the class name. limit: at most so
    many images, the first of a fixed shuffle. Unreadable images are named in a warning, left out and counted in
    `.skipped`. Raises LabError when there is nothing to read or some image has no caption.
    """
    data, column = parted(data)
    kind, path, names = kind_of(data)
    if kind == "parquet":
        name = path.resolve().name if Path(data).expanduser().is_dir() else Path(data).stem
        return load_parquet(path, names, name, split, caption, column, limit)
    if kind == "folder":
        return load_folder(path, names, split, caption, column, limit)
    return load_hub(data, split, caption, column, limit)


def parted(data: str) -> tuple[str, str]:
    """(the data, the column that `DATA#column` names, "" for a usual one); a path that exists with a # in it is a path.

    LabError where nothing follows the #.
    """
    name, mark, column = data.rpartition("#")
    if not mark or Path(data).expanduser().exists():
        return data, ""
    if not column:
        raise LabError(f"'{data}' names no column behind the #: write {name or 'DATA'}#column, or leave the # out.")
    return name, column


def kind_of(data: str) -> tuple[str, Path, list[str]]:
    """What a name of data means: `parquet` or `folder`, its root and the files in it, or `hub`; LabError for none of them."""
    if not data.strip():
        raise LabError("no data is named: give a folder of images, a .parquet file or a hub name such as owner/name.")
    path = Path(data).expanduser()
    if path.is_file() and path.suffix == ".parquet":
        return "parquet", path.parent, [path.name]
    if path.is_file():
        raise LabError(f"{data} is one file: name the folder it is in, or a .parquet file.")
    if path.is_dir():
        names = walk(path)
        tables = [name for name in names if name.endswith(".parquet") and not name.endswith("metadata.parquet")]
        # A folder of pictures may hold a stray table; a folder of tables may hold a preview picture.
        pictures = sum(PurePosixPath(name).suffix.lower() in SUFFIXES for name in names)
        return ("parquet", path, tables) if tables and pictures <= len(tables) else ("folder", path, names)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?", data) or path.suffix == ".parquet":
        raise LabError(f"There is no folder or file '{data}'.{neighbour(path)} Give a folder of images, a Parquet file or a hub name.")
    return "hub", path, []


def load_folder(root: Path, names: Sequence[str], split: str, caption: str, column: str, limit: int) -> Folder:
    """A folder of pictures; top-level folders named train, val or test are its splits."""
    items = folder_items(root.resolve(), names, caption, column)
    tops, divided = tops_of(items)
    base, whole = choose(split, tops if divided else {"train"}, root)
    if divided:
        items = [item for item in items if PurePosixPath(item.name).parts[0] == base]
    return Folder(root.resolve(), take(items, split, whole, limit, root))


def tops_of(items: Sequence[Item]) -> tuple[set[str], bool]:
    """The top-level folders of items, and whether they are splits: a folder `train` beside `car` and `bus` is a class."""
    tops = {PurePosixPath(item.name).parts[0] for item in items}
    return tops, "train" in tops and tops <= set(PARTS)


def load_parquet(root: Path, names: Sequence[str], name: str, split: str, caption: str, asked: str, limit: int) -> Table:
    """Parquet files below `root`, their splits read from their paths."""
    files = parquet_splits(root, names)
    base, whole = choose(split, files, root)
    table, column, items = open_table(read_parquet(files[base], name), name, caption, asked)
    return Table(name, table, column, take(items, split, whole, limit, root), root)


def load_hub(data: str, split: str, caption: str, asked: str, limit: int) -> Table:
    """A data set of the Hugging Face hub or of its local cache; scripts are never run. LabError where it cannot be loaded."""
    from datasets import DatasetDict, load_dataset
    from datasets.config import HF_CACHE_HOME

    name, _, config = data.partition(":")
    if not cached(name) and not reachable():
        raise LabError(unreachable(data))
    try:
        tables = load_dataset(name, config) if config else load_dataset(name)
    except Exception as error:  # network, gating, a missing config, scripts: the library's sentence says which
        cause = str(error).strip().split("\n")[0]
        raise LabError(
            f"the hub data set '{data}' cannot be loaded: {cause}; download it and give its folder, or name a config as owner/name:config."
        ) from error
    assert isinstance(tables, DatasetDict)
    base, whole = choose(split, tables, data)
    table, column, items = open_table(tables[base], data, caption, asked)
    return Table(data, table, column, take(items, split, whole, limit, data), Path(HF_CACHE_HOME))


def unreachable(data: str) -> str:
    """The sentence for a hub name that can be had neither here nor there."""
    return (
        f"there is no folder '{data}', and the hub data set of that name is not on this machine and cannot "
        f"be fetched without a network: give the path of a local copy.{neighbour(Path(data))}"
    )


def choose(split: str, splits: Iterable[str], where: Path | str) -> tuple[str, bool]:
    """(the split to open, whether all of it is meant): data with a held-out part uses it, other data is divided.

    LabError where there is no such split.
    """
    there = list(splits)
    held = next((name for name in HELD if name in there), "") if "train" in there else ""
    if split in there and (held or split not in ("train", "val")):
        return split, True
    if split in ("val", "validation") and held:
        return held, True
    if split in ("train", "val") and ("train" in there or len(there) == 1):
        return ("train" if "train" in there else there[0]), False
    raise LabError(f"{where} has no split '{split}'; it has {', '.join(sorted(there))}.{nearest(split, there)}")


def take(items: Sequence[Item], split: str, whole: bool, limit: int, where: Path | str) -> list[Item]:
    """The first `limit` items of a split in the fixed shuffled order; LabError where it has none."""
    chosen = shuffled(items) if whole else part(items, split)
    if not chosen:
        raise LabError(f"{where} has {len(items)} image(s), too few for a '{split}' part: add images.")
    return chosen[:limit]


def neighbour(path: Path) -> str:
    """A suggestion from the folder that the path would be in."""
    parent = path.parent
    return nearest(path.name, [child.name for child in parent.iterdir()]) if parent.is_dir() else ""


def cached(name: str) -> bool:
    """Whether the hub's or the `datasets` cache has something of that name."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}").exists() or (
        Path(HF_DATASETS_CACHE) / name.replace("/", "___")
    ).exists()


def reachable() -> bool:
    """Whether the hub answers: a connection tried for 5 seconds, before the library would retry for 30."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True  # names are resolved by the proxy
    address = urllib.parse.urlsplit(ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True
