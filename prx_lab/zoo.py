"""Frozen networks by name: small ones that ship with the package as checked safetensors, and the real ones they stand for."""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file, save_file

from prx_lab.errors import LabError, nearest
from prx_lab.files import read_json
from prx_lab.locks import locked

WEIGHTS = Path(__file__).parent / "weights"
NO_FILES: Mapping[str, Path | str] = MappingProxyType({})
PATIENCE = 10.0  # seconds for another process to rewrite the manifest

# What ships with the package. A number from one of these never carries a real network's name.
EMBEDDED = {
    "lab-vae": "autoencoder (diffusers AutoencoderKL), reconstruction only",
    "lab-vae-repa-e": "autoencoder tuned end to end with a denoiser through alignment",
    "lab-vae-semantic": "autoencoder with more channels, its latents aligned to a vision teacher",
    "lab-t5": "text encoder (transformers T5Gemma encoder) and its tokenizer",
    "lab-dino": "vision teacher (timm ViT), trained on what the whole scene contains",
    "lab-dino-dense": "vision teacher (timm ViT), trained on what every patch contains",
    "lab-dino-eval": "vision network (timm ViT) for DINO-MMD only; never used for alignment",
    "lab-clip": "image and text towers (transformers CLIPModel), for CMMD",
    "lab-inception": "detector: features for FID, and the judge of composition",
}


@dataclass(frozen=True)
class Real:
    """A published network: the library that loads it, its repository on the hub, what it is here for, the file it needs."""

    library: str
    repo: str
    role: str
    file: str = "model.safetensors"


REAL = {
    "flux": Real("diffusers", "black-forest-labs/FLUX.1-dev", "autoencoder, 16 channels at stride 8", "vae/config.json"),
    "flux2": Real("diffusers", "black-forest-labs/FLUX.2-klein-4B", "autoencoder, 128 channels at stride 16", "vae/config.json"),
    "repa-e": Real("diffusers", "REPA-E/e2e-flux-vae", "autoencoder tuned end to end, 16 channels at stride 8", "config.json"),
    "dc-ae": Real("diffusers", "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers", "autoencoder, 32 channels at stride 32", "config.json"),
    "t5gemma-2b": Real("transformers", "google/t5gemma-2b-2b-ul2", "text encoder, 256 tokens", "config.json"),
    "dinov2-s": Real("timm", "timm/vit_small_patch14_dinov2.lvd142m", "vision teacher"),
    "dinov2-b": Real("timm", "timm/vit_base_patch14_dinov2.lvd142m", "vision teacher"),
    "dinov2-l": Real("timm", "timm/vit_large_patch14_dinov2.lvd142m", "vision teacher"),
    "dinov2-b-reg": Real("timm", "timm/vit_base_patch14_reg4_dinov2.lvd142m", "vision teacher; perceptual loss"),
    "dinov2-l-reg": Real("timm", "timm/vit_large_patch14_reg4_dinov2.lvd142m", "vision teacher; DINO-MMD"),
    "dinov3-s": Real("timm", "timm/vit_small_patch16_dinov3.lvd1689m", "vision teacher"),
    "dinov3-b": Real("timm", "timm/vit_base_patch16_dinov3.lvd1689m", "vision teacher"),
    "dinov3-l": Real("timm", "timm/vit_large_patch16_dinov3.lvd1689m", "vision teacher"),
    "clip-vit-l-14-336": Real("transformers", "openai/clip-vit-large-patch14-336", "CMMD features", "config.json"),
    "inception-v3": Real("local", "a local folder with the FID weights as model.safetensors", "FID features"),
}


def folder(name: str, root: Path = WEIGHTS) -> Path:
    """The folder of an embedded network, its files checked against the manifest once per process; LabError otherwise."""
    return _checked(name, Path(root))


