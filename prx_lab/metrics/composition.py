"""Compositional accuracy, as in GenEval (arXiv 2310.11513): which captioned objects, attributes and relations a detector finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prx_lab.errors import LabError
from prx_lab.metrics.stats import bootstrap

if TYPE_CHECKING:
    from prx_lab.data.captions import Facts
    from prx_lab.data.scenes import Object

ATTRIBUTES = ("shape", "colour", "size", "material")
NAMES = ("composition", *ATTRIBUTES, "relation", "whole")
# The matching maximises these in turn, one decimal place each (so up to nine objects): the sum of agreement, where shape and
# colour count 2 and size and material 1; objects with both shape and colour; then shape, colour, size. Every count of hits
# is then the same in whatever order the detector lists what it saw.
PLACES = np.array([20100, 20010, 10001, 10000])
BOTH = 1000
MARGIN = 0.01  # of the image's side: relations closer than this hold in neither direction


@dataclass(frozen=True)
class Detection:
    """One object seen in an image: its attributes, its centre in [0, 1] (x to the right, y down) and a score in [0, 1]."""

    shape: str
    colour: str
    size: str
    material: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Composition:
    """Hits and totals of every image, by name: integer arrays (n,); `extra` (n,) counts detections that nobody captioned.

    `composition` counts captioned objects with shape *and* colour right on the same object; `shape`, `colour`, `size`,
    `material` count single attributes of the matched detection, where they are captioned ("" is not); `relation` counts
    stated relations whose two objects are both there (shape and colour) and stand as told; `whole` counts images in
    which everything captioned is right.
    `chance` is the accuracy of the same detections judged against other images' captions (None for one image).
    """

    hits: dict[str, np.ndarray]
    totals: dict[str, np.ndarray]
    extra: np.ndarray
    chance: dict[str, float | None]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.extra)

    def accuracy(self, name: str) -> float | None:
        """Hits over totals in [0, 1], all images together; None where nothing of that kind was captioned."""
        total = self.totals[name].sum()
        return float(self.hits[name].sum() / total) if total else None

    def influence(self, name: str) -> np.ndarray:
        """What each image moves the accuracy by (n,), to first order. LabError where nothing of the kind is captioned."""
        hits, totals, value = self.hits[name], self.totals[name], self.accuracy(name)
        if value is None:
            raise LabError(f"No caption says anything of the kind '{name}'.")
        return (hits - value * totals) / totals.mean()

    def interval(self, name: str, resamples: int = 200, seed: int = 0) -> tuple[float, float] | None:
        """95 % percentile bootstrap over images; None when fewer than two images caption such a thing."""
        rows = np.stack([self.hits[name], self.totals[name]], axis=1)
        rows = rows[rows[:, 1] > 0]  # an image that says nothing of this kind carries no information about it
        return bootstrap(_ratio, rows, n=resamples, seed=seed) if len(rows) > 1 else None

    def to_dict(self) -> dict[str, dict]:
        """{name: {value, lo, hi, n, chance}} in JSON-ready values, only for what was captioned; n counts images."""
        report = {}
        for name in NAMES:
            value, found = self.accuracy(name), self.interval(name)
            if value is not None:
                lo, hi = found if found else (None, None)
                report[name] = {"value": value, "lo": lo, "hi": hi, "n": self.n, "chance": self.chance[name]}
        return report


def score(detections: Sequence[Sequence[Detection]], facts: "Sequence[Facts]", seed: int = 0) -> Composition:
    """Judge one list of detections per image against what its caption states; `seed` shuffles captions for the chance level.

    LabError when the two lists differ in length or are empty, or for a relation that is not known.
    """
    if len(detections) != len(facts) or not len(facts):
        raise LabError(f"Composition needs one list of detections per caption, at least one; got {len(detections)} and {len(facts)}.")
    hits, totals, extra = _tally(detections, facts)
    chance = dict.fromkeys(NAMES)
    if len(facts) > 1:
        order = np.random.default_rng(seed).permutation(len(facts))
        other = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle through all images: nobody keeps their own caption
        wrong_hits, wrong_totals, _ = _tally(detections, [facts[other[i]] for i in range(len(facts))])
        chance = {k: float(wrong_hits[k].sum() / wrong_totals[k].sum()) if wrong_totals[k].sum() else None for k in NAMES}
    return Composition(hits, totals, extra, chance)


def match(detections: Sequence[Detection], facts: "Facts") -> list[int]:
    """For each captioned object the index of its detection, or -1: the one-to-one matching with the most agreement.

    Agreement is 2 for shape, 2 for colour, 1 for size and 1 for material, ties settled as at PLACES; a pair that agrees
    in nothing is no match.
    Among equal matchings, swaps of two objects are tried for the one in which more relations hold: captions do not order twins.
    """
    from scipy.optimize import linear_sum_assignment  # a second to import, and every command would wait for it

    found = [-1] * len(facts.objects)
    if not detections or not found:
        return found
    agreement = np.array([[_worth(_agree(o, d)) for d in detections] for o in facts.objects])
    for row, column in zip(*linear_sum_assignment(agreement, maximize=True), strict=True):
        if agreement[row, column] > 0:
            found[row] = int(column)
    return _untangle(found, agreement, detections, facts)


def holds(relation: str, a: Detection, b: Detection) -> bool:
    """Whether `a` is `relation` `b` in the image: left and right by x; in front is lower in the image, behind is higher.

    LabError for another relation.
    """
    if relation == "left of":
        return a.x < b.x - MARGIN
    if relation == "right of":
        return a.x > b.x + MARGIN
    if relation == "in front of":
        return a.y > b.y + MARGIN
    if relation == "behind":
        return a.y < b.y - MARGIN
    raise LabError(f"There is no relation '{relation}'; known: left of, right of, in front of, behind.")


def _tally(
    detections: Sequence[Sequence[Detection]], facts: "Sequence[Facts]"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Hits and totals by name, (n,) each, and extra detections (n,)."""
    rows = [_judge(d, f) for d, f in zip(detections, facts, strict=True)]
    hits = {name: np.array([row[0][name] for row in rows]) for name in NAMES}
    totals = {name: np.array([row[1][name] for row in rows]) for name in NAMES}
    return hits, totals, np.array([row[2] for row in rows])


