"""Procedural captioned scenes in the manner of CLEVR (arXiv 1612.06890): sampled, rendered, measured, never downloaded.

A scene is data (`Scene`), fixed by (seed, index, level, style, split); its picture at any size follows from it alone.
"""

import functools
import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from prx_lab.data.captions import caption
from prx_lab.data.graph import (
    BRIGHT,
    COLOURS,
    FLOORS,
    HALF,
    HELD_OUT,
    LEVELS,
    LIGHTS,
    MATERIALS,
    PHOTO_FLOORS,
    PHOTO_WALLS,
    PLAIN_FLOORS,
    PLAIN_WALLS,
    SHAPES,
    SIZES,
    SPLITS,
    STYLES,
    TUBE,
    WALLS,
    Object,
    Scene,
    view,
)
from prx_lab.data.raycast import cast
from prx_lab.data.shading import picture
from prx_lab.data.source import Source
from prx_lab.errors import LabError, nearest

__all__ = ["BRIGHT", "COLOURS", "FLOORS", "HELD_OUT", "LEVELS", "LIGHTS", "MATERIALS", "SHAPES", "SIZES", "SPLITS", "STYLES",
           "WALLS", "Object", "Scene", "Scenes", "locate", "render", "sample_scene", "segments"]  # fmt: skip

COUNTS = {"simple": (0.4, 0.6), "standard": (0.25, 0.4, 0.35), "full": (0.15, 0.25, 0.3, 0.3)}  # P(1), P(2), ...
AREA = {"simple": (1.35, 0.45), "standard": (2.1, 1.2), "full": (2.5, 1.6)}  # half extents of the floor in use, x and z
OVERLAP = {"simple": 0.0, "standard": 0.15, "full": 0.55}  # share of a solid's box that another may cover
GAP = {"simple": 0.035, "standard": 0.0, "full": 0.0}  # free image width between two solids
SIDES = ("left", "right")  # the lights that `polished` takes
LOCATE_SIZE = 96  # rays a side when a visible share is counted


def known(word: str, options: Sequence[str], what: str) -> str:
    """The word itself where it is one of the options; LabError where it is not, in which `what` says what was asked for."""
    if word not in options:
        raise LabError(f"{word!r} is no {what}: choose one of {', '.join(options)}.{nearest(word, options)}")
    return word


@functools.lru_cache(maxsize=1 << 16)
def sample_scene(index: int, seed: int = 0, level: str = "standard", style: str = "render", split: str = "train") -> Scene:
    """Scene `index` (>= 0) of a split; splits never share a scene, and only `heldout` shows a HELD_OUT pair.

    Raises LabError for an unknown level, style or split, or a negative index or seed.
    """
    known(level, LEVELS, "level"), known(style, STYLES, "style"), known(split, SPLITS, "split")
    if index < 0 or seed < 0:
        raise LabError(f"A scene's index and seed start at 0, got index {index} and seed {seed}.")
    attempt = 0
    while True:  # only `polished` ever asks twice
        key = [seed, SPLITS.index(split), LEVELS.index(level), index, attempt]
        scene = draw(np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))), index, seed, level, style, split)
        if scene and (style != "polished" or composed(scene)):
            return scene
        attempt += 1


def draw(rng: np.random.Generator, index: int, seed: int, level: str, style: str, split: str) -> Scene | None:
    """One proposal, None where the solids found no room."""
    count = 1 + int(rng.choice(len(COUNTS[level]), p=COUNTS[level]))
    attributes = [pair(rng, level, split == "heldout" and k == 0) for k in range(count)]
    materials = [MATERIALS[int(rng.integers(2 if level == "simple" else 4))] for _ in range(count)]
    surfaces = surroundings(rng, level, style)
    height = {"simple": 3.1, "standard": 3.3}.get(level) or float(rng.uniform(2.2, 5.0))
    if len(set(attributes)) < count:  # a caption must be able to tell the solids apart
        return None
    if style == "polished" and surfaces[2] not in SIDES:
        return None
    for _ in range(60):  # sizes are drawn anew with the places, so that crowding costs size and not shape
        sizes = [SIZES[int(rng.random() < 0.55)] for _ in range(count)]
        objects = tuple(
            Object(shape, colour, size, material, *place(rng, shape, level))
            for (shape, colour), size, material in zip(attributes, sizes, materials, strict=True)
        )
        scene = Scene(objects, *surfaces, height, style, level, seed, index)
        if clear(scene):
            return scene
    return None


def pair(rng: np.random.Generator, level: str, held: bool) -> tuple[str, str]:
    """A (shape, colour) pair that the level allows, from HELD_OUT or from the rest."""
    shapes, colours = (SHAPES[:4], BRIGHT) if level == "simple" else (SHAPES, tuple(COLOURS))
    if held:
        pairs = sorted(p for p in HELD_OUT if p[0] in shapes and p[1] in colours)
        return pairs[int(rng.integers(len(pairs)))]
    shape = shapes[int(rng.integers(len(shapes)))]
    free = [c for c in colours if (shape, c) not in HELD_OUT]
    return shape, free[int(rng.integers(len(free)))]


def surroundings(rng: np.random.Generator, level: str, style: str) -> tuple[str, str, str]:
    """Floor, wall and light."""
    a, b, c = rng.random(3)
    if style == "photo":
        floors, walls = PHOTO_FLOORS, PHOTO_WALLS
    elif level == "simple":
        floors, walls = PLAIN_FLOORS[:1], PLAIN_WALLS[:1]
    else:
        floors, walls = PLAIN_FLOORS, PLAIN_WALLS
    lights = LIGHTS[:2] if level == "simple" else LIGHTS
    return floors[int(a * len(floors))], walls[int(b * len(walls))], lights[int(c * len(lights))]


