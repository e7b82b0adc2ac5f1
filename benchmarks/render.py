"""Images per second of the scene renderer, as the data are prepared: `python benchmarks/render.py --workers 2 --size 64`.

Worker processes of one thread each render batch by batch, nothing is cached; their start is part of the time.
"""

import argparse
import time

from torch.utils.data import DataLoader

from prx_lab.data.scenes import LEVELS, STYLES, Scenes
from prx_lab.data.store import Pictures, as_it_is


def speed(level: str, style: str, size: int, workers: int, images: int) -> float:
    """Images per second over `images` scenes."""
    pictures = Pictures(Scenes(level, style, images), images, size)
    start = time.perf_counter()
    for _ in DataLoader(pictures, batch_size=None, num_workers=workers, collate_fn=as_it_is):
        pass
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--images", type=int, default=2048, help="scenes per repeat")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, levels and styles taken in turn")
    options = parser.parse_args()
    rows = [(level, style) for level in LEVELS for style in STYLES[:2]]
    found: dict[tuple[str, str], list[float]] = {row: [] for row in rows}
    for _ in range(options.repeats):
        for row in rows:
            found[row].append(speed(*row, options.size, options.workers, options.images))
    print(
        f"{options.size} px, {options.workers} worker processes, images/s\n{'level':10} {'style':10} {'median':>8} {'worst':>7} {'best':>7}"
    )
    for (level, style), rates in found.items():
        rates.sort()
        print(f"{level:10} {style:10} {rates[len(rates) // 2]:8.0f} {rates[0]:7.0f} {rates[-1]:7.0f}")


if __name__ == "__main__":
    main()
