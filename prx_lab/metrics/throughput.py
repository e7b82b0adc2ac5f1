"""Speed and memory of a run: images/s from the median step, peak memory, and the time a curve takes to reach a quality."""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prx_lab.errors import LabError


def images_per_second(rates: Sequence[float], warmup: int = 2) -> float | None:
    """The median of logged rates, the first `warmup` left out (compilation, caches); None when nothing is left.

    A median ignores the occasional slow step. No device is synchronised: a step ends by reading its loss. LabError for a negative `warmup`.
    """
    if warmup < 0:
        raise LabError(f"0 or more rates are left out at the start, not {warmup}.")
    return statistics.median(rates[warmup:]) if len(rates) > warmup else None


@dataclass(frozen=True)
class Memory:
    """Peak memory in MiB and what was measured: 'cuda' (tensors on the device) or 'process' (resident set, all of Python)."""

    mib: float
    kind: str


def reset_peak() -> None:
    """Start a new peak on the device; the resident peak of a process cannot be reset."""
    import torch  # here: tables read `time_to` and need none of it

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> Memory:
    """Peak of the device since `reset_peak` where CUDA is used, otherwise of the process since its start; never compare the two."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return Memory(torch.cuda.max_memory_allocated() / 2**20, "cuda")
    import resource  # not on Windows, where only CUDA memory can be read

    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return Memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 2**20, "process")


def time_to(curve: Sequence[Mapping[str, float]], quality: float, lower_is_better: bool, key: str = "value") -> float | None:
    """Seconds at which a curve of {"seconds", key} first reaches `quality`, linear between points; None if it never does.

    Points whose value is None or not finite are left out. A first point that is already good enough gives its own time,
    an upper bound. LabError when the seconds do not increase.
    """
    sign = 1.0 if lower_is_better else -1.0
    points = [(float(p["seconds"]), sign * float(p[key])) for p in curve if p[key] is not None and math.isfinite(p[key])]
    if any(b[0] <= a[0] for a, b in zip(points, points[1:], strict=False)):
        raise LabError("The seconds of a training curve must increase from point to point: sort it, or keep one run per curve.")
    goal = sign * quality
    before: tuple[float, float] | None = None
    for seconds, value in points:
        if value <= goal:
            if before is None:
                return seconds
            return before[0] + (seconds - before[0]) * (before[1] - goal) / (before[1] - value)
        before = (seconds, value)
    return None
