"""The published variants of PRX as data, and samplers of them or of any folder that holds a pipeline.

Facts: the model table of diffusers' PRX page (`docs/source/en/api/pipelines/prx.md`, 0.42) and, for the beta, its model card.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prx_lab import hub, interop
from prx_lab.errors import LabError, nearest
from prx_lab.files import read_json
from prx_lab.flow import scheduler_times
from prx_lab.machine import pick_device
from prx_lab.model import PUBLISHED
from prx_lab.precision import DTYPES, Precision
from prx_lab.recipe import Recipe
from prx_lab.recipes import recipe as named
from prx_lab.report.listing import Listing
from prx_lab.sample import CFG, Sampler, from_run
from prx_lab.scales import PRX_256

OWNER = "Photoroom"
DETAILED, SIMPLE = "detailed, in natural language", "less detailed ones will do"
NETWORKS = {"flux": "prx-1.2b", "dc-ae": "prx-1.2b-dc-ae"}  # autoencoder -> published shape
STRIDES = {"flux": 8, "dc-ae": 32}  # pixels per latent cell, known without loading an autoencoder
STEPS, SCALE = 28, 5.0  # what the documentation suggests for all that is not distilled
FILES = ["model_index.json", "*/*.json", "*/*.safetensors", "*/*.model"]  # of a pipeline; nothing that would be unpickled


@dataclass(frozen=True)
class Variant:
    """One published checkpoint of the 1.2-billion-parameter PRX, with the settings its documentation suggests."""

    name: str  # without the owner
    size: int  # pixels per side
    space: str  # name of its autoencoder in `spaces`
    tuned: bool = False  # fine-tuned on a selected data set, Alchemist where the documentation names it
    parent: str = ""  # what it was distilled from; "" where it was not distilled
    steps: int = STEPS
    cfg: float = SCALE
    dtype: str = "bf16"
    note: str = ""  # where the documentation contradicts itself, or is silent

    @property
    def repo(self) -> str:
        """The repository on the hub."""
        return f"{OWNER}/{self.name}"

    @property
    def prompts(self) -> str:
        """The prompts that the documentation suggests."""
        return SIMPLE if self.tuned else DETAILED

    @property
    def recipe(self) -> Recipe:
        """The recipe that trains on from this checkpoint and samples from it as suggested.

        Optimiser, batch and steps are those of the post's baseline. `dtype` is what the weights are sampled in; a recipe keeps
        them in float32 and computes in bf16, because small updates are lost in stored bf16.
        """
        arch = PUBLISHED[NETWORKS[self.space]]
        grid = self.size // (STRIDES[self.space] * arch.patch)
        scale = replace(PRX_256, name=f"prx-{self.size}", size=self.size, grid=grid)
        same = {"text": "t5gemma-2b", "cleaning": "full", "text_tokens": 256, "shift": 3.0}
        settings = {"guidance": CFG(self.cfg), "sampler_steps": self.steps, "init": self.repo}
        return named("prx-1.2b").but(scale=scale, space=self.space, **same, **settings)


BETA = "a preview that only its model card describes; the card names no data set and no distillation"
LOOP = "documented as distilled from itself; by its name, from prx-512-t2i-dc-ae-sft"
VARIANTS = {
    v.name: v
    for v in (
        Variant("prx-256-t2i", 256, "flux"),
        Variant("prx-256-t2i-sft", 512, "flux", tuned=True, note="documented at 512 pixels, where its name says 256"),
        Variant("prx-512-t2i", 512, "flux"),
        Variant("prx-512-t2i-sft", 512, "flux", tuned=True),
        Variant("prx-512-t2i-sft-distilled", 512, "flux", True, "prx-512-t2i-sft", 8, 1.0),
        Variant("prx-512-t2i-dc-ae", 512, "dc-ae"),
        Variant("prx-512-t2i-dc-ae-sft", 512, "dc-ae", tuned=True),
        Variant("prx-512-t2i-dc-ae-sft-distilled", 512, "dc-ae", True, "prx-512-t2i-dc-ae-sft-distilled", 8, 1.0, note=LOOP),
        Variant("prx-1024-t2i-beta", 1024, "flux", tuned=True, note=BETA),
    )
}


def variant(name: str) -> Variant:
    """A published variant by its name, with or without the owner; LabError where there is none."""
    short = name.removeprefix(f"{OWNER}/")
    if short not in VARIANTS:
        raise LabError(f"There is no published variant '{name}'.{nearest(short, VARIANTS)} They are {', '.join(VARIANTS)}.")
    return VARIANTS[short]


def table() -> Listing:
    """Every published variant with its suggested settings; a note tells where the documentation is in doubt."""
    head = ("variant", "pixels", "autoencoder", "tuned", "distilled from", "steps", "guidance", "prompts", "dtype")
    rows, notes = [], [f"On the hub under {OWNER}/. Suggested settings as documented; none was measured here."]
    for v in VARIANTS.values():
        mark = "*" * bool(v.note)
        tuned, parent = "yes" if v.tuned else "no", v.parent or "no"
        rows.append((v.name + mark, str(v.size), v.space, tuned, parent, str(v.steps), str(v.cfg), v.prompts, v.dtype))
        notes += [f"* {v.name}: {v.note}."] if v.note else []
    return Listing(head, tuple(rows), ("pixels", "steps", "guidance"), tuple(notes))


# ----------------------------------------------------------------------------------------------------- sampling
def sampler(source: str | Path, cleaning: str = "full", dtype: str = "bf16") -> Sampler:
    """The sampler of a published variant by name, or of a local folder that holds a pipeline, with its suggested settings.

    Its times are those of the pipeline's scheduler, so from the same noise it draws what diffusers' pipeline draws. `dtype` is
    that of all weights and of the transformer's products. A published name is downloaded once; a folder of that name is ./NAME.
    LabError for another dtype, and where there is no such pipeline.
    """
    if dtype not in DTYPES:
        raise LabError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}.")
    where = folder(source)
    recipe = settings(where, str(source)).but(cleaning=cleaning, precision=Precision(dtype, dtype))
    model = interop.load(where, dtype=DTYPES[dtype])
    mean = torch.zeros(model.arch.channels, 1, 1)  # a published model does not tell the mean of its training latents
    return Sampler(recipe, model.to(pick_device()), mean, scheduler_times, DTYPES[dtype])


def opened(source: str | Path) -> Sampler:
    """The sampler of a run's folder, of a folder that holds a pipeline, or of a published variant by name."""
    path = Path(source).expanduser()
    if source not in VARIANTS and not (path / "model_index.json").is_file() and (path / "recipe.json").is_file():
        return from_run(path)
    return sampler(source)


