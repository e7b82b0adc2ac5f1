"""Linear probes and spatial measures of a frozen vision network: the figures on its card."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prx_lab.data.scenes import COLOURS, FLOORS, SHAPES
from prx_lab.metrics.spatial import cds, lds, rmsc, srss
from prx_lab.pretrain.targets import DENSE, REGIONS, dense
from prx_lab.pretrain.world import MOST, World
from prx_lab.teachers import VisionTeacher

GRID = 8
FIT = 2000


@dataclass(frozen=True)
class Probe:
    """What was measured, on how many images, with probes fitted on how many."""

    figures: dict[str, dict[str, float]]
    images: int
    fitted: int

    def table(self) -> str:
        """The figures as a Markdown table."""
        rows = [f"| {name} | {row['value']:.3f} | {row['n']} |" for name, row in self.figures.items()]
        return "\n".join(["| figure | value | n |", "|---|---|---|", *rows])


def probe(teacher: VisionTeacher, train: World, val: World) -> Probe:
    """Probe a teacher: patch region, shape, colour; scene shape and colour presence (AUC), floor; LDS, CDS, SRSS, RMSC."""
    fit, test = _features(teacher, train, min(FIT, len(train))), _features(teacher, val, len(val))
    figures = {}
    for name, classes in (("region", len(REGIONS)), ("colour", DENSE["colour"])):
        guess = ridge(fit.tokens, fit.answers[name], classes, test.tokens)
        right = guess == test.answers[name]
        on = test.is_object if name == "colour" else torch.ones_like(right)
        figures[f"patch {name}, accuracy"] = {"value": float(right[on].float().mean()), "n": int(on.sum())}
        if name == "region":
            shape = float(right[test.is_object].float().mean())
            figures["patch shape on objects, accuracy"] = {"value": shape, "n": int(test.is_object.sum())}
    for k, (name, classes) in enumerate((("shape", SHAPES), ("colour", COLOURS))):
        score = ridge_scores(fit.pooled, fit.present[k], test.pooled)
        areas = [auc(score[:, c], test.present[k][:, c]) for c in range(len(classes))]
        figures[f"scene {name} present, mean AUC"] = {"value": sum(areas) / len(areas), "n": len(score)}
    floor = ridge(fit.pooled, train.scene[: len(fit.pooled), 0], len(FLOORS), test.pooled) == val.scene[:, 0]
    figures["scene floor, accuracy"] = {"value": float(floor.float().mean()), "n": len(floor)}
    tokens = test.tokens.view(len(val), GRID * GRID, -1)
    regions = torch.where(test.main < MOST, test.main, -1).view(len(val), -1)
    for name, value in (("LDS", lds(tokens)), ("CDS", cds(tokens)), ("SRSS", srss(tokens, regions)), ("RMSC", rmsc(tokens))):
        figures[name] = {"value": float(value.nanmean()), "n": int(value.isfinite().sum())}
    return Probe(figures, len(val), len(fit.pooled))


@dataclass(frozen=True)
class Features:
    """Frozen features of images and the true answers: tokens (n * 64, E), pooled (n, E)."""

    tokens: Tensor
    pooled: Tensor
    answers: dict[str, Tensor]
    main: Tensor
    is_object: Tensor
    present: tuple[Tensor, Tensor]


@torch.no_grad()
def _features(teacher: VisionTeacher, data: World, count: int) -> Features:
    tokens, pooled = [], []
    for rows in torch.arange(count).split(200):
        images = data.pixels(rows)
        tokens.append(teacher.tokens(images, GRID))
        pooled.append(teacher.pooled(images))
    rows = torch.arange(count)
    objects = data.objects[:count]
    truth = dense(data.owners(rows), objects, GRID)
    answers = {name: truth.fractions[name].argmax(1).flatten() for name in ("region", "colour")}
    main = truth.main
    there = tuple(torch.stack([(objects[..., k] == c).any(1) for c in range(n)], 1) for k, n in enumerate((len(SHAPES), len(COLOURS))))
    is_object = ((main < MOST) & truth.pure).flatten()
    return Features(torch.cat(tokens).flatten(0, 1), torch.cat(pooled), answers, main.flatten(), is_object, there)


def ridge_scores(x: Tensor, y: Tensor, new: Tensor, penalty: float = 1e-3) -> Tensor:
    """Ridge regression with intercept of y (n, C) on x (n, E), predicted at `new`."""
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, new = (x - mean) / scale, (new - mean) / scale
    y = y.float()
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1])
    return new @ torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x)) + y.mean(0)


def ridge(x: Tensor, labels: Tensor, classes: int, new: Tensor) -> Tensor:
    """Class predicted at `new` by ridge regression on one-hot labels."""
    return ridge_scores(x, torch.nn.functional.one_hot(labels.long(), classes), new).argmax(1)


def auc(score: Tensor, truth: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative."""
    rank = score.argsort().argsort().double() + 1
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    return float((rank[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))
