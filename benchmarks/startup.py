"""How long one waits before anything happens: imports and the command line: `python -m benchmarks.startup`."""

import subprocess
import sys

from benchmarks.harness import command, interleave
from prx_lab.report.speed import Goal, Record

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import prx_lab": ["-c", "import prx_lab"],
    "import prx_lab.cli": ["-c", "import prx_lab.cli"],
    "prx-lab --help": ["-m", "prx_lab", "--help"],
    "prx-lab recipes": ["-m", "prx_lab", "recipes"],
    "import torch": ["-c", "import torch"],
    "import prx_lab.train": ["-c", "import prx_lab.train"],
}
GOAL = 0.3  # seconds beyond a bare Python, of what is imported before torch


def start(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def measure(repeats: int) -> Record:
    record = Record("startup", "How long one waits before anything happens")
    found = interleave({name: lambda words=words: start(words) for name, words in COMMANDS.items()}, repeats, 1)
    record.compare("processes", found, [])
    for name in ("import prx_lab", "import prx_lab.cli"):
        beyond = found[name].median - found["python alone"].median
        record.goals.append(Goal("a process", f"{name}, s beyond a bare Python", beyond, GOAL, "at most"))
    return record


if __name__ == "__main__":
    command(__doc__, measure, 7)
