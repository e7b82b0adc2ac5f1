"""Speed, memory and time to quality, with a clock that the test moves."""

import math

import numpy as np
import pytest
import torch

from prx_lab.errors import LabError
from prx_lab.metrics.throughput import images_per_second, peak_memory, reset_peak, time_to


def test_warm_up_is_left_out_and_a_slow_step_ignored():
    assert images_per_second([1.0, 2.0, 100.0, 101.0, 3.0, 99.0, 100.0]) == 100.0


def test_nothing_is_claimed_before_warm_up_is_over():
    assert images_per_second([1.0, 2.0]) is None and images_per_second([5.0], warmup=0) == 5.0
    with pytest.raises(LabError):
        images_per_second([1.0], -1)


def test_peak_memory_is_labelled_and_grows():
    reset_peak()
    before = peak_memory()
    held = torch.ones(60 * 2**20, dtype=torch.uint8, device="cuda" if before.kind == "cuda" else "cpu")
    after = peak_memory()
    assert before.kind in ("cuda", "process") and after.kind == before.kind
    assert 10 < before.mib <= after.mib < 2**20 and held.numel()


def curve(*points: tuple[float, float]) -> list[dict]:
    return [{"seconds": s, "value": v} for s, v in points]


def test_time_to_interpolates_between_points():
    falling = curve((10, 30.0), (20, 20.0), (40, 10.0))
    assert time_to(falling, 20.0, True) == 20
    assert time_to(falling, 15.0, True) == pytest.approx(30)
    assert time_to(falling, 25.0, True) == pytest.approx(15)
    rising = curve((10, 0.1), (20, 0.5), (30, 0.4))
    assert time_to(rising, 0.3, False) == pytest.approx(15)


def test_time_to_is_the_first_crossing_and_none_when_never():
    bumpy = curve((1, 5.0), (2, 3.0), (3, 6.0), (4, 1.0))
    assert time_to(bumpy, 4.0, True) == pytest.approx(1.5)
    assert time_to(bumpy, 0.5, True) is None and time_to([], 1.0, True) is None
    assert time_to(bumpy, 5.0, True) == 1


def test_time_to_mirrors_when_the_sign_turns():
    points = [(float(i), float(v)) for i, v in enumerate(np.random.default_rng(0).standard_normal(20))]
    for quality in (-1.0, 0.0, 0.5, 9.0):
        turned = [(s, -v) for s, v in points]
        assert time_to(curve(*points), quality, False) == time_to(curve(*turned), -quality, True)


def test_time_to_leaves_out_missing_points_and_takes_other_keys():
    holes = [{"seconds": 1, "fid": 9.0}, {"seconds": 2, "fid": math.nan}, {"seconds": 3, "fid": None}, {"seconds": 5, "fid": 1.0}]
    assert time_to(holes, 5.0, True, key="fid") == pytest.approx(3)
    with pytest.raises(LabError, match="must increase"):
        time_to(curve((2, 1.0), (1, 0.5)), 0.1, True)
