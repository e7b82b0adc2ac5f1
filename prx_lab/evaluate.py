"""Evaluation: generate from validation captions under noise keyed by image, then score against real validation images."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prx_lab import progress
from prx_lab.data.captions import facts
from prx_lab.data.open import open_source
from prx_lab.data.scenes import Scenes
from prx_lab.data.source import Source
from prx_lab.data.store import cached, fingerprint, gather, images_of, text_of, to_float, to_uint8
from prx_lab.errors import LabError
from prx_lab.flow import noise
from prx_lab.flow import scores as scores_of
from prx_lab.metrics.composition import Composition, Detection, score
from prx_lab.metrics.features import extract, metric_features
from prx_lab.metrics.fid import fid_influences, fid_score
from prx_lab.metrics.mmd import mmd_influences, mmd_score, unit
from prx_lab.model import PRX
from prx_lab.parallel import ALONE, World
from prx_lab.recipe import Recipe
from prx_lab.report.luck import NOTHING, Influences
from prx_lab.sample import Condition, Network, generate
from prx_lab.scales import along
from prx_lab.spaces import load_space
from prx_lab.teachers import load_judge
from prx_lab.text import reader

REFERENCE = 2048  # real images that the generated ones are compared with, at most
NOISE_SEED = 2026
FEATURES = ("fid", "cmmd", "dino_mmd")


@dataclass(frozen=True)
class Bench:
    """What every recipe on the same data, scale and text encoder is judged with: captions, real images, their features."""

    recipe: Recipe
    source: Source
    text: dict[str, NDArray]
    reference: dict[str, NDArray]  # metric -> features (m, E)
    device: torch.device

    @property
    def n(self) -> int:
        """Images of a final evaluation."""
        return len(self.text["mask"]) - 1

    @property
    def n_curve(self) -> int:
        """Images of an evaluation along the run."""
        return along(self.n)


@lru_cache(maxsize=4)
def network(metric: str) -> Any:
    """The embedded feature network of a metric, kept once it is loaded."""
    return metric_features(metric, "lab")


def reference_n(n: int, eval_n: int) -> int:
    """Real images that n generated ones are compared with, at a scale whose evaluations have `eval_n`."""
    return min(max(REFERENCE, n), max(n, 4 * eval_n))


def bench(recipe: Recipe, device: torch.device, split: str = "", n: int = 0) -> Bench:
    """The judges' side of an evaluation of `n` captions (the scale's number when 0), computed once and cached.

    `split` is that of the recipe's reference when empty; the captions of training images are given without judges.
    LabError where there are fewer than two images.
    """
    split = split or recipe.reference.split
    source, n = open_source(recipe, split), n or recipe.scale.eval_n
    m = min(reference_n(n, recipe.scale.eval_n), len(source))
    n = min(n, m)
    if n < 2:
        raise LabError(f"{source.name} has {n} image to validate with and an evaluation needs two; add images to its {split} part.")
    images = images_of(source, m, recipe.scale.size)
    text = text_of(source, n, recipe.reference.captions, reader(recipe), device)
    reference = {k: features_of(k, images, (source.key, recipe.scale.size)) for k in FEATURES} if split != "train" else {}
    return Bench(recipe, source, text, reference, device)


def features_of(metric: str, images: NDArray, key: object) -> NDArray:
    """Features of real images for a metric, float64 (m, E), cached."""
    name = network(metric).name
    parts = lambda: iter([{"f": extract(network(metric), images)}])  # noqa: E731
    return cached("features", (metric, key, fingerprint(name)), len(images), parts)["f"]


@torch.inference_mode()
def pictures(
    model: PRX, recipe: Recipe, judge: Bench, index: range, mean: Tensor, steps: int = 0, key: Callable[[int], int] = int, batch: int = 128
) -> NDArray:
    """Generated images uint8 (n, H, W, 3) for the bench's captions `index`; noise is keyed by `key` of the image's index alone.

    `mean` (C, H, W) is the mean latent of the training data; `steps` is the recipe's number when 0.
    """
    training = model.training
    space = load_space(recipe.space).to(judge.device)
    v = Network(model.eval(), recipe.predict, lambda: recipe.precision.autocast(judge.device))
    found = []
    with progress.bar(total=len(index), desc="sampling", unit="img", leave=False) as bar:
        for start in range(index.start, index.stop, batch):
            part = range(start, min(start + batch, index.stop))
            keys = [key(i) for i in part]
            eps = recipe.noise * noise(NOISE_SEED, keys, tuple(mean.shape)).to(judge.device)
            score = scores_of(NOISE_SEED, keys, recipe.scale.tokens).to(judge.device)
            given = Condition(gather(judge.text, part).to(judge.device), score, mean.to(judge.device))
            x = generate(v, given, eps, recipe.guidance, steps or recipe.eval_steps, recipe.shift)
            found.append(to_uint8(space.decode(x)))
            bar.update(len(part))
    model.train(training)
    return np.concatenate(found) if found else np.empty((0, recipe.scale.size, recipe.scale.size, 3), np.uint8)


@dataclass(frozen=True)
class Judged:
    """What the judges saw in generated images: features (n, E) by metric, and where there are scenes what was found of them."""

    judge: Bench
    features: dict[str, NDArray]
    told: tuple[Composition, ...]

    def scores(self) -> dict[str, dict[str, Any]]:
        """{metric: {value, lo, hi, n, ...}}."""
        found: dict[str, dict[str, Any]] = {}
        for metric, reference in self.judge.reference.items():
            features = self.features[metric]
            result = fid_score(features, reference) if metric == "fid" else mmd_score(unit(features), unit(reference))
            found[metric] = result.to_dict() | {"judge": network(metric).name, "reference_n": len(reference)}
        for one in self.told:
            found |= one.to_dict()
        return found

    def influences(self) -> dict[str, Influences]:
        """By how much each image moves the logarithm of each score that is not zero."""
        found = {}
        for metric, reference in self.judge.reference.items():
            features = self.features[metric]
            value, ours, real = fid_influences(features, reference) if metric == "fid" else mmd_influences(unit(features), unit(reference))
            found |= {metric: Influences(ours / value, real / value)} if value else {}
        for one in self.told:
            value = one.accuracy("composition")
            found |= {"composition": Influences(one.influence("composition") / value, NOTHING)} if value else {}
        return found


def judged(images: NDArray, judge: Bench, world: World = ALONE) -> Judged:
    """Look at images generated for the bench's first captions, over all processes' images in order."""
    features = {m: world.gather(extract(network(m), images) if len(images) else np.empty((0, 1))) for m in judge.reference}
    scenes = isinstance(judge.source, Scenes)
    return Judged(judge, features, (seen(images, judge.source, judge.recipe.reference.captions, world),) if scenes else ())


def scores(images: NDArray, judge: Bench, world: World = ALONE) -> dict[str, dict[str, Any]]:
    """{metric: {value, lo, hi, n, ...}} of images generated for the bench's first captions, over all processes' images in order."""
    return judged(images, judge, world).scores()


def composition(images: NDArray, source: Scenes, captions: str = "long", world: World = ALONE) -> dict[str, dict[str, Any]]:
    """{name: {value, lo, hi, n, chance}} of what `seen` finds."""
    return seen(images, source, captions, world).to_dict()


def seen(images: NDArray, source: Scenes, captions: str = "long", world: World = ALONE) -> Composition:
    """Which objects, attributes and relations the embedded detector finds in images of the source's first scenes.

    Only what a caption of the kind `captions` states is asked for: a short one leaves sizes, materials and places open.
    """
    detector = load_judge()
    mine = [d for i in range(0, len(images), 128) for d in detector.detect(to_float(images[i : i + 128]))]
    told = world.messages(json.dumps([[asdict(one) for one in image] for image in mine])) if world.size > 1 else []
    found = [[Detection(**one) for one in image] for text in told for image in json.loads(text)] if told else mine
    return score(found, [facts(source.scene(i), captions) for i in range(len(found))])


def ceiling(judge: Bench) -> dict[str, dict[str, Any]]:
    """The same judge on the real images of the same captions, and on a second real sample for the distances: the best to hope for."""
    recipe, n = judge.recipe, judge.n
    found: dict[str, dict[str, Any]] = {}
    if isinstance(judge.source, Scenes):
        fresh = Scenes(recipe.scale.level, recipe.reference.style, n, 1, recipe.reference.split)  # other scenes of the same distribution
        images = images_of(fresh, n, recipe.scale.size)
        for metric, reference in judge.reference.items():
            features = features_of(metric, images, (fresh.key, recipe.scale.size))
            result = fid_score(features, reference) if metric == "fid" else mmd_score(unit(features), unit(reference))
            found[metric] = result.to_dict()
        real = images_of(judge.source, max(n, 1), recipe.scale.size)
        found |= composition(real, judge.source, recipe.reference.captions)
    return found