def folder(source: str | Path) -> Path:
    """Where a pipeline lies: a local folder, or a variant's download from the hub. LabError without either."""
    path = Path(source).expanduser()
    if path.is_dir() and not hub.means_name(source, VARIANTS):
        return path
    if isinstance(source, Path) or "/" in source.removeprefix(f"{OWNER}/"):
        raise LabError(f"There is no folder {source}; give one that holds a pipeline, or a published variant such as prx-512-t2i-sft.")
    return hub.fetch(variant(str(source)).repo, FILES, needed=("model_index.json",))


def cached(name: str) -> bool:
    """Whether a variant lies in this machine's hub cache; nothing is downloaded and nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(variant(name).repo, "model_index.json"), str)


def settings(where: Path, source: str) -> Recipe:
    """The recipe of a pipeline folder: shapes and shift from its files, steps and guidance from the variant it is named after.

    LabError for another pipeline than PRXPipeline.
    """
    index, scheduler = read(where / "model_index.json"), read(where / "scheduler" / "scheduler_config.json")
    if index.get("_class_name") != "PRXPipeline":
        raise LabError(f"{where} holds a {index.get('_class_name')}, not a PRXPipeline; give a PRX text-to-image pipeline in latent space.")
    known = VARIANTS.get(Path(source).name, Variant("", 0, ""))
    arch, size = interop.arch_of(read(where / "transformer" / "config.json")), index.get("default_sample_size", 512)
    grid = size // (stride(read(where / "vae" / "config.json")) * arch.patch)
    scale = replace(PRX_256, name="published", size=size, grid=grid, width=arch.width, depth=arch.depth, heads=arch.heads)
    places = {"space": str(where), "text": str(where / "text_encoder"), "init": str(where), "text_tokens": 0}  # the tokenizer's own number
    suggested = {"guidance": CFG(known.cfg), "sampler_steps": known.steps, "shift": float(scheduler.get("shift", 1.0))}
    return named("prx-1.2b").but(scale=scale, **places, **suggested)


def stride(config: dict[str, Any]) -> int:
    """Pixels per latent cell of an autoencoder, by its configuration: each stage but the first halves the side."""
    channels = config.get("encoder_block_out_channels") or config.get("block_out_channels") or ()
    return 2 ** (len(channels) - 1) if channels else 8


def read(path: Path) -> dict[str, Any]:
    """A JSON file of a pipeline folder; LabError where it is missing or cannot be read."""
    if not path.is_file():
        raise LabError(f"{path} is missing: give a folder that holds a whole pipeline, as save_pretrained writes it.")
    return read_json(path, "download or export the pipeline again")
