"""The questions that every recipe answers, as functions: is it neutral when off, live when on, one graph, and exact on resume?

`data` says what a recipe trains on: the smoke world here, a few random tensors in the test suite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from prx_lab.data.batch import Data as Samples
from prx_lab.flow import draw
from prx_lab.recipe import Recipe
from prx_lab.run import store_of
from prx_lab.train import Training

CPU = torch.device("cpu")
Data = Callable[[Recipe], Samples]


def smoke(recipe: Recipe) -> Samples:
    """The recipe's own training data, encoded by its frozen networks."""
    return store_of(recipe, CPU)


def begin(recipe: Recipe, data: Data, seed: int = 0) -> Training:
    """A run that has not taken a step."""
    return Training(recipe, [data(part) for _, part in recipe.plan], seed, CPU)


def trained(recipe: Recipe, steps: int, data: Data = smoke) -> dict[str, Tensor]:
    """The network's weights after some steps."""
    training = begin(recipe, data)
    list(training.fit(steps))
    return training.learner.model.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def breaks(recipe: Recipe, data: Data = smoke) -> int:
    """How often the compiler has to leave the graph of the loss, over all phases."""
    training, total = begin(recipe, data), 0
    for phase in range(len(recipe.plan)):
        training.enter(phase, training.tensors())
        batch = training.store.batch(torch.arange(min(8, len(training.store))).numpy())
        variates = draw((0, 0, 0, 0), tuple(batch.x.shape), recipe.scale.tokens, recipe.time, recipe.drop)
        torch._dynamo.reset()
        with training.recipe.precision.autocast(CPU):  # weights stored in bf16 need it
            total += torch._dynamo.explain(training.rule)(training.learner, batch, variates).graph_break_count
    return total


def resumes(recipe: Recipe, steps: int, data: Data = smoke) -> bool:
    """Whether a run stopped half-way and resumed ends as the uninterrupted one: losses, weights and average, bit for bit."""
    whole, first, second = (begin(recipe, data) for _ in range(3))
    log = [row["loss"] for row in whole.fit(steps)]
    with TemporaryDirectory() as folder:
        list(first.fit(steps // 2, Path(folder)))
        found = second.resume(Path(folder)) and second.step_index == steps // 2
    again = [row["loss"] for row in second.fit(steps)]
    states = equal(whole.learner.state_dict(), second.learner.state_dict()) and equal(whole.ema, second.ema)
    return found and again == log[steps // 2 :] and states


@dataclass(frozen=True, repr=False)
class Answers:
    """Questions about a method and their answers."""

    found: dict[str, bool]

    def __repr__(self) -> str:
        return "\n".join(f"{question}: {'yes' if answer else 'no'}" for question, answer in self.found.items())


def examine(on: Recipe, off: Recipe, base: Recipe, steps: int = 4, data: Data = smoke) -> Answers:
    """Ask everything of a method switched `on`; `off` is its neutral setting and `base` the recipe it was added to."""
    plain = trained(base, steps, data)
    return Answers(
        {
            "off equals the baseline bit for bit": equal(trained(off, steps, data), plain),
            "on differs from it": not equal(trained(on, steps, data), plain),
            "the compiler sees one graph": breaks(on, data) == 0,
            "resumed equals uninterrupted bit for bit": resumes(on, steps, data),
            "the recipe is its JSON": Recipe.from_json(on.to_json()) == on,
        }
    )
