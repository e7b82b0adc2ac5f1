"""Pipelines out: a recorded run as a folder that diffusers' PRXPipeline or PRXPixelPipeline loads and runs with no code from here.

What a pipeline cannot express is refused; what only changes how it is sampled is told on the model card.
"""

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from prx_lab import checkpoint, interop, modelcard
from prx_lab.autoencoders import ChannelSpace, DCSpace, KLSpace, Pixels
from prx_lab.errors import LabError
from prx_lab.sample import Sampler, from_run
from prx_lab.text import T5GemmaText

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase


def export(run: str | Path, folder: str | Path) -> Path:
    """Write the network of a recorded run, from its average where it keeps one, as a new pipeline `folder` with a model card.

    The folder appears whole or not at all. Raises LabError for a run without a readable checkpoint, for one that the
    pipelines cannot express, for a folder that exists, and where it cannot be written.
    """
    run, folder = Path(run).expanduser(), Path(folder).expanduser()
    if os.path.lexists(folder):
        raise LabError(f"{folder} exists already; give the name of a folder that does not, or remove it first.")
    if not run.is_dir():
        raise LabError(f"There is no folder {run}; give the folder of a recorded run, such as results/cpu/<recipe>-<id>/seed0.")
    sampler, found = read(run)
    refuse(sampler)
    if isinstance(sampler.space, ChannelSpace):  # statistics of each channel go into convolutions: the pipeline knows one for all
        sampler.space = sampler.space.folded()
    card, pipe = modelcard.Card.of(run, found, folder.name, sampler), pipeline(sampler)
    with whole(folder) as part:
        pipe.save_pretrained(part)
        complete(part, sampler)
        card.save(part)
    return folder


def read(run: Path) -> tuple[Sampler, Path]:
    """The sampler of a run and the checkpoint it comes from; a run that goes on meanwhile is read again."""
    while True:
        before = checkpoint.steps(run / "checkpoint")[-1:]
        sampler = from_run(run)
        if checkpoint.steps(run / "checkpoint")[-1:] == before:
            return sampler, before[0]


def refuse(sampler: Sampler) -> None:
    """Raise a LabError for a network whose images the pipelines would get wrong."""
    recipe, space, router = sampler.recipe, sampler.space, type(sampler.recipe.router).__name__
    if list(sampler.model.route.parameters()):
        raise LabError(
            f"{router} gives the network weights of its own, and diffusers' PRXTransformer2DModel has no place for them; "
            "a run with TREAD() or without a router can be exported."
        )
    if not isinstance(space, Pixels | KLSpace | ChannelSpace | DCSpace):
        raise LabError(
            f"The space '{recipe.space}' normalises its latents by the statistics of a batch norm, and PRXPipeline decodes with one "
            "scale and one shift; a run in pixels or in the space of an AutoencoderKL or AutoencoderDC can be exported."
        )
    if isinstance(space, Pixels) and recipe.predict != "x":
        raise LabError(
            f"PRXPixelPipeline takes what the network predicts for the clean image, and this one predicts {recipe.predict}; "
            "a run in pixels can be exported with predict='x'."
        )
    if not isinstance(space, Pixels) and recipe.predict != "v":
        raise LabError(
            f"PRXPipeline takes what the network predicts for the velocity, and this one predicts {recipe.predict}; a run in latents "
            "can be exported with predict='v'."
        )
    if not isinstance(space, Pixels) and recipe.noise != 1:
        raise LabError(
            f"PRXPipeline starts from noise of standard deviation 1, and this run was trained with {recipe.noise}; a run in latents "
            "can be exported with noise=1."
        )
    if not isinstance(sampler.encoder, T5GemmaText):
        raise LabError(f"The pipelines read prompts with a T5Gemma, and '{recipe.text}' is another network; use a T5Gemma for the text.")


def pipeline(sampler: Sampler) -> "DiffusionPipeline":
    """The diffusers pipeline of a sampler: the latent one, or the one in pixels with its token budget and noise."""
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline, PRXPixelPipeline

    recipe, text, size = sampler.recipe, sampler.encoder, sampler.recipe.scale.size
    transformer, scheduler = interop.to_diffusers(sampler.model), FlowMatchEulerDiscreteScheduler(shift=float(recipe.shift))
    if isinstance(sampler.space, Pixels):
        return PRXPixelPipeline(transformer, scheduler, text.network, tokenizer(text), size, text.length, float(recipe.noise))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a mixin of the pipeline's own announces that it will be renamed
        return PRXPipeline(transformer, scheduler, text.network, tokenizer(text), sampler.space.vae, size)


def tokenizer(text: T5GemmaText) -> "PreTrainedTokenizerBase":
    """A copy of the encoder's tokenizer whose own length is the number of places the run gave a caption."""
    found = copy.deepcopy(text.tokenizer)
    found.model_max_length, found.padding_side = text.length, "right"
    return found


def complete(part: Path, sampler: Sampler) -> None:
    """Write what `save_pretrained` does not: the encoder under its whole T5Gemma's configuration, and the space's two numbers."""
    from transformers import T5GemmaConfig

    encoder = sampler.encoder.network.config.to_dict()
    config = T5GemmaConfig(encoder=encoder, decoder=encoder, vocab_size=encoder["vocab_size"], architectures=["T5GemmaEncoder"])
    config.save_pretrained(part / "text_encoder")  # the pipeline builds the encoder from the part of that name
    edit(part / "model_index.json", {"text_encoder": ["prx", "T5GemmaEncoder"]})  # transformers does not export this class
    if isinstance(sampler.space, KLSpace):  # older autoencoders have no shift, and the pipeline would add None
        edit(part / "vae" / "config.json", {"scaling_factor": sampler.space.scale, "shift_factor": sampler.space.shift})
    kept = {k: v for k, v in json.loads((part / "tokenizer" / "tokenizer_config.json").read_text()).items() if k not in LOCAL}
    (part / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(kept, indent=1) + "\n")


LOCAL = ("is_local", "local_files_only")  # how the tokenizer was read here, which is of no use to who reads it next


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=1) + "\n")


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its name once everything is on disk, and is removed if anything fails.

    LabError where it cannot be written.
    """
    part = folder.parent  # nothing of ours until it is made
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield part
        part.chmod(0o755)  # mkdtemp and safetensors write for the owner alone
        for file in (f for f in part.rglob("*") if f.is_file()):
            file.chmod(0o644)
            with open(file, "rb+") as f:
                os.fsync(f.fileno())
        os.rename(part, folder)
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and "os error" not in str(error):  # so the tokenizer's writer says it
            raise
        raise LabError(f"Cannot write {folder} ({error}); free some space or choose another place: nothing was left behind.") from None
    finally:
        if part != folder.parent:
            shutil.rmtree(part, ignore_errors=True)
