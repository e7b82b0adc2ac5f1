"""Light: area-light shadows, contact shadows, highlights, and the camera corpus' optics, sensor and JPEG."""

import io
import math

import numpy as np
import torch
from torch import Tensor

from prx_lab.data.graph import BOUND, FLOORS, LEVELS, WALL_Z, WALLS, Object, Scene, view
from prx_lab.data.raycast import EVERYWHERE, FLOOR, GAP, NORMAL, WALL, Sight, cast, dot, local, look, turn, vector
from prx_lab.data.textures import albedo, blur, gamma, paint, texture

TOWARDS = {"left": (-0.72, 0.85, -0.50), "right": (0.72, 0.85, -0.50), "front": (-0.16, 0.72, -0.85), "above": (0.18, 1.0, -0.34)}
SPREAD = 0.13  # tangent of the light's half angle: how fast a penumbra widens
KEY, SKY = 0.90, 0.50  # brightness of the light and of the surroundings
REACH = 0.75  # how far contact shadows extend, world units
FINE = 4  # rays a side of a pixel at edges
CONTRAST = 0.05  # a step in linear light that counts as an edge on a solid


def light_direction(scene: Scene) -> tuple[float, float, float]:
    """Unit vector from a scene towards its light: x to the right, y up, z away from the camera."""
    x, y, z = TOWARDS[scene.light]
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def shadow(obj: Object, point: Tensor, asked: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the `asked` points (3, n) the solid may shade, and the share of the light that reaches those.

    Along a ray to the light's middle the signed distance d to a convex solid has one minimum, at t; a disc light
    of half angle tan = SPREAD is then covered as by a straight edge at d / (t SPREAD).
    """
    offset = vector(obj.centre, point) - point
    middle = dot(offset, towards.view(3, 1))
    radius = BOUND[obj.shape] * obj.radius
    wide = radius + SPREAD * (middle + radius).clamp_min(0)
    near = (asked & (middle > -radius) & (dot(offset, offset) - middle**2 < wide**2)).nonzero()[:, 0]
    start = local(point[:, near], obj).unsqueeze(1)  # 3, 1, n
    step = turn(towards.view(3, 1, 1), -obj.angle)  # t counts in radii of the solid
    at, width = (middle[near] / obj.radius).unsqueeze(0), BOUND[obj.shape]
    for _ in range(3):  # seven samples, then seven around the least, and again
        t = (at + width * torch.linspace(-1, 1, 7).view(7, 1)).clamp_min(0)  # 7, n
        best, place = GAP[obj.shape](start + t * step).min(0, keepdim=True)
        at, width = t.gather(0, place), width / 3
    edge = (best / (SPREAD * at.clamp_min(0.02))).clamp(-1, 1)[0]
    return near, 0.5 + 0.75 * edge - 0.25 * edge**3


def contact(obj: Object, point: Tensor, normal: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the `asked` points (3, n) lie near the solid, and the share of the surroundings' light that they keep."""
    offset = vector(obj.centre, point) - point
    near = (asked & (dot(offset, offset) < (BOUND[obj.shape] * obj.radius + REACH) ** 2)).nonzero()[:, 0]
    start, up = local(point[:, near], obj), turn(normal[:, near], -obj.angle) / obj.radius
    kept = torch.ones(near.shape[0])
    for height, weight in ((0.12, 0.30), (0.50, 0.45)):
        gap = GAP[obj.shape](start + height * up) * obj.radius
        kept = kept * (1 - weight * (1 - gap / height).clamp(0, 1))
    return near, kept


def surfaces(scene: Scene, point: Tensor, owner: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Normals and linear colours (3, n) of what the rays met."""
    normal, colour = torch.zeros_like(point), torch.zeros_like(point)
    drift = (scene.index * 0.6180339887) % 1 * 7.0  # textures lie differently in every scene
    for kind, tables, axes, facing in ((FLOOR, FLOORS, (0, 2), (1, 1.0)), (WALL, WALLS, (0, 1), (2, -1.0))):
        at = (owner == kind).nonzero()[:, 0]
        normal[facing[0], at] = facing[1]
        finish = tables[scene.floor if kind == FLOOR else scene.wall]
        if isinstance(finish, str):
            a, b = point[axes[0], at] + drift, point[axes[1], at] + drift
            colour[:, at] = texture(finish, a, b, width[at])
        else:
            colour[:, at] = paint(finish)
    for k, obj in enumerate(scene.objects):
        at = (owner == k).nonzero()[:, 0]
        p = local(point[:, at], obj)
        n = NORMAL[obj.shape](p)
        colour[:, at] = albedo(obj, p, n, width[at] / obj.radius)
        normal[:, at] = turn(n, obj.angle)
    return normal, colour


def gloss(shape: str, normal: Tensor, ray: Tensor, point: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Reflections on a glossy solid: of the room (n,) and of the light (n,); flat faces mirror a strip light nearby."""
    mirror = ray - 2 * dot(normal, ray) * normal
    fresnel = 0.06 + 0.70 * (1 + dot(normal, ray)).clamp(0, 1) ** 5
    around = 0.35 + 0.5 * mirror[1].clamp_min(0)
    if shape in ("cube", "cylinder"):
        flat = (normal[1] > 0.99) | (shape == "cube")
        across = mirror[0] + 0.3 * mirror[1] + 0.3 * point[0]
        around = around + 1.7 * flat * ((torch.cos(9.0 * across + 0.8) - 0.35) / 0.6).clamp(0, 1)
    if shape == "cylinder":  # a tall lamp, so that upright sides catch it too
        mirror = torch.stack((mirror[0], mirror[1].clamp_min(0) + towards[1], mirror[2]))
        mirror = mirror / dot(mirror, mirror).sqrt()
    aim = dot(mirror, towards.view(3, 1))
    lamp = ((aim - 0.93) / 0.045).clamp(0, 1)
    return fresnel * around, (0.5 if shape == "cylinder" else 0.9) * lamp * lamp * (3 - 2 * lamp) + 0.12 * aim.clamp_min(0) ** 12


def shade(scene: Scene, sight: Sight, pixel: float) -> Tensor:
    """Linear light (3, n) along rays that stand for squares of `pixel` world units at unit distance."""
    camera = view(scene)
    ray, owner, far = sight.ray.flatten(1), sight.owner.flatten(), sight.depth.flatten()
    point = torch.tensor((0.0, camera.height, -camera.distance)).view(3, 1) + ray * far
    width = far * pixel
    grazing = (-ray[1]).clamp_min(0.1).rsqrt()
    normal, colour = surfaces(scene, point, owner, torch.where(owner == FLOOR, width * grazing, width))
    towards = torch.tensor(light_direction(scene))
    facing = dot(normal, towards.view(3, 1)).clamp_min(0)
    key, sky = facing * 1.06 / (1 + 0.022 * dot(point, point)), room(point, normal, owner)
    lit = facing > 0
    for k, obj in enumerate(scene.objects):
        others = owner != k
        near, passed = shadow(obj, point, others & lit, towards)
        key[near] *= passed
        near, kept = contact(obj, point, normal, others & (owner != WALL))
        sky[near] *= kept
        own = (owner == k).nonzero()[:, 0]  # the floor darkens the foot of a solid
        sky[own] *= 0.62 + 0.38 * (point[1, own] / (0.9 * obj.radius)).clamp(0, 1)
    light = colour * (KEY * key + SKY * sky)
    for k, obj in enumerate(scene.objects):
        if obj.material == "glossy":
            own = (owner == k).nonzero()[:, 0]
            around, lamp = gloss(obj.shape, normal[:, own], ray[:, own], point[:, own], towards)
            light[:, own] += around * sky[own] + lamp * (key[own] > 0)
    return develop(light)


def room(point: Tensor, normal: Tensor, owner: Tensor) -> Tensor:
    """Light of the surroundings (n,): more from above, less where floor and wall meet."""
    meeting = torch.where(owner == WALL, point[1], WALL_Z - point[2]).clamp(0, 1)
    return (0.78 + 0.22 * normal[1]) * torch.where(owner < 0, 0.72 + 0.28 * meeting.sqrt(), 1.0)


def develop(light: Tensor) -> Tensor:
    """Roll the highlights off, so that colours bend towards white instead of clipping."""
    knee = 0.75
    over = (light - knee).clamp_min(0)
    return light.clamp_max(knee) + (1 - knee) * (1 - torch.exp(-over / (1 - knee)))


def edges(light: Tensor, owner: Tensor) -> Tensor:
    """Pixels (s, s) that one ray does not settle: next to another owner, or to another tone on a solid."""
    rough = torch.zeros_like(owner, dtype=torch.bool)
    solid = owner >= 0
    for a, b in (((slice(1, None), slice(None)), (slice(-1), slice(None))), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        step = (light[:, *a] - light[:, *b]).abs().amax(0) > CONTRAST
        change = (owner[a] != owner[b]) | (step & solid[a] & solid[b])
        rough[a] |= change
        rough[b] |= change
    return rough


def picture(scene: Scene, size: int) -> Tensor:
    """One scene as sRGB (3, size, size) in [0, 1]: one ray a pixel, FINE x FINE at edges, averaged in linear light."""
    pixel = 2 * view(scene).tan / size
    sight = cast(scene, size)
    light = shade(scene, sight, pixel).view(3, size, size)
    row, column = edges(light, sight.owner).nonzero().unbind(1)
    inner = (torch.arange(FINE) + 0.5) / FINE
    rows = (row.view(-1, 1) + inner.repeat_interleave(FINE)) / size  # n, FINE * FINE
    columns = (column.view(-1, 1) + inner.repeat(FINE)) / size
    finer = look(scene, rows, columns, [EVERYWHERE] * len(scene.objects))
    light[:, row, column] = shade(scene, finer, pixel / FINE).view(3, -1, FINE * FINE).mean(2)
    return camera(scene, light, sight.depth) if scene.style == "photo" else gamma(light)


def camera(scene: Scene, light: Tensor, depth: Tensor) -> Tensor:
    """The camera corpus: white balance, defocus by depth, vignette, sensor noise and JPEG, keyed on the scene."""
    from PIL import Image

    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([scene.seed, scene.index, LEVELS.index(scene.level), 7])))
    size = light.shape[-1]
    balance = torch.tensor(rng.normal(1.0, 0.05, 3), dtype=torch.float32).view(3, 1, 1) * float(rng.uniform(0.85, 1.12))
    light = light * balance
    focus = math.hypot(scene.objects[0].z + view(scene).distance, scene.camera)
    aperture = float(rng.uniform(0.02, 0.07)) * size
    radius = aperture * (1 - focus / depth).abs()
    previous, blurred = 0.0, light
    for sigma in (0.6 * size / 64, 1.3 * size / 64):
        softer = blur(light, sigma)
        blurred = torch.lerp(blurred, softer, ((radius - previous) / (sigma - previous)).clamp(0, 1))
        previous = sigma
    axis = torch.linspace(-1, 1, size)
    blurred = blurred * (1 - 0.16 * (axis.view(1, size) ** 2 + axis.view(size, 1) ** 2))
    shot = torch.from_numpy(rng.standard_normal((3, size, size), np.float32))
    noisy = gamma(blurred + shot * (float(rng.uniform(0.2, 1.0)) * 6e-4 * (blurred + 0.02)).sqrt())
    array = (noisy.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=int(rng.integers(70, 93)))
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
