"""Made-up run folders for the tests of everything that reads records."""

from pathlib import Path

from prx_lab.record import append_json, write_json


def write_run(root: Path, name: str, seed: int, fid: float, id: str = "0123abcd", scale: str = "cpu", device: str = "a processor") -> Path:
    """A finished run whose other numbers follow from `fid`; its curve falls linearly to `fid` in 100 seconds."""
    folder = root / scale / f"{name}-{id}" / f"seed{seed}"
    write_json(folder / "recipe.json", {"type": "Recipe", "predict": "v"})
    write_json(folder / "env.json", {"python": "3", "device_name": device})
    own = 1e-9 * sum(map(ord, name))  # no two recipes are one training
    for step in (1, 2, 3):
        append_json(
            folder / "train.jsonl", {"step": step, "loss": fid / step + own, "terms": {"repa": -0.1 * step}, "seconds": 10.0 * step}
        )
    metrics = {
        "fid": {"value": fid, "lo": fid - 1, "hi": fid + 1, "n": 512},
        "cmmd": {"value": fid / 10, "lo": 0.0, "hi": fid, "n": 512},
        "composition": {"value": 1 / fid, "lo": 0.0, "hi": 1.0, "n": 512},
    }
    curve = [{"step": 10 * i, "seconds": 50.0 * i, "fid": fid + 20 - 10 * i} for i in (0, 1, 2)]
    throughput = {"images_per_s": 100.0, "batches_per_s": 1.5, "peak_memory_mb": 700.0}
    ceiling = {"composition": {"value": 0.975, "lo": 0.97, "hi": 0.98, "n": 512}}
    evaluation = {"n": 512, "seed": 0, "metrics": metrics, "ceiling": ceiling, "throughput": throughput, "curve": curve}
    write_json(folder / "eval.json", evaluation)
    return folder
