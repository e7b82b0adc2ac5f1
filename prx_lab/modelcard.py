"""The model card of an exported run: every number on it is computed from the run's recipe, weights and record."""

import json
import math
import shutil
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prx_lab.autoencoders import Pixels
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE
from prx_lab.record import Record, name_of, number, write_json
from prx_lab.report.columns import LAB_JUDGES, METRICS, Metric, columns, judges
from prx_lab.sample import Sampler
from prx_lab.usage import usage


@dataclass(frozen=True)
class Card:
    """What a card tells of a run; `record` is None while the run is not finished."""

    run: Path
    name: str  # of the folder
    recipe: Recipe  # with all its phases
    sampler: Sampler
    step: int
    seed: int
    record: Record | None

    @staticmethod
    def of(run: Path, found: Path, name: str, sampler: Sampler) -> "Card":
        """Read the record of a run and the state of its checkpoint `found`. Raises LabError when the record is damaged."""
        state = json.loads((found / "state.json").read_text())
        record = Record.load(run.resolve()) if (run / "eval.json").exists() else None
        return Card(run, name, Recipe.from_json(state["recipe"]), sampler, state["step"], state["seed"], record)

    def save(self, folder: Path) -> None:
        """Write README.md, recipe.json and, where the run has one, the grid of samples."""
        write_json(folder / "recipe.json", self.recipe.to_json())
        if self.shows_samples:
            shutil.copyfile(self.run / "samples.png", folder / "samples.png")
        (folder / "README.md").write_text(self.text, encoding="utf-8")

    @property
    def shows_samples(self) -> bool:
        """Whether there is a grid of samples to show: that of a finished run."""
        return self.record is not None and (self.run / "samples.png").is_file()

    @property
    def pixels(self) -> bool:
        """Whether the network draws in pixels, without an autoencoder."""
        return isinstance(self.sampler.space, Pixels)

    @property
    def captions(self) -> list[str]:
        """The captions of the recorded samples, each in one line."""
        found = self.record.eval.get("captions", ()) if self.record else ()
        return [" ".join(str(caption).split()) for caption in found]

    @property
    def text(self) -> str:
        """The card, Markdown under a YAML header; a licence is the publisher's to add."""
        from huggingface_hub import ModelCardData

        tags = ["prx", "flow-matching", "diffusers:PRXPixelPipeline" if self.pixels else "diffusers:PRXPipeline"]
        data = ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=tags)
        parts = (
            about(self),
            usage(self.name, self.sampler, *self.captions[:1]),
            samples(self),
            scores(self),
            trained(self),
            limits(self),
            made(self),
        )
        return "\n\n".join([f"---\n{data.to_yaml()}\n---", *(part for part in parts if part)]) + "\n"


def about(card: Card) -> str:
    """The card's beginning: what the network is, what it draws, how it was trained, and whether the run is finished."""
    s, recipe = card.recipe.scale, card.sampler.recipe
    weights = sum(p.numel() for p in card.sampler.model.parameters())
    where = "in pixels" if card.pixels else f"in the latents of `{recipe.space}`"
    lines = [
        f"# {card.name}",
        f"A text-to-image flow transformer of PRX's architecture with {weights:,} parameters. It draws {s.size} x {s.size} images {where} "
        f"from prompts read by `{recipe.text}`. prx_lab trained it by the recipe `{name_of(card.recipe)}` at `{s.name}` scale, seed "
        f"{card.seed}; the weights are {averaged(recipe)} after {card.step} of {s.steps} steps.",
    ]
    if card.record is None:
        lines.append("**The run is not finished**: nothing has judged these weights, and there are no scores and no sample grid.")
    return "\n\n".join(lines)


def averaged(recipe: Recipe) -> str:
    """What the weights are, in words: the moving average with its decay, or just those of the training."""
    return f"the moving average (decay {recipe.ema.decay})" if recipe.ema.decay else "those"


# ------------------------------------------------------------------------------------------------ what is on record
def samples(card: Card) -> str:
    """The recorded grid of samples with its captions; empty where there is none to show."""
    if not card.shows_samples:
        return ""
    captions = "\n".join(f"{i}. {escape(caption, quote=False)}" for i, caption in enumerate(card.captions, 1))
    return f"## Samples\n\n![The first captions of the evaluation, row by row](samples.png)\n\nThe captions, row by row:\n\n{captions}"


