"""How long one waits before anything happens: imports, the command line, and with --run `make run`: `python -m benchmarks.startup`."""

import argparse
import subprocess
import sys
import time

from benchmarks.harness import Record, interleave

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import prx_lab": ["-c", "import prx_lab"],
    "import prx_lab.cli": ["-c", "import prx_lab.cli"],
    "prx-lab --help": ["-m", "prx_lab.cli", "--help"],
    "prx-lab recipes": ["-m", "prx_lab.cli", "recipes"],
    "import torch": ["-c", "import torch"],
    "import prx_lab.train": ["-c", "import prx_lab.train"],
}
GOAL = 0.3  # seconds for the package before torch


def start(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def measure(repeats: int = 7, run: bool = False) -> Record:
    record = Record("startup", "How long one waits before anything happens")
    found = interleave({name: lambda words=words: start(words) for name, words in COMMANDS.items()}, repeats, 1)
    record.compare("processes", found, [])
    beyond = {name: found[name].median - found["python alone"].median for name in ("import prx_lab", "import prx_lab.cli")}
    record.facts["seconds beyond a bare Python"] = beyond | {"goal": GOAL}
    if run:
        begin = time.perf_counter()
        subprocess.run(["make", "run"], check=True, stdout=subprocess.DEVNULL)
        record.facts["make run"] = {"seconds": time.perf_counter() - begin}
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--run", action="store_true", help="time `make run` too, on what is cached here")
    options = parser.parse_args()
    measure(options.repeats, options.run).finish()


if __name__ == "__main__":
    main()
