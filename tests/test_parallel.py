"""Two processes that share a global batch and its draws have the gradients of one process."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from tiny import CPU, shape, store, tiny
from torch.nn.parallel import DistributedDataParallel

from prx_lab.data.batch import Batch, Text
from prx_lab.data.store import order
from prx_lab.flow import Draw, draw
from prx_lab.recipe import Recipe
from prx_lab.recipes import RECIPES
from prx_lab.train import Training

NAMES = ("baseline", "repa", "irepa", "x-pred", "tread", "sprint", "jit")  # losses that are means over samples


def begin(recipe: Recipe) -> tuple[Training, Batch, Draw]:
    """A training a few steps old (a fresh one has zero gates), its next batch and draw."""
    training = Training(recipe, store(recipe), 0, CPU)
    list(training.fit(3))
    batch = training.store.batch(order(0, 3, 8, 32))
    return training, batch, draw((0, 3, 0, 0), shape(recipe), 16, recipe.time, recipe.drop)


def part(batch: Batch, variates: Draw, rows: slice) -> tuple[Batch, Draw]:
    """The share of one process."""
    text = Text(batch.text.tokens[rows], batch.text.mask[rows], batch.text.null, batch.text.null_mask)
    mine = Batch(batch.x[rows], text, {name: y[rows] for name, y in batch.teachers.items()})
    return mine, Draw(*(getattr(variates, f.name)[rows] for f in fields(variates)))


def gradients(learner: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in NAMES:
        training, batch, variates = begin(tiny(RECIPES[name]))
        parallel = DistributedDataParallel(training.learner)
        loss, _ = parallel(*part(batch, variates, slice(4 * rank, 4 * rank + 4)))
        loss.backward()
        if rank == 0:
            save_file(gradients(training.learner), f"{folder}/{name}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The gradients of two processes, a file for each recipe."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_have_the_gradients_of_one_process(name, together):
    training, batch, variates = begin(tiny(RECIPES[name]))
    training.learner(batch, variates)[0].backward()
    alone, shared = gradients(training.learner), load_file(together / f"{name}.safetensors")
    assert alone.keys() == shared.keys() and any(g.abs().max() > 1e-3 for g in alone.values())
    for key, g in alone.items():
        assert torch.allclose(shared[key], g, rtol=1e-4, atol=1e-6), key
