"""Long runs: memory, open files and threads do not grow, and what is cached is bounded."""

import ast
import gc
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from tiny import CPU, store, tiny

import prx_lab
from prx_lab.optim import EMA
from prx_lab.recipes import BASE, RECIPES
from prx_lab.scales import SCALES
from prx_lab.train import Training

PACKAGE = Path(prx_lab.__path__[0])
MIB = 2**20
WARM = 60  # steps until allocator, caches and the log's row have their size


def footprint() -> tuple[float, int, int]:
    """Resident MiB, open files, threads."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss / MIB, process.num_fds(), process.num_threads()


def grown(training: Training, steps: int, folder: Path, every: int) -> tuple[float, int, int]:
    """How much the process has grown between the warm-up and the last step, saving as it goes."""
    rows = training.fit(steps, folder, every)
    for _ in range(WARM):
        next(rows)
    before = footprint()
    for _ in rows:
        pass
    after = footprint()
    return tuple(b - a for a, b in zip(before, after))


def alone(measure: Callable[[str, Path], tuple[float, int, int]], name: str, folder: Path) -> tuple[float, int, int]:
    """`measure` in a fresh process: in a used one, memory that other tests have freed would hide what is lost."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, folder).result()


def small(name: str, folder: Path) -> tuple[float, int, int]:
    recipe = tiny(RECIPES[name].but(ema=EMA(0.9)))
    return grown(Training(recipe, store(), 0, CPU), WARM + 200, folder, 20)


def whole(name: str, folder: Path) -> tuple[float, int, int]:
    from prx_lab.run import store_of

    recipe = BASE.but(scale=SCALES["smoke"], ema=EMA(0.99)).plus(*RECIPES[name].terms[1:]).set("scale.steps", str(WARM + 2000))
    return grown(Training(recipe, store_of(recipe, CPU), 0, CPU), WARM + 2000, folder, 100)


def leaky(kept: str, folder: Path) -> tuple[float, int, int]:
    training, hoard = Training(tiny(BASE), store(), 0, CPU), []
    step = training.step

    def leaking() -> dict:
        hoard.append(torch.ones(1 << 14) if kept == "tensors" else os.open(os.devnull, os.O_RDONLY))
        return step()

    training.step = leaking
    return grown(training, WARM + 200, folder, 20)


@pytest.mark.parametrize("name", ["baseline", "tread-repa"])
def test_two_hundred_steps_of_a_small_model_leave_nothing_behind(name, tmp_path):
    """The code of `smoke` at a fraction of its width: what a step forgets to free shows, if it is more than 40 KiB a step."""
    memory, files, threads = alone(small, name, tmp_path)
    assert memory < 8 and files <= 0 and threads <= 0, (memory, files, threads)


@pytest.mark.slow
def test_two_thousand_steps_of_the_smoke_recipe_leave_nothing_behind(tmp_path):
    """The real size, saving every 100 steps; 16 MiB over 2,000 steps is 8 KiB a step."""
    memory, files, threads = alone(whole, "repa", tmp_path)
    assert memory < 16 and files <= 0 and threads <= 0, (memory, files, threads)


@pytest.mark.parametrize("kept", ["tensors", "files"])
def test_a_leak_is_seen(kept, tmp_path):
    """The measure finds 64 KiB or one open file kept in each step."""
    memory, files, _ = alone(leaky, kept, tmp_path)
    assert memory > 8 if kept == "tensors" else files == 200


def test_runs_one_after_the_other_leave_nothing_behind(tmp_path):
    """Twenty trainings, each saved and resumed: no file, thread or model stays."""

    def one(i: int) -> None:
        list(Training(tiny(BASE), store(), i, CPU).fit(2, tmp_path / f"{i}"))
        Training(tiny(BASE), store(), i, CPU).resume(tmp_path / f"{i}")

    for i in range(3):
        one(i)
    before = footprint()
    for i in range(3, 23):
        one(i)
    memory, files, threads = (b - a for a, b in zip(before, footprint()))
    assert memory < 16 and files <= 0 and threads <= 0, (memory, files, threads)


# ------------------------------------------------------------------------------------------------ caches

# Without a limit, because what they can be asked for is: names of embedded networks, colours and textures of the world, classes.
FINITE = {
    "cleaning.fixer", "cleaning.full", "data.textures.paint", "data.textures.pyramid", "memory.parts", "spec.declared",
    "teachers.load_judge", "zoo._ask_hub", "zoo._checked",
}  # fmt: skip


def cached_functions() -> dict[str, ast.expr]:
    """Every function of the package under a `functools` cache, with its decorator."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, "decorator_list", ()):
                if "cache" in ast.unparse(mark) and "cached_property" not in ast.unparse(mark):
                    found[f"{module}.{node.name}"] = mark
    return found


def test_caches_have_a_limit_or_a_finite_set_of_arguments():
    functions = cached_functions()
    limits = {
        name: {k.arg: ast.unparse(k.value) for k in mark.keywords} if isinstance(mark, ast.Call) else {} for name, mark in functions.items()
    }
    assert {name for name, limit in limits.items() if limit.get("maxsize", "None") == "None"} == FINITE
