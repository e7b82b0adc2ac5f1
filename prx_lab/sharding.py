"""Tensors of which each process holds some rows (FSDP2): how a module comes to be sharded, and how its tensors are read and filled."""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prx_lab.errors import LabError


def shard(objective: nn.Module, kind: type[nn.Module], device: str, size: int) -> nn.Module:
    """FSDP2 in place: weights of each module of a `kind` are gathered when it runs, all others with the whole; options are accelerate's.

    Weights keep their dtype and gradients are summed in float32: autocast alone decides what computes in bf16, as in one process.
    LabError for another version than FSDP2, and for the launcher's own checkpointing of activations.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    options = FullyShardedDataParallelPlugin()
    if options.fsdp_version != 2:
        raise LabError("Only FSDP2 is supported; add `--fsdp_version 2` to `accelerate launch`.")
    if options.activation_checkpointing:
        raise LabError("Checkpoint activations with `--checkpointing` of `run`, not with an option of `accelerate launch`.")
    mesh, precision = init_device_mesh(device, (size,)), MixedPrecisionPolicy(reduce_dtype=torch.float32)
    how = partial(fully_shard, mesh=mesh, mp_policy=precision, offload_policy=options.cpu_offload)
    for module in objective.modules():
        if isinstance(module, kind):
            how(module, reshard_after_forward=options.reshard_after_forward)
    return how(objective)


def is_shard(value: Tensor) -> bool:
    """Whether only a part of a tensor is here. A plain run never loads the module that it asks for."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def local(value: Tensor) -> Tensor:
    """The rows of a tensor that are here."""
    return value.to_local() if is_shard(value) else value


def whole(value: Tensor) -> Tensor:
    """A tensor with all of its rows; every process has to ask."""
    return value.full_tensor() if is_shard(value) else value


def rows_here(value: Tensor, start: int, stop: int) -> tuple[Tensor, slice]:
    """Those of the rows from `start` to `stop` of a tensor that are here, and where they lie between the two."""
    mine, first = local(value), 0
    if is_shard(value):  # in pieces of equal length, the last ones shorter or empty
        first = value.device_mesh.get_local_rank() * -(-len(value) // value.device_mesh.size())
    a, b = max(start, first), max(start, first, min(stop, first + len(mine)))
    return mine[a - first : b - first], slice(a - start, b - start)


def alike(value: Tensor, like: Tensor) -> Tensor:
    """A tensor whole or sharded as `like` is; a whole one is cut without a word to other processes."""
    if is_shard(value) or not is_shard(like):
        return value if is_shard(like) else whole(value)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def spread(work: Callable[[Tensor], Tensor], stack: Tensor, like: Tensor) -> Tensor:
    """work(stack) for a function of each matrix of a stack (k, m, n), each done by one of the processes that share `like`."""
    if not is_shard(like):
        return work(stack)
    group, size = like.device_mesh.get_group(), like.device_mesh.size()
    n = -(-len(stack) // size)
    mine = stack[dist.get_rank(group) * n :][:n]
    done = stack.new_zeros(n, *stack.shape[1:], dtype=torch.bfloat16)
    if len(mine):
        done[: len(mine)] = work(mine)
    found = [torch.empty_like(done) for _ in range(size)]
    dist.all_gather(found, done, group=group)
    return torch.cat(found)[: len(stack)]
