"""The embedded world as supervised data: images, what every pixel shows and what every object is, rendered once and memory-mapped."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prx_lab import progress
from prx_lab.data.scenes import (
    COLOURS,
    FLOORS,
    LEVELS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    STYLES,
    WALLS,
    Scene,
    locate,
    render,
    sample_scene,
    segments,
)

SIDE = 64
MOST = 4  # objects a scene may have
FLOOR, WALL = 255, 254  # in the uint8 segment maps, beside object indices 0..3
CHUNK = 64


@dataclass(frozen=True)
class Part:
    """`count` scenes of one split, with a stated mixture of levels and styles; the seed keeps parts apart."""

    split: str
    count: int
    seed: int
    levels: tuple[float, ...] = (0.35, 0.35, 0.30)  # shares of simple, standard, full
    styles: tuple[float, ...] = (0.70, 0.20, 0.10)  # shares of render, photo, polished

    def scene(self, i: int) -> Scene:
        """Scene i: its level and style are drawn by its own index, so any prefix has the same mixture."""
        u, v = np.random.default_rng([self.seed, i]).random(2)
        level = LEVELS[int(np.searchsorted(np.cumsum(self.levels)[:-1], u, side="right"))]
        style = STYLES[int(np.searchsorted(np.cumsum(self.styles)[:-1], v, side="right"))]
        return sample_scene(i, self.seed, level, style, self.split)


# Seeds far from the recipes' own, so that no recipe trains or is judged on these very pictures.
TRAIN = (Part("train", 6_000, 7001), Part("train", 6_000, 7005))  # two parts, so that two processes can render them
PAIRS = Part("heldout", 2_000, 7002)  # for judges only: an examiner must know the pairs that the pupil has not seen
VAL = Part("val", 2_000, 7003)
HELDOUT = Part("heldout", 1_000, 7004)


@dataclass(frozen=True)
class World:
    """Rows of one or more parts. `objects` (n, 4, 7): shape, colour, size, material ids, x, y, visible share; -1 where absent.

    `images` uint8 (n, 64, 64, 3), `segments` uint8 (n, 64, 64), `scene` int64 (n, 6): floor, wall, light, style, level, count.
    """

    parts: tuple[Part, ...]
    images: tuple[np.ndarray, ...]
    segments: tuple[np.ndarray, ...]
    objects: Tensor
    scene: Tensor

    def __len__(self) -> int:
        return len(self.objects)

    def pixels(self, rows: Tensor) -> Tensor:
        """Images of these rows, float32 (B, 3, 64, 64) in [-1, 1]."""
        return torch.from_numpy(_take(self.images, rows)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def owners(self, rows: Tensor) -> Tensor:
        """What each pixel shows, uint8 (B, 64, 64): an object's index, FLOOR or WALL."""
        return torch.from_numpy(_take(self.segments, rows))

    def scenes(self) -> list[Scene]:
        """The scene graphs, sampled again (about a millisecond each)."""
        return [part.scene(i) for part in self.parts for i in range(part.count)]


def world(parts: Sequence[Part], root: Path) -> World:
    """Load parts from the cache at `root`, rendering what is not there yet."""
    arrays = [_cached(part, root) for part in parts]
    objects = torch.cat([torch.from_numpy(a["objects"].astype(np.float32)) for a in arrays])
    scene = torch.cat([torch.from_numpy(a["scene"].astype(np.int64)) for a in arrays])
    return World(tuple(parts), tuple(a["images"] for a in arrays), tuple(a["segments"] for a in arrays), objects, scene)


def describe(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """One row of `objects` and one of `scene` (see `World`)."""
    rows = np.full((MOST, 7), -1, np.float32)
    seen = locate(scene).numpy()
    for k, o in enumerate(scene.objects):
        ids = SHAPES.index(o.shape), list(COLOURS).index(o.colour), SIZES.index(o.size), MATERIALS.index(o.material)
        rows[k] = (*ids, *seen[k])
    floor, wall, light = list(FLOORS).index(scene.floor), list(WALLS).index(scene.wall), LIGHTS.index(scene.light)
    return rows, np.array([floor, wall, light, STYLES.index(scene.style), LEVELS.index(scene.level), len(scene.objects)])


def _cached(part: Part, root: Path) -> dict[str, np.ndarray]:
    name = f"world-{hashlib.sha256(json.dumps([SIDE, *map(str, astuple(part))]).encode()).hexdigest()[:12]}"
    folder = Path(root) / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            _render(part, draft)
            if not folder.is_dir():
                draft.replace(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}


def _render(part: Part, folder: Path) -> None:
    n = part.count
    shapes = {"images": (np.uint8, (SIDE, SIDE, 3)), "segments": (np.uint8, (SIDE, SIDE))}
    shapes |= {"objects": (np.float32, (MOST, 7)), "scene": (np.int64, (6,))}
    out = {k: np.lib.format.open_memmap(folder / f"{k}.npy", "w+", dtype, (n, *shape)) for k, (dtype, shape) in shapes.items()}
    for start in progress.bar(range(0, n, CHUNK), desc=f"rendering {part.split}", unit=f"x{CHUNK}", mininterval=5):
        scenes = [part.scene(i) for i in range(start, min(start + CHUNK, n))]
        rows = slice(start, start + len(scenes))
        pictures = ((render(scenes, SIDE) + 1) * 127.5).round().to(torch.uint8)
        out["images"][rows] = pictures.permute(0, 2, 3, 1).numpy()
        owner = segments(scenes, SIDE)
        out["segments"][rows] = torch.where(owner < 0, 256 + owner, owner).to(torch.uint8).numpy()  # -1, -2 to 255, 254
        out["objects"][rows], out["scene"][rows] = map(np.stack, zip(*map(describe, scenes), strict=True))
    for array in out.values():
        array.flush()


def _take(arrays: Sequence[np.ndarray], rows: Tensor) -> np.ndarray:
    """Rows of several arrays as if they were one."""
    ends = np.cumsum([len(a) for a in arrays])
    index = rows.numpy()
    which = np.searchsorted(ends, index, side="right")
    first = arrays[0]
    out = np.empty((len(index), *first.shape[1:]), first.dtype)
    for k, array in enumerate(arrays):
        mine = which == k
        out[mine] = array[index[mine] - (ends[k] - len(array))]
    return out
