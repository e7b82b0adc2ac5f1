"""Trains `lab-t5`: a small T5Gemma encoder (arXiv 2504.06225) and its tokenizer, on the captions of the embedded scenes.

The encoder must bind: at the word "cube" of "a small red cube to the left of ..." it has to know small, red and left.
Masked-word recovery (arXiv 1810.04805, more masked) teaches the language; a linear readout at each noun checks the binding.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.data.captions import caption
from prx_lab.pretrain.corpus import HEADS_OF, LENGTH, NONE, SETTING, SPECIAL, VOCABULARY, Corpus, corpus, tokenizer_config, train_tokenizer
from prx_lab.pretrain.loop import Schedule, batches, train
from prx_lab.pretrain.world import Part

WIDTH, DEPTH, HEADS = 128, 4, 4
PARTS = (Part("train", 12_000, 7101), Part("heldout", 3_000, 7102))
VAL, HELDOUT = Part("val", 600, 7103), Part("heldout", 400, 7104)


class Reader(nn.Module):
    """The encoder, and the linear heads that exist only while it is trained."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.words = nn.Linear(WIDTH, VOCABULARY)
        self.nouns = nn.Linear(WIDTH, sum(map(len, HEADS_OF.values())))
        self.setting = nn.Linear(WIDTH, sum(map(len, SETTING.values())))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (B, L) -> features (B, L, WIDTH)."""
        return self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state


def run(name: str, length: float, seed: int, out: Path) -> Path:
    """Train tokenizer and encoder for `length` steps, measure on unseen captions, and save; returns the folder."""
    steps = max(round(length), 1)
    torch.manual_seed(seed)
    scenes = [part.scene(i) for part in PARTS for i in range(part.count)]
    tokenizer = train_tokenizer(caption(s, kind) for s in scenes for kind in ("long", "short"))
    data = corpus(scenes, tokenizer)
    config = encoder_config()
    reader = Reader(encoder(config))
    schedule = Schedule(steps, batch=64, lr=2e-3, decay=0.01)
    generator = torch.Generator().manual_seed(seed)

    def draw(step: int) -> tuple[Tensor, ...]:
        rows = similar(data.mask.sum(1), schedule.batch, seed, step)
        used = int(data.mask[rows].sum(1).max())
        ids, mask = data.ids[rows, :used], data.mask[rows, :used]
        hide = (torch.rand(ids.shape, generator=generator) < 0.3) & mask & (ids >= len(SPECIAL))
        hide[len(ids) // 2 :] = False  # half the captions are read whole, as they will be used
        return ids, mask, hide, data.answers[rows, :used], data.setting[rows]

    def loss(model: Reader, batch: tuple[Tensor, ...]) -> Tensor:
        ids, mask, hide, answers, setting = batch
        features = model(torch.where(hide, SPECIAL.index("<mask>"), ids), mask)
        words = F.cross_entropy(model.words(features[hide]).float(), ids[hide])
        whole = slice(len(ids) // 2, None)
        return words + readout(model, features[whole], answers[whole], setting[whole])

    done = train(reader, draw, loss, schedule)
    unseen = {p.split: corpus([p.scene(i) for i in range(p.count)], tokenizer) for p in (VAL, HELDOUT)}
    metrics = {split: examine(done.network, part) for split, part in unseen.items()}
    parameters = sum(p.numel() for p in done.network.encoder.parameters())
    facts_line = f"{steps} steps of {schedule.batch} captions in {done.seconds / 60:.1f} minutes on one CPU thread, seed {seed}"
    files = {"tokenizer.json": tokenizer.backend_tokenizer.to_str(), "tokenizer_config.json": tokenizer_config()}
    files |= zoo.metrics_file(metrics)
    plain = json.loads(config.to_json_string(use_diff=False))
    return zoo.save(name, done.network.encoder.state_dict(), plain, card(parameters, facts_line, metrics), files, out)


def similar(lengths: Tensor, batch: int, seed: int, step: int) -> Tensor:
    """Rows of a batch whose captions are about equally long: eight batches are drawn at once and dealt out by length."""
    rows = batches(len(lengths), 8 * batch, seed, step // 8)
    dealt = rows[lengths[rows].argsort()].view(8, batch)
    return dealt[step * 5 % 8]  # 5 is coprime to 8: short and long batches alternate


def encoder_config():
    """The composite configuration that T5Gemma folders hold; its decoder is a stub, for only the encoder is kept."""
    from transformers import T5GemmaConfig, T5GemmaModuleConfig

    common = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    common |= {"head_dim": WIDTH // HEADS, "query_pre_attn_scalar": WIDTH // HEADS, "max_position_embeddings": LENGTH}
    full = {"intermediate_size": 3 * WIDTH // 2, "num_hidden_layers": DEPTH, "layer_types": ["full_attention"] * DEPTH}
    stub = {"intermediate_size": WIDTH, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    return T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**common, **full), decoder=T5GemmaModuleConfig(**common, **stub), vocab_size=VOCABULARY
    )


def encoder(config) -> nn.Module:
    """The bare encoder with fresh weights: the class that diffusers' PRX pipelines name as their text encoder."""
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    return T5GemmaEncoder(config.encoder)


