"""The parts of a published pipeline by hand: each loaded by itself as a diffusers or transformers object, then put together.

A source is a local pipeline folder, the folder of one part, a published variant, a name of `zoo.REAL` or a hub repository. A dtype is
fp32, bf16 or 8-bit (LLM.int8, arXiv 2208.07339, through bitsandbytes: linear layers in int8, everything else in bf16).
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from prx_lab import hub, zoo
from prx_lab.errors import LabError
from prx_lab.machine import pick_device
from prx_lab.precision import DTYPES
from prx_lab.variants import VARIANTS, read

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline, PRXTransformer2DModel
    from transformers import PreTrainedTokenizerBase

OFFLOAD = ("none", "model", "sequential")
BITS8 = "8-bit"
# What diffusers 0.42.1 (pipeline_utils.py) asks for where parts in 8 bits are offloaded too; below it they stay on the GPU.
BITS8_NEEDS = {"bitsandbytes": "0.48", "accelerate": "1.13"}
LENGTH = 256  # text tokens of the published pipelines
WEIGHED = ("transformer", "text_encoder", "vae")
KINDS = ("*.safetensors", "*.json", "*.model")  # nothing that would be unpickled; the first where there are weights
Made = TypeVar("Made")


# ------------------------------------------------------------------------------------------------ one by one
def transformer(source: str | Path, dtype: str = "bf16") -> "PRXTransformer2DModel":
    """The denoiser as diffusers' own class."""
    from diffusers import BitsAndBytesConfig, PRXTransformer2DModel

    options = weights(dtype, "The transformer", BitsAndBytesConfig)
    return loaded(source, "transformer", lambda at: PRXTransformer2DModel.from_pretrained(at, use_safetensors=True, **options))


def text_encoder(source: str | Path, dtype: str = "bf16") -> nn.Module:
    """The encoder of a T5Gemma, from a pipeline or from the whole model, whose decoder is dropped."""
    from diffusers.pipelines.prx import T5GemmaEncoder
    from transformers import BitsAndBytesConfig, T5GemmaModel, T5GemmaModuleConfig

    options = weights(dtype, "The text encoder", BitsAndBytesConfig)
    options["dtype"] = options.pop("torch_dtype")  # transformers' name for it

    def load(at: Path) -> nn.Module:
        if is_whole(at):
            return T5GemmaModel.from_pretrained(at, use_safetensors=True, **options).encoder
        if read(at / "config.json").get("model_type") == T5GemmaModuleConfig.model_type:  # saved by the encoder's own class
            options["config"] = T5GemmaModuleConfig.from_pretrained(at)  # the pipeline's class would take Gemma 2 2B's sizes
        return T5GemmaEncoder.from_pretrained(at, use_safetensors=True, **options)

    return loaded(source, "text_encoder", load).eval()


def tokenizer(source: str | Path, length: int = LENGTH) -> "PreTrainedTokenizerBase":
    """The text encoder's tokenizer, cutting and padding at `length` tokens, or at its own number (0)."""
    from transformers import AutoTokenizer

    made = loaded(source, "tokenizer", lambda at: AutoTokenizer.from_pretrained(at, local_files_only=True))
    made.model_max_length = length or made.model_max_length
    return made


def scheduler(source: str | Path) -> "FlowMatchEulerDiscreteScheduler":
    """The times and steps of sampling."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return loaded(source, "scheduler", lambda at: FlowMatchEulerDiscreteScheduler.from_pretrained(at))


def vae(source: str | Path, dtype: str = "bf16") -> nn.Module:
    """The autoencoder, of the class that its configuration names: FLUX's AutoencoderKL or the deep-compression AutoencoderDC.

    Not in 8 bits, though the documentation passes a quantisation to it: bitsandbytes replaces linear layers, which hold few of its
    weights (`memory.table` tells how few). LabError for 8 bits, for another class, and for what cannot be loaded.
    """
    from diffusers import AutoencoderDC, AutoencoderKL

    if dtype == BITS8:
        raise LabError("The autoencoder is mostly convolutions, which bitsandbytes does not quantise; use bf16 or fp32 for it.")
    options = weights(dtype, "The autoencoder", dict)
    known = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderDC)}

    def load(at: Path) -> nn.Module:
        kind = read(at / "config.json").get("_class_name")
        if kind not in known:
            raise LabError(f"{at} holds a {kind}; the pipeline takes {' or '.join(known)}.")
        return known[kind].from_pretrained(at, use_safetensors=True, **options)

    return loaded(source, "vae", load)


# ------------------------------------------------------------------------------------------------ together
def assemble(
    transformer: "PRXTransformer2DModel",
    scheduler: "FlowMatchEulerDiscreteScheduler",
    text_encoder: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    vae: nn.Module,
    size: int = 512,
) -> "PRXPipeline":
    """diffusers' pipeline of these parts, for images of size^2 pixels by default; LabError for parts that do not fit together."""
    from diffusers import PRXPipeline

    width, context = text_encoder.config.hidden_size, transformer.config.context_in_dim
    if width != context:
        raise LabError(f"The transformer reads text features of width {context}, the text encoder makes {width}; take both from one model.")
    made, wanted = vae.config.latent_channels, transformer.config.in_channels
    if made != wanted:
        raise LabError(f"The transformer denoises {wanted} channels, the autoencoder has {made}; take both from one model.")
    return PRXPipeline(transformer, scheduler, text_encoder, tokenizer, vae, default_sample_size=size)


