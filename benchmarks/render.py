"""Images per second of the scene renderer: `python benchmarks/render.py --threads 2 --size 64`."""

import argparse
import time

import torch

from prx_lab.data.scenes import LEVELS, STYLES, render, sample_scene


def speed(level: str, style: str, size: int, batch: int, seconds: float) -> tuple[float, float]:
    """Mean and best images/s over batches, after a warm-up that fills the texture cache."""
    render([sample_scene(i, 1, level, style) for i in range(8)], size)
    rates, start, index = [], time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not rates:
        scenes = [sample_scene(index + i, 0, level, style) for i in range(batch)]
        index += batch
        tick = time.perf_counter()
        render(scenes, size)
        rates.append(batch / (time.perf_counter() - tick))
    return len(rates) / sum(1 / r for r in rates), max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--batch", type=int, default=20, help="scenes a call")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.size} px, {options.threads} threads\n{'level':10} {'style':10} {'images/s':>9} {'best':>7}")
    for level in LEVELS:
        for style in STYLES[:2]:
            mean, best = speed(level, style, options.size, options.batch, options.seconds)
            print(f"{level:10} {style:10} {mean:9.1f} {best:7.1f}")


if __name__ == "__main__":
    main()
