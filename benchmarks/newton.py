"""Muon's share of a step, and what orthogonalising matrices of one shape together saves: `python -m benchmarks.newton`."""

import torch
from torch import Tensor

from benchmarks.cases import SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.muon import Muon, MuonAdamW, newton_schulz
from prx_lab.report.speed import Record
from prx_lab.train import Training


def one_by_one(updates: Tensor, steps: int) -> Tensor:
    """The iteration on each matrix of (maps, m, n) alone."""
    return torch.stack([newton_schulz()(one, steps) for one in updates])


def with_gradients(base: Training) -> Training:
    """A run whose parameters hold the gradients of a step, for calls of the optimiser alone."""
    g = torch.Generator().manual_seed(0)
    for p in base.learner.parameters():
        p.grad = torch.randn(p.shape, generator=g).to(p.device)
    return base


def measure(repeats: int) -> Record:
    record, plain = Record("newton", "Muon's share of a step"), recipe()
    muon, data = plain.but(optim=Muon()), store(plain)
    together, apart, adam = (with_gradients(ours(one, data, DEVICE)) for one in (muon, muon, plain))
    assert isinstance(apart.optimizer, MuonAdamW)
    apart.optimizer.orthogonalise = one_by_one
    arms = {"Muon, one product a shape": together, "Muon, one product a matrix": apart, "AdamW": adam}
    found = interleave({name: run.optimizer.step for name, run in arms.items()}, repeats)
    record.compare(f"optimiser alone, {SCALE} recipe", found, [("Muon, one product a shape", "Muon, one product a matrix", 0.0)])
    alone = [row.cpu for row in record.rows if row.arm in ("Muon, one product a shape", "AdamW")]

    runs = {name: ours(one, data, DEVICE, compiled=True) for name, one in (("AdamW", plain), ("Muon", muon))}
    found = interleave({name: run.step for name, run in runs.items()}, repeats, 3)
    record.compare(f"training step, {SCALE} recipe, bf16, compiled", found, [("AdamW", "Muon", 0.0)])
    record.facts["share of Muon's step beyond AdamW"] = {
        "from whole steps": 1 - found["AdamW"].median / found["Muon"].median,
        "from whole steps, CPU seconds": 1 - 1 / record.ratios[-1].cpu,
        "from the optimiser alone, CPU seconds": (alone[0] - alone[1]) / record.rows[-1].cpu,
    }
    return record


if __name__ == "__main__":
    command(__doc__, measure, 11)
