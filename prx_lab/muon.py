"""Muon: the momentum of every matrix of the trunk, orthogonalised; AdamW for all the rest (Jordan et al., 2024).

    M <- b M + (1-b) G,   U = (1-b) G + b M,   X = NS(U) ~ U (U^T U)^(-1/2),   W <- (1 - lr wd) W - lr s(m, n) X

for W (m, n) = (out, in). Scales s: "original" and "spectral" (Jordan, Bernstein), "match_rms_adamw" (arXiv 2502.16982, eq. 4).
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prx_lab.errors import LabError, nearest
from prx_lab.optim import AdamW, Optim
from prx_lab.sharding import is_shard, rows_here, spread, whole

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

MATRICES = {  # a block's attention and MLP matrices, and how many maps PRX stacks in each
    "attention.img_qkv_proj.weight": 3,  # q, k, v
    "attention.txt_kv_proj.weight": 2,  # k, v
    "attention.to_out.0.weight": 1,
    "gate_proj.weight": 1,
    "up_proj.weight": 1,
    "down_proj.weight": 1,
}
ADALN = "modulation.lin.weight"
SCALES = {
    "match_rms_adamw": lambda m, n: 0.2 * max(m, n) ** 0.5,  # root mean square of the step near 0.2 lr, whatever the shape
    "original": lambda m, n: max(1.0, m / n) ** 0.5,
    "spectral": lambda m, n: (m / n) ** 0.5,
}
CHOICES = {"scale": tuple(SCALES), "qkv": ("split", "fused"), "adaln": ("adam", "muon")}
BLOCK = re.compile(r"model\.blocks\.\d+\.(.+)")


@dataclass(frozen=True)
class Muon(Optim):
    """Muon with Nesterov momentum for attention and MLP matrices, `aux` for everything else.

    `scale` match_rms_adamw lets a rate tuned for AdamW be used as it is; at that rate the other two step 2 times shorter at
    width 128 and 8 times at width 1792.
    `qkv` split orthogonalises q, k and v one by one, fused as the stack in which PRX stores them. `adaln` says who updates
    the modulation's matrices, which start at zero: PRX gives them to Muon.
    """

    lr_scale: float = 1.0
    momentum: float = 0.95
    ns_steps: int = 5
    weight_decay: float = 0.0
    scale: str = "match_rms_adamw"
    qkv: str = "split"
    adaln: str = "adam"
    aux: AdamW = AdamW()

    def check(self, recipe: "Recipe") -> None:
        for name, value in (("scale", self.scale), ("qkv", self.qkv), ("adaln", self.adaln)):
            if value not in CHOICES[name]:
                raise LabError(f"optim.{name} is {value!r}.{nearest(str(value), CHOICES[name])} Use one of {', '.join(CHOICES[name])}.")
        if not 0 <= self.momentum < 1:
            raise LabError(f"optim.momentum is {self.momentum}; use a value in [0, 1).")
        if not 1 <= self.ns_steps < 100:
            raise LabError(f"optim.ns_steps is {self.ns_steps}; use a small positive number of iterations, such as 5.")
        for name in ("lr_scale", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise LabError(f"optim.{name} is {getattr(self, name)}; Muon needs 0 or more.")
        self.aux.check(recipe)

    def continues(self, before: Optim) -> bool:
        return isinstance(before, Muon) and before.adaln == self.adaln

    def partition(self, learner: nn.Module) -> tuple[dict[str, int], list[str]]:
        """({matrix: number of maps orthogonalised apart} of Muon, [names] of AdamW): every parameter of a learner once.

        A matrix of the trunk that no table names raises LabError: what to do with it is a decision, not a default.
        """
        mine = dict(MATRICES) if self.qkv == "split" else dict.fromkeys(MATRICES, 1)
        if self.adaln == "muon":
            mine[ADALN] = 1
        muon, adam, found = {}, [], set()
        for name, p in learner.named_parameters():
            inside = BLOCK.fullmatch(name)
            tag = inside[1] if inside else ""
            if tag in mine:
                muon[name] = mine[tag]
                found.add(tag)
            elif inside and p.ndim > 1 and tag != ADALN:
                raise LabError(f"Muon does not know the trunk's matrix {name}; name it in prx_lab.muon.MATRICES or give it to AdamW there.")
            else:
                adam.append(name)
        if missing := sorted(mine.keys() - found):
            raise LabError(
                f"Muon finds no {', '.join(missing)} in model.blocks; its table prx_lab.muon.MATRICES does not fit this network."
            )
        return muon, adam

    def build(self, learner: nn.Module, lr: float) -> "MuonAdamW":
        p, (muon, adam) = dict(learner.named_parameters()), self.partition(learner)
        rest = self.aux.over([p[name] for name in adam], lr)
        settings = {"momentum": self.momentum, "ns_steps": self.ns_steps, "weight_decay": self.weight_decay, "scale": self.scale}
        group = {"params": [p[name] for name in muon], "maps": list(muon.values()), "lr": lr * self.lr_scale, **settings}
        return MuonAdamW(group, rest)


class MuonAdamW(torch.optim.Optimizer):
    """Group 0 under Muon, the others under AdamW: one state, one list of groups, one step.

    Of matrices in shards (FSDP2) the updates are gathered, each is orthogonalised by one of the processes, and every
    process steps the rows that it has.
    """

    def __init__(self, muon: dict, adam: torch.optim.AdamW):
        super().__init__([muon], {})
        self.orthogonalise, self.adam = newton_schulz(), adam
        self.param_groups += adam.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        group, *rest = self.param_groups
        lr, decay = group["lr"], 1 - group["lr"] * group["weight_decay"]
        iterate = partial(self.orthogonalise, steps=group["ns_steps"])
        for (m, n), (weights, updates) in self.maps(group).items():
            X = spread(iterate, torch.stack(updates), group["params"][0])  # (maps, m, n), bfloat16
            for (W, rows), step in zip(weights, X):
                W.mul_(decay).add_(step[rows], alpha=-lr * SCALES[group["scale"]](m, n))
        self.adam.state, self.adam.param_groups = self.state, rest  # the same objects, so that both are saved as one
        self.adam.step()

    def maps(self, group: dict) -> dict[tuple[int, int], tuple[list[tuple[Tensor, slice]], list[Tensor]]]:
        """{(m, n): ([(weights here, which rows they are)], Nesterov updates)}: the maps of each shape, views of the stacked ones."""
        found: dict = defaultdict(lambda: ([], []))
        for p, parts in zip(group["params"], group["maps"]):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(state["momentum"], group["momentum"])
            update = whole(update.bfloat16()) if is_shard(update) else update  # the iteration rounds so itself
            for i, U in enumerate(update.chunk(parts)):
                found[tuple(U.shape)][0].append(rows_here(p, i * len(U), (i + 1) * len(U)))
                found[tuple(U.shape)][1].append(U)
        return found


def newton_schulz():
    """The package's quintic iteration: (..., m, n), steps -> (..., m, n) in bfloat16, singular values near 1.

    LabError where the package is not installed.
    """
    try:
        from muon import zeropower_via_newtonschulz5
    except ImportError:
        raise LabError("Muon needs the package muon-optimizer; install it with `pip install muon-optimizer`.") from None
    return zeropower_via_newtonschulz5
