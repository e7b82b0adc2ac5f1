"""Recorded runs: one folder of JSON per recipe and seed, written atomically, read back as frozen `Record`s.

A folder holds recipe.json, env.json, train.jsonl, samples.png, influences.safetensors and eval.json, which is written last and marks a
finished run.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prx_lab.errors import LabError
from prx_lab.machine import env as env  # part of a record: what env.json holds

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

LARGEST = 1e300  # a number beyond is none
ERROR = "error.txt"  # in a run folder: what the process of a grid's run told before it broke; no part of a record
CHECKOUT = Path(__file__).resolve().parent.parent


def run_folder(root: str | Path, recipe: "Recipe", seed: int) -> Path:
    """Where a run of `recipe` with `seed` is kept: root/<scale>/<recipe>-<id>/seed<k>."""
    return Path(root) / recipe.scale.name / f"{name_of(recipe)}-{recipe.id}" / f"seed{seed}"


def name_of(recipe: "Recipe") -> str:
    """The name in `recipes.py` of a recipe, whatever its scale and data (its id tells those apart); else 'custom'."""
    from prx_lab.recipes import PUBLISHED, RECIPES  # imports torch: only where a recipe is at hand anyway

    others = [f.name for f in fields(recipe) if f.name not in ("scale", "data", "phases")]  # `but` leaves them as they are

    def same(known: "Recipe") -> bool:
        close = all(getattr(known, name) == getattr(recipe, name) for name in others)
        try:
            return close and known.but(scale=recipe.scale, data=recipe.data) == recipe
        except LabError:  # that recipe does not exist at such a scale
            return False

    return next((name for name, known in (RECIPES | PUBLISHED).items() if same(known)), "custom")


def find_root(root: str | Path) -> Path:
    """The folder of recorded runs: `root` from here or, when it is relative and not here, from the checkout."""
    here = Path(root)
    there = CHECKOUT / here
    return there if not here.is_absolute() and not here.is_dir() and there.is_dir() else here


# ------------------------------------------------------------------------------------------------ writing
def plain(value: Any) -> Any:
    """`value` as strict JSON data: tuples become lists, array scalars numbers, NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | int | bool | None):
        return value
    return plain(value.item())  # numpy and torch scalars; anything else fails here, loudly


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON so that a reader sees the old file or the whole new one, also after a power cut."""
    path = Path(path)
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file as a whole, as `write_json` does."""
    write_text(Path(path), "".join(map(line, rows)))


