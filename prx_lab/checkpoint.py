"""Checkpoints: safetensors plus JSON, written atomically, verified when read, never unpickled.

One process writes state.safetensors. Processes that hold shards (FSDP2) write a file each, of the rows they have; whoever
reads, alone or among any number, finds whole tensors.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prx_lab.errors import LabError
from prx_lab.parallel import ALONE, World
from prx_lab.sharding import alike, is_shard, local
from prx_lab.zoo import digest

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

STATE = {"step": int, "sha256": str, "seed": int, "seconds": float | int, "phase": int, "recipe": dict}
ABSENT = ("absent", ())


def save(root: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], world: World = ALONE) -> Path:
    """Write `root`/step-NNNNNN and drop the older ones; whatever interrupts it, a complete checkpoint remains."""
    final = root / f"step-{step:06d}"
    part, aside = root / f".part-{world.told(str(os.getpid()))}-{final.name}", root / f".aside-{final.name}"
    mine = {k: local(v) for k, v in tensors.items() if world.main or is_shard(v)}
    names = files(world.size if any(map(is_shard, tensors.values())) else 1)
    try:
        with world.agreed(), writing(root):
            if world.main:
                root.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
        hashes = [""]
        with world.agreed(), writing(root):
            if world.rank < len(names):
                save_file({k: v.detach().contiguous().cpu() for k, v in mine.items()}, part / names[world.rank])
                sync(part / names[world.rank])
                hashes = [digest(part / names[world.rank])]
        hashes = [text for text in world.messages(hashes[0]) if text]
        with world.agreed(), writing(root):
            if world.main:
                state = state | {"step": step, "sha256": ",".join(hashes)}
                (part / "state.json").write_text(json.dumps(state, indent=1))
                sync(part / "state.json")
                if final.exists():  # moved aside, not removed: there is a complete checkpoint at every moment
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(final, aside)
                os.replace(part, final)
    finally:
        if world.main:
            shutil.rmtree(part, ignore_errors=True)
    if world.main:
        for old in [aside, *steps(root)[:-1]]:
            shutil.rmtree(old, ignore_errors=True)
    return final


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn what a full or read-only disk does into one sentence, a LabError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise LabError(f"Cannot write a checkpoint in {root} ({error}); free some space and run again: the last one is intact.") from None


def sync(file: Path) -> None:
    """See a file onto the disk."""
    with open(file, "rb+") as f:
        os.fsync(f.fileno())


def files(n: int) -> list[str]:
    """The names of a checkpoint's tensors in `n` files."""
    return ["state.safetensors"] if n == 1 else [f"state-{i:05d}-of-{n:05d}.safetensors" for i in range(n)]


