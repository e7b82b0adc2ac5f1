"""Speed and memory of a run: images/s from the median step, peak memory, and the time a curve takes to reach a quality."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from prx_lab.errors import LabError


class Meter:
    """Times training steps: call `tick(images)` after each step and `pause()` before anything that is not training.

    A step is the time between two ticks. The first `warmup` steps (compilation, caches, allocator) do not count, and
    the median ignores the occasional slow one. No device is synchronised: in a loop the host waits for the queue anyway.
    """

    def __init__(self, warmup: int = 5, clock: Callable[[], float] = time.perf_counter):
        if warmup < 0:
            raise LabError(f"A meter skips 0 or more steps, not {warmup}.")
        self.warmup = warmup
        self.clock = clock
        self.seconds: list[float] = []
        self.images: list[int] = []
        self.last = clock()

    def tick(self, images: int) -> None:
        """End of a step that trained on `images` images, over all processes."""
        now = self.clock()
        if not math.isnan(self.last):
            self.seconds.append(now - self.last)
            self.images.append(images)
        self.last = now

    def pause(self) -> None:
        """Forget the clock: the next tick starts a step instead of ending one."""
        self.last = math.nan

    def resume(self) -> None:
        """Start a step now, after a pause."""
        self.last = self.clock()

    @property
    def batches_per_s(self) -> float | None:
        """Optimiser steps per second, or None before the first step after warm-up."""
        kept = self.seconds[self.warmup :]
        return 1 / max(statistics.median(kept), 1e-12) if kept else None

    @property
    def images_per_s(self) -> float | None:
        """Images per second, or None before the first step after warm-up."""
        rate = self.batches_per_s
        return None if rate is None else rate * statistics.median(self.images[self.warmup :])


@dataclass(frozen=True)
class Memory:
    """Peak memory in MiB and what was measured: 'cuda' (tensors on the device) or 'process' (resident set, all of Python)."""

    mib: float
    kind: str


def reset_peak() -> None:
    """Start a new peak on the device; the resident peak of a process cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> Memory:
    """Peak of the device since `reset_peak` where CUDA is used, otherwise of the process since its start; never compare the two."""
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
