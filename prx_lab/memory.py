"""Memory of a published pipeline per option: weights by dtype, and what lies on the accelerator under each kind of offload.

Computed: the real classes at their published shapes run on tensors that have shapes and no data (`footprint`), so no weights are needed.
What a device adds (its context, convolution workspaces, fragmentation, int8 temporaries) is not in it; `measured` has it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prx_lab.components import BITS8, LENGTH, OFFLOAD
from prx_lab.cost import size as told
from prx_lab.errors import LabError
from prx_lab.footprint import shapes_only
from prx_lab.interop import config_of
from prx_lab.model import PUBLISHED
from prx_lab.precision import DTYPES
from prx_lab.report.layout import counted
from prx_lab.report.listing import Listing
from prx_lab.variants import NETWORKS, STRIDES, Variant

if TYPE_CHECKING:
    from diffusers import PRXPipeline

LOADED = (*DTYPES, BITS8)  # how a part's weights may be loaded
# Gemma 2 2B's shape (arXiv 2408.00118, table 1), whose encoder half T5Gemma-2B-2B-UL2 is (arXiv 2504.06225)
T5GEMMA = {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256,
}  # fmt: skip
# FLUX.1's autoencoder (black-forest-labs/flux, flux/util.py: ch 128, multipliers 1 2 4 4, 2 residual blocks, 16 channels)
FLUX = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "use_quant_conv": False,
    "use_post_quant_conv": False, "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
# dc-ae-f32c32-sana (diffusers, scripts/convert_dcae_to_diffusers.py)
_WIDTHS, _KINDS = (128, 256, 512, 512, 1024, 1024), ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC_AE = {
    "latent_channels": 32, "encoder_block_types": _KINDS, "decoder_block_types": _KINDS, "encoder_block_out_channels": _WIDTHS,
    "decoder_block_out_channels": _WIDTHS, "encoder_layers_per_block": (2, 2, 2, 3, 3, 3), "decoder_layers_per_block": (3,) * 6,
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)), "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "conv", "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Counts of one part's parameters, or of one layer's: all, those in linear layers' matrices, and the rows of these."""

    all: int
    linear: int
    rows: int

    def bytes(self, dtype: str) -> int:
        """Bytes in a dtype; in 8 bits a matrix has one byte a number and a float32 scale a row, the rest is bf16."""
        if dtype == BITS8:
            return self.linear + 4 * self.rows + 2 * (self.all - self.linear)
        return self.all * DTYPES[dtype].itemsize


@dataclass(frozen=True)
class Part:
    """One part of a pipeline: its weights, those of its largest single layer, and the peak of its activations in bytes."""

    name: str
    weights: Weights
    layers: tuple[Weights, ...]  # every module that owns parameters
    activations: int

    def largest(self, dtype: str) -> int:
        """Bytes of the largest layer, which sequential offload holds alone."""
        return max(layer.bytes(dtype) for layer in self.layers)


def weigh(module: nn.Module) -> tuple[Weights, ...]:
    """The weights that each layer owns itself."""
    layers = []
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        if own:
            linear = isinstance(layer, nn.Linear)
            layers.append(Weights(sum(p.numel() for p in own), linear * own[0].numel(), linear * own[0].shape[0]))
    return tuple(layers)


def text_encoder() -> nn.Module:
    """T5Gemma-2B's encoder with whatever weights the current mode gives it."""
    from transformers import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    return T5GemmaEncoder(T5GemmaConfig(encoder=T5GemmaModuleConfig(**T5GEMMA)).encoder)


def stages(space: str, size: int, batch: int) -> dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]]:
    """How to build each part and how a guided batch of images of size^2 pixels runs through it."""
    from diffusers import AutoencoderDC, AutoencoderKL, PRXTransformer2DModel

    arch, side, both = PUBLISHED[NETWORKS[space]], size // STRIDES[space], 2 * batch
    latents = lambda n: torch.zeros(n, arch.channels, side, side)  # noqa: E731

    def encode(network: nn.Module) -> Tensor:
        ids = torch.ones(both, LENGTH, dtype=torch.long)
        return network(input_ids=ids, attention_mask=ids).last_hidden_state

    def denoise(network: nn.Module) -> Tensor:
        text, mask = torch.zeros(both, LENGTH, arch.context), torch.ones(both, LENGTH, dtype=torch.bool)
        return network(latents(both), torch.zeros(both), text, mask, return_dict=False)[0]

    vae = (lambda: AutoencoderDC(**DC_AE)) if space == "dc-ae" else (lambda: AutoencoderKL(**FLUX))
    return {
        "text encoder": (text_encoder, encode),
        "transformer": (lambda: PRXTransformer2DModel(**config_of(arch)), denoise),
        "autoencoder": (vae, lambda network: network.decode(latents(batch)).sample),
    }


