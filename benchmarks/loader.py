"""The share of a step that goes into its data and its draws: `python -m benchmarks.loader`.

The data lies in memory-mapped files as in a run; the files are in the page cache, as they are after the first epoch.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.data.store import Store, order
from prx_lab.flow import draw
from prx_lab.report.speed import Goal, Record


def mapped(array: NDArray, n: int, path: Path) -> NDArray:
    """An array of n rows in a file, repeated from `array`, opened for reading."""
    np.save(path, np.resize(array, (n, *array.shape[1:])))
    return np.load(path, mmap_mode="r")


def on_disk(data: Store, n: int, folder: Path) -> Store:
    """The store with n samples in memory-mapped files; the empty caption stays the last row."""
    text = {k: mapped(v, n + 1, folder / f"{k}.npy") for k, v in data.text.items()}
    return Store(mapped(data.images, n, folder / "images.npy"), mapped(data.x, n, folder / "x.npy"), text, {})


def measure(repeats: int) -> Record:
    record, one = Record("loader", "The share of a step that goes into its data"), recipe()
    s, step = one.scale, iter(range(10**9))
    with TemporaryDirectory() as folder:
        data = on_disk(store(one), min(s.images, 16384), Path(folder))
        run = ours(one, data, DEVICE, compiled=True)

        def load() -> None:
            data.batch(order(0, next(step), s.batch, len(data))).to(DEVICE)

        def variates() -> None:
            draw((0, next(step), 0, 0), (s.batch, *data.shape), s.tokens, one.time, one.drop).to(DEVICE)

        found = interleave({"data": load, "draws": variates, "step": run.step}, repeats, 3)
        group = f"{SCALE} recipe, {len(data)} samples"
        record.compare(group, found, [])
        record.facts[group] = {f"share of {k}": found[k].median / found["step"].median for k in ("data", "draws")}
        record.goals.append(Goal(group, "data, share of a step", record.facts[group]["share of data"], 0.03, "at most"))
    return record


if __name__ == "__main__":
    command(__doc__, measure, 15)