def place(rng: np.random.Generator, shape: str, level: str) -> tuple[float, float, float]:
    """A floor position and an angle at which the solid is easy to tell: cubes show two sides, a torus its hole."""
    x, z = (float(rng.uniform(-a, a)) for a in AREA[level])
    turn = float(rng.uniform(-1, 1))
    angle = {"cube": math.pi / 4 + 0.55 * turn, "torus": 0.62 * turn}.get(shape, math.pi * turn)
    return round(x, 4), round(z, 4), round(angle, 4)


def box(scene: Scene, obj: Object) -> tuple[float, float, float, float]:
    """Approximate image box of a solid: left, top, right, bottom in [0, 1]."""
    width, half = (e * obj.radius for e in HALF[obj.shape])
    cos, sin = abs(math.cos(obj.angle)), abs(math.sin(obj.angle))
    depth = width
    if obj.shape == "cube":
        width = depth = width * (cos + sin)
    if obj.shape == "torus":
        thick = TUBE[1] * obj.radius
        width, depth = width * cos + thick * sin, width * sin + thick * cos
    camera = view(scene)
    x, _, far = camera.project(*obj.centre)
    spread = width / (2 * far * camera.tan) * 1.03
    base = camera.project(obj.x, 0.0, obj.z - 0.7 * depth)[1]
    peak = 0.0 if obj.shape in ("cone", "sphere", "torus") else 0.8 * depth
    return x - spread, camera.project(obj.x, 2 * half, obj.z + peak)[1], x + spread, base


def clear(scene: Scene) -> bool:
    """Whether every solid lies within the frame, apart from the others, and seen as far as the level asks."""
    boxes = [box(scene, o) for o in scene.objects]
    edge = 0.02
    if any(b[0] < edge or b[1] < edge or b[2] > 1 - edge or b[3] > 1 - edge for b in boxes):
        return False
    for (a, p), (b, q) in combinations(zip(scene.objects, boxes, strict=True), 2):
        apart = 0.12 + a.radius * HALF[a.shape][0] * 1.15 + b.radius * HALF[b.shape][0] * 1.15
        if math.hypot(a.x - b.x, a.z - b.z) < apart:
            return False
        wide = min(p[2], q[2]) - max(p[0], q[0]) + GAP[scene.level]
        high = min(p[3], q[3]) - max(p[1], q[1])
        back = p if a.z > b.z else q
        covered = max(wide, 0) * max(high, 0) / ((back[2] - back[0]) * (back[3] - back[1]))
        if covered > OVERLAP[scene.level]:
            return False
    return True


def composed(scene: Scene) -> bool:
    """The rule of `polished`: light from a side, no solid hidden or near the frame, the heaviest one on a third."""
    boxes = [box(scene, o) for o in scene.objects]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
    b = boxes[areas.index(max(areas))]
    third = min(abs((b[0] + b[2]) / 2 - t) for t in (1 / 3, 2 / 3))
    inside = all(b[0] > 0.05 and b[2] < 0.95 and b[1] > 0.05 and b[3] < 0.92 for b in boxes)
    overlap = any(min(p[2], q[2]) > max(p[0], q[0]) and min(p[3], q[3]) > max(p[1], q[1]) for p, q in combinations(boxes, 2))
    return third < 0.06 and inside and not overlap and sum(areas) > 0.10 and scene.light in SIDES


def render(scenes: Sequence[Scene], size: int) -> Tensor:
    """Pictures (B, 3, size, size), float32 in [-1, 1], sRGB; a scene's picture does not depend on its batch.

    Raises LabError unless 8 <= size <= 2048.
    """
    if not 8 <= size <= 2048:
        raise LabError(f"A scene renders at 8 to 2048 pixels a side, got {size}.")
    with torch.inference_mode():
        pictures = [picture(s, size) for s in scenes]
    return torch.stack(pictures).clone() * 2 - 1 if pictures else torch.zeros(0, 3, size, size)


def segments(scenes: Sequence[Scene], size: int) -> Tensor:
    """What each pixel's centre sees: (B, size, size) int64, an object's index, -1 floor, -2 wall."""
    return torch.stack([cast(s, size).owner.long() for s in scenes])


def locate(scene: Scene) -> Tensor:
    """Image x and y (down) of each object's centre in [0, 1], and its visible share in [0, 1]: (n, 3)."""
    sight = cast(scene, LOCATE_SIZE)
    seen = [int((sight.owner == k).sum()) / max(total, 1) for k, total in enumerate(sight.alone)]
    return torch.tensor([(*view(scene).project(*o.centre)[:2], s) for o, s in zip(scene.objects, seen, strict=True)])


class Scenes(Source):
    """`count` scenes of one level, style and split, rendered on demand."""

    def __init__(self, level: str, style: str, count: int, seed: int = 0, split: str = "train"):
        self.level, self.style = known(level, LEVELS, "level"), known(style, STYLES, "style")
        self.split, self.count, self.seed = known(split, SPLITS, "split"), count, seed
        self.name = f"scenes-{level}-{style}-{split}-{seed}"

    def __len__(self) -> int:
        return self.count

    def scene(self, i: int) -> Scene:
        """Scene i, 0 <= i < count; raises IndexError beyond."""
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        return sample_scene(int(i), self.seed, self.level, self.style, self.split)

    def images(self, index: Sequence[int], size: int) -> np.ndarray:
        """Scenes `index` at `size` pixels: uint8 (n, size, size, 3)."""
        pictures = render([self.scene(int(i)) for i in index], size)
        return ((pictures + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def captions(self, index: Sequence[int], kind: str = "long") -> list[str]:
        """Captions of scenes `index`: `long`, `short`, or `mixed` for half of each."""
        return [caption(self.scene(int(i)), kind) for i in index]