def scores(card: Card) -> str:
    """The scores of the record with their intervals, the judge of each, and the same judge on real images."""
    if card.record is None:
        return ""
    record, n = card.record, card.record.eval.get("n")
    present = [name for name, metric in METRICS.items() if name in record.eval["metrics"] and not math.isnan(record.metric(name))]
    rows = [row(record, metric, n) for metric in columns(present, [record])]
    table = table_of(("score", "value", "95 % interval", "images", "judge", "real images"), rows)
    told = (
        "One run, so the intervals are over images and not over seeds. Judges whose names begin with `lab-` are small networks of the "
        "bench: their numbers compare runs of the bench and never stand beside a published FID, CMMD or DINO-MMD."
    )
    return f"## Scores\n\n{table}\n\n{told}"


def row(record: Record, metric: Metric, n: Any) -> tuple[str, ...]:
    """A score as cells: its name, value, interval, number of images and judge, and the same judge's value on real images."""
    found = record.eval["metrics"][metric.name]
    found = found if isinstance(found, dict) else {}
    low, high = (number(found.get(end)) for end in ("lo", "hi"))
    interval = "–" if math.isnan(low) or math.isnan(high) else f"{metric.show(low)} to {metric.show(high)}"
    judge = ", ".join(judges(metric, [record])) or LAB_JUDGES["fid"]  # the embedded detector reads compositions too
    values = metric.show(record.metric(metric.name)), interval, str(found.get("n", n)), judge, metric.show(record.ceiling(metric.name))
    return metric.head, *values


def table_of(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def trained(card: Card) -> str:
    """The recipe as its difference from the baseline at the same scale, and its sizes."""
    s, recipe = card.recipe.scale, card.recipe
    images = max(1, round(recipe.subset * s.images))
    size = (
        f"Data `{recipe.data}` (at most {images:,} images of {s.size} x {s.size}), {s.steps:,} steps of {s.batch} images; width {s.width}, "
        f"{s.depth} blocks, {s.heads} heads, {s.tokens} tokens."
    )
    if card.record is not None and not math.isnan(card.record.metric("images_per_s")):
        seconds, rate = card.record.metric("seconds"), card.record.metric("images_per_s")
        size += f" It trained for {seconds:,.0f} s at a median of {rate:.1f} images/s."
    changed = BASE.but(scale=s).diff(recipe)
    cell = lambda value: "–" if value is None else f"`{value}`"  # noqa: E731
    table = table_of(("field", "baseline", "here"), [(f"`{path}`", cell(old), cell(new)) for path, (old, new) in changed.items()])
    told = f"What differs from the baseline at this scale:\n\n{table}" if changed else "It is the bench's baseline at this scale."
    return f"## Recipe\n\n{size} All of it is in [recipe.json](recipe.json).\n\n{told}"


def limits(card: Card) -> str:
    """What nothing has judged, what lies outside of its world, and that there is no filter and no licence."""
    recipe, size = card.recipe, card.recipe.scale.size
    lines = [f"- It was trained at {size} x {size} pixels; the pipeline draws other sizes, which nothing has judged."]
    if recipe.data == "scenes":
        lines.append(
            f"- Its whole world is the bench's rendered scenes (level `{recipe.scale.level}`) and the words of their captions; "
            "what other prompts give means nothing."
        )
    lines.append("- Nothing filters prompts or images. No licence is set: whoever publishes this folder adds `license` to the header.")
    return "## Limitations\n\n" + "\n".join(lines)


def made(card: Card) -> str:
    """The machine and code of the run, and the libraries this folder was written with."""
    written = ", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "safetensors"))
    if card.record is None:
        return f"## Origin\n\nThe machine and code of the run are recorded when it ends. The folder was written with {written}."
    env = card.record.env
    git = env.get("git") or {}
    code = (
        f"commit `{git['commit']}`{' with uncommitted changes' if git.get('dirty') else ''}" if git.get("commit") else "an unknown commit"
    )
    packages = ", ".join(f"{name} {number}" for name, number in env.get("packages", {}).items())
    machine = f"{env.get('device_name', 'an unknown device')} ({env.get('platform', 'unknown platform')}, {env.get('cores', '?')} cores)"
    run = f"Trained on {machine} by {code}, with Python {env.get('python', '?')}: {packages}."
    return f"## Origin\n\n{run} The folder was written with {written}."
