"""Recipe: an experiment as one frozen, typed, complete value, one field per symbol of the loss.

``L(theta) = E_{x,c,y} E_{t,eps,keep,drop} sum_k lambda_k l_k( f_theta(x_t, t, c; keep) ; x, eps, t, y )``
"""

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import prx_lab.guidance
import prx_lab.muon
import prx_lab.terms
from prx_lab.cleaning import HOW
from prx_lab.errors import LabError, nearest, require
from prx_lab.flow import LogitNormal, Uniform
from prx_lab.model import Arch
from prx_lab.optim import EMA, AdamW, Optim, Schedule
from prx_lab.precision import Precision
from prx_lab.routing import Dense, Router
from prx_lab.sample import CFG, Guidance
from prx_lab.scales import LARGEST, SCALES, Scale
from prx_lab.spec import REGISTRY, Spec, build, discover, essence, flatten, from_json, require_types, to_json
from prx_lab.steps.base import Descent, Rule
from prx_lab.terms import FlowMatching, Term

discover(prx_lab.terms)


@dataclass(frozen=True)
class Reference(Spec):
    """What a recipe is judged against: the style of the real images, the kind of the captions, and the part of the data.

    The embedded world's `heldout` has in every scene a (shape, colour) pair that no training image shows.
    """

    style: str = "render"
    captions: str = "long"
    split: str = "val"


@dataclass(frozen=True)
class Phase(Spec):
    """From the share `start` of the steps on, the run continues under another recipe; weights, average and optimiser stay."""

    start: float
    recipe: "Recipe"


