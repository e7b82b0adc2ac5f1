"""Images to features for FID (arXiv 1706.08500), CMMD (2401.09603) and DINO-MMD: every image is rounded to uint8 once, at the door.

A feature network takes uint8 and does its own published preprocessing, so real and generated images, floats and
integers, cannot be treated differently on the way in: a float given as uint8, or scaled twice, wraps its colours.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
    x = torch.from_numpy(np.array(images)).movedim(-1, 1) if isinstance(images, np.ndarray) else images
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
) -> np.ndarray:
    """Features float64 (n, E) of images, one array or tensor or an iterable of them, in order; shapes and range as in `to_uint8`.

    `network` is a `FeatureNetwork` or any callable from uint8 (B, 3, H, W) to (B, E). LabError for no images, or features not finite.
    """
    rows = []
    for part in _parts(images, batch):
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
    """The network of 'fid', 'cmmd' or 'dino_mmd' from backend 'lab' (embedded) or 'real' (hub, or a local folder).

    LabError for another metric or backend.
    """
    if metric not in METRICS:
        raise LabError(f"There is no feature metric '{metric}'.{nearest(metric, METRICS)} Known: {', '.join(METRICS)}.")
    if backend not in BACKENDS:
        raise LabError(f"There is no backend '{backend}'.{nearest(backend, BACKENDS)} Known: lab (embedded), real.")
    return feature_network(METRICS[metric][BACKENDS.index(backend)], folder)


def feature_network(name: str, folder: str | Path = HUB) -> FeatureNetwork:
    """A feature network by name, frozen, on the CPU; `folder` holds a real network's config.json and safetensors where there is no hub.

    LabError for an unknown name, weights that cannot be had, or a folder of another kind of network.
    """
    from prx_lab.teachers import CLIPTeacher, InceptionFeatures, TimmTeacher, load_judge, load_vision

    if name == "lab-inception":
        return LabJudge(name, load_judge(name))
    if name in ("lab-clip", "lab-dino-eval"):
        return LabTeacher(name, load_vision(name))
    kinds = {"inception-v3": (InceptionFeatures, Inception), "clip-vit-l-14-336": (CLIPTeacher, Clip)}
    kinds |= {real: (TimmTeacher, Dino) for real in zoo.REAL if real.startswith("dinov2-")}
    if name not in kinds:
        known = sorted({*kinds, *(lab for lab, _ in METRICS.values())})
        raise LabError(f"There is no feature network '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    expected, network = kinds[name]
    teacher = load_vision(str(folder) or name)
    if not isinstance(teacher, expected):
        raise LabError(f"The folder {folder} does not hold a network of the kind of '{name}'.")
    return network(name, teacher.network)


def _parts(images: Images | Iterable[Images], batch: int) -> Iterator[Tensor]:
    if batch < 1:
        raise LabError(f"A batch holds at least one image, not {batch}.")
    for group in [images] if isinstance(images, np.ndarray | Tensor) else images:
        for start in range(0, len(group), batch):
            yield to_uint8(group[start : start + batch])