def write_text(path: Path, text: str) -> None:
    """Put `text` in the place of a file, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` in the place of a file, whole or not at all. Raises LabError where the disk is full or read-only."""
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files private; recorded runs are shared
        os.replace(name, path)
    except OSError as error:
        raise refused(path, error) from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def line(row: Mapping[str, Any]) -> str:
    """A row as one line of strict JSON."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def append_json(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one line to a JSON-lines file such as train.jsonl. Raises LabError where the disk is full or read-only."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line(row))
    except OSError as error:
        raise refused(Path(path), error) from None


def refused(path: Path, error: OSError) -> LabError:
    """What to say when a file of a run cannot be written."""
    return LabError(f"Cannot write {path} ({error.strerror or error}); free some space or check its permissions, and run again.")


# ------------------------------------------------------------------------------------------------ reading
@dataclass(frozen=True)
class Record:
    """One finished run: what was asked (recipe, seed), where it ran (env), and what came of it (eval, train)."""

    folder: Path
    scale: str
    name: str
    id: str
    seed: int
    recipe: dict[str, Any]
    env: dict[str, Any]
    eval: dict[str, Any]
    train: tuple[dict[str, Any], ...]

    @staticmethod
    def load(folder: str | Path) -> "Record":
        """Read a run folder. Raises LabError when it is half written, damaged, or not a run folder."""
        folder = Path(folder)
        name, dash, id = folder.parent.name.rpartition("-")
        digits = folder.name.removeprefix("seed")
        if not (dash and name and folder.name.startswith("seed") and digits.isdecimal()):
            raise LabError(f"{label(folder)} is not a run folder: its name should be <recipe>-<id>/seed<k>.")
        recipe, env, evaluation = (_object(folder / file) for file in ("recipe.json", "env.json", "eval.json"))
        if not isinstance(evaluation.get("metrics"), dict):
            raise LabError(f"{label(folder)}/eval.json holds no metrics: evaluate the run again.")
        if wrong := unsound(evaluation):
            raise LabError(f"{label(folder)}/eval.json is damaged, {wrong}: delete the folder and run it again.")
        train = _lines(folder / "train.jsonl")
        return Record(folder, folder.parent.parent.name, name, id, int(digits), recipe, env, evaluation, train)

    def metric(self, name: str) -> float:
        """One number of this run, by name; NaN where it was not measured."""
        found = self.eval["metrics"].get(name, self.eval.get("throughput", {}).get(name))
        return number(found)

    def ceiling(self, name: str) -> float:
        """The same number for real images through the same judge; NaN where it was not measured."""
        return number(self.eval.get("ceiling", {}).get(name))

    @property
    def borrows(self) -> bool:
        """Whether it was judged with the last weights of another run, which trained alike: no training of its own."""
        return isinstance(self.env.get("trained"), dict)

    @property
    def curve(self) -> tuple[dict[str, Any], ...]:
        """The evaluations made during training: rows of step, seconds and metrics."""
        return tuple(self.eval.get("curve", ()))

    @property
    def samples(self) -> Path:
        """The recorded sample grid."""
        return self.folder / "samples.png"

    def __repr__(self) -> str:
        return f"Record({label(self.folder)}, {len(self.train)} training rows)"


@dataclass(frozen=True, repr=False)
class Records(Sequence[Record]):
    """The finished runs under a folder, and the half-written ones with the reason each was skipped."""

    found: tuple[Record, ...]
    skipped: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index):
        return self.found[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.found)

    def __repr__(self) -> str:
        lines = [f"{len(self)} recorded runs" + (f", {len(self.skipped)} skipped" if self.skipped else "")]
        lines += [f"  {label(record.folder)}" for record in self]
        return "\n".join(lines + [f"  skipped: {reason}" for _, reason in self.skipped])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def records(root: str | Path = "results", scale: str = "*", recipe: str = "*") -> Records:
    """All finished runs under `root`, ordered by scale, recipe, id and seed; damaged folders are listed, not read.

    `scale` and `recipe` are names, `*` means all of them; a recipe's recorded ids are all returned.
    """
    found: list[Record] = []
    skipped: list[tuple[str, str]] = []
    for folder in _run_folders(find_root(root), scale, recipe):
        try:
            found.append(Record.load(folder))
        except LabError as error:
            skipped.append((label(folder), str(error)))
    found.sort(key=lambda record: (record.scale, record.name, record.id, record.seed))
    return Records(tuple(found), tuple(skipped))


def _run_folders(root: Path, scale: str, recipe: str) -> Iterable[Path]:
    """Folders that look like runs, in a fixed order; an empty folder is a run that has not begun."""
    for folder in sorted(root.glob(f"{scale}/*/seed*")):
        name = folder.parent.name.rpartition("-")[0]
        if folder.is_dir() and recipe in ("*", name) and any(file.name != ERROR for file in folder.iterdir()):
            yield folder


def label(folder: str | Path) -> str:
    """A run folder without the path of this machine: <scale>/<recipe>-<id>/seed<k>."""
    return "/".join(Path(folder).parts[-3:])


def number(found: Any) -> float:
    """A metric as recorded, a bare number or {"value": ...}, as a float; NaN for null, absent, or anything else."""
    value = found.get("value") if isinstance(found, Mapping) else found
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if known else math.nan


def unsound(evaluation: Mapping[str, Any]) -> str:
    """What is wrong with the contents of an eval.json beside its metrics, or an empty string."""
    for key, kind in {"throughput": dict, "ceiling": dict, "curve": list, "captions": list}.items():
        if not isinstance(evaluation.get(key, kind()), kind):
            return f"its {key} is no {kind.__name__}"
    points = evaluation.get("curve", [])
    if not all(isinstance(point, dict) for point in points):
        return "a point of its curve is no object"
    seconds = [number(point.get("seconds")) for point in points]
    if not all(a < b for a, b in zip([-math.inf, *seconds], seconds)):
        return "the seconds of its curve do not increase"
    return ""


def _object(path: Path) -> dict[str, Any]:
    where = f"{label(path.parent)}/{path.name}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError(f"{where} is missing: the run did not finish, run it again.") from None
    except (ValueError, RecursionError, OSError):
        raise LabError(f"{where} is damaged: delete the folder and run it again.") from None
    if not isinstance(value, dict):
        raise LabError(f"{where} is damaged: it should hold one JSON object.")
    return value


def _lines(path: Path) -> tuple[dict[str, Any], ...]:
    where = f"{label(path.parent)}/{path.name}"
    try:
        now = path.stat()
        rows = _rows(path, now.st_ino, now.st_mtime_ns, now.st_size)
    except FileNotFoundError:
        raise LabError(f"{where} is missing: the run did not finish, run it again.") from None
    except (ValueError, RecursionError, OSError):
        raise LabError(f"{where} is damaged: delete the folder and run it again.") from None
    if not all(isinstance(row, dict) for row in rows):
        raise LabError(f"{where} is damaged: each line should hold one JSON object.")
    return rows


@lru_cache(maxsize=4096)
def _rows(path: Path, *version: int) -> tuple[Any, ...]:
    """The rows of one version of a log, parsed once: a page reads all records many times over, and most of that is their logs."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would also cut at U+2028 inside a string
    return tuple(json.loads(line) for line in lines if line.strip())
