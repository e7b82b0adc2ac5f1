"""Precision as a value: the dtype weights are stored in, the dtype they compute in, and an audit of what is really there."""

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from prx_lab.errors import require
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision(Spec):
    """`store`: dtype of weights and optimiser state; `compute`: dtype of matrix products under autocast."""

    store: str = "fp32"
    compute: str = "bf16"

    def check(self, recipe: "Recipe") -> None:
        for name, value in (("store", self.store), ("compute", self.compute)):
            require(value in DTYPES, f"precision.{name} is {value!r}; use one of {', '.join(DTYPES)}.")
        mixed = (self.store, self.compute) == ("bf16", "fp32")
        require(not mixed, "Weights stored in bf16 compute in bf16; set precision.compute to bf16, or precision.store to fp32.")

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context of forward passes; plain float32 when compute is fp32."""
        if device.type == "meta":
            return nullcontext()  # shapes alone; autocast does not know them
        return torch.autocast(device.type, DTYPES[self.compute], enabled=self.compute != "fp32")


def short(dtype: torch.dtype) -> str:
    """The name of a dtype: its own in DTYPES, else PyTorch's."""
    return {v: k for k, v in DTYPES.items()}.get(dtype, str(dtype).removeprefix("torch."))


def audit(model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, device: torch.device) -> dict:
    """The dtypes that are there: counts of stored weights and optimiser state by dtype, and the dtype a matrix product returns."""
    weights, state = Counter(), Counter()
    for p in model.parameters():
        weights[short(p.dtype)] += p.numel()
    for per_parameter in optimizer.state.values():
        for value in per_parameter.values():
            if torch.is_tensor(value) and value.ndim:
                state[short(value.dtype)] += value.numel()
    with precision.autocast(device):
        a = torch.ones(2, 2, device=device, dtype=next(model.parameters()).dtype)
        product = short((a @ a).dtype)
    return {"weights": dict(weights), "optimizer": dict(state), "matmul": product}
