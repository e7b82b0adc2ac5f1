"""Light: area-light shadows, contact shadows, highlights, and the camera corpus' optics, sensor and JPEG."""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prx_lab.data.graph import BOUND, FLOORS, LEVELS, WALL_Z, WALLS, Object, Scene, view
from prx_lab.data.raycast import FLOOR, GAP, NORMAL, WALL, cast, dot, local, turn, vector
from prx_lab.data.textures import albedo, gamma, linear, texture

TOWARDS = {"left": (-0.72, 0.85, -0.50), "right": (0.72, 0.85, -0.50), "front": (-0.16, 0.72, -0.85), "above": (0.18, 1.0, -0.34)}
SPREAD = 0.13  # tangent of the light's half angle: how fast a penumbra widens
KEY, SKY = 0.90, 0.50  # brightness of the light and of the surroundings
REACH = 0.55  # how far contact shadows extend, world units


def light_direction(scene: Scene) -> tuple[float, float, float]:
    x, y, z = TOWARDS[scene.light]
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def shadow(obj: Object, point: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Which points (3, n) the solid may shade, and the share of the light that reaches those.

    Along a ray to the light's middle the signed distance d to a convex solid has one minimum, at t; a disc light
    of half angle tan = SPREAD is then covered as by a straight edge at d / (t SPREAD).
    """
    offset = vector(obj.centre, point) - point
    middle = dot(offset, towards.view(3, 1))
    radius = BOUND[obj.shape] * obj.radius
    wide = radius + SPREAD * (middle + radius).clamp_min(0)
    near = ((middle > -radius) & (dot(offset, offset) - middle**2 < wide**2)).nonzero()[:, 0]
    start = local(point[:, near], obj)
    step = turn(towards.view(3, 1), -obj.angle)  # t counts in radii of the solid
    middle = middle[near] / obj.radius
    width = torch.full_like(middle, 0.5 * BOUND[obj.shape])
    best = torch.full_like(middle, 1e3)
    at = middle
    for k in range(6):  # five samples, then halve around the least
        offsets = (-2, -1, 0, 1, 2) if k == 0 else (-1, 1)
        here = at
        for o in offsets:
            t = (here + o * width).clamp_min(0)
            gap = GAP[obj.shape](start + t * step)
            less = gap < best
            best, at = torch.where(less, gap, best), torch.where(less, t, at)
        width = width / 2
    edge = (best / (SPREAD * at.clamp_min(0.02))).clamp(-1, 1)
    return near, 0.5 + 0.75 * edge - 0.25 * edge**3


def contact(obj: Object, point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Which points (3, n) lie near the solid, and the share of the surroundings' light that they keep."""
    offset = vector(obj.centre, point) - point
    near = (dot(offset, offset) < (BOUND[obj.shape] * obj.radius + REACH * 1.5) ** 2).nonzero()[:, 0]
    start, up = local(point[:, near], obj), turn(normal[:, near], -obj.angle) / obj.radius
    kept = torch.ones(near.shape[0])
    for height, weight in ((0.12, 0.30), (0.50, 0.45)):
        gap = GAP[obj.shape](start + height * up) * obj.radius
        kept = kept * (1 - weight * (1 - gap / height).clamp(0, 1) ** 1.0)
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
            colour[:, at] = linear(finish).view(3, 1)
    for k, obj in enumerate(scene.objects):
        at = (owner == k).nonzero()[:, 0]
        p = local(point[:, at], obj)
        n = NORMAL[obj.shape](p)
        colour[:, at] = albedo(obj, p, n, width[at] / obj.radius)
        normal[:, at] = turn(n, obj.angle)
    return normal, colour


def gloss(normal: Tensor, ray: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror-like reflection of the room (n,) and of the light (n,) on a glossy solid."""
    mirror = ray - 2 * dot(normal, ray) * normal
    fresnel = 0.05 + 0.75 * (1 + dot(normal, ray)).clamp(0, 1) ** 5
    room = fresnel * (0.35 + 0.5 * mirror[1].clamp_min(0))
    aim = dot(mirror, towards.view(3, 1))
    lamp = ((aim - 0.93) / 0.045).clamp(0, 1)
    return room, 0.9 * lamp * lamp * (3 - 2 * lamp) + 0.12 * aim.clamp_min(0) ** 12


def shade(scene: Scene, size: int) -> tuple[Tensor, Tensor]:
    """Linear light (3, size, size), one ray a pixel, and the distance of what each ray met."""
    ray, depth, owner, _ = cast(scene, size)
    camera = view(scene)
    ray, owner, far = ray.flatten(1), owner.flatten(), depth.flatten()
    eye = torch.tensor((0.0, camera.height, -camera.distance)).view(3, 1)
    point = eye + ray * far
    pixel = far * (2 * camera.tan / size)
    towards = torch.tensor(light_direction(scene))
    floorlike = (-ray[1]).clamp_min(0.1).rsqrt()
    normal, colour = surfaces(scene, point, owner, torch.where(owner == FLOOR, pixel * floorlike, pixel))
    facing = dot(normal, towards.view(3, 1)).clamp_min(0)
    key, sky = torch.ones_like(far), 0.78 + 0.22 * normal[1]
    for k, obj in enumerate(scene.objects):
        others = ((owner != k) & (facing > 0)).nonzero()[:, 0]
        near, passed = shadow(obj, point[:, others], towards)
        key[others[near]] *= passed
        others = (owner != k).nonzero()[:, 0]
        near, kept = contact(obj, point[:, others], normal[:, others])
        sky[others[near]] *= kept
        own = (owner == k).nonzero()[:, 0]  # the floor darkens the foot of a solid
        sky[own] *= 0.62 + 0.38 * (point[1, own] / (0.9 * obj.radius)).clamp(0, 1)
    corner = point[1].clamp(0, 1)
    meeting = torch.where(owner == WALL, corner, (WALL_Z - point[2]).clamp(0, 1))
    sky = sky * torch.where(owner < 0, 0.72 + 0.28 * meeting.sqrt(), 1.0)
    pool = 1.06 / (1 + 0.022 * (dot(point, point)))
    light = colour * (KEY * key * facing * pool + SKY * sky)
    for k, obj in enumerate(scene.objects):
        if obj.material == "glossy":
            own = (owner == k).nonzero()[:, 0]
            room, lamp = gloss(normal[:, own], ray[:, own], towards)
            light[:, own] = light[:, own] + room * sky[own] + lamp * key[own]
    return light.view(3, size, size), depth


def develop(light: Tensor) -> Tensor:
    """Roll the highlights off, so that colours bend towards white instead of clipping."""
    knee = 0.75
    over = (light - knee).clamp_min(0)
    return torch.minimum(light, torch.tensor(knee)) + (1 - knee) * (1 - torch.exp(-over / (1 - knee)))


def picture(scene: Scene, size: int) -> Tensor:
    """One scene as sRGB (3, size, size) in [0, 1]: several rays a pixel, averaged in linear light."""
    fine = 2
    light, depth = shade(scene, size * fine)
    light = F.avg_pool2d(develop(light)[None], fine)[0]
    if scene.style == "photo":
        return camera(scene, light, F.avg_pool2d(depth[None], fine)[0])
    return gamma(light)


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


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, s, s), edges repeated."""
    reach = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    channels = image.shape[0]
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")
    wide = F.conv2d(padded, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(wide, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)[0]
