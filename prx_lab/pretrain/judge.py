"""Trains `lab-inception`: the detector that judges composition and gives FID its features (CenterNet, arXiv 1904.07850)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.data.store import cache_root
from prx_lab.detector import ATTRIBUTES, GLOBALS, GRID, SIZE, Detector, DetectorConfig, split
from prx_lab.pretrain.augment import defects, flip
from prx_lab.pretrain.examine import calibrate, examine, table
from prx_lab.pretrain.loop import Schedule, batches, train
from prx_lab.pretrain.world import HELDOUT, PAIRS, TRAIN, VAL, World, world

VISIBLE = 0.25  # an object hidden beyond this is neither asked for nor punished when found
REACH = 0.05  # standard deviation of a centre's target, as a share of the image's side


def run(name: str, length: float, seed: int, out: Path) -> Path:
    """Train for `length` steps, measure on unseen scenes, and save weights, card and metrics; returns the folder."""
    steps = max(round(length), 1)
    torch.manual_seed(seed)
    data = world((*TRAIN, PAIRS), cache_root())
    network = Detector(DetectorConfig())
    schedule = Schedule(steps, batch=64, lr=2e-3, average=0.997)
    generator = torch.Generator().manual_seed(seed)

    def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = batches(len(data), schedule.batch, seed, step)
        images, objects, scene = flip(data.pixels(rows), data.objects[rows], data.scene[rows], generator)
        return defects(images, generator), objects, scene

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        images, objects, scene = batch
        maps, logits = model(images)
        return detection_loss(maps.float(), objects) + 0.2 * scene_loss(logits.float(), scene)

    done = train(network, draw, loss, schedule)
    val = world((VAL,), cache_root())
    threshold = calibrate(done.network, val)
    config = DetectorConfig(threshold=threshold)
    done.network.config = config
    metrics = {"val": examine(done.network, val), "heldout": examine(done.network, world((HELDOUT,), cache_root()))}
    facts = f"{steps} steps of {schedule.batch} in {done.seconds / 60:.1f} minutes on one CPU thread, seed {seed}"
    body = card(sum(p.numel() for p in network.parameters()), facts, data, threshold, metrics)
    return zoo.save(name, done.network.state_dict(), plain(config), body, zoo.metrics_file(metrics), out)


def plain(config: DetectorConfig) -> dict:
    """The configuration as JSON holds it."""
    return {"channels": list(config.channels), "head": config.head, "threshold": config.threshold, "most": config.most}


def detection_loss(maps: Tensor, objects: Tensor) -> Tensor:
    """Focal loss on centres, cross-entropy on attributes and L1 on offsets near them; maps (B, 26, 16, 16), objects (B, 4, 7)."""
    present = objects[..., 0] >= 0
    clear = present & (objects[..., 6] >= VISIBLE)
    centre = objects[..., 4:6] * GRID - 0.5  # in cells: integer where the centre is a cell's centre
    axis = torch.arange(GRID, dtype=torch.float32)
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (16, 16, 2), x then y
    gap = cells - centre[:, :, None, None]  # (B, 4, 16, 16, 2)
    square = gap.square().sum(-1)
    far = torch.full_like(square, 1e6)
    bell = torch.exp(-torch.where(clear[..., None, None], square, far) / (2 * (REACH * GRID) ** 2))
    heat = bell.amax(1)
    hidden = torch.where((present & ~clear)[..., None, None], square, far).amin(1) < 2.0
    nearest = (centre.round().clamp(0, GRID - 1)[:, :, None, None] == cells).all(-1) & clear[..., None, None]
    peak = nearest.any(1)
    logit = maps[:, 0]
    positive = F.logsigmoid(logit) * (1 - logit.sigmoid()).square()
    negative = F.logsigmoid(-logit) * logit.sigmoid().square() * (1 - heat) ** 4
    focal = -torch.where(peak, positive, negative * ~hidden).sum() / peak.sum().clamp(min=1)

    owner = torch.where(clear[..., None, None], square, far).argmin(1)  # (B, 16, 16)
    weight = (heat > 0.4).float() * heat  # the centre's cell and those beside it
    total = weight.sum().clamp(min=1)
    offset = torch.gather(gap, 1, owner[:, None, :, :, None].expand(-1, 1, -1, -1, 2))[:, 0].permute(0, 3, 1, 2)
    result = focal + ((maps[:, 1:3] + offset).abs().sum(1) * weight).sum() / total
    for k, logits in enumerate(split(maps[:, 3:], ATTRIBUTES).values()):
        target = torch.gather(objects[..., k].long().clamp(min=0), 1, owner.flatten(1)).view_as(owner)
        result = result + (F.cross_entropy(logits, target, reduction="none") * weight).sum() / total
    return result


def scene_loss(logits: Tensor, scene: Tensor) -> Tensor:
    """Cross-entropy on floor, wall, light, style, level and number of objects: keeps the surroundings in the pooled features."""
    return sum(F.cross_entropy(block, scene[:, k]) for k, block in enumerate(split(logits, GLOBALS).values()))


def card(parameters: int, facts: str, data: World, threshold: float, metrics: dict) -> str:
    """The model card, its figures taken from what was measured."""
    seen = " and ".join(f"{p.count} of split `{p.split}` (seed {p.seed})" for p in data.parts)
    return f"""# lab-inception

A centre-point detector for the embedded scenes ({parameters:,} parameters): `detect` reads each object's shape, colour, size,
material and place, and the pooled stride-8 features ({DetectorConfig().channels[-1]} numbers) serve FID. It stands where published
work has Inception-v3 and GenEval's detector. It is **neither**: a FID from these features is `lab-FID`, comparable only with itself.

- Input: {SIZE} x {SIZE} pixels in [-1, 1]; other sizes are resized (bicubic, antialiased).
- Trained from scratch on {seen}, all levels and styles, with mirror images and with the defects that generated
  pictures have (blur, noise, resampling, JPEG-like quantisation, contrast). {facts}.
- It has seen the held-out (shape, colour) pairs, in scenes of other seeds: the judge must know what the judged has not seen.
- A centre counts as an object above {threshold:.2f}, the threshold with the best F1 on validation scenes; at most 6 objects.

Measured on scenes never trained on; an object with less than {VISIBLE:.0%} in view is left out. `found`: a peak within a tenth of the
image's side; attributes among those found; `extra`: detections per image that match nothing; `scene`: every object and
attribute of an image right and nothing extra. `defects`: the same pictures with the training defects added.

{table(metrics)}
"""
