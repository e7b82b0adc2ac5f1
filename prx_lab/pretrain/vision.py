"""Trains `lab-dino`, `lab-dino-dense` and `lab-dino-eval`: timm ViTs taught by what we know of every scene.

None of them is DINO. `lab-dino-dense` answers for each patch, so its tokens keep the layout of the scene; `lab-dino` answers for
the scene as a whole, so any token may carry anything: the contrast that iREPA (arXiv 2512.10794) is about.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.data.store import cache_root
from prx_lab.pretrain.augment import flip
from prx_lab.pretrain.loop import Schedule, Trained, batches, train
from prx_lab.pretrain.probe import Probe, probe
from prx_lab.pretrain.targets import DENSE, PRESENT, SCENE, SURFACE, Dense, dense, present
from prx_lab.pretrain.world import MOST, PAIRS, TRAIN, VAL, Part, world
from prx_lab.teachers import LAB_MEAN, LAB_STD, TimmTeacher, freeze, resize

PATCH, SIDE = 8, 64


@dataclass(frozen=True)
class Design:
    """One network: its size, the weights of the two kinds of question, what it sees."""

    width: int
    depth: int
    heads: int
    local: float  # weight of the questions about patches
    whole: float  # weight of the questions about the scene
    parts: tuple[Part, ...]
    seed: int
    role: str

    def timm(self) -> dict:
        """Arguments of timm's VisionTransformer."""
        size = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return size | {"mlp_ratio": 2.0, "num_classes": 0, "dynamic_img_size": True}


DESIGNS = {
    "lab-dino-dense": Design(144, 4, 3, 1.0, 0.0, TRAIN, 0, "alignment teacher with strong spatial structure (DINOv3's place)"),
    "lab-dino": Design(144, 4, 3, 0.0, 1.0, TRAIN, 0, "alignment teacher with weak spatial structure (DINOv2's place)"),
    "lab-dino-eval": Design(96, 4, 2, 1.0, 0.5, (*TRAIN, PAIRS), 1, "features for DINO-MMD; never an alignment teacher"),
}
OFFSET = 2


class Pupil(nn.Module):
    """A ViT with the heads that exist only while it is trained."""

    def __init__(self, design: Design):
        from timm.models import VisionTransformer

        super().__init__()
        self.vit = VisionTransformer(**design.timm())
        self.patches = nn.Linear(design.width, sum(DENSE.values()) + sum(SURFACE.values()) + OFFSET)
        self.scene = nn.Linear(2 * design.width, PRESENT + sum(SCENE.values()))
        self.sharpness = nn.Parameter(torch.tensor([5.0, -1.0]))  # scale and bias of the same-thing question


@dataclass(frozen=True)
class Lesson:
    """A batch: images at one of three sizes, the answers about patches and about the scene."""

    images: Tensor
    dense: Dense
    present: Tensor
    scene: Tensor