@functools.cache
def parts(space: str, size: int, batch: int, dtype: str) -> tuple[Part, ...]:
    """The parts of a published pipeline with this autoencoder, traced on shapes alone in a dtype of DTYPES."""
    found = []
    for name, (build, run) in stages(space, size, batch).items():
        with shapes_only(DTYPES[dtype]) as live, torch.no_grad():
            network = build().eval()
            layers = weigh(network)
            live.peak = before = live.now
            run(network)
            found.append(Part(name, total(layers), layers, live.peak - before))
    return tuple(found)


def total(layers: tuple[Weights, ...]) -> Weights:
    """The counts of all these layers together."""
    return Weights(*(sum(counts) for counts in zip(*((w.all, w.linear, w.rows) for w in layers))))


def resident(space: str, size: int, batch: int, dtype: str, offload: str) -> int:
    """Computed peak in bytes on the accelerator; in 8 bits the autoencoder stays in bf16, as bitsandbytes would leave it."""
    traced = parts(space, size, batch, "bf16" if dtype == BITS8 else dtype)
    stay = {p.name: "bf16" if (dtype, p.name) == (BITS8, "autoencoder") else dtype for p in traced}
    if offload == "model":
        return max(p.weights.bytes(stay[p.name]) + p.activations for p in traced)
    if offload == "sequential":
        return max(p.largest(stay[p.name]) + p.activations for p in traced)
    return sum(p.weights.bytes(stay[p.name]) for p in traced) + max(p.activations for p in traced)


def table(variant: Variant, size: int = 0, batch: int = 1) -> Listing:
    """Weights, activations and peaks of a variant for `batch` images of size^2 pixels (0: the variant's), by dtype of the weights."""
    side = size or variant.size
    traced = {dtype: parts(variant.space, side, batch, "bf16" if dtype == BITS8 else dtype) for dtype in LOADED}
    rows = []
    for i, part in enumerate(traced["bf16"]):
        shown = ["bf16" if (dtype, part.name) == (BITS8, "autoencoder") else dtype for dtype in LOADED]
        share = f"{100 * part.weights.linear / part.weights.all:.1f} %"
        rows.append((f"weights, {part.name}", f"{part.weights.all:,}", share, *(told(part.weights.bytes(dtype)) for dtype in shown)))
        rows.append((f"activations, {part.name}", "", "", *(told(traced[dtype][i].activations) for dtype in LOADED)))
    names = {"none": "peak, all on the accelerator", "model": "peak, model offload", "sequential": "peak, sequential offload"}
    for offload in OFFLOAD:
        peaks = (told(resident(variant.space, side, batch, dtype, offload)) for dtype in LOADED)
        rows.append((names[offload], "", "", *peaks))
    title = f"{variant.name}, {counted(batch, 'image')} of {side} x {side} pixels, guided, {LENGTH} text tokens."
    notes = (
        f"Computed, not measured: {title}",
        "8-bit quantises linear layers; embedding, norms and the autoencoder stay in bf16. Device context and workspaces come on top.",
    )
    return Listing(("what", "parameters", "in linear layers", *LOADED), tuple(rows), ("parameters", "in linear layers", *LOADED), notes)


def measured(pipe: "PRXPipeline", size: int, prompt: str = "a portrait of a lion", steps: int = 2) -> str:
    """The measured peak of drawing one image of size^2 pixels with a pipeline that is on a GPU, as a sentence; LabError without one."""
    if not torch.cuda.is_available():
        raise LabError("Memory on a GPU can only be measured on one; `memory.table` computes it.")
    torch.cuda.reset_peak_memory_stats()
    pipe(prompt, height=size, width=size, num_inference_steps=steps, use_resolution_binning=False)
    peak, device = told(torch.cuda.max_memory_allocated()), torch.cuda.get_device_name()
    return f"measured on {device}: {peak} at most for one image of {size} x {size} pixels"
