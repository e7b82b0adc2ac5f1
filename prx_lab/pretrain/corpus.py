"""Captions as training material for a text encoder: a tokenizer, token ids, and what a caption says at every noun."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from prx_lab.data.captions import RELATIONS, caption, facts
from prx_lab.data.scenes import COLOURS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES, WALLS, Scene

LENGTH, VOCABULARY = 128, 512
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # the first three at Gemma's own ids
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


def train_tokenizer(captions: Iterable[str]):
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
