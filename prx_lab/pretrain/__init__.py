"""Trains the embedded networks from the embedded world: one file per kind, one line per name here."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from prx_lab import zoo
from prx_lab.errors import LabError, nearest


@dataclass(frozen=True)
class Training:
    """The module that trains a network, and for how long: optimiser steps, or minutes on one CPU thread for the autoencoders."""

    module: str
    length: float


TRAININGS = {
    "lab-inception": Training("judge", 2000),
    "lab-t5": Training("text", 1200),
    "lab-dino-dense": Training("vision", 850),
    "lab-dino": Training("vision", 1500),
    "lab-dino-eval": Training("vision", 700),
    "lab-clip": Training("clip", 450),
    "lab-vae": Training("vae", 19),
    "lab-vae-repa-e": Training("repa_e", 7),
    "lab-vae-semantic": Training("vae", 10),
}
# What must exist before: towers read captions with lab-t5's tokenizer, autoencoders align to a teacher.
NEEDS = {"lab-clip": ("lab-t5",), "lab-vae-repa-e": ("lab-vae", "lab-dino-dense"), "lab-vae-semantic": ("lab-vae", "lab-dino-dense")}


def pretrain(name: str, effort: float = 1.0, seed: int = 0, out: Path = zoo.WEIGHTS) -> Path:
    """Train an embedded network on one CPU thread and store it with its card; `effort` scales the length of training.

    Returns its folder under `out`. Raises LabError for an unknown name, or when a network it builds on is not there.
    """
    if name not in TRAININGS:
        raise LabError(f"No training is known for '{name}'.{nearest(name, TRAININGS)} Known: {', '.join(TRAININGS)}.")
    if not 0 < effort < math.inf:
        raise LabError(f"The effort of a pretraining is above 0 (1 is what ships), not {effort}.")
    for needed in NEEDS.get(name, ()):
        zoo.folder(needed)
    training = TRAININGS[name]
    run: Callable[[str, float, int, Path], Path] = import_module(f"prx_lab.pretrain.{training.module}").run
    return run(name, training.length * effort, seed, Path(out))