@functools.cache
def _checked(name: str, root: Path) -> Path:
    manifest = _manifest(root)
    if name not in manifest:
        if name in EMBEDDED:
            raise LabError(f"The network '{name}' is not in {root / 'manifest.json'}: run `prx-lab pretrain {name}` or reinstall.")
        raise LabError(f"There is no embedded network '{name}'.{nearest(name, EMBEDDED)} Known: {', '.join(EMBEDDED)}.")
    for file, entry in manifest[name].items():
        path = root / name / file
        remedy = f"reinstall the package or run `prx-lab pretrain {name}`."
        if not path.is_file():
            raise LabError(f"The file {path} of '{name}' is missing: {remedy}")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise LabError(f"The file {path} of '{name}' has {size} bytes instead of {entry['bytes']}: {remedy}")
        if digest(path) != entry["sha256"]:
            raise LabError(f"The file {path} of '{name}' does not have the recorded hash: {remedy}")
    return root / name


def load(name: str, root: Path = WEIGHTS) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights as float32 and the configuration of an embedded network, hashes checked; nothing is unpickled."""
    at = folder(name, root)
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(at / "model.safetensors").items()}
    return state, json.loads((at / "config.json").read_text())


def save(
    name: str,
    state: Mapping[str, torch.Tensor],
    config: dict,
    card: str,
    files: Mapping[str, Path | str] = NO_FILES,
    root: Path = WEIGHTS,
) -> Path:
    """Write fp16 weights, config.json, card.md and extra files (a path to copy, or text) of one network, and its hashes.

    The folder is written beside its final place and swapped in under a lock. Who reads at that moment is told of a missing or changed
    file; the hashes let nobody read a mixture.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    fresh = root / f".{name}.{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    halves = {k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in state.items()}
    save_file(halves, fresh / "model.safetensors", metadata={"format": "pt"})
    (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (fresh / "card.md").write_text(card.rstrip() + "\n")
    for file, source in files.items():
        if isinstance(source, Path):
            shutil.copyfile(source, fresh / file)
        else:
            (fresh / file).write_text(source)
    (fresh / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    entry = {p.name: {"sha256": digest(p), "bytes": p.stat().st_size} for p in sorted(fresh.iterdir())}
    lock, busy = root / ".lock", f"Another process is writing networks into {root}; wait until it has finished, and run again."
    with suppress(OSError):
        lock.rmdir()  # once it was a folder, which a killed process left behind
    with locked(lock, PATIENCE, busy):
        manifest = _manifest(root)
        shutil.rmtree(root / name, ignore_errors=True)
        fresh.replace(root / name)
        manifest[name] = entry
        text = json.dumps(dict(sorted(manifest.items())), indent=1) + "\n"
        draft = root / f".manifest.{os.getpid()}"
        draft.write_text(text)
        draft.replace(root / "manifest.json")
    _checked.cache_clear()
    return root / name


def metrics_file(metrics: dict) -> dict[str, str]:
    """The extra file that carries what a pretraining measured."""
    return {"metrics.json": json.dumps(metrics, indent=1) + "\n"}


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sizes(root: Path = WEIGHTS) -> dict[str, int]:
    """Bytes on disk of every network in the manifest."""
    return {name: sum(entry["bytes"] for entry in files.values()) for name, files in _manifest(Path(root)).items()}


def reachable(name: str, timeout: float = 3.0) -> str:
    """Whether a real network could be loaded now: 'cached', 'network', 'offline' or 'local file'; downloads nothing.

    LabError for a name that is not in REAL.
    """
    if name not in REAL:
        raise LabError(f"There is no real network '{name}'.{nearest(name, REAL)} Known: {', '.join(REAL)}.")
    real = REAL[name]
    if real.library == "local":
        return "local file: give its folder in place of the name"
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(real.repo, real.file), str):
        return "cached"
    if constants.HF_HUB_OFFLINE:
        return "offline: HF_HUB_OFFLINE is set and it is not in the local cache"
    return _ask_hub(constants.ENDPOINT, timeout)


@functools.cache
def _ask_hub(endpoint: str, timeout: float) -> str:
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=timeout):
            return "network: it would be downloaded on first use"
    except HTTPError as error:  # somebody answered: a hub that refuses HEAD is still a hub
        return f"network: the hub answers {error.code}, so the download may be refused"
    except (URLError, OSError, ValueError):
        return "offline: not in the local cache and the hub does not answer"


def _manifest(root: Path) -> dict:
    path = root / "manifest.json"
    return read_json(path, "reinstall the package") if path.is_file() else {}
