"""Every benchmark in turn, each in a process of its own, then one table: `python -m benchmarks [NAME...] [--show]`."""

import argparse
import subprocess
import sys

from benchmarks.harness import DEVICE
from prx_lab.report.speed import board, load

NAMES = (
    "startup",
    "quickstart",
    "ceiling",
    "roofline",
    "attention",
    "step",
    "breakdown",
    "sampling",
    "newton",
    "loader",
    "repa",
    "objective",
    "routing",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--show", action="store_true", help="only print the records that are there")
    options = parser.parse_args()
    for name in () if options.show else options.names or NAMES:
        if name not in NAMES:
            parser.error(f"There is no benchmark '{name}'.")
        print(f"{name} ...", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, stdout=subprocess.DEVNULL)
    found = load(DEVICE.type)
    print(*found.values(), board(found), sep="\n\n\n")


if __name__ == "__main__":
    main()
