"""Several processes on one run, under `accelerate launch`: DDP or FSDP2, each process's share, and words between them.

A step's global batch, its order and its draws are those of one process; each process takes consecutive rows of them.
"""

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from prx_lab.data.batch import Batch, Data, Rest
from prx_lab.errors import LabError
from prx_lab.flow import Draw, corrupt, velocity_to
from prx_lab.model import Block
from prx_lab.sharding import shard

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

WAIT = timedelta(hours=6)  # for a process that encodes data or evaluates alone; one that dies is noticed at once


@dataclass(frozen=True)
class Budget:
    """How a step is made to fit into memory, at equal results: micro-batches of each process, and blocks run again in the backward pass."""

    accumulate: int = 1
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise LabError(f"A step of {self.accumulate} micro-batches does not exist; accumulate over at least 1.")


USUAL = Budget()


class World:
    """One process by itself; what several do together costs nothing here."""

    rank, size, kind = 0, 1, "alone"

    @property
    def main(self) -> bool:
        """Whether this process writes the record and speaks for all."""
        return self.rank == 0

    def share(self, n: int, parts: int = 1) -> list[range]:
        """This process's rows of `n`, in `parts` consecutive pieces that differ by one in length at most."""
        cuts = self.size * parts
        return [range(i * n // cuts, (i + 1) * n // cuts) for i in range(self.rank * parts, (self.rank + 1) * parts)]

    def place(self, device: torch.device) -> torch.device:
        """The device of this process, where one alone would use `device`."""
        return device

    def prepare(self, objective: nn.Module) -> nn.Module:
        """The module to call for a loss whose gradients are the mean over all processes."""
        return objective

    def gathering(self, objective: nn.Module, last: bool) -> AbstractContextManager:
        """Around a micro-batch: gradients are exchanged with the `last` one of a step."""
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes, on their devices."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def messages(self, text: str) -> list[str]:
        """What every process says, in their order; nobody goes on before all have spoken."""
        return [text]

    def told(self, text: str) -> str:
        """What the main process says."""
        return self.messages(text)[0]

    def gather(self, rows: NDArray) -> NDArray:
        """The rows of all processes, in their order, everywhere."""
        return rows

    def agreed(self) -> AbstractContextManager:
        """Around work that exchanges nothing: where one process ends it with a LabError, all do, with that sentence."""
        return nullcontext()

    def first(self) -> AbstractContextManager:
        """As `agreed`; the first process of each machine goes ahead, so that the others find its caches."""
        return nullcontext()

    def leave(self) -> None:
        """Part from the other processes, when all is done."""


ALONE = World()


class Several(World):
    """One of the processes that `accelerate launch` has started."""

    def __init__(self) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        # nothing switches inside a phase: the first step shows which weights the loss leaves out
        ddp = DistributedDataParallelKwargs(static_graph=True)
        # no autocast of its own: precision is a part of the recipe
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[ddp])
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.kind = "fsdp" if sharded() else "ddp"
        self.words = dist.new_group(backend="gloo", timeout=WAIT)

    def place(self, device: torch.device) -> torch.device:
        return self.accelerator.device if device.type == "cuda" else device

    def prepare(self, objective: nn.Module) -> nn.Module:
        if self.kind == "fsdp":
            return shard(objective, Block, self.accelerator.device.type, self.size)
        self.accelerator.free_memory()  # of the phase before
        self.recorded = False
        return self.accelerator.prepare(objective)

    def gathering(self, objective: nn.Module, last: bool) -> AbstractContextManager:
        # FSDP always exchanges: unsharded gradients would take the memory that it saves. DDP's static graph needs to see
        # whole backward passes before it can leave the exchange out.
        if self.kind == "fsdp" or last or not self.recorded:
            self.recorded = self.kind == "ddp" and (last or self.recorded)
            return nullcontext()
        return self.accelerator.no_sync(objective)

    def total(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        found = torch.tensor([int(flag)])
        dist.all_reduce(found, group=self.words)
        return bool(found)

    def collect(self, data: bytes) -> list[bytes]:
        """The bytes of every process."""
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(data)]), group=self.words)
        most = max(1, *map(int, lengths))
        mine = torch.zeros(most, dtype=torch.uint8)
        mine[: len(data)] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        found = [torch.zeros(most, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self.words)
        return [row[: int(n)].numpy().tobytes() for row, n in zip(found, lengths)]

    def messages(self, text: str) -> list[str]:
        return [data.decode() for data in self.collect(text.encode())]

    def gather(self, rows: NDArray) -> NDArray:
        heads = [json.loads(text) for text in self.messages(json.dumps([rows.dtype.str, rows.shape]))]
        raw = self.collect(np.ascontiguousarray(rows).tobytes())
        return np.concatenate([np.frombuffer(data, kind).reshape(shape) for (kind, shape), data in zip(heads, raw) if shape[0]])

    @contextmanager
    def agreed(self) -> Iterator[None]:
        error = ""
        try:
            yield
        except LabError as found:
            error = str(found)
        if told := next(filter(None, self.messages(error)), ""):
            raise LabError(told)

    @contextmanager
    def first(self) -> Iterator[None]:
        if self.accelerator.is_local_main_process:
            with self.agreed():
                yield
        else:
            with self.agreed():
                pass
        with self.agreed():
            if not self.accelerator.is_local_main_process:
                yield

    def leave(self) -> None:
        self.accelerator.end_training()


@lru_cache(maxsize=1)
def world() -> World:
    """The processes that a launcher has started this one among; alone without one."""
    if "RANK" not in os.environ or (int(os.environ.get("WORLD_SIZE", "1")) == 1 and not sharded()):
        return ALONE
    return Several()


def sharded() -> bool:
    """Whether `accelerate launch` was asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def cut(store: Data, index: NDArray, variates: Draw, rows: range, recipe: "Recipe") -> tuple[Batch, Draw]:
    """The consecutive `rows` of a step's batch and of its draws; all of them as they are."""
    B, b = len(index), len(rows)
    if b == B:
        return store.batch(index), variates
    part, here = slice(rows.start, rows.stop), store.batch(index[rows.start : rows.stop])
    mine = Draw(*(getattr(variates, f.name)[part] for f in fields(variates)))
    far, target = torch.cat([mine.other, torch.tensor([(rows.start - 1) % B])]), here.x[:0]
    if any(term.reads_targets for term in recipe.terms):  # each sample's other one and the one before; nothing is sent for it
        x = store.batch(index[far.numpy()]).x
        target = velocity_to(recipe.predict, corrupt(x, recipe.noise * variates.eps[far], variates.t[far]))
    rest = Rest(variates.t, variates.drop, target)
    return replace(here, rest=rest), replace(mine, other=torch.arange(b, 2 * b))
