"""Examines a detector on scenes it has not seen: objects found, attributes right, false alarms, by level, style and defects."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prx_lab.data.scenes import LEVELS, STYLES
from prx_lab.detector import ATTRIBUTES, Detector, labels, peaks, place
from prx_lab.pretrain.augment import defects
from prx_lab.pretrain.world import World

VISIBLE = 0.25
CLOSE = 0.1  # a detection this near an object's centre, as a share of the image's side, is of that object
STYLE, LEVEL = 3, 4  # columns of `World.scene`


@dataclass(frozen=True)
class Match:
    """One image's reading: objects asked for, found, extra detections, right answers per attribute."""

    asked: int
    found: int
    extra: int
    right: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong: every object found and nothing else, with all of its attributes."""
        return self.found == self.asked and self.extra == 0 and all(r == self.asked for r in self.right)


@torch.no_grad()
def read(network: Detector, images: Tensor) -> Tensor:
    """The detector's maps for many images."""
    return torch.cat([network(chunk)[0].float() for chunk in images.split(128)])


def match(maps: Tensor, image: int, found: list[tuple[float, int, int]], objects: Tensor) -> Match:
    """Assign detections, best first, to the nearest free object within CLOSE; a well-hidden object may be found or not."""
    free = {k for k in range(len(objects)) if objects[k, 0] >= 0}
    asked = {k for k in free if objects[k, 6] >= VISIBLE}
    right, hits, extra = [0] * len(ATTRIBUTES), 0, 0
    for _, row, column in found:
        x, y = place(maps, image, row, column)
        gaps = {k: ((objects[k, 4] - x) ** 2 + (objects[k, 5] - y) ** 2).sqrt().item() for k in free}
        best = min(gaps, key=gaps.get, default=None)
        if best is None or gaps[best] > CLOSE:
            extra += 1
            continue
        free.discard(best)
        if best in asked:
            hits += 1
            seen = labels(maps, image, row, column)
            for a, (name, classes) in enumerate(ATTRIBUTES.items()):
                right[a] += classes.index(seen[name]) == int(objects[best, a])
    return Match(len(asked), hits, extra, tuple(right))


def readings(network: Detector, maps: Tensor, objects: Tensor, threshold: float) -> list[Match]:
    """One `Match` per image."""
    found = peaks(maps, threshold, network.config.most)
    return [match(maps, i, found[i], objects[i]) for i in range(len(maps))]


def calibrate(network: Detector, data: World) -> float:
    """The threshold with the best F1 of finding objects, on plain and on damaged validation pictures together."""
    images = data.pixels(torch.arange(len(data)))
    both = torch.cat([images, defects(images, torch.Generator().manual_seed(0))])
    maps, objects = read(network, both), data.objects.repeat(2, 1, 1)

    def f1(threshold: float) -> float:
        seen = readings(network, maps, objects, threshold)
        hits, extra, asked = (sum(getattr(m, k) for m in seen) for k in ("found", "extra", "asked"))
        return 2 * hits / max(hits + extra + asked, 1)

    return max((k / 20 for k in range(3, 15)), key=f1)


def examine(network: Detector, data: World) -> dict[str, dict[str, float]]:
    """Rates by group: every level and style, everything, and everything with defects; `n` counts objects."""
    images = data.pixels(torch.arange(len(data)))
    seen = readings(network, read(network, images), data.objects, network.config.threshold)
    damaged = read(network, defects(images, torch.Generator().manual_seed(1)))
    groups = {f"level {name}": data.scene[:, LEVEL] == k for k, name in enumerate(LEVELS)}
    groups |= {f"style {name}": data.scene[:, STYLE] == k for k, name in enumerate(STYLES)}
    result = {name: rates([seen[i] for i in rows.nonzero().flatten().tolist()]) for name, rows in groups.items()}
    result["all"] = rates(seen)
    result["all, with defects"] = rates(readings(network, damaged, data.objects, network.config.threshold))
    return result


def rates(seen: list[Match]) -> dict[str, float]:
    """Shares in [0, 1], but for `extra` (per image), `n` (objects) and `images`."""
    asked, found = sum(m.asked for m in seen), sum(m.found for m in seen)
    result = {"n": asked, "images": len(seen), "found": found / max(asked, 1), "extra": sum(m.extra for m in seen) / max(len(seen), 1)}
    for a, name in enumerate(ATTRIBUTES):
        result[name] = sum(m.right[a] for m in seen) / max(found, 1)
    return result | {"scene": sum(m.whole for m in seen) / max(len(seen), 1)}


def table(metrics: dict[str, dict[str, dict[str, float]]]) -> str:
    """The rates as a Markdown table, a row per split and group."""
    columns = ["found", *ATTRIBUTES, "scene", "extra"]
    lines = [f"| split, group | objects (n) | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for split_name, groups in metrics.items():
        for group, row in groups.items():
            lines.append(f"| {split_name}, {group} | {row['n']} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")
    return "\n".join(lines)
