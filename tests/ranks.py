"""Processes that train together, for `test_parallel`: this one loads the package once and forks every group from there.

    python -m tests.ranks FOLDER NAME...

A group is a name of GROUPS; each of its processes runs `work`, and the first one leaves what was found in FOLDER/<group>.
"""

import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import accelerate  # noqa: F401  loaded before the processes part
import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.fsdp  # noqa: F401
import torch.distributed.tensor  # noqa: F401
from safetensors.torch import save_file

from prx_lab import evaluate, parallel
from prx_lab.checkpoint import newest
from prx_lab.errors import LabError
from prx_lab.optim import EMA
from prx_lab.parallel import ALONE, USUAL, Budget, World
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES
from prx_lab.run import run
from prx_lab.sharding import whole
from prx_lab.steps.repa_e import JointStep, LatentNorm
from prx_lab.terms.contrastive import Contrastive
from prx_lab.train import Training
from tests.tiny import CPU, store, tiny

GROUPS = {"alone": ("alone", 1), "ddp": ("ddp", 2), "fsdp": ("fsdp", 2), "three": ("fsdp", 3)}
NAMES = (
    "baseline", "repa", "irepa", "x-pred", "contrastive", "contrastive-roll", "tread-repa", "sprint", "muon", "muon-fused", "jit",
    "x-lpips", "x-pdino", "haste", "bf16", "ema", "distilled", "distilled-32",
)  # fmt: skip
SHARDED = ("baseline", "contrastive", "tread-repa", "sprint", "muon", "x-lpips", "haste", "bf16", "ema", "distilled", "distilled-32")
EXCLUDE = BASE.plus(Contrastive(unconditional="exclude")).but(drop=0.5)
LOGGED = ("baseline", "muon", "speedrun", "distilled")  # trained across their phases
CRASHED = f"exit -{signal.SIGSEGV:d}"
SHORT = replace(BASE.scale, steps=6, images=64, eval_n=10, eval_steps=2, evals=1, batch=8)


def named(name: str) -> Recipe:
    return tiny(EXCLUDE if name == "exclude" else RECIPES[name])


def training(recipe: Recipe, world: World, budget: Budget = USUAL) -> Training:
    return Training(recipe, [store(part) for _, part in recipe.plan], 0, CPU, budget=budget, world=world)


def gradients(name: str, world: World, budget: Budget = USUAL) -> dict[str, torch.Tensor]:
    """Loss, gradients and, after the step, weights of the last phase, begun by one process from weights a few steps old."""
    recipe, phase = named(name), len(named(name).plan) - 1
    before, after = training(recipe, ALONE), training(recipe, world, budget)
    until = max(3, recipe.plan[phase][0])
    list(before.fit(until))
    if before.phase < phase:
        before.enter(phase, before.tensors())
    after.enter(phase, before.tensors())
    after.step_index = until
    found = {"loss": after.gradients()}
    found |= {f"grad/{k}": whole(p.grad).clone() for k, p in after.learner.named_parameters() if p.grad is not None}
    after.optimizer.zero_grad()
    old = {k: whole(v).clone() for k, v in after.learner.state_dict().items()}
    row = after.step()
    found |= {f"step/{k}": whole(v) - old[k] for k, v in after.learner.state_dict().items()}
    return found | {f"ema/{k}": whole(v) for k, v in after.ema.items()} | {"norm": torch.tensor(row["grad_norm"])}


def log(name: str, world: World, folder: Path | None = None) -> list[float]:
    """The losses of a whole run."""
    return [row["loss"] for row in training(named(name), world).fit(6, folder)]


def resumed(folder: Path, world: World) -> dict:
    """What a run finds in a checkpoint, and where it goes from there."""
    one = training(named("speedrun"), world)
    one.resume(folder)
    _, tensors, _ = newest(folder / "checkpoint")
    mine = one.tensors() | {f"rule/{k}": v for k, v in one.rule.state_dict().items()}
    same = all(torch.equal(whole(v).cpu(), tensors[k]) for k, v in mine.items())
    return {"step": one.step_index, "same": same, "names": sorted(mine), "losses": [row["loss"] for row in one.fit(6)]}


def half(folder: Path, world: World) -> None:
    """Train half of a run, and leave its checkpoint."""
    list(training(named("speedrun"), world).fit(3, folder))


def refusals(folder: Path, world: World) -> dict[str, str]:
    """What every process says when one of them fails."""
    found = {}

    def attempt(name: str, act: Callable[[], object]) -> None:
        try:
            act()
            found[name] = ""
        except LabError as error:
            found[name] = str(error)

    def fail() -> None:
        with world.agreed():
            if world.rank == 1:
                raise LabError("The second one has no disk.")

    def diverge() -> None:
        one = training(named("baseline"), world)
        with torch.no_grad():
            for p in one.learner.parameters():
                p.mul_(torch.nan if world.rank == 1 else 1.0)
        list(one.fit(6, folder / "nan"))

    def join() -> None:
        one, net = training(named("repa"), ALONE), torch.nn.Linear(1, 1)
        JointStep(net, one.learner, LatentNorm(1), lambda vae, x: (x.sum(), x), one.optimizer, one.optimizer)

    attempt("joint", join)
    attempt("agreed", fail)
    attempt("nan", diverge)
    attempt("small", lambda: training(named("baseline"), world, Budget(5)))
    return found


