"""Properties of the scenes: deterministic, apart by split, batch-free, drawn where the graph says."""

from collections import Counter

import numpy as np
import pytest
import torch

from prx_lab.data.graph import HALF, Object, Scene, View
from prx_lab.data.raycast import FAR, GAP, HIT, NORMAL, dot, rays
from prx_lab.data.scenes import (
    BRIGHT,
    COLOURS,
    HELD_OUT,
    LEVELS,
    SHAPES,
    SPLITS,
    STYLES,
    Scenes,
    composed,
    locate,
    render,
    sample_scene,
    segments,
)
from prx_lab.data.textures import PHOTOGRAPHS, pyramid
from prx_lab.errors import LabError


def lone(shape: str, material: str = "matte", colour: str = "red") -> Scene:
    thing = Object(shape, colour, "large", material, 0.0, 0.0, 0.3)
    return Scene((thing,), "plain gray", "white", "left", 3.1, "render", "simple", 0, 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style", STYLES)
def test_scenes_and_pictures_are_fixed_by_seed_and_index(level, style):
    first = [sample_scene(i, 3, level, style) for i in range(3)]
    sample_scene.cache_clear()
    again = [sample_scene(i, 3, level, style) for i in range(3)]
    assert first == again
    assert torch.equal(render(first, 32), render(again, 32))
    assert first != [sample_scene(i, 4, level, style) for i in range(3)]


@pytest.mark.parametrize("style", ["render", "photo"])
def test_a_picture_does_not_depend_on_its_batch(style):
    scenes = [sample_scene(i, 0, "full", style) for i in range(5)]
    together = render(scenes, 48)
    assert together.shape == (5, 3, 48, 48) and together.dtype == torch.float32
    assert together.min() >= -1 and together.max() <= 1 and together.isfinite().all()
    for k in (4, 0, 2):
        assert torch.equal(render([scenes[k]], 48)[0], together[k])


def test_splits_share_no_scene_and_only_heldout_shows_held_out_pairs():
    pairs, drawn = {}, {}
    for split in SPLITS:
        scenes = [sample_scene(i, 0, level, "render", split) for level in LEVELS for i in range(150)]
        pairs[split] = [{(o.shape, o.colour) for o in s.objects} for s in scenes]
        drawn[split] = {s.objects for s in scenes}
    assert not any(p & HELD_OUT for split in ("train", "val") for p in pairs[split])
    assert all(p & HELD_OUT for p in pairs["heldout"])
    assert not (drawn["train"] & drawn["val"] or drawn["train"] & drawn["heldout"] or drawn["val"] & drawn["heldout"])


def test_levels_keep_their_promises():
    simple = [o for i in range(200) for o in sample_scene(i, 0, "simple").objects]
    assert {o.shape for o in simple} == set(SHAPES[:4]) and {o.colour for o in simple} == set(BRIGHT)
    assert {o.material for o in simple} == {"matte", "glossy"}
    counts = {level: Counter(len(sample_scene(i, 0, level).objects) for i in range(200)) for level in LEVELS}
    assert set(counts["simple"]) == {1, 2} and set(counts["standard"]) == {1, 2, 3} and set(counts["full"]) == {1, 2, 3, 4}
    full = [o for i in range(300) for o in sample_scene(i, 0, "full").objects]
    assert {o.colour for o in full} == set(COLOURS) and {o.shape for o in full} == set(SHAPES)


def test_simple_objects_are_large_and_apart():
    for i in range(40):
        scene = sample_scene(i, 0, "simple")
        seen = segments([scene], 64)[0]
        spans = [(seen == k).any(0).nonzero()[:, 0] for k in range(len(scene.objects))]
        assert all(0.19 * 64 <= s[-1] - s[0] + 1 <= 0.55 * 64 for s in spans)
        assert len(spans) == 1 or min(spans[0][-1], spans[1][-1]) < max(spans[0][0], spans[1][0])


def test_polished_follows_its_rule():
    assert all(composed(sample_scene(i, 0, level, "polished")) for level in LEVELS for i in range(5))
    plain = [composed(sample_scene(i, 0, "standard")) for i in range(100)]
    assert sum(plain) < 30


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_the_surface_first_there_and_face_it(shape):
    camera = View(2.0, 6.0, 0.3, 0.3)
    direction = rays(camera, torch.rand(400, 1), torch.rand(400, 1)).flatten(1)
    origin = torch.tensor((0.0, 2.0, -6.0))
    t = HIT[shape](origin.view(3, 1), direction)
    hit = t < FAR
    point = origin.view(3, 1) + direction[:, hit] * t[hit]
    assert hit.sum() > 20
    assert GAP[shape](point).abs().max() < 8e-3  # the distance and the intersection agree on the surface
    short = origin.view(3, 1) + direction[:, hit] * (t[hit] * torch.rand(int(hit.sum())))
    assert GAP[shape](short).min() > -8e-3  # nothing of the solid lies before the hit
    normal = NORMAL[shape](point)
    assert torch.allclose(dot(normal, normal), torch.ones(1), atol=1e-4)
    assert (dot(normal, direction[:, hit]) < 0.05).all()
    missed = direction[:, ~hit]
    along = origin.view(3, 1, 1) + missed.unsqueeze(2) * torch.linspace(3, 9, 200)
    assert GAP[shape](along).min() > -8e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance_has_unit_slope_outside_and_matches_its_normal(shape):
    generator = torch.Generator().manual_seed(1)
    point = (torch.rand(3, 500, generator=generator, dtype=torch.float64) * 4 - 2).requires_grad_()
    gap = GAP[shape](point)
    slope = torch.autograd.grad(gap.sum(), point)[0]
    outside = gap > 0.02
    assert torch.allclose(dot(slope, slope)[outside], torch.ones(1, dtype=torch.float64), atol=1e-5)
    foot = (point - gap * slope).detach()[:, outside]  # step back by the distance: onto the surface
    assert GAP[shape](foot).abs().max() < 1e-5


def test_segments_and_locate_agree_with_each_other():
    for i in range(12):
        scene = sample_scene(i, 1, "full")
        seen, where = segments([scene], 128)[0], locate(scene)
        assert seen.dtype == torch.int64 and seen.min() >= -2 and seen.max() < len(scene.objects)
        assert where.shape == (len(scene.objects), 3)
        for k, (x, y, share) in enumerate(where.tolist()):
            assert 0.2 < share <= 1 and 0 <= x <= 1 and 0 <= y <= 1
            rows, columns = (seen == k).nonzero().unbind(1)
            if share > 0.98:  # then the mask is the whole silhouette, whose box surrounds the centre
                middle = (columns.min() + columns.max()) / 256, (rows.min() + rows.max()) / 256
                assert abs(middle[0] - x) < 0.03 and abs(middle[1] - y) < 0.05
    assert (segments([lone("cube")], 64)[0, 0] == -2).all() and (segments([lone("cube")], 64)[0, -1] == -1).all()


def test_the_same_scene_looks_the_same_at_every_size():
    scene = sample_scene(2, 0, "standard")
    large = render([scene], 256)
    for size in (32, 64, 128):
        small = torch.nn.functional.avg_pool2d(large, 256 // size)
        assert (small - render([scene], size)).abs().mean() < 0.02


def test_light_casts_its_shadow_on_the_far_side():
    for light, side in (("left", 1), ("right", -1)):
        scene = Scene(lone("sphere").objects, "plain gray", "white", light, 3.1, "render", "simple", 0, 0)
        picture, seen = render([scene], 64)[0].mean(0), segments([scene], 64)[0]
        floor = torch.where(seen == -1, picture, torch.nan)[38:50]
        left, right = floor[:, :32].nanmean(), floor[:, 32:].nanmean()
        assert (left - right) * side > 0.05


def test_materials_and_colours_change_the_picture():
    plain = render([lone("sphere")], 64)
    for material in ("glossy", "striped", "dotted"):
        assert (render([lone("sphere", material)], 64) - plain).abs().mean() > 0.004
    for colour, rgb in COLOURS.items():  # the lit part has the named hue
        picture = render([lone("sphere", colour=colour)], 64)[0]
        lit = (picture[:, segments([lone("sphere")], 64)[0] == 0].mean(1) + 1) / 2
        nearest = min(COLOURS, key=lambda name: float(hue(lit) @ -hue(torch.tensor(COLOURS[name]))))
        assert max(rgb) - min(rgb) < 0.05 or nearest == colour, (colour, nearest)


def hue(rgb: torch.Tensor) -> torch.Tensor:
    chroma = rgb - rgb.mean()
    return chroma / chroma.norm().clamp_min(1e-6)


def test_photographs_are_the_ones_that_ship_and_repeat_without_a_seam():
    for name in PHOTOGRAPHS:
        top = pyramid(name)[1].view(256, 256, 3)
        step = (top[1:] - top[:-1]).abs().mean()
        assert (top[0] - top[-1]).abs().mean() < 2.5 * step


def test_source_gives_bytes_and_captions():
    source = Scenes("simple", "render", 10, seed=2)
    images = source.images([1, 7], 32)
    assert len(source) == 10 and images.shape == (2, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(source.images([7], 32)[0], images[1])
    assert len(source.captions([1, 7])) == 2 and source.captions([1], "short") != source.captions([1])
    with pytest.raises(IndexError):
        source.scene(10)


def test_unknown_words_are_refused_with_a_hint():
    with pytest.raises(LabError, match="Did you mean 'standard'"):
        sample_scene(0, 0, "standart")
    with pytest.raises(LabError):
        sample_scene(-1)
    with pytest.raises(LabError):
        render([sample_scene(0)], 4)
    assert set(HALF) == set(SHAPES)
