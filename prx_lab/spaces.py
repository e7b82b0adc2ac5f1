"""Spaces by name: pixels, the embedded autoencoders, the published ones, and any local diffusers folder."""

from pathlib import Path

import torch

from prx_lab import zoo
from prx_lab.autoencoders import ChannelSpace, DCSpace, Flux2Space, KLSpace, Pixels, Space
from prx_lab.errors import LabError, nearest
from prx_lab.files import read_json

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
    from prx_lab import published

    return local(name, published.fetch(name))


def local(name: str, folder: Path) -> Space:
    """A local diffusers folder: an autoencoder's own, or a pipeline's with the autoencoder in `vae/`; LabError where there is none."""
    inside = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
    config = inside / "config.json"
    if not config.is_file():
        raise LabError(f"The folder {folder} holds no diffusers autoencoder: there is no config.json, give one that save_pretrained wrote.")
    return wrap(name, inside, read_json(config, "download or save the autoencoder again").get("_class_name", "network of no class"))


def wrap(name: str, folder: Path, kind: str) -> Space:
    """Load a diffusers autoencoder of a known class from safetensors only, and wrap it as a space.

    LabError for another class, and for weights that are pickled, incomplete or cannot be read.
    """
    import diffusers

    if kind not in CLASSES:
        raise LabError(f"'{name}' holds a {kind}; a space can be made of {', '.join(CLASSES)}.")
    if not list(folder.glob("*.safetensors")) and list(folder.glob("*.bin")):
        raise LabError(f"{folder} has its weights in a pickle, which is not opened: save them again with save_pretrained.")
    load = {cls.__name__: cls.from_pretrained for cls in (diffusers.AutoencoderKL, diffusers.AutoencoderKLFlux2, diffusers.AutoencoderDC)}
    try:
        vae, found = load[kind](folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise LabError(f"The folder {folder} holds no diffusers autoencoder that can be read ({first_line(error)}).") from None
    if found["missing_keys"]:
        raise LabError(f"The weights in {folder} lack '{min(found['missing_keys'])}': they belong to another model or are incomplete.")
    if kind == "AutoencoderKLFlux2":
        return Flux2Space(name, vae)
    if kind == "AutoencoderDC":
        return DCSpace(name, vae, vae.config.scaling_factor)
    if vae.config.latents_mean and vae.config.latents_std:
        return ChannelSpace(name, vae)
    return KLSpace(name, vae, vae.config.shift_factor or 0.0, vae.config.scaling_factor)  # older ones have no shift


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its class where it says nothing; at most 160 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