def judged(world: World) -> dict:
    """Pictures and scores of the same fresh weights, and rows gathered from all."""
    recipe = BASE.but(scale=SHORT)
    judge = evaluate.bench(recipe, CPU)
    torch.manual_seed(0)
    model = training(named("baseline"), ALONE).learner.model
    model = type(model)(recipe.arch(16, 8, judge.text["tokens"].shape[2]))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    (mine,) = world.share(judge.n)
    images = evaluate.pictures(model, recipe, judge, mine, torch.zeros(16, 4, 4))
    rows = world.gather(np.arange(mine.start, mine.stop))
    none = world.gather(np.full((world.rank, 2), world.rank, np.int8))
    return {
        "scores": evaluate.scores(images, judge, world),
        "rows": rows.tolist(),
        "uneven": none.tolist(),
        "images": world.gather(images).tolist(),
    }


def work(folder: Path, group: str) -> None:
    """Everything a group is asked; results go to FOLDER/<group>."""
    torch.set_num_threads(1)
    world, out = parallel.world(), folder / group
    out.mkdir(exist_ok=True)
    told: dict = {"size": world.size, "kind": world.kind}
    if group == "three":
        told["resumed"] = resumed(folder / "fsdp" / "half", world)
        told["gradients"] = False
    else:
        names = SHARDED if group == "fsdp" else NAMES
        for name in (*names, "exclude"):
            save(out / f"{name}.safetensors", gradients(name, world), world)
        told["log"] = {name: log(name, world) for name in LOGGED}
        half(out / "half", world)
        for name in ("contrastive", "exclude", "x-lpips", "tread-repa"):
            save(out / f"{name}-accumulated.safetensors", gradients(name, world, Budget(2 if group != "alone" else 3, True)), world)
    if group == "ddp":
        told["resumed"] = resumed(folder / "alone" / "half", world)
        told["refused"] = world.messages(json.dumps(refusals(out, world)))
        told["judged"] = judged(world)
        run(BASE.but(scale=SHORT, ema=EMA(0.9)), 0, out / "results")
    if group == "alone":
        told["judged"] = judged(world)
    if group == "fsdp":
        told["resumed"] = resumed(folder / "ddp" / "half", world)
        told["again"] = resumed(out / "half", world)
    if world.main:
        (out / "told.json").write_text(json.dumps(told))


def save(path: Path, tensors: dict[str, torch.Tensor], world: World) -> None:
    if world.main:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def group(folder: Path, name: str) -> list[str]:
    """Fork the processes of a group; what became of those that did not end well."""
    kind, size = GROUPS[name]
    # they meet at a store of this process, as at a launcher's: nobody else can take its port before they come
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks, failed = {}, []
    for rank in range(size):
        pid = os.fork()
        if not pid:
            if kind != "alone":
                here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": meeting.port}
                os.environ |= {k: str(v) for k, v in here.items()} | {"MASTER_ADDR": "127.0.0.1"}
                os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
                os.environ |= {"ACCELERATE_USE_FSDP": str(kind == "fsdp").lower(), "FSDP_VERSION": "2"}
            try:
                work(folder, name)
                os._exit(0)
            except BaseException:
                (folder / f"{name}-{rank}.txt").write_text(traceback.format_exc())
            finally:
                os._exit(1)
        ranks[pid] = rank
    while ranks:
        pid, status = os.wait()
        left = folder / f"{name}-{(rank := ranks.pop(pid))}.txt"
        if code := os.waitstatus_to_exitcode(status):
            failed.append(f"{name} {rank} of {size}, exit {code}: {left.read_text() if left.exists() else ''}")
            for other in ranks:  # they would wait for it
                os.kill(other, signal.SIGTERM)
    return failed


def warm() -> None:
    """Load, before the processes part, what each of them would load."""
    for name in ("x-lpips", "x-pdino", "muon"):
        list(training(named(name), ALONE).fit(1))


if __name__ == "__main__":
    faulthandler.enable()  # a process that the system ends tells where it was
    torch.set_num_threads(1)
    warm()
    gc.freeze()  # nothing of these is garbage, however often it is looked for
    for name in sys.argv[2:]:
        failed = group(Path(sys.argv[1]), name)
        if any(CRASHED in one for one in failed):  # a thread of gloo's ends in malloc, about once in fifty runs: told, and tried once more
            print(*failed, sep="\n")
            shutil.rmtree(Path(sys.argv[1]) / name, ignore_errors=True)  # not there where it ended before it had one
            for left in Path(sys.argv[1]).glob(f"{name}-*.txt"):
                left.unlink()
            failed = group(Path(sys.argv[1]), name)
        if failed:
            print(*failed, sep="\n")
            sys.exit(1)
