"""Frozen text encoders as functions: captions to token sequences.

The embedded one comes from the package; T5Gemma is the same code under another name or a local folder.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.autoencoders import freeze
from prx_lab.cleaning import clean, report
from prx_lab.errors import LabError, nearest

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


class TextEncoder(nn.Module, ABC):
    """A frozen text network; `width` is E, `length` the number of token places L, usually its `own`; `cleaning` comes first."""

    name: str
    width: int
    own: int
    length: int
    cleaning: str

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token features (B, L, E) float32, zero where padded, and their mask (B, L) bool; padding on the right."""

    @abstractmethod
    def lengths(self, captions: Sequence[str]) -> list[int]:
        """The number of places that each caption, cleaned, would fill if there were no limit; the network does not run."""

    @abstractmethod
    def reading(self, cleaning: str, length: int) -> "TextEncoder":
        """The same network with captions cleaned in another way and `length` places (0 for its own number)."""

    def cleaned(self, captions: Sequence[str]) -> list[str]:
        """Captions as they are tokenised; half a surrogate pair, which no tokenizer reads, becomes a question mark."""
        return [clean(caption.encode(errors="replace").decode(), self.cleaning) for caption in captions]

    def surveyed(self, captions: Sequence[str]) -> list[int]:
        """Their lengths, with a warning where cleaning leaves nothing of a caption or where it has more tokens than places."""
        lengths = self.lengths(captions)
        report(captions, self.cleaned(captions), self.cleaning, lengths, self.length)
        return lengths


class T5GemmaText(TextEncoder):
    """The encoder of a T5Gemma with its tokenizer, padded on the right to `length`, at most what the network was made for.

    Gemma's own tokenizer pads left, and so does the published pipeline. Positions are rotary, so only distances count: the
    features of the words are the same up to rounding, and where they stand does not matter to a denoiser that adds no position to text.
    """

    def __init__(self, name: str, network: nn.Module, tokenizer: object, own: int, cleaning: str = "none", length: int = 0):
        super().__init__()
        most = network.config.max_position_embeddings
        if length > most:
            raise LabError(f"text_tokens is {length}, but '{name}' reads at most {most} tokens; use {most} or fewer, or 0 for its own.")
        tokenizer.padding_side = "right"
        self.name, self.network, self.tokenizer, self.own = name, network, tokenizer, own
        self.width, self.cleaning, self.length = network.config.hidden_size, cleaning, length or own

    def reading(self, cleaning: str, length: int) -> "T5GemmaText":
        same = (cleaning, length or self.own) == (self.cleaning, self.length)
        return self if same else freeze(T5GemmaText(self.name, self.network, self.tokenizer, self.own, cleaning, length))

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        options = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        batch = self.tokenizer(self.cleaned(captions), **options).to(self.network.device)
        mask = batch["attention_mask"].bool()
        used = max(int(mask.sum(1).max()), 1)  # attending to padding changes nothing and costs most of the time
        hidden = self.network(input_ids=batch["input_ids"][:, :used], attention_mask=batch["attention_mask"][:, :used])
        text = hidden.last_hidden_state.float() * mask[:, :used, None]
        return F.pad(text, (0, 0, 0, self.length - used)), mask

    def lengths(self, captions: Sequence[str]) -> list[int]:
        return list(map(len, self.tokenizer(self.cleaned(captions), truncation=False)["input_ids"]))


def load_text(name: str, dtype: torch.dtype = torch.float32) -> TextEncoder:
    """A frozen text encoder by name (`lab-t5`, `t5gemma-2b`) or from a local T5Gemma folder, its weights in `dtype`; cached per process."""
    return _text(name, dtype)


@functools.lru_cache(maxsize=8)
def _text(name: str, dtype: torch.dtype) -> TextEncoder:
    from prx_lab import published

    if name == "lab-t5":
        return freeze(published.t5gemma(name, zoo.folder(name), dtype))
    if name == "t5gemma-2b" or Path(name).is_dir():
        return freeze(published.t5gemma(name, published.fetch(name), dtype))
    known = ["lab-t5", "t5gemma-2b"]
    raise LabError(f"There is no text encoder '{name}'.{nearest(name, known)} Known: {', '.join(known)}, or a local folder.")


def reader(recipe: "Recipe", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """The recipe's text encoder, reading captions as the recipe says; everything that encodes text for a recipe uses this one."""
    return load_text(recipe.text, dtype).reading(recipe.cleaning, recipe.text_tokens)