def place(pipe: "PRXPipeline", offload: str = "none") -> "PRXPipeline":
    """Put a pipeline where it runs: all of it (none), one model at a time (model), or one layer at a time (sequential) on the GPU."""
    check_offload(offload)
    if offload == "model":
        pipe.enable_model_cpu_offload()
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload()
    else:
        pipe.to(pick_device())
    return pipe


def pipeline(
    source: str | Path, transformer_dtype: str = "bf16", text_dtype: str = "bf16", vae_dtype: str = "bf16", offload: str = "none"
) -> "PRXPipeline":
    """diffusers' pipeline from one source, its parts loaded one by one in the dtypes asked for and placed."""
    check_offload(offload)
    parts = transformer(source, transformer_dtype), scheduler(source), text_encoder(source, text_dtype), tokenizer(source, 0)
    size = read(located(source, "") / "model_index.json").get("default_sample_size", 512)
    return place(assemble(*parts, vae(source, vae_dtype), size), offload)


# ------------------------------------------------------------------------------------------------ where and how
def weights(dtype: str, part: str, config: Callable[..., Any]) -> dict[str, Any]:
    """The loading options of a dtype; `config` makes the library's own quantisation.

    LabError for an unknown dtype, and for what this machine cannot do.
    """
    if dtype in DTYPES:
        return {"torch_dtype": DTYPES[dtype]}
    if dtype != BITS8:
        raise LabError(f"{part} cannot be loaded as {dtype!r}; use one of {', '.join(DTYPES)}, {BITS8}.")
    if not torch.cuda.is_available():
        raise LabError(f"{part} in 8 bits needs a CUDA GPU, and there is none here; use bf16 or fp32.")
    for library, lowest in BITS8_NEEDS.items():
        require(library, lowest, f"{part} in 8 bits")
    return {"torch_dtype": torch.bfloat16, "quantization_config": config(load_in_8bit=True)}


def require(library: str, lowest: str, what: str) -> None:
    """Refuse, with a LabError, `what` where a library is not installed in version `lowest` or a later one."""
    from packaging.version import Version

    try:
        found = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        found = ""
    if not found or Version(found) < Version(lowest):
        there = f"{found} is installed" if found else "it is not installed"
        raise LabError(f"{what} needs {library} {lowest} or later, and {there}: `pip install '{library}>={lowest}'`, or use bf16.")


def check_offload(offload: str) -> None:
    """Refuse, with a LabError, an offload that is none of OFFLOAD, or one that moves weights to a GPU where there is none."""
    if offload not in OFFLOAD:
        raise LabError(f"offload is {offload!r}; use one of {', '.join(OFFLOAD)}.")
    if offload != "none" and not torch.accelerator.is_available():
        raise LabError(f"offload='{offload}' moves weights to a GPU when they are needed, and there is none here; use offload='none'.")


def located(source: str | Path, part: str) -> Path:
    """The local folder of a part: inside a pipeline, or the source itself; a hub name is downloaded, that part alone."""
    path = Path(source).expanduser()
    if hub.means_name(source, zoo.REAL | VARIANTS) or not path.is_dir():
        path = download(str(source), part)
    return path / part if part and (path / part).is_dir() else path


def download(name: str, part: str) -> Path:
    """A repository's files of one part, or its top folder where it has no such part."""
    repo = zoo.REAL[name].repo if name in zoo.REAL else VARIANTS[name].repo if name in VARIANTS else name
    kinds = KINDS if part in WEIGHED else KINDS[1:]
    path = hub.fetch(repo, ["model_index.json", *(f"{part}/{kind}" for kind in kinds if part)])
    return hub.fetch(repo, kinds) if part and not (path / part).is_dir() else path


def loaded(source: str | Path, part: str, load: Callable[[Path], Made]) -> Made:
    """A part read from where it lies; what the libraries raise becomes one sentence, a LabError."""
    at = located(source, part)
    try:
        return load(at)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LabError(f"The {part.replace('_', ' ')} in {at} cannot be loaded: {first[:160]}") from error


def is_whole(folder: Path) -> bool:
    """Whether a T5Gemma folder holds the whole model, with a decoder, and not the encoder alone."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            if any("decoder." in key for key in opened.keys()):
                return True
    return False
