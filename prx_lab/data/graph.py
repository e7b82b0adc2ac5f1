"""The scene graph: what a scene may contain, how large each solid is, and where the camera stands.

World units: x to the right, y up, z away from the camera; the floor is y = 0. CLEVR (arXiv 1612.06890) is the model.
"""

import math
from dataclasses import dataclass

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")
COLOURS = {  # sRGB in [0, 1]; the first eight are the bright ones
    "red": (0.86, 0.13, 0.14),
    "orange": (0.98, 0.53, 0.07),
    "yellow": (0.99, 0.86, 0.12),
    "green": (0.16, 0.66, 0.22),
    "cyan": (0.14, 0.80, 0.86),
    "blue": (0.11, 0.28, 0.85),
    "purple": (0.48, 0.17, 0.72),
    "pink": (0.98, 0.50, 0.72),
    "brown": (0.45, 0.26, 0.13),
    "gray": (0.50, 0.51, 0.53),
    "white": (0.96, 0.96, 0.95),
    "black": (0.11, 0.11, 0.12),
}
BRIGHT = tuple(COLOURS)[:8]
SIZES = ("small", "large")
RADIUS = {"small": 0.60, "large": 0.90}  # the unit of every solid's proportions below
MATERIALS = ("matte", "glossy", "striped", "dotted")
LIGHTS = ("left", "right", "front", "above")
FLOORS = {  # name -> plain sRGB colour, or a texture's name
    "plain gray": (0.80, 0.80, 0.81),
    "plain beige": (0.87, 0.81, 0.71),
    "wooden": "wood",
    "tiled": "tiles",
    "checkered": "checker",
    "gravel": "photo-gravel",
    "grass": "photo-grass",
    "stone": "photo-stone",
}
WALLS = {
    "white": (0.93, 0.93, 0.93),
    "beige": (0.90, 0.84, 0.74),
    "light blue": (0.70, 0.81, 0.91),
    "light green": (0.76, 0.87, 0.76),
    "brick": "photo-brick",
    "cloth": "photo-cloth",
    "rough gray": "photo-rough",
}
PHOTO_FLOORS, PHOTO_WALLS = ("gravel", "grass", "stone"), ("brick", "cloth", "rough gray")
PLAIN_FLOORS, PLAIN_WALLS = tuple(FLOORS)[:5], tuple(WALLS)[:4]
LEVELS = ("simple", "standard", "full")
STYLES = ("render", "photo", "polished")
SPLITS = ("train", "val", "heldout")
HELD_OUT = frozenset(  # (shape, colour) pairs that no training or validation scene shows
    {("sphere", "green"), ("cube", "purple"), ("cylinder", "orange"), ("cone", "blue"), ("torus", "red"), ("cube", "white")}
)

# Half width, half height and bounding radius of each solid, in units of RADIUS.
HALF = {"sphere": (1.0, 1.0), "cube": (0.78, 0.78), "cylinder": (0.76, 0.86), "cone": (0.95, 1.0), "torus": (0.98, 0.98)}
BOUND = {"sphere": 1.0, "cube": 1.352, "cylinder": 1.148, "cone": 1.38, "torus": 0.98}
TUBE = (0.70, 0.28)  # ring and tube radius of the torus, which stands upright


@dataclass(frozen=True)
class Object:
    """One solid on the floor: `x` right and `z` away from the camera in world units, `angle` about the vertical (rad)."""

    shape: str
    colour: str
    size: str
    material: str
    x: float
    z: float
    angle: float

    @property
    def radius(self) -> float:
        """Its radius in world units, the unit of its proportions."""
        return RADIUS[self.size]

    @property
    def centre(self) -> tuple[float, float, float]:
        """Its centre (x, y, z) in world units: half its height above the floor."""
        return self.x, HALF[self.shape][1] * self.radius, self.z


@dataclass(frozen=True)
class Scene:
    """A complete scene; `camera` is the camera's height in world units."""

    objects: tuple[Object, ...]
    floor: str
    wall: str
    light: str
    camera: float
    style: str
    level: str
    seed: int
    index: int


@dataclass(frozen=True)
class View:
    """A pinhole camera: position, pitch below the horizon (rad), and the tangent of half its field of view."""

    height: float
    distance: float
    pitch: float
    tan: float

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Image x and y in [0, 1] (y down), and the depth along the viewing axis, of a point of the world."""
        side, up, depth = self.coordinates(x, y, z)
        return 0.5 + 0.5 * side / (depth * self.tan), 0.5 - 0.5 * up / (depth * self.tan), depth

    def coordinates(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A world point in camera axes: right, up, forward."""
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        dy, dz = y - self.height, z + self.distance
        return x, cos * dy + sin * dz, -sin * dy + cos * dz


DISTANCE = {"simple": 8.0, "standard": 9.0, "full": 9.6}
TANGENT = {"simple": 0.235, "standard": 0.30, "full": 0.325}
WALL_Z = 3.2  # where the wall stands


def view(scene: Scene) -> View:
    """The camera of a scene: it looks down at a point just above the middle of the floor."""
    distance = DISTANCE[scene.level]
    return View(scene.camera, distance, math.atan2(scene.camera - 0.80, distance), TANGENT[scene.level])
