"""The four measures of spatial structure against loops over their definitions (iREPA, appendix B), in float64."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from prx_lab.metrics.spatial import cds, lds, rmsc, srss

G = 9  # distances up to 16, so that 6 and 8 are inside


@pytest.fixture
def tokens() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(2, 7, 3, 3, generator=g), (G, G), mode="bilinear")
    return (smooth + 0.3 * torch.randn(2, 7, G, G, generator=g) + 0.5).flatten(2).mT


def pairs(y: torch.Tensor):
    """(token, other token, Manhattan distance, cosine) of every ordered pair of different tokens."""
    y = y.double().numpy()
    for a, b in product(range(G * G), repeat=2):
        if a != b:
            distance = abs(a // G - b // G) + abs(a % G - b % G)
            yield a, b, distance, y[a] @ y[b] / math.sqrt((y[a] @ y[a]) * (y[b] @ y[b]))


def test_lds_is_the_mean_cosine_of_neighbours_less_that_of_distant_pairs(tokens):
    for y, found in zip(tokens, lds(tokens)):
        near, far = [], []
        for *_, distance, cosine in pairs(y):
            if distance == 1:
                near.append(cosine)
            elif distance >= 6:
                far.append(cosine)
        assert found.item() == pytest.approx(np.mean(near) - np.mean(far), abs=1e-5)


def test_cds_is_the_fitted_slope_of_the_mean_cosine_over_distance(tokens):
    for y, found in zip(tokens, cds(tokens)):
        at = {d: [] for d in range(1, 9)}
        for *_, distance, cosine in pairs(y):
            if distance in at:
                at[distance].append(cosine)
        slope, _ = np.polyfit(list(at), [np.mean(values) for values in at.values()], 1)
        assert found.item() == pytest.approx(-slope, abs=1e-6)


def test_rmsc_is_the_root_mean_square_distance_of_unit_tokens_from_their_mean(tokens):
    for y, found in zip(tokens.double().numpy(), rmsc(tokens)):
        unit = [row / math.sqrt(row @ row) for row in y]
        mean = sum(unit) / len(unit)
        assert found.item() == pytest.approx(math.sqrt(sum((u - mean) @ (u - mean) for u in unit) / len(unit)), abs=1e-6)


def test_srss_averages_over_anchors_what_is_near_inside_less_what_is_far_outside(tokens):
    regions = torch.full((2, G * G), -1)
    regions[:, [10, 11, 12, 20]], regions[:, [70, 71]] = 0, 1
    regions[:, 8] = 2  # alone: no positive, so no anchor
    for y, region, found in zip(tokens, regions.tolist(), srss(tokens, regions)):
        near, far = {}, {}
        for a, b, distance, cosine in pairs(y):
            if region[a] == region[b] and distance <= 1:
                near.setdefault(a, []).append(cosine)
            if region[a] != region[b] and distance >= 6:
                far.setdefault(a, []).append(cosine)
        anchors = [a for a in range(G * G) if region[a] >= 0 and a in near and a in far]
        assert len(anchors) == 6
        assert found.item() == pytest.approx(np.mean([np.mean(near[a]) - np.mean(far[a]) for a in anchors]), abs=1e-5)
