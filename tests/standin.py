"""A small random pipeline of the real classes, saved as the published ones are: what tests load in place of a published folder."""

import json
from pathlib import Path

import torch
from torch import nn

WIDTH, CHANNELS, HEADS = 32, 4, 2
WORDS = ["a red cube left of a blue sphere", "two green cones on a wooden floor", "a portrait of a lion"]


def transformer(channels: int = CHANNELS, patch: int = 2, context: int = 0) -> nn.Module:
    """diffusers' network with every weight drawn, so that no layer is silent."""
    from diffusers import PRXTransformer2DModel

    from prx_lab.pretrain import text

    axes = [WIDTH // HEADS // 2] * 2
    sizes = {"hidden_size": WIDTH, "mlp_ratio": 2.0, "num_heads": HEADS, "depth": 2, "axes_dim": axes}
    made = PRXTransformer2DModel(in_channels=channels, patch_size=patch, context_in_dim=context or text.WIDTH, **sizes)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made.eval()


def kl() -> nn.Module:
    """An autoencoder of FLUX's class with stride 8, a shift and a scale."""
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "latent_channels": CHANNELS, "norm_num_groups": 4}
    return AutoencoderKL(**kinds, **sizes, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)


def dc() -> nn.Module:
    """An autoencoder of DC-AE's class with stride 4."""
    from diffusers import AutoencoderDC

    blocks = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock", "encoder_qkv_multiscales": ((), (), ())}
    sizes = {"encoder_block_out_channels": (8, 16, 32), "decoder_block_out_channels": (8, 16, 32), "decoder_qkv_multiscales": ((), (), ())}
    layers = {"encoder_layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1)}
    return AutoencoderDC(latent_channels=CHANNELS, attention_head_dim=8, scaling_factor=0.41407, **blocks, **sizes, **layers)


def text_encoder() -> nn.Module:
    from prx_lab.pretrain.text import encoder, encoder_config

    return encoder(encoder_config()).eval()


def pipeline(vae: str = "kl", size: int = 32, seed: int = 0):
    """A whole pipeline of size^2 pixels; `vae` is kl (patches of 2) or dc (patches of 1)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline

    from prx_lab.pretrain.corpus import train_tokenizer

    torch.manual_seed(seed)
    tokenizer = train_tokenizer(WORDS)
    tokenizer.padding_side = "left"  # as Gemma's own
    network = transformer(patch=1 if vae == "dc" else 2)
    parts = {"text_encoder": text_encoder(), "tokenizer": tokenizer, "vae": {"kl": kl, "dc": dc}[vae]().eval()}
    made = PRXPipeline(network, FlowMatchEulerDiscreteScheduler(shift=3.0), **parts, default_sample_size=size)
    made.set_progress_bar_config(disable=True)
    return made


def save(made, folder: Path, nested: bool = True) -> Path:
    """Write a pipeline in the published layout, with the class of its text encoder where diffusers has it.

    The published repositories could not be looked into here, so the text encoder's configuration may be either: `nested` in that of a
    whole T5Gemma, or flat, the encoder's own, as diffusers' converter writes it.
    """
    from prx_lab.pretrain.text import encoder_config

    made.save_pretrained(folder, safe_serialization=True)
    if nested:
        config = encoder_config()
        config.architectures = ["T5GemmaEncoder"]
        config.save_pretrained(folder / "text_encoder")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["prx", "T5GemmaEncoder"]  # transformers does not export the class; diffusers' pipeline module does
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
