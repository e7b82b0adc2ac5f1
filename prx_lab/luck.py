"""The luck of images: how much of a difference between recipes is due to the captions, noises and real images it was judged on.

All runs of a scale draw the same captions from the same noise, so most luck of images is shared and leaves a difference. What is
left of it does not shrink with seeds. `prx-lab influences RUN...` records by how much each image moves each score of a run (the
infinitesimal jackknife); weights of runs are not shared, so the pages read the records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from prx_lab.errors import LabError
from prx_lab.record import Record

FOLDER = "images"  # beside the folders of scales
NOTHING = np.zeros(0)


@dataclass(frozen=True)
class Influences:
    """By how much each generated image (n,) and each real one (m,) moves the logarithm of a score, up to a constant."""

    generated: NDArray
    real: NDArray

    def minus(self, other: "Influences") -> "Influences":
        """Those on the logarithm of a ratio, image by image: both runs drew the same captions from the same noise."""
        return Influences(self.generated - other.generated, self.real - other.real)


# ------------------------------------------------------------------------------------------------ records
def place(folder: Path) -> Path:
    """The file that holds the influences of a run."""
    where = folder.resolve()
    return where.parents[2] / FOLDER / where.parents[1].name / where.parent.name / f"{where.name}.safetensors"


def read(file: Path) -> Mapping[str, Influences]:
    """The recorded influences of a run by metric; none where the file does not exist. LabError where it is damaged."""
    return held(file, file.stat().st_mtime_ns) if file.exists() else {}


@lru_cache(maxsize=1024)
def held(file: Path, written: int) -> Mapping[str, Influences]:
    """What a file holds that was `written` at a time in nanoseconds."""
    try:
        with safe_open(file, "numpy") as tensors:
            found = {name: tensors.get_tensor(name).astype(float) for name in tensors.keys()}
    except (SafetensorError, OSError) as error:
        raise LabError(f"{file} holds no influences of images ({error}); delete it and record it again.") from None
    names = [name.removesuffix(".generated") for name in found if name.endswith(".generated")]
    return {name: Influences(found[f"{name}.generated"], found.get(f"{name}.real", NOTHING)) for name in names}


# ------------------------------------------------------------------------------------------------ differences
def both(runs: Sequence[Record], base: Sequence[Record], metric: str) -> list[tuple[Influences, Influences]]:
    """The recorded influences of two recipes, seed by seed, for the seeds of which both are recorded."""
    ours, theirs = ({run.seed: read(place(run.folder)).get(metric) for run in part} for part in (runs, base))
    return [(a, b) for seed in sorted(ours.keys() & theirs.keys()) if (a := ours[seed]) and (b := theirs[seed])]


def spread(one: Influences) -> float:
    """The variance over images of the logarithm of a score, or of a ratio."""
    return sum(common(side[None]) for side in (one.generated, one.real) if len(side))


def shared(runs: Sequence[Record], base: Sequence[Record], metric: str) -> float:
    """The variance over images of the mean log ratio of two recipes, as far as all their seeds share it; NaN where none is recorded.

    What an image does at one seed and not at another is part of the noise of seeds already. With d_s the difference of the
    influences at seed s it is the mean covariance of d_s and d_s' over images, over their number; of one seed the variance
    of d, which is too large rather than too small.
    """
    found = [ours.minus(theirs) for ours, theirs in both(runs, base, metric)]
    sides = ([one.generated for one in found], [one.real for one in found])
    return max(0.0, sum(common(np.array(side)) for side in sides if len(side[0]))) if found else math.nan


def common(rows: NDArray) -> float:
    """The mean covariance of different rows (s, n) over n; of one row its variance over n."""
    s, n = rows.shape
    covariance = np.atleast_2d(np.cov(rows)) / n
    return float(covariance[~np.eye(s, dtype=bool)].mean()) if s > 1 else float(covariance[0, 0])