def steps(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first; one that was just being replaced, where there is no other."""
    return sorted(root.glob("step-*"), key=age) or sorted(root.glob(".aside-step-*"), key=age)


def age(folder: Path) -> tuple[int, str]:
    """Orders step-999999 before step-1000000."""
    return len(folder.name), folder.name


def sweep(root: Path) -> None:
    """Remove what killed writers left: half-written checkpoints and old ones. Only for the one process that may write here."""
    keep = steps(root)[-1:]
    for folder in (*root.glob(".part-*"), *root.glob(".aside-step-*"), *root.glob("step-*")):
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)


class Archive(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, read when asked for; shards are put together, first rows first."""

    def __init__(self, paths: list[Path]):
        self.places: dict[str, list[safe_open]] = {}
        for path in paths:
            file = safe_open(path, "pt")
            for name in file.keys():
                self.places.setdefault(name, []).append(file)

    def __getitem__(self, name: str) -> Tensor:
        parts = [file.get_tensor(name) for file in self.places[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def load(folder: Path, world: World = ALONE) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint; a damaged or truncated one is refused by its hashes, which the processes share out."""
    with world.agreed():
        return read(folder, world.rank, world.size)


def read(folder: Path, rank: int, size: int) -> tuple[Archive, dict[str, Any]]:
    """As `load`, with the hashes of every `size`-th file compared, from file `rank` on; LabError where it is damaged."""
    try:
        state = json.loads((folder / "state.json").read_text())
        wrong = [key for key, kind in STATE.items() if not isinstance(state, dict) or not isinstance(state.get(key), kind)]
        if wrong:
            raise ValueError(f"state.json has no sound {wrong[0]}")
        hashes = state["sha256"].split(",")
        paths = [folder / name for name in files(len(hashes))]
        if any(digest(path) != known for path, known in list(zip(paths, hashes))[rank::size]):
            raise ValueError("its hash differs")
        return Archive(paths), state
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise LabError(f"The checkpoint {folder} is damaged ({error}); delete that folder and run again.") from None


def newest(root: Path, world: World = ALONE) -> tuple[Path, Mapping[str, Tensor], dict[str, Any]]:
    """The newest checkpoint's folder, tensors and state; a run that goes on meanwhile may replace it while it is read.

    LabError where it is damaged.
    """
    while True:
        folder = root / world.told(steps(root)[-1].name)
        try:
            return folder, *load(folder, world)
        except LabError:
            if steps(root)[-1:] == [folder]:
                raise


def sampled(folder: Path, source: str, purpose: str) -> tuple[Path, Mapping[str, Tensor], "Recipe", str]:
    """What a run samples from: its newest checkpoint, all its tensors, the recipe in force there, and the prefix of the weights to take.

    The average where the recipe keeps one. LabError, which names `source` and the `purpose`, where there is no checkpoint.
    """
    from prx_lab.recipe import Recipe

    if not steps(folder / "checkpoint"):
        raise LabError(f"{source} has no checkpoint (records are shared without weights); train it under another --root to {purpose} it.")
    where, tensors, state = newest(folder / "checkpoint")
    plan = Recipe.from_json(state["recipe"]).plan
    recipe = plan[min(state["phase"], len(plan) - 1)][1]  # of a run that goes on, the phase it is in
    return where, tensors, recipe, "ema/" if recipe.ema.decay else "learner/model."


def require(found: Mapping[str, Tensor], expected: dict[str, Tensor], kinds: tuple[str, ...], where: Path) -> None:
    """Refuse, with a LabError, a checkpoint whose tensors of some kinds (prefixes) are not exactly the expected ones, or not finite."""
    ours, theirs = ({k: (v.dtype, v.shape) for k, v in tensors.items() if k.startswith(kinds)} for tensors in (expected, found))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            is_, should = (f"{dtype} {tuple(shape)}" for dtype, shape in (theirs.get(name, ABSENT), ours.get(name, ABSENT)))
            raise LabError(f"The checkpoint {where} does not fit the recipe: {name} is {is_} and not {should}; delete it and train again.")
        if not torch.isfinite(found[name]).all():
            raise LabError(f"The checkpoint {where} holds weights that are not finite, in {name}; train again with a lower learning rate.")


def optimizer_tensors(optimizer: torch.optim.Optimizer, learner: nn.Module) -> dict[str, Tensor]:
    """Optimiser state as flat tensors, named by parameter."""
    names = {p: n for n, p in learner.named_parameters()}
    return {f"optim/{names[p]}/{k}": v for p, s in optimizer.state.items() for k, v in s.items() if torch.is_tensor(v)}


def restore_optimizer(optimizer: torch.optim.Optimizer, learner: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` saved, for every parameter that still exists; LabError where its shape is another."""
    parameters = dict(learner.named_parameters())
    for key in tensors:
        kind, _, rest = key.partition("/")
        name, _, slot = rest.rpartition("/")
        if kind == "optim" and name in parameters:
            p, value = parameters[name], tensors[key]
            if value.ndim and value.shape != p.shape:
                is_, should = tuple(value.shape), tuple(p.shape)
                raise LabError(f"The checkpoint does not fit the recipe: {key} is {is_} and not {should}; delete it and train again.")
            # a step counter stays float32, and on the GPU a fused optimiser reads it there
            optimizer.state[p][slot] = alike(value.to(p.device, p.dtype), p) if value.ndim else value.to(p.device)
