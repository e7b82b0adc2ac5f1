"""Analytic ray casting of the five solids: hits, normals, and signed distances for soft shadows and contact.

Points and directions are float32 (3, ...) component-major tensors. Every solid is described in its own frame, in units
of its radius, centred, turned about the vertical: a ray keeps its parameter t between the frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prx_lab.data.graph import BOUND, HALF, TUBE, WALL_Z, Object, Scene, View, view

FLOOR, WALL = -1, -2
FAR = 1e9


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products (...) of the vectors a and b, both (3, ...)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def turn(v: Tensor, angle: float) -> Tensor:
    """Rotate (3, ...) about the vertical axis by `angle` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.stack((cos * v[0] - sin * v[2], v[1], sin * v[0] + cos * v[2]))


def vector(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """Three numbers as a tensor (3, 1, ...), which broadcasts over `like` (3, ...)."""
    return torch.tensor(values).view(3, *(1,) * (like.dim() - 1))


def local(point: Tensor, obj: Object) -> Tensor:
    """World points (3, ...) in the solid's frame."""
    return turn((point - vector(obj.centre, point)) / obj.radius, -obj.angle)


# ---- where a ray first meets a solid: origin (3,), direction (3, ...) -> t, FAR where it misses


def first(t: Tensor, valid: Tensor) -> Tensor:
    """t where a ray meets something that lies ahead of its origin, FAR elsewhere."""
    return torch.where(valid & (t > 0), t, FAR)


def roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest root of a t^2 + 2 b t + c and whether it is real."""
    disc = b * b - a * c
    return (-b - disc.clamp_min(0).sqrt()) / a, disc > 0


def hit_sphere(o: Tensor, d: Tensor) -> Tensor:
    """Rays o + t d, both (3, ...) -> the first t (...) on the unit sphere, FAR where they miss it."""
    return first(*roots(dot(d, d), dot(o, d), dot(o, o) - 1))


def hit_cube(o: Tensor, d: Tensor) -> Tensor:
    """Rays o + t d, both (3, ...) -> the first t (...) inside all three slabs of the cube, FAR where they miss it."""
    half = HALF["cube"][0]
    inverse = 1 / torch.where(d.abs() < 1e-6, torch.full_like(d, 1e-6), d)
    middle, span = -o * inverse, half * inverse.abs()
    near, far = (middle - span).amax(0), (middle + span).amin(0)
    return first(near, near < far)


def hit_cylinder(o: Tensor, d: Tensor) -> Tensor:
    """Rays o + t d, both (3, ...) -> the first t (...) on the cylinder's side or upper lid, FAR where they miss both."""
    radius, half = HALF["cylinder"]
    t, real = roots(d[0] ** 2 + d[2] ** 2, o[0] * d[0] + o[2] * d[2], o[0] ** 2 + o[2] ** 2 - radius**2)
    side = first(t, real & ((o[1] + t * d[1]).abs() < half))
    lid = (half - o[1]) / d[1]  # the camera is above: only the upper lid can be seen
    inside = (o[0] + lid * d[0]) ** 2 + (o[2] + lid * d[2]) ** 2 < radius**2
    return torch.minimum(side, first(lid, inside))


def hit_cone(o: Tensor, d: Tensor) -> Tensor:
    """Rays o + t d, both (3, ...) -> the first t (...) on the cone's side, FAR where they miss it; nobody sees its base."""
    radius, half = HALF["cone"]
    k = (radius / (2 * half)) ** 2
    y = o[1] - half  # measured from the apex
    a = d[0] ** 2 + d[2] ** 2 - k * d[1] ** 2
    b = o[0] * d[0] + o[2] * d[2] - k * y * d[1]
    c = o[0] ** 2 + o[2] ** 2 - k * y**2
    root = (b * b - a * c).clamp_min(0).sqrt()
    best = torch.full_like(a, FAR)
    for t in ((-b - root) / a, (-b + root) / a):  # steep rays (a < 0) meet the lower nappe at either root
        height = y + t * d[1]
        best = torch.minimum(best, first(t, (b * b > a * c) & (height < 0) & (height > -2 * half)))
    return best


def hit_torus(o: Tensor, d: Tensor) -> Tensor:
    """Sphere tracing from the bounding sphere: the distance is exact, so steps never overshoot."""
    length = dot(d, d).sqrt()
    middle = -dot(o, d) / length**2
    reach = (BOUND["torus"] ** 2 - (dot(o, o) - middle**2 * length**2)).clamp_min(0).sqrt() / length
    t, end = middle - reach, middle + reach
    for _ in range(22):
        gap = distance_torus(o + t * d)
        t = t + gap / length
    return first(t, (gap < 4e-3) & (t < end) & (reach > 0))


# ---- signed distance to a solid, in its own frame: (3, ...) -> (...)


def box2(a: Tensor, b: Tensor) -> Tensor:
    """Signed distance from the two excesses over a rectangle's half sides."""
    return torch.hypot(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max(0)


def distance_sphere(p: Tensor) -> Tensor:
    """Signed distance (...) of points (3, ...) from the unit sphere, negative inside."""
    return dot(p, p).sqrt() - 1


def distance_cube(p: Tensor) -> Tensor:
    """Signed distance (...) of points (3, ...) from the cube, negative inside."""
    q = p.abs() - HALF["cube"][0]
    out = q.clamp_min(0)
    return dot(out, out).sqrt() + q.amax(0).clamp_max(0)


def distance_cylinder(p: Tensor) -> Tensor:
    """Signed distance (...) of points (3, ...) from the upright cylinder, negative inside."""
    radius, half = HALF["cylinder"]
    return box2(torch.hypot(p[0], p[2]) - radius, p[1].abs() - half)


def distance_cone(p: Tensor) -> Tensor:
    """Distance to the triangle that the cone sweeps: nearest of slant and base, negative inside."""
    radius, half = HALF["cone"]
    rho, y = torch.hypot(p[0], p[2]), p[1] - half
    along = ((rho * radius - y * 2 * half) / (radius**2 + 4 * half**2)).clamp(0, 1)
    slant = (rho - along * radius) ** 2 + (y + along * 2 * half) ** 2
    base = (rho - rho.clamp(0, radius)) ** 2 + (y + 2 * half) ** 2
    outside = (torch.maximum(rho * 2 * half + y * radius, -y - 2 * half)) > 0
    gap = torch.minimum(slant, base).sqrt()
    return torch.where(outside, gap, -gap)


def distance_torus(p: Tensor) -> Tensor:
    """Signed distance (...) of points (3, ...) from the torus, whose ring lies in the plane z = 0; negative inside."""
    ring, tube = TUBE
    return torch.hypot(torch.hypot(p[0], p[1]) - ring, p[2]) - tube


# ---- outward unit normals, in the solid's frame, of points on its surface: (3, n) -> (3, n)


def normal_sphere(p: Tensor) -> Tensor:
    """Outward unit normals (3, n) at points (3, n) of the sphere."""
    return p / dot(p, p).sqrt()


def normal_cube(p: Tensor) -> Tensor:
    """Outward unit normals (3, n) at points (3, n) of the cube: along the axis on which a point lies farthest out."""
    face = p.abs().argmax(0, keepdim=True)
    return torch.zeros_like(p).scatter_(0, face, p.gather(0, face).sign())


def normal_cylinder(p: Tensor) -> Tensor:
    """Outward unit normals (3, n) at points (3, n) of the cylinder: up on its upper lid, else away from its axis."""
    lid = p[1] > HALF["cylinder"][1] - 2e-4
    rho = torch.hypot(p[0], p[2]).clamp_min(1e-6)
    return torch.stack((torch.where(lid, 0.0, p[0] / rho), lid.float(), torch.where(lid, 0.0, p[2] / rho)))


def normal_cone(p: Tensor) -> Tensor:
    """Outward unit normals (3, n) at points (3, n) of the cone's side."""
    radius, half = HALF["cone"]
    rho = torch.hypot(p[0], p[2]).clamp_min(1e-6)
    slope = math.hypot(radius, 2 * half)
    side = 2 * half / slope / rho
    return torch.stack((p[0] * side, torch.full_like(rho, radius / slope), p[2] * side))


def normal_torus(p: Tensor) -> Tensor:
    """Outward unit normals (3, n) at points (3, n) of the torus: away from the nearest point of its ring."""
    rho = torch.hypot(p[0], p[1]).clamp_min(1e-6)
    pull = 1 - TUBE[0] / rho
    n = torch.stack((p[0] * pull, p[1] * pull, p[2]))
    return n / dot(n, n).sqrt().clamp_min(1e-6)


HIT = {"sphere": hit_sphere, "cube": hit_cube, "cylinder": hit_cylinder, "cone": hit_cone, "torus": hit_torus}
GAP = {"sphere": distance_sphere, "cube": distance_cube, "cylinder": distance_cylinder, "cone": distance_cone, "torus": distance_torus}
NORMAL = {"sphere": normal_sphere, "cube": normal_cube, "cylinder": normal_cylinder, "cone": normal_cone, "torus": normal_torus}


# ---- the camera

Window = tuple[slice, slice]
EVERYWHERE: Window = (slice(None), slice(None))


@dataclass(frozen=True)
class Sight:
    """What rays through a grid of image points meet."""

    ray: Tensor  # (3, h, w) unit directions
    depth: Tensor  # (h, w) distance along the ray
    owner: Tensor  # (h, w) int8: index of the solid, or FLOOR, or WALL
    alone: tuple[int, ...]  # how many rays each solid would meet without the others


def rays(camera: View, row: Tensor, column: Tensor) -> Tensor:
    """Unit directions through image points: row (h, 1) or (h, w) and column, in [0, 1] -> (3, h, w)."""
    right, up = (2 * column - 1) * camera.tan, (1 - 2 * row) * camera.tan
    cos, sin = math.cos(camera.pitch), math.sin(camera.pitch)
    scale = (1 + right**2 + up**2).rsqrt()
    return torch.stack((right * scale, (cos * up - sin) * scale, (sin * up + cos) * scale))


def bounds(camera: View, obj: Object, size: int) -> Window:
    """Rows and columns that can see the solid, from the tangents to its bounding sphere."""
    side, up, depth = camera.coordinates(*obj.centre)
    spans = []
    for offset in (-up, side):
        reach = math.asin(min(BOUND[obj.shape] * obj.radius / math.hypot(offset, depth), 1.0))
        middle = math.atan2(offset, depth)
        low, high = (0.5 + 0.5 * math.tan(middle + s * reach) / camera.tan for s in (-1, 1))
        spans.append(slice(min(max(math.floor(low * size), 0), size), min(max(math.ceil(high * size), 0), size)))
    return spans[0], spans[1]


def look(scene: Scene, row: Tensor, column: Tensor, windows: Sequence[Window]) -> Sight:
    """Cast a ray through every image point; solid k is sought in `windows[k]` only."""
    camera = view(scene)
    eye = torch.tensor((0.0, camera.height, -camera.distance))
    ray = rays(camera, row, column)
    down = torch.where(ray[1] < -1e-5, camera.height / -ray[1].clamp_max(-1e-5), FAR)
    back = (WALL_Z + camera.distance) / ray[2]
    depth = torch.minimum(down, back)
    owner = torch.where(down < back, FLOOR, WALL).to(torch.int8)
    alone = []
    for k, (obj, window) in enumerate(zip(scene.objects, windows, strict=True)):
        origin = local(eye, obj).view(3, 1, 1)
        t = HIT[obj.shape](origin, turn(ray[:, *window] / obj.radius, -obj.angle))
        alone.append(int((t < FAR).sum()))
        closer = t < depth[window]
        depth[window] = torch.where(closer, t, depth[window])
        owner[window].masked_fill_(closer, k)
    return Sight(ray, depth, owner, tuple(alone))


def cast(scene: Scene, size: int) -> Sight:
    """One ray through the middle of each pixel."""
    middle = (torch.arange(size) + 0.5) / size
    windows = [bounds(view(scene), o, size) for o in scene.objects]
    return look(scene, middle.view(size, 1), middle.view(1, size), windows)
