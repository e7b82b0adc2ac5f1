"""The luck of images: how much of a difference between recipes is due to the captions, noises and real images it was judged on.

All runs of a scale draw the same scenes, those whose latents have one shape from the same noise, and share their luck as far as
it does the same to them. What a ratio keeps of it does not shrink with seeds. A run records by how much each image moves each
score, the infinitesimal jackknife, to first order: near the floor of a distance it is too large rather than too small.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prx_lab import record
from prx_lab.errors import LabError
from prx_lab.record import Record

FILE = "influences.safetensors"
NOTHING = np.zeros(0)


@dataclass(frozen=True)
class Influences:
    """By how much each generated image (n,) and each real one (m,), none or at least n, moves the logarithm of a score.

    Up to a constant, and times n and m. Generated image i was drawn from the caption of real image i.
    """

    generated: NDArray
    real: NDArray

    @property
    def scenes(self) -> tuple[NDArray, NDArray]:
        """What each scene moves: the n that were drawn, by both of their images, and the m - n others (0 of them where m is 0)."""
        n, m = len(self.generated), len(self.real)
        return self.generated / n + (self.real[:n] / m if m else 0.0), self.real[n:] / max(m, 1)


# ------------------------------------------------------------------------------------------------ records
def write(folder: Path, found: Mapping[str, Influences]) -> None:
    """Write the influences of a run into its folder, in half precision, which keeps three digits; a score too near zero has none."""
    tensors = {}
    for metric, one in found.items():
        with np.errstate(over="ignore"):
            halved = {f"{metric}.{side}": array.astype(np.float16) for side, array in vars(one).items() if len(array)}
        tensors |= halved if all(np.isfinite(array).all() for array in halved.values()) else {}
    record.write_bytes(folder / FILE, save(tensors))


def read(folder: Path) -> Mapping[str, Influences]:
    """The recorded influences of a run by metric; none where it has none. LabError where they are damaged."""
    file = folder / FILE
    return held(file, file.stat().st_mtime_ns) if file.exists() else {}


@lru_cache(maxsize=1024)
def held(file: Path, written: int) -> Mapping[str, Influences]:
    """What a file holds that was `written` at a time in nanoseconds; LabError for a damaged one."""
    try:
        with safe_open(file, "numpy") as tensors:
            found = {name: tensors.get_tensor(name).astype(float) for name in tensors.keys()}
    except (SafetensorError, OSError) as error:
        raise LabError(f"{file} holds no influences of images ({error}); delete it and record it again.") from None
    names = [name.removesuffix(".generated") for name in found if name.endswith(".generated")]
    return {name: Influences(found[f"{name}.generated"], found.get(f"{name}.real", NOTHING)) for name in names}


# ------------------------------------------------------------------------------------------------ differences
def both(runs: Sequence[Record], base: Sequence[Record], metric: str) -> list[tuple[Influences, Influences]]:
    """The recorded influences of two recipes, seed by seed, for the seeds of which both are recorded.

    LabError where they are not of the same images.
    """
    ours, theirs = ({run.seed: read(run.folder).get(metric) for run in part} for part in (runs, base))
    found = [(a, b) for seed in sorted(ours.keys() & theirs.keys()) if (a := ours[seed]) and (b := theirs[seed])]
    if len({(len(one.generated), len(one.real)) for pair in found for one in pair}) > 1:
        raise LabError(f"{runs[0].name} and {base[0].name} were judged on different images: a difference of them has no luck in common.")
    return found


def alone(one: Influences) -> float:
    """The variance over images of the logarithm of a score."""
    return sum(common(part[None]) for part in one.scenes)


def paired(ours: Influences, theirs: Influences) -> float:
    """The variance over images of the logarithm of the ratio of two scores at one seed."""
    return sum(common((a - b)[None]) for a, b in zip(ours.scenes, theirs.scenes))


def shared(runs: Sequence[Record], base: Sequence[Record], metric: str) -> float:
    """The variance over images of the mean log ratio of two recipes, as far as all their seeds share it; NaN where none is recorded.

    What an image does at one seed and not at another is part of the noise of seeds already. With d_s the difference of what
    scenes move at seed s it is the mean covariance of d_s and d_s' over scenes, times their number, and never below 0; of one
    seed the variance of d, which is too large rather than too small.
    """
    found = [[a - b for a, b in zip(ours.scenes, theirs.scenes)] for ours, theirs in both(runs, base, metric)]
    return max(0.0, sum(common(np.array(rows)) for rows in zip(*found))) if found else math.nan


def common(rows: NDArray) -> float:
    """The mean covariance of different rows (s, k) over the k columns, times k; of one row its variance times k; 0 for less than two."""
    s, k = rows.shape
    if k < 2:
        return 0.0
    covariance = np.atleast_2d(np.cov(rows)) * k
    return float(covariance[~np.eye(s, dtype=bool)].mean()) if s > 1 else float(covariance[0, 0])
