"""Images to features for FID (arXiv 1706.08500), CMMD (2401.09603) and DINO-MMD: every image is rounded to uint8 once, at the door.

A feature network takes uint8 and does its own published preprocessing, so real and generated images, floats and
integers, cannot be treated differently on the way in: a float given as uint8, or scaled twice, wraps its colours.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prx_lab import zoo
from prx_lab.errors import LabError, nearest
from prx_lab.metrics.networks import Clip, Dino, FeatureNetwork, Inception, LabJudge, LabTeacher

METRICS = {  # metric -> (embedded network, the real one it stands for)
    "fid": ("lab-inception", "inception-v3"),
    "cmmd": ("lab-clip", "clip-vit-l-14-336"),
    "dino_mmd": ("lab-dino-eval", "dinov2-l-reg"),
}
BACKENDS = ("lab", "real")
HUB = ""  # folder of a real network that is to come from the hub or its local cache
Images = np.ndarray | Tensor


def to_uint8(images: Images, span: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Images as uint8 (n, 3, H, W): arrays are (n, H, W, 3), tensors (n, 3, H, W); floats in `span` are *rounded* to levels.

    LabError for another shape or dtype, values outside the span or not finite, or levels 0..255 stored as floats.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1) if isinstance(images, np.ndarray) else images
    if x.ndim != 4 or x.shape[1] != 3:
        raise LabError(f"Images of shape {tuple(images.shape)}: give arrays (n, H, W, 3) or tensors (n, 3, H, W).")
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise LabError(f"Images of type {x.dtype}: give uint8 levels, or floats in [-1, 1].")
    x = x.detach().double()
    lo, hi = span
    if x.numel() and not (x.min() >= lo - 1e-4 and x.max() <= hi + 1e-4):
        if x.min() >= 0 and 2 < x.max() <= 255:
            raise LabError("These float images hold levels up to 255: pass them as uint8, or scaled to [-1, 1].")
        here = f"run from {x.min():.4g} to {x.max():.4g}, outside [{lo:g}, {hi:g}]"
        raise LabError(f"These float images {here}: clamp or rescale them first.")
    return ((x - lo) * (255 / (hi - lo))).round().clamp(0, 255).to(torch.uint8)


def extract(
    network: Callable[[Tensor], Tensor],
    images: Images | Iterable[Images],
    batch: int = 64,
    progress: bool = False,
    span: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """Features float64 (n, E) of images, one array or tensor or an iterable of them, in order; shapes and range as in `to_uint8`.

    `network` is a `FeatureNetwork` or any callable from uint8 (B, 3, H, W) to (B, E). LabError for no images, or features not finite.
    """
    rows = []
    for part in _bar(_parts(images, batch, span), progress):
        out = network(part)
        if out.ndim != 2 or len(out) != len(part):
            raise LabError(f"The feature network gave {tuple(out.shape)} for {len(part)} images; it should give one row each.")
        rows.append(out.detach().double().cpu().numpy())
    if not rows:
        raise LabError("There are no images to extract features from.")
    features = np.concatenate(rows)
    if not np.isfinite(features).all():
        raise LabError("Some features are not finite: look at the images, and at the precision the network runs in.")
    return features


def metric_features(metric: str, backend: str = "lab", folder: str | Path = HUB) -> FeatureNetwork:
    """The network of 'fid', 'cmmd' or 'dino_mmd' from backend 'lab' (embedded) or 'real' (hub, or a local folder)."""
    if metric not in METRICS:
        raise LabError(f"There is no feature metric '{metric}'.{nearest(metric, METRICS)} Known: {', '.join(METRICS)}.")
    if backend not in BACKENDS:
        raise LabError(f"There is no backend '{backend}'.{nearest(backend, BACKENDS)} Known: lab (embedded), real.")
    return feature_network(METRICS[metric][BACKENDS.index(backend)], folder)


def feature_network(name: str, folder: str | Path = HUB) -> FeatureNetwork:
    """A feature network by name, frozen, on the CPU; `folder` holds a real network's files where there is no hub.

    LabError for an unknown name, or when the weights cannot be had.
    """
    if name in (known := {lab for lab, _ in METRICS.values()}):
        return _embedded(name)
    if name == "inception-v3":
        from prx_lab.metrics.inception import load_inception

        return Inception(name, load_inception(folder if str(folder) else name))
    if name == "clip-vit-l-14-336":
        return Clip(name, _clip(name, folder))
    if name.startswith("dinov2-") and name in zoo.REAL:
        return Dino(name, _dino(name, folder))
    known |= {real for _, real in METRICS.values()}
    raise LabError(f"There is no feature network '{name}'.{nearest(name, known)} Known: {', '.join(sorted(known))}.")


def _embedded(name: str) -> FeatureNetwork:
    from prx_lab.teachers import load_judge, load_vision

    return LabJudge(name, load_judge(name)) if name == "lab-inception" else LabTeacher(name, load_vision(name))


def _clip(name: str, folder: str | Path) -> nn.Module:
    from transformers import CLIPVisionModelWithProjection

    try:
        return CLIPVisionModelWithProjection.from_pretrained(str(folder) or zoo.REAL[name].repo, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise _absent(name, folder) from error


def _dino(name: str, folder: str | Path) -> nn.Module:
    import timm

    source = f"local-dir:{folder}" if str(folder) else f"hf-hub:{zoo.REAL[name].repo}"
    try:
        return timm.create_model(source, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise _absent(name, folder) from error


def _absent(name: str, folder: str | Path) -> LabError:
    where = f"is not in the folder {folder}" if str(folder) else f"is neither cached nor to be had from the hub ({zoo.REAL[name].repo})"
    return LabError(f"The feature network '{name}' {where}: give a folder with its files, or use the embedded one (backend 'lab').")


def _parts(images: Images | Iterable[Images], batch: int, span: tuple[float, float]) -> Iterator[Tensor]:
    if batch < 1:
        raise LabError(f"A batch holds at least one image, not {batch}.")
    for group in [images] if isinstance(images, np.ndarray | Tensor) else images:
        for start in range(0, len(group), batch):
            yield to_uint8(group[start : start + batch], span)


def _bar(parts: Iterator[Tensor], progress: bool) -> Iterable[Tensor]:
    if not progress:
        return parts
    from tqdm import tqdm

    return tqdm(parts, desc="features", unit="batch")