def run(name: str, length: float, seed: int, out: Path) -> Path:
    """Train one of DESIGNS for `length` steps, probe it on unseen scenes, and save; returns the folder."""
    design = DESIGNS[name]
    torch.manual_seed(seed + design.seed)
    data = world(design.parts, cache_root())
    pupil = Pupil(design)
    schedule = Schedule(max(round(length), 1), batch=64, lr=1.5e-3, warmup=150)
    generator = torch.Generator().manual_seed(seed + design.seed)

    def draw(step: int) -> Lesson:
        side, batch = ((32, 96), (128, 16))[step // 5 % 2] if step % 5 == 4 else (SIDE, schedule.batch)
        rows = batches(len(data), schedule.batch, seed + design.seed, step)[:batch]
        both = torch.cat([data.pixels(rows), data.owners(rows)[:, None].float()], 1)
        both, objects, scene = flip(both, data.objects[rows], data.scene[rows], generator)
        images, owners = both[:, :3], both[:, 3].to(torch.uint8)
        images = images + 0.03 * torch.randn(images.shape, generator=generator)
        answers = dense(owners, objects, side // PATCH)
        return Lesson(resize(images, side).clamp(-1, 1), answers, present(objects), scene)

    def loss(model: Pupil, lesson: Lesson) -> Tensor:
        features = model.vit.forward_features(lesson.images).float()
        tokens = features[:, 1:]
        value = torch.zeros(())
        if design.local:
            value = value + design.local * (local_loss(model, tokens, lesson) + contrast(model, tokens, lesson.dense))
        if design.whole:
            value = value + design.whole * whole_loss(model, torch.cat([features[:, 0], tokens.mean(1)], 1), lesson)
        return value

    done = train(pupil, draw, loss, schedule)
    return report(name, design, done, schedule, out)


def local_loss(model: Pupil, tokens: Tensor, lesson: Lesson) -> Tensor:
    """Soft cross-entropy of what each patch shows, of the surface where there is some, and the way to its object's centre."""
    answers = model.patches(tokens).float().transpose(1, 2)  # (B, C, N)
    sizes = [*DENSE.values(), *SURFACE.values(), OFFSET]
    blocks = answers.split(sizes, 1)
    value = torch.zeros(())
    object_share = lesson.dense.owners[:, :MOST].sum(1)  # (B, N)
    weight = 0.25 + object_share  # objects cover a tenth of the picture: without this they would hardly count
    for block, fraction in zip(blocks, lesson.dense.fractions.values(), strict=False):
        value = value - ((fraction * block.log_softmax(1)).sum(1) * weight).sum() / weight.sum()
    for k, block in enumerate(blocks[len(DENSE) : len(DENSE) + len(SURFACE)]):
        share = lesson.dense.owners[:, MOST + k]
        target = lesson.scene[:, k, None].expand_as(share)
        value = value + 0.3 * (F.cross_entropy(block, target, reduction="none") * share).sum() / share.sum().clamp(min=1)
    way = (blocks[-1] - lesson.dense.offset).abs().sum(1)
    return value + 2 * (way * object_share).sum() / object_share.sum().clamp(min=1)


def contrast(model: Pupil, tokens: Tensor, answers: Dense) -> Tensor:
    """Do two patches show the same thing? Logistic loss on the cosine of every pair of pure patches of an image."""
    unit = F.normalize(tokens, dim=-1)
    logit = model.sharpness[0] * (unit @ unit.mT).float() + model.sharpness[1]
    same = (answers.main[:, :, None] == answers.main[:, None, :]).float()
    pure = (answers.pure[:, :, None] & answers.pure[:, None, :]).float()
    is_object = (answers.main < MOST).float()
    weight = pure * (0.1 + is_object[:, :, None] + is_object[:, None, :])
    return (F.binary_cross_entropy_with_logits(logit, same, reduction="none") * weight).sum() / weight.sum()


def whole_loss(model: Pupil, summary: Tensor, lesson: Lesson) -> Tensor:
    """Which attribute pairs are in the scene, and its surroundings, from the CLS and the mean token together."""
    answers = model.scene(summary).float()
    pairs = F.binary_cross_entropy_with_logits(answers[:, :PRESENT], lesson.present, reduction="none").sum(1).mean() / 4
    blocks = answers[:, PRESENT:].split(list(SCENE.values()), 1)
    columns = (0, 1, 2, 3, 5)
    return pairs + 0.3 * sum(F.cross_entropy(b, lesson.scene[:, c]) for b, c in zip(blocks, columns, strict=True))


def report(name: str, design: Design, done: Trained, schedule: Schedule, out: Path) -> Path:
    """Probe the trained network and write its weights, card and metrics."""
    teacher = freeze(TimmTeacher(name, done.network.vit, LAB_MEAN, LAB_STD, SIDE))
    seen = probe(teacher, world(design.parts[:1], cache_root()), world((VAL,), cache_root()))
    parameters = sum(p.numel() for p in done.network.vit.parameters())
    trained = f"{schedule.steps} steps of {schedule.batch} in {done.seconds / 60:.1f} minutes on one CPU thread, seed {design.seed}"
    body = card(name, design, parameters, trained, seen)
    return zoo.save(name, done.network.vit.state_dict(), design.timm(), body, zoo.metrics_file(seen.figures), out)


def card(name: str, design: Design, parameters: int, trained: str, seen: Probe) -> str:
    """The model card, its figures taken from what was measured."""
    kinds = " and ".join(text for text, weight in (("about every patch", design.local), ("about the whole scene", design.whole)) if weight)
    parts = ", ".join(f"{p.count} of split `{p.split}` (seed {p.seed})" for p in design.parts)
    return f"""# {name}

A timm VisionTransformer (patch {PATCH}, width {design.width}, {design.depth} blocks, {parameters:,} parameters): {design.role}.
**These are not DINO weights**, nor trained by DINO's method: the network was taught, with labels, {kinds} of the embedded world.

- Input: [-1, 1]; {SIDE} pixels give an {SIDE // PATCH} x {SIDE // PATCH} grid; other grids by resizing (trained at 32, 64 and 128 pixels).
- Trained from scratch on scenes: {parts}; all levels and styles. {trained}.
- Questions: {questions(design)}.

Measured on {seen.images} validation scenes at {SIDE} pixels. Linear probes (ridge regression on frozen features, fitted on {seen.fitted}
training scenes): of patches, from the tokens; of scenes, from the CLS token. Spatial structure: the measures of iREPA on the
8 x 8 tokens (`prx_lab.metrics.spatial`, defaults); SRSS with the objects' true masks.

{seen.table()}
"""


def questions(design: Design) -> str:
    """What the network was asked, in words."""
    local = (
        "each patch's fractions of shapes, floor, wall, colours, sizes and materials, the way to its object's centre, "
        "and which patches show the same thing"
    )
    whole = (
        "which (shape, colour), (shape, size), (shape, material) pairs the scene holds, its surfaces, light, style and count, "
        "from CLS and mean token"
    )
    return "; ".join(text for text, weight in ((local, design.local), (whole, design.whole)) if weight)
