"""Trains `lab-clip`: image and text towers that agree on matching pairs (CLIP, arXiv 2103.00020), for CMMD."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.data.captions import caption
from prx_lab.data.store import cache_root
from prx_lab.pretrain.corpus import LENGTH, SPECIAL, VOCABULARY
from prx_lab.pretrain.loop import Schedule, batches, train
from prx_lab.pretrain.targets import PRESENT, present
from prx_lab.pretrain.world import HELDOUT, PAIRS, TRAIN, VAL, World, world

WIDTH = 96  # of the shared space
CHOICES = 100  # a caption chooses its image among this many


class Towers(nn.Module):
    """The CLIP model, and a head that asks each embedding what the scene holds; the head exists only in training."""

    def __init__(self):
        from transformers import CLIPConfig, CLIPModel

        super().__init__()
        self.clip = CLIPModel(CLIPConfig(**config()))
        self.holds = nn.Linear(WIDTH, PRESENT)


@dataclass(frozen=True)
class Pairs:
    """Images (B, 3, 64, 64), caption ids and mask (B, L), and what each scene holds (B, PRESENT)."""

    images: Tensor
    ids: Tensor
    mask: Tensor
    present: Tensor


def config() -> dict:
    """A CLIPConfig as plain values."""
    common = {"hidden_act": "gelu", "projection_dim": WIDTH, "num_attention_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8}
    text = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "vocab_size": VOCABULARY}
    text |= {"max_position_embeddings": LENGTH, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": SPECIAL.index("<eos>")}
    return {"projection_dim": WIDTH, "vision_config": common | vision, "text_config": common | text}


def run(name: str, length: float, seed: int, out: Path) -> Path:
    """Train both towers for `length` steps, measure retrieval on unseen scenes, and save; returns the folder."""
    from prx_lab.text import load_text

    torch.manual_seed(seed)
    tokenizer = load_text("lab-t5").tokenizer
    data = world((*TRAIN, PAIRS), cache_root())
    scenes = data.scenes()
    ids, mask = encode(tokenizer, [caption(s, kind) for kind in ("long", "short") for s in scenes])
    schedule = Schedule(max(round(length), 1), batch=128, lr=1.5e-3, warmup=100)
    generator = torch.Generator().manual_seed(seed)

    def draw(step: int) -> Pairs:
        rows = batches(len(data), schedule.batch, seed, step)
        which = rows + len(data) * (torch.rand(len(rows), generator=generator) < 0.25)  # a quarter of the captions are short
        used = int(mask[which].sum(1).max())
        images = data.pixels(rows)
        images = (images + 0.03 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)
        return Pairs(images, ids[which, :used], mask[which, :used], present(data.objects[rows]))

    done = train(Towers(), draw, agreement, schedule)
    parts = {"val": world((VAL,), cache_root()), "heldout": world((HELDOUT,), cache_root())}
    metrics = {split: retrieval(done.network.clip, tokenizer, part) for split, part in parts.items()}
    parameters = sum(p.numel() for p in done.network.clip.parameters())
    trained = f"{schedule.steps} steps of {schedule.batch} pairs in {done.seconds / 60:.1f} minutes on one CPU thread, seed {seed}"
    state = {k: v for k, v in done.network.clip.state_dict().items() if not k.endswith("position_ids")}
    return zoo.save(name, state, config(), card(parameters, trained, data, metrics), zoo.metrics_file(metrics), out)


def encode(tokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Caption ids and mask (n, LENGTH), padded on the right."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def embed_images(clip: nn.Module, images: Tensor) -> Tensor:
    """Projected, unit-norm image embeddings (B, WIDTH)."""
    return F.normalize(clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output).float(), dim=-1)


def embed_captions(clip: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Projected, unit-norm caption embeddings (B, WIDTH)."""
    return F.normalize(clip.text_projection(clip.text_model(input_ids=ids, attention_mask=mask).pooler_output).float(), dim=-1)


def agreement(model: Towers, batch: Pairs) -> Tensor:
    """Symmetric contrastive loss, and what the scene holds from the image embedding: it shortens the way to the first agreement."""
    x, y = embed_images(model.clip, batch.images), embed_captions(model.clip, batch.ids, batch.mask)
    logits = (x @ y.T).float() * model.clip.logit_scale.exp().clamp(max=100)
    target = torch.arange(len(x))
    contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    scale = 10.0  # unit vectors cannot make confident logits by themselves
    for embedding in (x, y):
        answers = model.holds(scale * embedding).float()
        held = F.binary_cross_entropy_with_logits(answers, batch.present, reduction="none").sum(1).mean()
        contrastive = contrastive + 0.1 * held
    return contrastive


@torch.no_grad()
def retrieval(clip: nn.Module, tokenizer, data: World) -> dict[str, dict[str, float]]:
    """How often a caption's own image is the nearest of CHOICES images, by kind of caption and level; `n` counts captions."""
    scenes = data.scenes()
    x = torch.cat([embed_images(clip, data.pixels(rows)) for rows in torch.arange(len(data)).split(200)])
    figures = {}
    for kind in ("long", "short"):
        ids, mask = encode(tokenizer, [caption(s, kind) for s in scenes])
        y = torch.cat([embed_captions(clip, i, m) for i, m in zip(ids.split(200), mask.split(200), strict=True)])
        blocks = [rows for rows in torch.arange(len(data)).split(CHOICES) if len(rows) == CHOICES]
        right = [(y[rows] @ x[rows].T).argmax(1) == torch.arange(CHOICES) for rows in blocks]
        figures[kind] = {"accuracy": float(torch.cat(right).float().mean()), "n": CHOICES * len(blocks)}
    return figures


def card(parameters: int, trained: str, data: World, metrics: dict[str, dict[str, dict[str, float]]]) -> str:
    """The model card, its figures taken from what was measured."""
    seen = ", ".join(f"{p.count} of split `{p.split}` (seed {p.seed})" for p in data.parts)
    rows = [f"| {s}, {kind} captions | {m[kind]['accuracy']:.3f} | {m[kind]['n']} |" for s, m in metrics.items() for kind in m]
    table = "\n".join(["| split | own image nearest | n |", "|---|---|---|", *rows])
    return f"""# lab-clip

Image and text towers (transformers `CLIPModel`, {parameters:,} parameters, {WIDTH}-d shared space) for the embedded scenes. It stands where
CMMD has CLIP ViT-L/14-336 and is **not** that network: a CMMD from it is `lab-CMMD`, comparable only with itself.

- Images: 64 x 64 in [-1, 1], patch 8. Captions: `lab-t5`'s tokenizer, at most {LENGTH} tokens.
- Trained from scratch on scenes ({seen}), all levels and styles, a quarter of the captions short. {trained}.
- Objective: symmetric contrastive loss; both embeddings also answer, by a linear head then dropped, which (shape, colour), (shape,
  size) and (shape, material) pairs the scene holds.

How often the image nearest to a caption is its own, among {CHOICES} unseen scenes (chance {1 / CHOICES:.2f}; short captions fit
many images):

{table}
"""
