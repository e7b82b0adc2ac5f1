"""`make run` end to end, each command once, after set-up and with nothing cached: `python -m benchmarks.quickstart`."""

import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Turn, command, once, rounds
from prx_lab.report.speed import Record


def commands(root: str) -> dict[str, list[str]]:
    """The commands of `make run`, writing under `root`."""
    lab = [sys.executable, "-m", "prx_lab"]
    return {
        "a baseline": [*lab, "run", "baseline", "--scale", "smoke", "--root", root],
        "REPA": [*lab, "run", "repa", "--scale", "smoke", "--root", root],
        "their table": [*lab, "table", "--scale", "smoke", "--root", root],
        "the book": [str(Path(sys.executable).with_name("jupyter-book")), "build", "--all", "--path-output", root, "book"],
    }


def run() -> dict[str, Turn]:
    """Times of each command, with caches that begin empty."""
    with TemporaryDirectory() as folder:
        inside = os.environ | {"PRX_LAB_CACHE": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
        start = partial(subprocess.run, check=True, capture_output=True, env=inside)
        return {name: once(partial(start, words)) for name, words in commands(folder).items()}


def measure(repeats: int) -> Record:
    record, turns = Record("quickstart", "make run after set-up"), []

    def turn() -> Turn:
        turns.append(run())
        return Turn(*map(sum, zip(*turns[-1].values())))

    found = rounds({"make run": turn}, repeats)
    record.compare("from an empty cache", found, [])
    kept = [each for each in turns if sum(one.wall for one in each.values()) in found["make run"].wall]  # not the disturbed ones
    record.facts["seconds"] = {name: statistics.median(each[name].wall for each in kept) for name in kept[0]}
    return record


if __name__ == "__main__":
    command(__doc__, measure, 1)
