"""Checkpoints: safetensors plus JSON, written atomically, verified when read, never unpickled."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prx_lab.errors import LabError
from prx_lab.zoo import digest


def save(root: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write `root`/step-NNNNNN and drop the older ones; whatever interrupts it, a complete checkpoint remains."""
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{step:06d}"
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=root))
    try:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part / "state.safetensors")
        state = state | {"step": step, "sha256": digest(part / "state.safetensors")}
        (part / "state.json").write_text(json.dumps(state, indent=1))
        for file in part.iterdir():
            with open(file, "rb+") as f:
                os.fsync(f.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(part, final)
    except (OSError, SafetensorError) as error:
        raise LabError(f"Cannot write a checkpoint in {root} ({error}); free some space and run again: the last one is intact.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in steps(root)[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def steps(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(root.glob("step-*")) if root.exists() else []


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint; a damaged or truncated one is refused by its hash."""
    try:
        state = json.loads((folder / "state.json").read_text())
        if digest(folder / "state.safetensors") != state["sha256"]:
            raise ValueError("its hash differs")
        return load_file(folder / "state.safetensors"), state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise LabError(f"The checkpoint {folder} is damaged ({error}); delete that folder and run again.") from None


def optimizer_tensors(optimizer: torch.optim.Optimizer, learner: nn.Module) -> dict[str, Tensor]:
    """Optimiser state as flat tensors, named by parameter."""
    names = {p: n for n, p in learner.named_parameters()}
    return {f"optim/{names[p]}/{k}": v for p, s in optimizer.state.items() for k, v in s.items() if torch.is_tensor(v)}


def restore_optimizer(optimizer: torch.optim.Optimizer, learner: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` saved, for every parameter that still exists."""
    parameters = dict(learner.named_parameters())
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        name, _, slot = rest.rpartition("/")
        if kind == "optim" and name in parameters:
            p = parameters[name]
            # a step counter stays float32, and on the GPU a fused optimiser reads it there
            optimizer.state[p][slot] = value.to(p.device, p.dtype) if value.ndim else value.to(p.device)
