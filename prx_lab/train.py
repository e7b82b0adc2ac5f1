"""Training: the Learner whose forward is the loss, the step, and fit with exact resume."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prx_lab import checkpoint, progress, start
from prx_lab.data.batch import Batch, Data
from prx_lab.data.store import order
from prx_lab.errors import LabError
from prx_lab.flow import Draw, corrupt, draw, v_from_x, velocity_to, x_from_v
from prx_lab.model import PRX
from prx_lab.parallel import ALONE, USUAL, Budget, World, cut
from prx_lab.precision import DTYPES
from prx_lab.process import interruptible, tune_allocator
from prx_lab.recipe import Recipe
from prx_lab.sample import Sampler
from prx_lab.sharding import alike, is_shard, local, whole
from prx_lab.steps import RuleModule
from prx_lab.terms import Out


class Learner(nn.Module):
    """All that is trained, the network and the terms' heads; its forward is the loss."""

    def __init__(self, recipe: Recipe, channels: int, stride: int, context: int, widths: dict[str, int]):
        super().__init__()
        self.recipe = recipe
        self.model = PRX(recipe.arch(channels, stride, context), recipe.router)
        self.terms = nn.ModuleList(term.build(self.model, widths) for term in recipe.terms)
        self.taps = tuple(sorted({tap for term in self.terms for tap in term.taps}))
        self.heads = tuple(sorted({tap for term in self.terms for tap in term.heads}))

    def forward(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """The weighted loss and the unweighted terms (k,), a pure function of (weights, batch, draw)."""
        recipe, point = self.recipe, corrupt(batch.x, self.recipe.noise * draw.eps, draw.t)
        text, mask = batch.text.dropped(draw.drop)
        keep, skip = recipe.router.keep(draw.score), recipe.router.skip(draw.path)
        raw, feats = self.model(point.x_t, point.t, text, mask, keep, skip, self.taps, self.heads)
        raw = raw.float()
        if recipe.predict == "v":
            v, x = raw, x_from_v(raw, point.x_t, point.t)
        else:
            v, x = v_from_x(raw, point.x_t, point.t), raw
        out = Out(v, x, velocity_to(recipe.predict, point), feats, draw.drop, draw.other, batch.rest)
        losses = torch.stack([term(point, out, batch) for term in self.terms])
        weights = losses.new_tensor([term.weight for term in recipe.terms])
        return (weights * losses).sum(), losses  # not a matmul: autocast would round it to bf16


class Objective(nn.Module):
    """A rule around a learner, as one module whose forward is a step's loss: what DDP and FSDP see."""

    def __init__(self, rule: RuleModule, learner: Learner):
        super().__init__()
        self.rule, self.learner = rule, learner

    def forward(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """The loss and its unweighted terms (k,), float32."""
        return self.rule(self.learner, batch, draw)


def build(recipe: Recipe, store: Data, seed: int, device: torch.device) -> Learner:
    """A fresh learner for this data; the network's weights depend on (seed, arch) alone, not on the terms."""
    C, h, _ = store.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = Learner(recipe, C, recipe.scale.size // h, store.context, store.widths)
    return learner.to(device, DTYPES[recipe.precision.store])


class Training:
    """One run of one recipe: its state, one step, the passage from phase to phase, and the loop with checkpoints.

    `stores` holds one data set for each phase, or one for all of them.
    """

    def __init__(
        self,
        recipe: Recipe,
        stores: Data | Sequence[Data],
        seed: int,
        device: torch.device,
        compiled: bool = False,
        folder: Path | None = None,  # of a run: one that has a checkpoint to go on from reads `init` no more
        budget: Budget = USUAL,
        world: World = ALONE,
    ):
        self.whole, self.seed, self.device, self.compiled = recipe, seed, device, compiled
        self.budget, self.world = budget, world
        if world.size * budget.accumulate > recipe.scale.batch:
            parts = f"{world.size} processes with {budget.accumulate} micro-batches each"
            raise LabError(f"A batch of {recipe.scale.batch} is too small for {parts}; raise scale.batch, or use fewer of them.")
        self.stores = list(stores) if isinstance(stores, Sequence) else [stores] * len(recipe.plan)
        if not recipe.init:
            recipe.rule.check_after(())  # a recipe cannot ask this of itself: it may be meant as a phase
        if min(map(len, self.stores)) < 1:
            raise LabError("There is no image to train on; check the data.")
        self.step_index, self.seconds = 0, 0.0
        begun = folder is not None and bool(checkpoint.steps(folder / "checkpoint"))
        self.enter(0, {} if begun else start.initial(recipe, self.stores[0]))

    def enter(self, phase: int, tensors: dict[str, Tensor]) -> None:
        """Begin a phase with a learner, optimiser and average of its own, filled from `tensors` by parameter name."""
        self.phase, self.recipe, self.store = phase, self.whole.plan[phase][1], self.stores[phase]
        self.learner = build(self.recipe, self.store, self.seed, self.device)
        self.learner.model.recompute = self.budget.checkpointing
        self.take_weights(tensors)
        self.rule = self.recipe.rule.build(self.learner).to(self.device)  # a teacher in it has the weights of now
        self.objective = self.world.prepare(Objective(self.rule, self.learner))
        self.optimizer = self.recipe.optim.build(self.learner, self.recipe.scale.lr)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        start = self.learner.model.state_dict() if self.recipe.ema.decay else {}
        self.ema = {k: v.to(torch.float32, copy=True) for k, v in start.items()}  # bf16 would lose its small steps
        self.start_from(tensors)
        if self.compiled:
            for block in self.learner.model.blocks:  # one block is compiled once and reused by all
                block.compile()

    def step(self) -> dict[str, float]:
        """One update; a loss or gradient that is not finite stops the run before it touches the weights."""
        plan = self.whole.plan
        while self.phase + 1 < len(plan) and self.step_index >= plan[self.phase + 1][0]:
            kept = plan[self.phase + 1][1].optim.continues(self.recipe.optim)  # another optimiser starts without a history
            self.enter(self.phase + 1, {k: v for k, v in self.tensors().items() if kept or not k.startswith("optim/")})
        recipe, i = self.recipe, self.step_index
        factor = recipe.schedule(i, recipe.scale.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * factor
        losses = self.gradients()
        norm = whole(nn.utils.clip_grad_norm_(self.learner.parameters(), recipe.clip))
        values = torch.cat([losses[:1], norm.float()[None], losses[1:]]).tolist()
        if not all(map(math.isfinite, values[:2])):
            self.optimizer.zero_grad()
            raise FloatingPointError(f"The loss is {values[0]} and the gradient norm {values[1]} at step {i}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average()
        self.step_index += 1
        terms = dict(zip(self.rule.names, values[2:]))
        return {"step": i, "loss": values[0], "terms": terms, "lr": self.rates[0] * factor, "grad_norm": values[1]}

    def gradients(self) -> Tensor:
        """Those of the global batch's mean loss, from this process's share of it; returns that loss and its terms (1 + k,)."""
        recipe, store, B, world = self.recipe, self.store, self.recipe.scale.batch, self.world
        index = order(self.seed, self.step_index, B, len(store))
        # one set of draws for the global batch: however it is split, each of its samples has the same ones
        key, shape = (self.seed, self.step_index, 0, 0), (B, *store.shape)
        variates = draw(key, shape, recipe.scale.tokens, recipe.time, recipe.drop)
        found, parts = torch.zeros((), device=self.device), world.share(B, self.budget.accumulate)
        for rows in parts:
            batch, own = cut(store, index, variates, rows, recipe)
            share = len(rows) / B
            with world.gathering(self.objective, rows is parts[-1]):
                with recipe.precision.autocast(self.device):
                    loss, losses = self.objective(batch.to(self.device), own.to(self.device))
                (loss * (share * world.size)).backward()  # the mean over processes follows
            found = found + share * torch.cat([loss.detach()[None], losses.detach()]).float()
        return world.total(found)

    @torch.no_grad()
    def average(self) -> None:
        """Move the average towards the weights of now, at the rate of this step; nothing where the recipe keeps none."""
        if self.ema:
            rate = self.recipe.ema.rate(self.step_index)
            for name, value in self.learner.model.state_dict().items():
                local(self.ema[name]).lerp_(local(value).float(), 1 - rate)

    def fit(self, until: int, folder: Path | None = None, save_every: int = 500) -> Iterator[dict[str, float]]:
        """Train to step `until`, yielding one row of the log per step and saving to `folder`/checkpoint.

        Ctrl-C and SIGTERM finish the step, save and raise KeyboardInterrupt; a loss that is not finite saves the last good weights.
        """
        tune_allocator()
        B = self.recipe.scale.batch
        with interruptible() as stop, progress.bar(total=until, initial=self.step_index, unit="step") as bar:
            while self.step_index < until:
                start = time.perf_counter()
                try:
                    row = self.step()
                except FloatingPointError as error:
                    kept = f" The weights of step {self.step_index} are kept in {self.save(folder)}." if folder else ""
                    raise LabError(f"{error}; lower the learning rate (scale.lr) or clip harder (clip).{kept}") from None
                taken = time.perf_counter() - start
                self.seconds += taken
                bar.set_postfix(loss=f"{row['loss']:.3f}", images=f"{B / taken:.0f}/s", refresh=False)
                bar.update()
                yield row | {"images_per_s": B / taken, "seconds": self.seconds}
                # only now: a row that is logged before its checkpoint is logged again after an interruption, never lost
                if folder and (self.step_index == until or self.step_index % save_every == 0):
                    self.save(folder)
                if self.world.any(stop.is_set()):
                    where = f" A checkpoint is in {self.save(folder)}; run the same command to go on." if folder else ""
                    raise KeyboardInterrupt(f"Stopped after step {self.step_index}.{where}")

    def save(self, folder: Path) -> Path:
        """Everything the next step depends on; randomness is a function of (seed, step) and needs no state."""
        tensors = self.tensors() | {f"rule/{k}": v for k, v in self.rule.state_dict().items()} | {"mean": self.store.mean}
        state = {"seed": self.seed, "seconds": self.seconds, "phase": self.phase, "recipe": self.whole.to_json()}
        return checkpoint.save(folder / "checkpoint", self.step_index, tensors, state, self.world)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, average and optimiser state by parameter name: what a phase hands to the next."""
        tensors = {f"learner/{k}": v for k, v in self.learner.state_dict().items()}
        return tensors | {f"ema/{k}": v for k, v in self.ema.items()} | checkpoint.optimizer_tensors(self.optimizer, self.learner)

    def resume(self, folder: Path) -> bool:
        """Continue from the newest checkpoint in `folder`, if there is one of this recipe and seed."""
        if not checkpoint.steps(folder / "checkpoint"):
            return False
        where, tensors, state = checkpoint.newest(folder / "checkpoint", self.world)
        mine = state["seed"] == self.seed and Recipe.from_json(state["recipe"]) == self.whole
        if not mine or state["phase"] not in range(len(self.whole.plan)):
            raise LabError(f"The checkpoint {where} belongs to another recipe or seed; delete it or use another folder.")
        self.enter(state["phase"], {})
        rule = self.rule.state_dict()
        expected = self.tensors() | {f"rule/{k}": v for k, v in rule.items()}
        with self.world.agreed():
            checkpoint.require(tensors, expected, ("learner/", "ema/", "rule/"), where)
        self.start_from(tensors)
        self.rule.load_state_dict({k: alike(tensors[f"rule/{k}"], v) for k, v in rule.items()})
        self.step_index, self.seconds = state["step"], state["seconds"]
        return True

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights, average and optimiser state by parameter name; names this recipe does not have are left out."""
        mine = self.take_weights(tensors)
        for name, value in self.ema.items():
            value.copy_(alike(tensors.get(f"ema/{name}", mine[f"model.{name}"]), value))
        checkpoint.restore_optimizer(self.optimizer, self.learner, tensors)

    def take_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the weights alone; returns them all, those that are not among `tensors` as they were."""
        mine = self.learner.state_dict()
        with torch.no_grad():
            for name, value in mine.items():
                if f"learner/{name}" in tensors:
                    value.copy_(alike(tensors[f"learner/{name}"], value))
        return mine

    def sampler_model(self) -> PRX:
        """The network to sample from: the averaged weights where the recipe keeps an average."""
        model = self.learner.model
        weights = self.ema or model.state_dict()
        if not self.ema and not any(map(is_shard, weights.values())):
            return model
        own = PRX(model.arch, self.recipe.router).to(self.device, next(iter(weights.values())).dtype)
        own.load_state_dict({name: whole(value) for name, value in weights.items()})
        return own

    def sampler(self) -> Sampler:
        """Prompts in, images out, with the weights as they are now."""
        return Sampler(self.recipe, self.sampler_model(), self.store.mean)
