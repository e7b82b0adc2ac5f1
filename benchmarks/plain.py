"""A user's loop around diffusers' class with PyTorch's defaults, the other side of `benchmarks.step`; one line of times per line read."""

import json
import sys

import torch

from benchmarks.cases import store, theirs
from benchmarks.harness import DEVICE
from benchmarks.step import after_a_step, case
from prx_lab.precision import Precision


def main(tokens: str, weights: str) -> None:
    stored = weights == "bf16 weights"
    one = case(int(tokens), "bf16")
    run = theirs(one.but(precision=Precision("bf16", "bf16")) if stored else one, store(one), DEVICE)
    run.optimizer = torch.optim.AdamW(run.learner.parameters(), one.scale.lr)
    run.step(), run.step()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(after_a_step(run)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