def readout(model: Reader, features: Tensor, answers: Tensor, setting: Tensor) -> Tensor:
    """Cross-entropy of every attribute at its noun, and of the setting at the first token."""
    at = answers[..., 0] != NONE
    blocks = model.nouns(features[at]).float().split([len(c) for c in HEADS_OF.values()], 1)
    nouns = sum(answered(b, answers[at][:, k]) for k, b in enumerate(blocks))
    blocks = model.setting(features[:, 0]).float().split([len(c) for c in SETTING.values()], 1)
    return nouns + sum(answered(b, setting[:, k]) for k, b in enumerate(blocks))


def answered(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy over the questions that have an answer; zero, not nan, where none has."""
    return F.cross_entropy(logits, answers, ignore_index=NONE, reduction="sum") / (answers != NONE).sum().clamp(min=1)


@torch.no_grad()
def examine(model: Reader, data: Corpus) -> dict[str, dict[str, float]]:
    """Accuracy of every readout on whole captions, and of recovering 15 % of masked words; `n` counts the questions."""
    right: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    for rows in torch.arange(len(data.ids)).split(200):
        ids, mask, answers = data.ids[rows], data.mask[rows], data.answers[rows]
        features = model(ids, mask)
        _score(right, HEADS_OF, model.nouns(features), answers)
        _score(right, SETTING, model.setting(features[:, 0]), data.setting[rows])
        gone = (torch.rand(ids.shape, generator=generator) < 0.15) & mask & (ids >= len(SPECIAL))
        guess = model.words(model(torch.where(gone, SPECIAL.index("<mask>"), ids), mask)[gone]).argmax(-1)
        right.setdefault("masked word", []).append(guess == ids[gone])
    return {k: {"accuracy": float(torch.cat(v).float().mean()), "n": sum(map(len, v))} for k, v in right.items()}


def _score(right: dict[str, list[Tensor]], classes: dict[str, tuple[str, ...]], logits: Tensor, answers: Tensor) -> None:
    for k, (name, block) in enumerate(zip(classes, logits.split([len(c) for c in classes.values()], -1), strict=True)):
        asked = answers[..., k] != NONE
        right.setdefault(name, []).append(block.argmax(-1)[asked] == answers[..., k][asked])


def card(parameters: int, trained: str, metrics: dict[str, dict[str, dict[str, float]]]) -> str:
    """The model card, its figures taken from what was measured."""
    names = list(metrics["val"])
    lines = ["| question | " + " | ".join(f"{s} (n)" for s in metrics) + " |", "|---|" + "---|" * len(metrics)]
    lines += [f"| {q} | " + " | ".join(f"{m[q]['accuracy']:.3f} ({m[q]['n']})" for m in metrics.values()) + " |" for q in names]
    seen = " and ".join(f"{p.count} scenes of split `{p.split}` (seed {p.seed})" for p in PARTS)
    table = "\n".join(lines)
    return f"""# lab-t5

A T5Gemma encoder (transformers `T5GemmaEncoder`, width {WIDTH}, {DEPTH} layers, {HEADS} heads, {parameters:,} parameters) with a byte-level
tokenizer in which every caption word is one token. It stands where PRX has T5Gemma-2B, and knows only the words of the embedded
scenes: other text is spelled out in bytes that it was never taught.

- {LENGTH} tokens, padded on the right; `<bos> text <eos>`; lower-cased.
- Trained from scratch on the long and short captions of {seen}, all levels and styles. {trained}.
- Objective: recover masked words (30 % in half of each batch), and read each object's colour, size, material, shape and stated
  relation at its noun, and floor, wall and light at the first token, by linear heads that are then dropped.
- The held-out (shape, colour) pairs occur in its captions: what a recipe's denoiser has not seen, its language model has read.

Accuracy of the linear readouts on whole unseen captions, and of recovering 15 % masked words (many of which no context decides):

{table}
"""
