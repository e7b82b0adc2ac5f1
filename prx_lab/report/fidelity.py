"""What a distance owes to the number of images and to their noise: one trained network, judged on more and more of its images.

Once every image has noise of its own; once the noise of one batch is repeated in every batch, as in an evaluation that
seeds its generator anew each time. `prx-lab fidelity RUN` records it; weights of runs are not shared, so the
page reads the record.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prx_lab import record
from prx_lab.errors import LabError
from prx_lab.evaluate import FEATURES, Bench, bench, network, pictures
from prx_lab.files import read_json
from prx_lab.metrics.features import extract
from prx_lab.metrics.fid import fid
from prx_lab.metrics.mmd import mmd, unit
from prx_lab.recipe import Recipe
from prx_lab.report.columns import DISTANCES, METRICS
from prx_lab.report.listing import Note
from prx_lab.sample import from_run
from prx_lab.scales import SCALES
from prx_lab.show import COLOURS, Plot, figure

BATCH = 32  # of the evaluation whose noise is repeated
DRAWS = 4  # of either kind of noise
APART = 1 << 20  # between the keys of two draws: more than there are images
SIZES = (64, 128, 256, 512, 1024)
FOLDER = "results/judges"


def distances(images: NDArray, judge: Bench, sizes: Sequence[int]) -> dict[str, list[dict[str, float | None]]]:
    """{metric: rows of n, mean and sd of the distance over disjoint runs of n images, and their number}."""
    found = {}
    for metric, reference in judge.reference.items():
        features = extract(network(metric), images)
        near = (lambda f, r=reference: fid(f, r)) if metric == "fid" else (lambda f, r=reference: mmd(unit(f), unit(r)))
        parts = {n: [near(features[i : i + n]) for i in range(0, len(images) - n + 1, n)] for n in sizes}
        found[metric] = [row(n, values) for n, values in parts.items()]
    return found


def row(n: int, values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sd of the distances over parts of n images, and the number of parts; no sd for one part."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"n": n, "mean": statistics.fmean(values), "sd": sd, "parts": len(values)}


def study(folder: Path, sizes: Sequence[int] = SIZES, batch: int = BATCH, draws: int = DRAWS) -> dict[str, Any]:
    """Both kinds of noise for a recorded run with weights, and the machine it was done on; LabError where it has too few images.

    `distances` are those of the first draw of each kind in parts, `draws` those of every draw on all images.
    """
    sampler, recipe = from_run(folder), Recipe.from_json(record.Record.load(folder).recipe)
    judge = bench(recipe, sampler.device, n=max(sizes))
    if judge.n < max(sizes):
        raise LabError(f"There are {judge.n} images to judge on; ask for at most so many, not {max(sizes)}.")
    images = partial(pictures, sampler.model, sampler.recipe, judge, range(judge.n), sampler.mean)
    kinds: dict[str, Callable[[int], int]] = {"own": lambda i: i, "repeated": lambda i: i % batch}
    found = {kind: distances(images(key=key), judge, sizes) for kind, key in kinds.items()}
    again = {kind: {metric: [rows[-1]["mean"]] for metric, rows in of.items()} for kind, of in found.items()}
    for draw in range(1, draws):
        for kind, key in kinds.items():
            whole = distances(images(key=lambda i, at=draw * APART, key=key: at + key(i)), judge, [max(sizes)])
            for metric, rows in whole.items():
                again[kind][metric].append(rows[-1]["mean"])
    told = {"run": record.label(folder), "batch": batch, "reference_n": len(judge.reference[FEATURES[0]])}
    told |= {"judges": {metric: network(metric).name for metric in judge.reference}, "env": record.env(device=str(sampler.device))}
    return told | {"distances": found, "draws": again}


def keep(folder: Path) -> Path:
    """Study a run and write what was found, the study of its scale, into the folder `judges` of its results; returns the file."""
    where = folder.resolve()
    path = where.parents[2] / Path(FOLDER).name / f"{where.parents[1].name}.json"
    record.write_json(path, study(where))
    return path


def load(scale: str = "cpu", folder: str | Path = FOLDER) -> dict[str, Any]:
    """The recorded study of a scale; LabError where there is none, or a damaged one."""
    path = record.find_root(folder) / f"{scale}.json"
    if not path.is_file():
        raise LabError(f"No study of the number of images and their noise is recorded at {scale} scale yet.")
    again = "delete it and study a run again with `prx-lab fidelity`"
    found = read_json(path, again)
    if "draws" not in found:
        raise LabError(f"{path} has no draws of noise: {again}.")
    return found


# ------------------------------------------------------------------------------------------------ showing
def points(found: dict[str, Any], kind: str, metric: str) -> NDArray:
    """(2, sizes): 1 / n, and the mean distance at n."""
    return np.array([(1 / one["n"], one["mean"]) for one in found["distances"][kind][metric]]).T


def measured(found: dict[str, Any]) -> dict[str, str]:
    """{metric: its title} of the distances of a study."""
    return {metric: f"lab-{METRICS[metric].title}" for metric in DISTANCES if metric in found["distances"]["own"]}


def curve(scale: str = "cpu", folder: str | Path = FOLDER) -> Plot:
    """Every distance against the number of images, for both kinds of noise."""
    found = load(scale, folder)
    titles = measured(found)
    made, axes = figure(2.4 * len(titles), 2.6, 1, len(titles))
    for axis, (metric, title) in zip(axes[0], titles.items()):
        for kind, colour in zip(("own", "repeated"), COLOURS):
            x, y = points(found, kind, metric)
            axis.plot(1 / x, y, "o-", color=colour, label=f"{kind} noise" if axis is axes[0, 0] else None)
        ticks = [one["n"] for one in found["distances"]["own"][metric]]
        axis.set(xlabel="images n", title=title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, list(map(str, ticks)), fontsize=8)
        axis.set_ylim(0)
    made.legend(loc="outside lower center", ncols=2)
    names = " and ".join(titles.values())
    return Plot(made, f"{names} of one network against the number of images, with noise of each image's own and with repeated noise")


def law(scale: str = "cpu", folder: str | Path = FOLDER) -> Note:
    """The weighted straight line in 1 / n through each distance with standard errors, and how much of one of this scale is bias."""
    found, n, lines = load(scale, folder), SCALES[scale].eval_n, []
    for metric, title in measured(found).items():
        (slope, limit), (steep, level) = line(found, metric)
        whole, digits = limit + slope / n, METRICS[metric].digits
        told = f"{title} of this network is about {limit:.{digits}f} ± {level:.{digits}f} + ({slope:.2g} ± {steep:.2g}) / n"
        noisy = f"; images alone move it by {share_of_images(found, n, metric):.0%}"
        lines.append(f"{told}: at n = {n} that is {whole:.{digits}f}, {slope / n / whole:.0%} of it bias{noisy} (one standard deviation).")
    return Note("\n".join(lines))


def line(found: dict[str, Any], metric: str) -> tuple[NDArray, NDArray]:
    """(slope, limit) of the line in 1 / n through the distances and their standard errors, each mean weighed by its images' noise.

    All means are of the same images. What those do to every mean alike is in the limit, whose error is that of one mean; the error of
    the slope is as of independent means, and too large rather than too small.
    """
    x, y = points(found, "own", metric)
    errors = deviation(found, metric) / np.sqrt([one["n"] * one["parts"] for one in found["distances"]["own"][metric]])
    fitted, spread = np.polyfit(x, y, 1, w=1 / errors, cov="unscaled")
    return fitted, np.array([math.sqrt(spread[0, 0]), errors.min()])


def deviation(found: dict[str, Any], metric: str) -> float:
    """c of sd = c / sqrt(n), the deviation of a distance over images, pooled over the sizes that have several parts."""
    rows = [one for one in found["distances"]["own"][metric] if one["parts"] > 1]
    freedom = sum(one["parts"] - 1 for one in rows)
    return math.sqrt(sum((one["parts"] - 1) * one["n"] * one["sd"] ** 2 for one in rows) / freedom) if freedom else math.nan


def image_noise(scale: str, n: int, folder: str | Path = FOLDER, metric: str = "fid") -> float:
    """`share_of_images` of the recorded study of a scale."""
    return share_of_images(load(scale, folder), n, metric)


def share_of_images(found: dict[str, Any], n: int, metric: str) -> float:
    """The standard deviation of a distance on n images over the choice of images, as a share of its value."""
    (slope, limit), _ = line(found, metric)
    return deviation(found, metric) / math.sqrt(n) / (limit + slope / n)


def repeated(scale: str = "cpu", folder: str | Path = FOLDER) -> Note:
    """What repeated noise does to each distance at the largest n: a factor with its interval over draws of noise (Welch's)."""
    found, lines = load(scale, folder), []
    for metric, title in measured(found).items():
        own, again = (np.log(found["draws"][kind][metric]) for kind in ("own", "repeated"))
        interval = stats.ttest_ind(again, own, equal_var=False).confidence_interval()
        ratio, lo, hi = (math.exp(v) for v in (again.mean() - own.mean(), *interval))
        told = f"{math.exp(own.mean()):.3f} with noise of each image's own, {math.exp(again.mean()):.3f} with {found['batch']} noises"
        lines.append(f"{title}, n = {found['distances']['own'][metric][-1]['n']}: {told}, × {ratio:.2f} [{lo:.2f}, {hi:.2f}]")
    draws = len(found["draws"]["own"][DISTANCES[0]])
    return Note("\n".join([*lines, f"Geometric means of {draws} draws of either kind of noise, the same captions and weights."]))
