"""Trains `lab-t5`: a small T5Gemma encoder (arXiv 2504.06225) and its tokenizer, on the captions of the embedded scenes.

The encoder must bind: at the word "cube" of "a small red cube to the left of ..." it has to know small, red and left.
Masked-word recovery (arXiv 1810.04805, more masked) teaches the language; a linear readout at each noun checks the binding.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.data.captions import RELATIONS, caption, facts
from prx_lab.data.scenes import COLOURS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES, WALLS, Scene
from prx_lab.pretrain.loop import Schedule, batches, train
from prx_lab.pretrain.world import Part

WIDTH, DEPTH, HEADS, LENGTH, VOCABULARY = 128, 4, 4, 128, 512
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # the first three at Gemma's own ids
PARTS = (Part("train", 12_000, 7101), Part("heldout", 3_000, 7102))
VAL, HELDOUT = Part("val", 600, 7103), Part("heldout", 400, 7104)
HEADS_OF = {"colour": tuple(COLOURS), "size": SIZES, "material": MATERIALS, "shape": SHAPES, "relation": RELATIONS}
SETTING = {"floor": tuple(FLOORS), "wall": tuple(WALLS), "light": LIGHTS}
NONE = -100  # a question that the caption does not answer


@dataclass(frozen=True)
class Corpus:
    """Encoded captions: ids and mask (n, L), the answers at each token (n, L, 5), and of the setting (n, 3)."""

    ids: Tensor
    mask: Tensor
    answers: Tensor
    setting: Tensor


class Reader(nn.Module):
    """The encoder, and the linear heads that exist only while it is trained."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.words = nn.Linear(WIDTH, VOCABULARY)
        self.nouns = nn.Linear(WIDTH, sum(map(len, HEADS_OF.values())))
        self.setting = nn.Linear(WIDTH, sum(map(len, SETTING.values())))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
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
    metrics = {name: examine(done.network, corpus([p.scene(i) for i in range(p.count)], tokenizer)) for name, p in (("val", VAL), ("heldout", HELDOUT))}
    parameters = sum(p.numel() for p in done.network.encoder.parameters())
    facts_line = f"{steps} steps of {schedule.batch} captions in {done.seconds / 60:.1f} minutes on one CPU thread, seed {seed}"
    files = {"tokenizer.json": tokenizer.backend_tokenizer.to_str(), **zoo.metrics_file(metrics)}
    files["tokenizer_config.json"] = tokenizer_config()
    return zoo.save(name, done.network.encoder.state_dict(), json.loads(config.to_json_string(use_diff=False)), card(parameters, facts_line, metrics), files, out)


def similar(lengths: Tensor, batch: int, seed: int, step: int) -> Tensor:
    """Rows of a batch whose captions are about equally long: eight batches are drawn at once and dealt out by length."""
    rows = batches(len(lengths), 8 * batch, seed, step // 8)
    dealt = rows[lengths[rows].argsort()].view(8, batch)
    return dealt[step * 5 % 8]  # 5 is coprime to 8: short and long batches alternate


def train_tokenizer(captions):
    """A byte-level BPE on the captions: every word of theirs becomes one token, and any other text still has an encoding."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(captions, trainer)
    bos, eos = SPECIAL.index("<bos>"), SPECIAL.index("<eos>")
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", bos), ("<eos>", eos)])
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="right", model_max_length=LENGTH, **names)


def tokenizer_config() -> str:
    """tokenizer_config.json as transformers reads it."""
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH, "padding_side": "right", **names}
    return json.dumps(config, indent=1) + "\n"


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


def corpus(scenes: list[Scene], tokenizer) -> Corpus:
    """Long and short captions of scenes, with the answers that each caption gives."""
    rows = [(s, caption(s, kind), kind) for s in scenes for kind in ("long", "short")]
    options = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    batch = tokenizer([text for _, text, _ in rows], return_offsets_mapping=True, **options)
    answers = torch.full((len(rows), LENGTH, len(HEADS_OF)), NONE)
    setting = torch.full((len(rows), len(SETTING)), NONE)
    for i, (scene, text, kind) in enumerate(rows):
        ends = {end: place for place, (_, end) in enumerate(batch["offset_mapping"][i].tolist()) if end}
        for end, answer in mentions(scene, text, kind):
            answers[i, ends[end]] = torch.tensor(answer)
        if kind == "long":
            told = (scene.floor, scene.wall, scene.light)
            setting[i] = torch.tensor([c.index(v) for c, v in zip(SETTING.values(), told, strict=True)])
    return Corpus(batch["input_ids"], batch["attention_mask"].bool(), answers, setting)


def mentions(scene: Scene, text: str, kind: str) -> list[tuple[int, list[int]]]:
    """For every noun of a caption: where it ends, and what the caption says of its object (see HEADS_OF)."""
    pairs = {(o.colour, o.shape): k for k, o in enumerate(scene.objects)}
    told = relations(scene) if kind == "long" else {}
    out = []
    for found in re.finditer(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", text):
        k = pairs[found.groups()]
        o = scene.objects[k]
        size, material = (SIZES.index(o.size), MATERIALS.index(o.material)) if kind == "long" else (NONE, NONE)
        out.append((found.end(), [list(COLOURS).index(o.colour), size, material, SHAPES.index(o.shape), told.get(k, NONE)]))
    return out


def relations(scene: Scene) -> dict[int, int]:
    """The relation of every object that takes part in exactly one, seen from that object."""
    inverse = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
    sides = [(i, word) for i, word, _ in facts(scene).relations] + [(j, inverse[word]) for _, word, j in facts(scene).relations]
    counts = Counter(k for k, _ in sides)
    return {k: RELATIONS.index(word) for k, word in sides if counts[k] == 1}


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