def _judge(detections: Sequence[Detection], facts: "Facts") -> tuple[dict[str, int], dict[str, int], int]:
    """Hits, totals and the number of extra detections of one image."""
    found = match(detections, facts)
    right = np.zeros((len(found), len(ATTRIBUTES)), dtype=int)
    for i, j in enumerate(found):
        if j >= 0:
            right[i] = _agree(facts.objects[i], detections[j])
    present = right[:, :2].all(axis=1)
    told = [present[a] and present[b] and holds(r, detections[found[a]], detections[found[b]]) for a, r, b in facts.relations]
    hits = {"composition": int(present.sum()), "relation": sum(map(int, told))}
    hits |= dict(zip(ATTRIBUTES, map(int, right.sum(axis=0)), strict=True))
    stated = [(o.shape, o.colour, o.size, o.material) for o in facts.objects]
    totals = {"composition": len(found), "relation": len(told), "whole": 1}
    totals |= {name: sum(row[k] != "" for row in stated) for k, name in enumerate(ATTRIBUTES)}
    hits["whole"] = int(all(hits[name] == totals[name] for name in NAMES[:-1]))
    return hits, totals, len(detections) - sum(j >= 0 for j in found)


def _agree(captioned: "Object", detection: Detection) -> np.ndarray:
    """Which of ATTRIBUTES agree: int (4,)."""
    return np.array(
        [
            captioned.shape == detection.shape,
            captioned.colour == detection.colour,
            captioned.size == detection.size,
            captioned.material == detection.material,
        ],
        dtype=int,
    )


def _worth(agree: np.ndarray) -> int:
    return int(PLACES @ agree) + BOTH * int(agree[0] and agree[1])


def _untangle(found: list[int], agreement: np.ndarray, detections: Sequence[Detection], facts: "Facts") -> list[int]:
    """Swap the detections of two objects, as long as agreement stays equal and more relations hold."""

    def standing(assigned: list[int]) -> int:
        pairs = [(assigned[a], r, assigned[b]) for a, r, b in facts.relations]
        return sum(i >= 0 and j >= 0 and holds(r, detections[i], detections[j]) for i, r, j in pairs)

    best, improved = standing(found), bool(facts.relations)
    while improved:
        improved = False
        for a in range(len(found)):
            for b in range(a):
                i, j = found[a], found[b]
                if i < 0 or j < 0 or agreement[a, i] + agreement[b, j] != agreement[a, j] + agreement[b, i]:
                    continue
                swapped = list(found)
                swapped[a], swapped[b] = j, i
                if standing(swapped) > best:
                    found, best, improved = swapped, standing(swapped), True
    return found


def _ratio(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum() / rows[:, 1].sum())
