"""The spaces a denoiser works in: pixels, or the normalised latents of a frozen autoencoder (latent diffusion, arXiv 2112.10752)."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prx_lab.errors import LabError

PIXELS = 16 * 256**2  # of a batch that an autoencoder works on at once: about 3 GiB in FLUX's, at every size of image


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
        if latents.shape[1] != self.channels:
            raise LabError(f"The space '{self.name}' has {self.channels} channels and these latents {latents.shape[1]}; use its own.")
        return self._decode(latents)

    def weights_in(self, dtype: torch.dtype) -> "Space":
        """This space with its network in float32 or bfloat16; normalisation, images and latents stay float32."""
        return self

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


class Autoencoder(Space):
    """What the spaces of diffusers' autoencoders share: a frozen network between images and latents that are normalised here."""

    def __init__(self, name: str, vae: nn.Module, channels: int, stride: int):
        super().__init__(name, channels, stride)
        self.vae = freeze(vae)

    def weights_in(self, dtype: torch.dtype) -> "Autoencoder":
        if dtype not in (torch.float32, torch.bfloat16):
            raise LabError(f"The space '{self.name}' cannot keep its weights in {dtype}, where it may overflow; use bfloat16 or float32.")
        if dtype != self.dtype:
            nn.Module.to(self.vae, dtype)  # diffusers' own `to` warns of modules to be kept in float32, also where there are none
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's weights."""
        return self.vae.decoder.conv_in.weight.dtype

    def _encode(self, images: Tensor) -> Tensor:
        parts = images.split(at_once(*images.shape[-2:]))
        return torch.cat([self.normalised(self.widen(self.code(part.to(self.dtype)))) for part in parts])

    def _decode(self, latents: Tensor) -> Tensor:
        h, w = latents.shape[-2:]
        parts = latents.split(at_once(h * self.stride, w * self.stride))
        return torch.cat([self.widen(self.vae.decode(self.raw(part).to(self.dtype)).sample) for part in parts])

    def widen(self, x: Tensor) -> Tensor:
        """What weights in bfloat16 give, as float32; what float32 weights give is left as it is, also under autocast."""
        return x.float() if self.dtype == torch.bfloat16 else x

    @abstractmethod
    def code(self, images: Tensor) -> Tensor:
        """What the encoder makes of images."""

    @abstractmethod
    def normalised(self, code: Tensor) -> Tensor:
        """The encoder's output as latents."""

    @abstractmethod
    def raw(self, latents: Tensor) -> Tensor:
        """The inverse of `normalised`."""


class KLSpace(Autoencoder):
    """diffusers' AutoencoderKL with one shift and one scale for all channels, as in its configuration (FLUX's: 0.1159, 0.3611).

    Encodes to the posterior's mean: a latent is then a function of its image, cached once and the same for every recipe,
    and the posterior's noise, which the decoder was trained to ignore, does not become detail for a denoiser to learn.
    """

    def __init__(self, name: str, vae: nn.Module, shift: float, scale: float):
        super().__init__(name, vae, vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1))
        self.shift, self.scale = shift, scale

    def code(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.mean

    def normalised(self, code: Tensor) -> Tensor:
        return (code - self.shift) * self.scale

    def raw(self, latents: Tensor) -> Tensor:
        return latents / self.scale + self.shift


class ChannelSpace(Autoencoder):
    """An AutoencoderKL whose configuration has a mean and a spread for every channel, which stand for shift and scale.

    Autoencoders tuned end to end through a batch norm of the latents (REPA-E, arXiv 2504.10483) are used in this way by their authors.
    """

    def __init__(self, name: str, vae: nn.Module):
        super().__init__(name, vae, vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1))
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(vae.config.latents_std).view(1, -1, 1, 1), persistent=False)

    def code(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.mean

    def normalised(self, code: Tensor) -> Tensor:
        return (code - self.mean) / self.spread

    def raw(self, latents: Tensor) -> Tensor:
        return latents * self.spread + self.mean

    def folded(self) -> KLSpace:
        """The same space as an AutoencoderKL with shift 0 and scale 1, for pipelines that know no other numbers.

        Its 1 x 1 convolutions at both ends of the latents, which it gets if it has none, carry the statistics.
        """
        from diffusers import AutoencoderKL

        own = {k: v for k, v in self.vae.config.items() if not k.startswith("_")}
        plain = {"latents_mean": None, "latents_std": None, "shift_factor": 0.0, "scaling_factor": 1.0}
        vae, state = AutoencoderKL(**own | plain | {"use_quant_conv": True, "use_post_quant_conv": True}), self.vae.state_dict()
        mean, spread, C = self.mean.flatten().cpu(), self.spread.flatten().cpu(), self.channels
        w, b = convolution(state, "quant_conv", 2 * C)
        factor = torch.cat([1 / spread, torch.ones(C)])  # of the posterior's mean; its log variance moves by -2 log(spread)
        moved = torch.cat([-mean / spread, -2 * spread.log()])
        state |= {"quant_conv.weight": (factor[:, None] * w)[..., None, None], "quant_conv.bias": factor * b + moved}
        w, b = convolution(state, "post_quant_conv", C)
        state |= {"post_quant_conv.weight": (w * spread)[..., None, None], "post_quant_conv.bias": w @ mean + b}
        vae.load_state_dict(state)
        return KLSpace(self.name, vae, 0.0, 1.0)


def convolution(state: dict[str, Tensor], name: str, channels: int) -> tuple[Tensor, Tensor]:
    """Weight (channels, channels) and bias of a 1 x 1 convolution in float32; the identity where there is none."""
    if f"{name}.weight" not in state:
        return torch.eye(channels), torch.zeros(channels)
    return state[f"{name}.weight"].float().flatten(1).cpu(), state[f"{name}.bias"].float().cpu()


class Flux2Space(Autoencoder):
    """FLUX.2's autoencoder: 2 x 2 cells packed into channels, then normalised by its batch norm's running statistics.

    So 32 channels at stride 8 become 128 at stride 16. (PRX's own experiment used the 32 channels as they are, without statistics.)
    """

    def __init__(self, name: str, vae: nn.Module):
        stride = 2 ** (len(vae.config.block_out_channels) - 1)
        super().__init__(name, vae, 4 * vae.config.latent_channels, 2 * stride)
        spread = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
        self.register_buffer("mean", vae.bn.running_mean.clone().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("spread", spread.view(1, -1, 1, 1), persistent=False)

    def code(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.mean

    def normalised(self, code: Tensor) -> Tensor:
        return (F.pixel_unshuffle(code, 2) - self.mean) / self.spread  # (B, 4C, h/2, w/2)

    def raw(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents * self.spread + self.mean, 2)


class DCSpace(Autoencoder):
    """The deep-compression autoencoder (arXiv 2410.10733): no posterior, stride 32 as published, one scale (Sana's: 0.41407)."""

    def __init__(self, name: str, vae: nn.Module, scale: float):
        super().__init__(name, vae, vae.config.latent_channels, vae.spatial_compression_ratio)
        self.scale = scale

    def code(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent

    def normalised(self, code: Tensor) -> Tensor:
        return code * self.scale

    def raw(self, latents: Tensor) -> Tensor:
        return latents / self.scale


def at_once(height: int, width: int) -> int:
    """How many images of height x width pixels an autoencoder works on at once."""
    return max(1, PIXELS // (height * width))


def freeze(module: nn.Module) -> nn.Module:
    """In evaluation mode and without gradients for its weights; gradients still pass through to the input."""
    return module.eval().requires_grad_(False)
