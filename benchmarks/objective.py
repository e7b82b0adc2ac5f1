"""What another objective costs a step: contrastive flow matching, x-prediction: `python -m benchmarks.objective`."""

from benchmarks.cases import SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.recipes import RECIPES
from prx_lab.report.speed import Record

NAMES = ("baseline", "contrastive", "x-pred")


def measure(repeats: int) -> Record:
    record = Record("objective", "What another objective costs a step")
    arms = {name: ours(one := recipe(base=RECIPES[name]), store(one), DEVICE, compiled=True).step for name in NAMES}
    record.compare(f"{SCALE} scale", interleave(arms, repeats, 3), [("baseline", name, 0.0) for name in NAMES[1:]])
    return record


if __name__ == "__main__":
    command(__doc__, measure, 15)
