"""The spaces a denoiser works in: pixels, or the normalised latents of a frozen autoencoder (latent diffusion, arXiv 2112.10752)."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.errors import LabError, nearest


class Space(nn.Module, ABC):
    """Images to normalised latents and back: (B, 3, H, W) in [-1, 1] <-> (B, channels, H / stride, W / stride), about unit variance.

    Frozen, deterministic and differentiable in its input. LabError when H or W is no multiple of `stride`.
    """

    def __init__(self, name: str, channels: int, stride: int):
        super().__init__()
        self.name, self.channels, self.stride = name, channels, stride

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] -> latents of mean about 0 and variance about 1."""
        H, W = images.shape[-2:]
        if H % self.stride or W % self.stride:
            raise LabError(f"The space '{self.name}' needs image sides that are multiples of {self.stride}; these are {H} x {W}.")
        return self._encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images, clamped to [-1, 1]."""
        return self.unclamped(latents).clamp(-1, 1)

    def unclamped(self, latents: Tensor) -> Tensor:
        """Latents -> images as they come, so that a loss on them has a gradient at every pixel."""
        return self._decode(latents)

    @abstractmethod
    def _encode(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor: ...


class Pixels(Space):
    """The identity: pixels in [-1, 1] are the latents."""

    def __init__(self) -> None:
        super().__init__("pixels", channels=3, stride=1)

    def _encode(self, images: Tensor) -> Tensor:
        return images

    def _decode(self, latents: Tensor) -> Tensor:
        return latents


class KLSpace(Space):
    """diffusers' AutoencoderKL with one shift and one scale for all channels, as in its configuration (FLUX's: 0.1159, 0.3611).

    Encodes to the posterior's mean: a latent is then a function of its image, cached once and the same for every recipe,
    and the posterior's noise, which the decoder was trained to ignore, does not become detail for a denoiser to learn.
    """

    def __init__(self, name: str, vae: nn.Module, shift: float, scale: float):
        super().__init__(name, vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1))
        self.vae, self.shift, self.scale = freeze(vae), shift, scale

    def _encode(self, images: Tensor) -> Tensor:
        return (self.vae.encode(images).latent_dist.mean - self.shift) * self.scale

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.scale + self.shift).sample


class Flux2Space(Space):
    """FLUX.2's autoencoder: 2 x 2 cells packed into channels, then normalised by its batch norm's running statistics."""

    def __init__(self, name: str, vae: nn.Module):
        stride = 2 ** (len(vae.config.block_out_channels) - 1)
        super().__init__(name, 4 * vae.config.latent_channels, 2 * stride)
        self.vae = freeze(vae)
        spread = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
        self.register_buffer("mean", vae.bn.running_mean.clone().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("spread", spread.view(1, -1, 1, 1), persistent=False)

    def _encode(self, images: Tensor) -> Tensor:
        packed = F.pixel_unshuffle(self.vae.encode(images).latent_dist.mean, 2)  # (B, 4C, h/2, w/2)
        return (packed - self.mean) / self.spread

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(F.pixel_shuffle(latents * self.spread + self.mean, 2)).sample


class DCSpace(Space):
    """The deep-compression autoencoder (arXiv 2410.10733): no posterior, stride 32 as published, one scale."""

    def __init__(self, name: str, vae: nn.Module, scale: float):
        super().__init__(name, vae.config.latent_channels, vae.spatial_compression_ratio)
        self.vae, self.scale = freeze(vae), scale

    def _encode(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent * self.scale

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.scale).sample


def freeze(module: nn.Module) -> nn.Module:
    """In evaluation mode and without gradients for its weights; gradients still pass through to the input."""
    return module.eval().requires_grad_(False)


EMBEDDED = tuple(name for name in zoo.EMBEDDED if name.startswith("lab-vae"))
REAL = ("flux", "flux2", "dc-ae", "repa-e")
CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderDC")


def load_space(name: str) -> Space:
    """A space by name: `pixels`, an embedded autoencoder, a real one, or a local diffusers folder.

    Raises LabError for an unknown name, an absent or altered embedded file, a real name that is neither cached nor
    within reach of the hub, and a folder that holds no autoencoder of a known class.
    """
    if name == "pixels":
        return Pixels()
    if name in EMBEDDED:
        return embedded(name)
    if name in REAL:
        return real(name)
    if Path(name).expanduser().is_dir():
        return local(name, Path(name).expanduser())
    known = ("pixels", *EMBEDDED, *REAL)
    raise LabError(f"There is no space '{name}'.{nearest(name, known)} Known: {', '.join(known)}, or a local diffusers folder.")


def embedded(name: str) -> KLSpace:
    """An autoencoder that ships with the package, its hash checked."""
    from diffusers import AutoencoderKL

    state, config = zoo.load(name)
    vae = AutoencoderKL.from_config(config)
    vae.load_state_dict(state)
    return KLSpace(name, vae, config["shift_factor"], config["scaling_factor"])


def real(name: str) -> Space:
    """A published autoencoder from the hub or its local cache."""
    entry = zoo.REAL[name]
    inside = str(Path(entry.file).parent)
    try:
        return wrap(name, entry.repo, inside if inside != "." else "", {"flux2": CLASSES[1], "dc-ae": CLASSES[2]}.get(name, CLASSES[0]))
    except OSError as error:  # what the hub's client raises offline, for a gated repository, for an absent file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LabError(
            f"The space '{name}' ({entry.repo}) is not in the local cache and could not be downloaded ({reason[:160]}): "
            "connect and log in to the hub, or give the folder of a local copy in place of the name."
        ) from None


def local(name: str, folder: Path) -> Space:
    """A local diffusers folder: an autoencoder's own, or a pipeline's with the autoencoder in `vae/`."""
    inside = "vae" if (folder / "vae" / "config.json").is_file() else ""
    try:
        kind = json.loads((folder / inside / "config.json").read_text())["_class_name"]
        return wrap(name, str(folder), inside, kind)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LabError(f"The folder {folder} holds no diffusers autoencoder that can be read ({reason[:160]}).") from None


def wrap(name: str, source: str, subfolder: str, kind: str) -> Space:
    """Load a diffusers autoencoder of a known class from safetensors only, and wrap it as a space."""
    import diffusers

    if kind not in CLASSES:
        raise LabError(f"'{name}' holds a {kind}; a space can be made of {', '.join(CLASSES)}.")
    load = {cls.__name__: cls.from_pretrained for cls in (diffusers.AutoencoderKL, diffusers.AutoencoderKLFlux2, diffusers.AutoencoderDC)}
    vae = load[kind](source, subfolder=subfolder, use_safetensors=True, torch_dtype=torch.float32)
    if kind == "AutoencoderKLFlux2":
        return Flux2Space(name, vae)
    if kind == "AutoencoderDC":
        return DCSpace(name, vae, vae.config.scaling_factor)
    return KLSpace(name, vae, vae.config.shift_factor or 0.0, vae.config.scaling_factor)  # older ones have no shift
