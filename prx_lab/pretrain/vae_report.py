"""Measures a trained autoencoder as it will be loaded, and stores it with its card, its figures and a picture."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prx_lab import zoo
from prx_lab.data.scenes import Scenes
from prx_lab.data.store import images_of, to_float
from prx_lab.pretrain import common
from prx_lab.spaces import KLSpace

VALIDATION = 128  # scenes of each kind
NOISE = 0.1  # standard deviations of a denoiser's error, for the robustness figure


def held_photographs(n: int, size: int) -> Tensor:
    """n fixed crops (n, 3, size, size) in [-1, 1] of the photographs kept out of training, uncoloured, from all scales."""
    rng, photos = np.random.default_rng(0), common.photographs(common.HELD_PHOTOS)
    return torch.stack([common.crop(photos[i % len(photos)], size, rng) * 2 - 1 for i in range(n)])


def held_out(mix: tuple[tuple[str, str, float], ...], size: int) -> dict[str, Tensor]:
    """The pictures an autoencoder is judged on, by name: validation scenes per level and style, and photographs."""
    sets = {}
    for level, style, _ in mix:
        source = Scenes(level, style, 1 << 20, split="val")
        sets[f"{level} {style}"] = to_float(images_of(source, VALIDATION, size)).contiguous()
    return sets | {"photographs": held_photographs(VALIDATION, size)}


@torch.no_grad()
def scaled(net: torch.nn.Module, images: Tensor) -> KLSpace:
    """The space whose one shift and one scale give these images' latents mean 0 and standard deviation 1."""
    raw = torch.cat([net.encode(images[s]).latent_dist.mean for s in common.batches(len(images), 32)])
    return KLSpace("measured", net, float(raw.mean()), float(1 / raw.std()))


@torch.no_grad()
def measure(space: KLSpace, sets: dict[str, Tensor], train: Tensor) -> dict:
    """PSNR in dB (mean over images, and with noise of 0.1 on the latents), and the normalised latents' statistics."""
    generator = torch.Generator().manual_seed(0)
    quality = {}
    for name, images in sets.items():
        clean, noisy = [], []
        for s in common.batches(len(images), 32):
            x = space.encode(images[s])
            clean.append(common.psnr(space.decode(x), images[s]))
            shaken = x + NOISE * torch.randn(x.shape, generator=generator)
            noisy.append(common.psnr(space.decode(shaken), images[s]))
        clean, noisy = torch.cat(clean), torch.cat(noisy)
        quality[name] = {"n": len(clean), "psnr": float(clean.mean()), "sd": float(clean.std()), "psnr_noisy": float(noisy.mean())}
    x = torch.cat([space.encode(train[s]) for s in common.batches(len(train), 32)])
    latents = {"n": len(x), "mean": float(x.mean()), "sd": float(x.std()), "channel_mean": x.mean((0, 2, 3)).tolist()}
    latents |= {"channel_sd": x.std((0, 2, 3)).tolist(), "neighbour_correlation": neighbours(x)}
    return {"held_out": quality, "latents": latents, "shift": space.shift, "scale": space.scale}


def neighbours(x: Tensor) -> float:
    """Correlation of horizontally adjacent latents about their channel's mean: near 1 is smooth, near 0 is noise."""
    x = x - x.mean((0, 2, 3), keepdim=True)
    return float((x[..., 1:] * x[..., :-1]).mean() / x.pow(2).mean())


def aligned(done: dict) -> str:
    """The sentence on alignment and on the start, if there is one to tell."""
    start = f" Started from the weights of {done['start']} where shapes agree." if done["start"] else ""
    if "joint" in done:
        return f" {done['joint']}{start}"
    if not done["teacher"]:
        return start
    how = f"Latents aligned by cosine (weight {done['align']:g}) to the patch tokens of {done['teacher']}"
    return f" {how} through a linear projector, which is thrown away.{start}"


def card(name: str, metrics: dict) -> str:
    """The model card, every figure taken from `metrics`."""
    done, latents = metrics["training"], metrics["latents"]
    rows = [f"| {k} | {v['n']} | {v['psnr']:.2f} | {v['sd']:.2f} | {v['psnr_noisy']:.2f} |" for k, v in metrics["held_out"].items()]
    sds = ", ".join(f"{s:.2f}" for s in latents["channel_sd"])
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A diffusers AutoencoderKL: {zoo.EMBEDDED[name]}. Stride 8, {len(latents['channel_sd'])} latent channels, no attention; "
            "any size that is a multiple of 8.",
            "",
            f"**Training.** {done['steps']} steps of {done['batch']} images at {done['size']} px ({done['images']} images), "
            f"{done['minutes']:.1f} minutes of wall time, {done['cpu_minutes']:.1f} of one CPU core; bfloat16 autocast, weights averaged. "
            f"Data: {done['scenes']} rendered scenes ({done['mix']}), and crops of photographs bundled with scikit-image, "
            f"{round(done['batch'] * done['photos'])} in every batch ({', '.join(common.TRAIN_PHOTOS)}). "
            f"Loss: L1 + {done['squared']:g} x squared error + "
            f"{done['kl']:g} x KL per latent element; pooled latents of a share {done['half']:g} of the images decode to the pooled image."
            f"{aligned(done)}",
            "",
            "**Reconstruction**, from the stored half-precision weights. `noisy`: the same with Gaussian noise of "
            f"{NOISE} standard deviations on the latents, about what a denoiser leaves. Photographs: crops of "
            f"{' and '.join(common.HELD_PHOTOS)}, of which training saw nothing; scenes: the validation split.",
            "",
            "| held out | n | PSNR (dB) | sd over images | noisy |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"**Latents**: {len(latents['channel_sd'])} channels at 1/8 of the side: the posterior's mean, less "
            f"{metrics['shift']:.4f}, times {metrics['scale']:.4f}. Over {latents['n']} training scenes: "
            f"mean {latents['mean']:.3f}, standard deviation {latents['sd']:.3f}, "
            f"correlation of neighbours {latents['neighbour_correlation']:.2f}; by channel: {sds}.",
            "",
            "**Limits.** Small, and trained on toy scenes and a dozen photographs, without an adversarial or perceptual loss: fine "
            "texture in photographs is smoothed. Not a stand-in for a published autoencoder in any figure.",
            "",
            "`reconstructions.png`: held-out pictures above, their reconstructions below (two of each kind in the table's order).",
        ]
    )


def picture(space: KLSpace, sets: dict[str, Tensor], path: Path) -> Path:
    """Originals above reconstructions, two of each kind."""
    images = torch.cat([images[:2] for images in sets.values()])
    with torch.no_grad():
        return common.grid([images, space.decode(space.encode(images))], path, zoom=2)


def store(name: str, net: torch.nn.Module, training: dict, mix: tuple, train: Tensor, root: Path) -> Path:
    """Measure the network as it will be loaded (weights rounded to half precision) and store it; the folder is returned."""
    net.load_state_dict({k: v.half().float() for k, v in net.state_dict().items()})
    sets = held_out(mix, training["size"])
    space = scaled(net, train)
    metrics = {"training": training} | measure(space, sets, train)
    config = {k: v for k, v in net.config.items() if k != "_use_default_values"}
    config |= {"_class_name": "AutoencoderKL", "scaling_factor": space.scale, "shift_factor": space.shift}
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "metrics.json"
        figures.write_text(json.dumps(metrics, indent=1) + "\n")
        grid = picture(space, sets, Path(folder) / "reconstructions.png")
        files = {"metrics.json": figures, "reconstructions.png": grid}
        return zoo.save(name, net.state_dict(), config, card(name, metrics), files, root)