@dataclass(frozen=True)
class Recipe(Spec):
    """A complete experiment; construction refuses contradictions with a sentence that says what to change."""

    scale: Scale
    data: str = "scenes"  # the embedded world, a folder, a Parquet file or a hub name
    style: str = "render"  # style of the embedded world
    captions: str = "long"
    subset: float = 1.0  # share of the scale's images that is used, the first ones
    space: str = "lab-vae"
    bottleneck: int = 0  # width between the two linear maps of the patch embedding; 0 for one map
    text: str = "lab-t5"
    cleaning: str = "none"  # of every caption before it is encoded
    text_tokens: int = 0  # places for a caption's tokens; 0 for the encoder's own number
    init: str = ""  # weights that training starts from: a hub name, a folder, a run folder or a file; "" for fresh ones
    predict: str = "v"
    time: LogitNormal | Uniform = LogitNormal()
    terms: tuple[Term, ...] = (FlowMatching(),)
    noise: float = 1.0  # standard deviation of the noise
    router: Router = Dense()
    rule: Rule = Descent()
    optim: Optim = AdamW()
    schedule: Schedule = Schedule()
    precision: Precision = Precision()
    ema: EMA = EMA()
    drop: float = 0.1  # probability that a caption is replaced by the empty one
    clip: float = 1.0  # largest norm of the gradient
    guidance: Guidance = CFG()
    shift: float = 1.0  # of the sampling grid
    sampler_steps: int = 0  # of an evaluation; 0 for the scale's number
    reference: Reference = Reference()
    phases: tuple[Phase, ...] = ()  # what follows, on one clock: schedules run over all steps

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Refuse a recipe that contradicts itself."""
        require_types(self)
        for name, allowed in CHOICES.items():
            require(getattr(self, name) in allowed, f"{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}.")
        for name in ("style", "captions"):
            value = getattr(self.reference, name)
            require(value in CHOICES[name], f"reference.{name} is {value!r}; use one of {', '.join(CHOICES[name])}.")
        split = self.reference.split
        require(split in PARTS, f"reference.split is {split!r}; use one of {', '.join(PARTS)}.")
        require(
            split == "val" or self.data == SCENES,
            f"Only the embedded world has a '{split}' part; set reference.split to 'val', or data to '{SCENES}'.",
        )
        require(0 < self.subset <= 1, f"subset is {self.subset}; use a share of the images in (0, 1], 1 for all of them.")
        require(0 <= self.drop < 1, f"drop is {self.drop}; caption dropout is a probability in [0, 1).")
        require(self.clip > 0, f"clip is {self.clip}; the gradient norm needs a positive limit.")
        require(self.noise > 0, f"noise is {self.noise}; the noise needs a positive standard deviation.")
        fits = 0 <= self.bottleneck <= LARGEST["width"]
        require(fits, f"bottleneck is {self.bottleneck}; use a positive width up to {LARGEST['width']}, or 0 for none.")
        require(self.shift > 0, f"shift is {self.shift}; the time shift must be positive.")
        require(self.text_tokens >= 0, f"text_tokens is {self.text_tokens}; use a positive number, or 0 for the text encoder's own.")
        require(self.sampler_steps >= 0, f"sampler_steps is {self.sampler_steps}; use a positive number, or 0 for the scale's.")
        require(bool(self.terms), "The recipe has no loss term; add FlowMatching().")
        names = [type(t).__name__ for t in self.terms]
        require(len(set(self.terms)) == len(self.terms), f"A term stands twice in the recipe ({', '.join(names)}); change its weight.")
        taught = any(isinstance(t, FlowMatching) for t in self.terms)
        require(taught, "The recipe has no FlowMatching() term, so nothing teaches it to generate; add it.")
        parts = (self.time, self.router, self.rule, self.optim, self.schedule, self.precision, self.ema, self.guidance)
        for part in (self.scale, *self.terms, *parts):
            part.check(self)
        self.check_phases()

    def check_phases(self) -> None:
        """Refuse, with a LabError, phases that do not follow one another, or that change what the whole run shares."""
        starts = [0.0, *(phase.start for phase in self.phases), 1.0]
        ordered = all(a < b for a, b in zip(starts, starts[1:]))
        require(ordered, f"Phases start at {starts[1:-1]} of the steps; use increasing shares between 0 and 1.")
        steps = [*(step for step, _ in self.plan), self.scale.steps]
        long = all(a < b for a, b in zip(steps, steps[1:]))
        require(long, f"Of {self.scale.steps} steps, phases begin at {steps[1:-1]}: one has no step; raise scale.steps or move its start.")
        for phase in self.phases:
            require(not phase.recipe.phases, "A phase cannot have phases of its own; list all of them in the first recipe.")
            for name in ("scale", "space", "bottleneck", "text", "cleaning", "text_tokens", "predict", "noise"):
                same = getattr(phase.recipe, name) == getattr(self, name)
                require(same, f"A phase changes {name}, on which the shape or meaning of the weights depends; train it as another recipe.")
            same = phase.recipe.init in ("", self.init)
            require(same, "A phase has an init of its own, but goes on with the weights of the phase before; set init in the first recipe.")
            same = phase.recipe.reference == self.reference
            require(same, "A phase has a reference of its own, but a run is judged once, by that of the first recipe; set it there.")
        if self.phases:
            parts = tuple(part for _, part in self.plan)
            for i, part in enumerate(parts):
                if i or not self.init:
                    part.rule.check_after(parts[:i])

    def arch(self, channels: int, stride: int, context: int) -> Arch:
        """The network for a space of `channels` at 1/`stride` resolution and text features of width `context`."""
        side = self.scale.size // stride
        require(
            side >= self.scale.grid and side % self.scale.grid == 0,
            f"Space {self.space!r} turns {self.scale.size} pixels into {side} cells a side, which do not form a grid of "
            f"{self.scale.grid} tokens; change scale.size, scale.grid or space.",
        )
        s = self.scale
        return Arch(channels, side // s.grid, context, s.width, s.depth, s.heads, bottleneck=self.bottleneck)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Every vision teacher the terms read, once each."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.teachers))

    @property
    def plan(self) -> tuple[tuple[int, "Recipe"], ...]:
        """(first step, recipe) of every phase, this recipe's own first."""
        return (0, self), *((round(phase.start * self.scale.steps), phase.recipe) for phase in self.phases)

    @property
    def eval_steps(self) -> int:
        """Sampler steps of an evaluation."""
        return self.rule.sampler_steps(self.sampler_steps or self.scale.eval_steps)

    @property
    def last(self) -> "Recipe":
        """The recipe in force at the end."""
        return self.plan[-1][1]

    def but(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields replaced, and each of them in every phase that has what is replaced."""
        known = [f.name for f in fields(self)]
        for key in changes:
            require(key in known, f"A recipe has no field '{key}'.{nearest(key, known)} Its fields are {', '.join(known)}.")
        if "phases" in changes:
            return replace(self, **changes)
        phases = []
        for phase in self.phases:
            same = {name: value for name, value in changes.items() if getattr(phase.recipe, name) == getattr(self, name)}
            phases.append(replace(phase, recipe=replace(phase.recipe, **same)))
        return replace(self, phases=tuple(phases), **changes)

    def then(self, start: float, recipe: "Recipe") -> "Recipe":
        """The same recipe, continued under `recipe` from the share `start` of the steps on."""
        return self.but(phases=(*self.phases, Phase(start, recipe)))

    def plus(self, *terms: Term) -> "Recipe":
        """The same recipe with terms added to the loss."""
        return self.but(terms=self.terms + terms)

    def at(self, scale: str) -> "Recipe":
        """The same recipe at another scale."""
        require(scale in SCALES, f"Unknown scale '{scale}'.{nearest(scale, SCALES)} The scales are {', '.join(SCALES)}.")
        return self.but(scale=SCALES[scale])

    def set(self, path: str, text: str) -> "Recipe":
        """The same recipe with the field at a dotted path, such as `scale.steps`, read from text."""
        first, *_ = names = path.split(".")
        if first == "phases":
            return set_path(self, names, text)
        return self.but(**{first: getattr(set_path(replace(self, phases=()), names, text), first)})  # phases follow as in `but`

    def diff(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """{path: (value here, value there)} for every field in which the two recipes differ."""
        a, b = self.flat(), other.flat()
        return {k: (a.get(k), b.get(k)) for k in a | b if a.get(k) != b.get(k)}

    def flat(self) -> dict[str, Any]:
        """{path: plain value}; of a phase only what differs from the recipe itself."""
        own = flatten(replace(self, phases=()))
        found = dict(own)
        for i, phase in enumerate(self.phases):
            inner, name = flatten(phase.recipe), f"phases[{i}]"
            gone = (k for k in own if k not in inner and k.rpartition(".")[0] not in own)  # whole parts, not their fields
            different = {k: v for k, v in inner.items() if own.get(k) != v} | dict.fromkeys(gone, "dropped")
            found |= {f"{name}.start": phase.start} | {f"{name}.{k}": v for k, v in different.items()}
        return found

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON data: what recipe.json holds."""
        return to_json(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Recipe":
        """The recipe that JSON data describes; LabError where it is none."""
        try:
            recipe = from_json(data)
        except RecursionError:
            raise LabError("This recipe is nested too deeply to be one; use the recipe.json of a run folder.") from None
        require(isinstance(recipe, Recipe), "This file does not hold a recipe; use the recipe.json of a run folder.")
        return recipe

    @property
    def id(self) -> str:
        """Eight hexadecimal digits that name the content of the recipe, fields at their defaults left out."""
        return hashlib.sha256(json.dumps(essence(self), sort_keys=True).encode()).hexdigest()[:8]


PARTS = ("val", "heldout")  # of the data, to be judged on
SCENES = "scenes"  # the embedded world
CHOICES = {"predict": ("v", "x"), "cleaning": HOW, "captions": ("long", "short", "mixed"), "style": ("render", "photo", "polished")}


def set_path(spec: Spec, path: list[str], text: str) -> Any:
    """Replace one field deep inside a spec by a value read from text as the type it has now; LabError where there is no such field."""
    known, (head, *rest) = [f.name for f in fields(spec)], path
    require(head in known, f"{type(spec).__name__} has no field '{head}'.{nearest(head, known)} Its fields are {', '.join(known)}.")
    old = getattr(spec, head)
    if rest:
        require(is_dataclass(old), f"'{head}' is a plain value and has no field '{rest[0]}'.")
        return replace(spec, **{head: set_path(old, rest, text)})
    return replace(spec, **{head: parse(head, text, old)})


def parse(name: str, text: str, like: object) -> Any:
    """Read `text` as the type of `like`; a part is named by its class, for example router=TREAD. LabError where that fails."""
    if is_dataclass(like):
        require(text in REGISTRY, f"No part of a recipe is called '{text}'.{nearest(text, REGISTRY)}")
        return build(REGISTRY[text], {})
    require(not isinstance(like, tuple), f"{name} holds several values and cannot be set from text; change it in Python with Recipe.but.")
    try:
        return type(like)(text)
    except (TypeError, ValueError):
        raise LabError(f"{name}={text!r} cannot be read as {type(like).__name__}, such as {like!r}.") from None
