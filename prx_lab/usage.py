"""How to sample from an exported pipeline as the bench samples: calls that run as they stand, and what the pipeline does otherwise."""

import json

from prx_lab.autoencoders import Pixels
from prx_lab.recipe import Recipe
from prx_lab.sample import CFG, Sampler
from prx_lab.steps.distill import Distil, ProgressiveDistillation
from prx_lab.terms.contrastive import Corrected

BINS = {"PRXPipeline": (256, 512, 1024), "PRXPixelPipeline": (1024,)}  # sizes for which each has resolution bins
PROMPT = "a red cube"  # where no caption is on record
GRID = """pipe.scheduler.set_shift(1.0)  # times that are given are then used as they are
steps, shift = {steps}, {shift}
t = torch.linspace(1, 0, steps + 1)[:-1]
t = shift * t / (1 + (shift - 1) * t)
"""


def usage(name: str, sampler: Sampler, prompt: str = PROMPT) -> str:
    """The card's part on sampling from the folder `name`: the plain call, the one on the bench's own grid of times, and notes."""
    recipe, kind = sampler.recipe, kind_of(sampler)
    scale, told = guide(recipe)
    load = f"import torch\nfrom diffusers import {kind}\n\npipe = {kind}.from_pretrained({json.dumps(name)})  # this folder\n"
    load += f"prompt = {json.dumps(prompt, ensure_ascii=False)}\n"
    plain = call(sampler, scale, f"num_inference_steps={recipe.eval_steps}")
    own = GRID.format(steps=recipe.eval_steps, shift=recipe.shift) + call(sampler, scale, "timesteps=(1000 * t).tolist()")
    notes = "\n".join(f"- {note}" for note in [*told, *reading(sampler), *pitfalls(sampler)])
    if isinstance(recipe.rule, ProgressiveDistillation):
        first = f"This network was distilled to {recipe.eval_steps} steps at exactly these times:"
        return f"## Sampling\n\n{first}\n\n{block(load + own)}\n\n{notes}"
    second = (
        f"The scheduler's own times are not those of the bench: the last of its {recipe.eval_steps} steps starts nearer to the data. "
        "The bench samples at these:"
    )
    return f"## Sampling\n\n{block(load + plain)}\n\n{second}\n\n{block(own)}\n\n{notes}"


def kind_of(sampler: Sampler) -> str:
    """The name of the pipeline's class."""
    return "PRXPixelPipeline" if isinstance(sampler.space, Pixels) else "PRXPipeline"


def block(code: str) -> str:
    """Python code as a fenced block of Markdown."""
    return f"```python\n{code}\n```"


def call(sampler: Sampler, scale: float, steps: str) -> str:
    """A call of the pipeline with the run's own settings."""
    recipe, kind = sampler.recipe, kind_of(sampler)
    size = recipe.scale.size
    options = [f"height={size}", f"width={size}", steps, f"guidance_scale={float(scale)}"]
    if size not in BINS[kind]:
        options.append("use_resolution_binning=False")
    if kind == "PRXPipeline" and recipe.cleaning != "full":
        options.append("skip_text_cleaning=True")
    options.append("generator=torch.Generator().manual_seed(0)")
    lines = "".join(f"    {option},\n" for option in options)
    return f'image = pipe(\n    prompt,\n{lines}).images[0]\nimage.save("image.png")'


def guide(recipe: Recipe) -> tuple[float, list[str]]:
    """The pipeline's guidance_scale for a run, at least 1 as the pipeline wants, and how its guidance differs from the run's."""
    guidance, told = recipe.guidance, []
    if isinstance(guidance, Corrected):
        guidance = guidance.inner
        told.append(
            "The record was made with `Corrected`, which takes a bias of contrastive training out of the velocity; these calls do not."
        )
    if not isinstance(guidance, CFG):
        scale = CFG().scale if recipe.drop else 1.0  # a network that never saw the empty caption has nothing to be guided by
        name = type(guidance).__name__
        told.append(f"The record was made with `{name}`, which the pipeline does not have; these calls use a guidance_scale of {scale}.")
        return scale, told
    if isinstance(recipe.rule, Distil):
        told.append("Guidance is in the weights: keep `guidance_scale=1.0`.")
    elif guidance.scale < 1:
        told.append(f"The record was made with a guidance scale of {guidance.scale}; the pipeline takes none below 1.")
    elif guidance.scale > 1 and (guidance.low > 0 or guidance.high < 1):
        told.append(
            f"The record was made with guidance at times from {guidance.low} to {guidance.high} only (1 is noise); the pipeline guides at "
            "every step, so the same scale acts more strongly."
        )
    return max(guidance.scale, 1.0), told


def reading(sampler: Sampler) -> list[str]:
    """How the pipeline cleans prompts, and how the run cleaned its captions."""
    how = sampler.recipe.cleaning
    run = {"none": "read its captions as they are", "light": "did the same", "full": "cleaned its captions more than that"}[how]
    if kind_of(sampler) == "PRXPixelPipeline":
        more = "; clean prompts with `diffusers.pipelines.prx.pipeline_prx.TextPreprocessor().clean_text` first" if how == "full" else ""
        return [f"The pipeline mends broken encodings and HTML in prompts; the run {run}{more}."]
    if how == "full":
        return ["The pipeline cleans prompts by default, as the run cleaned its captions."]
    return [
        f"With `skip_text_cleaning=True` the pipeline mends broken encodings and HTML in prompts, and the run {run}; without it the "
        "pipeline also lowers the case and drops links, file names and long numbers."
    ]


def pitfalls(sampler: Sampler) -> list[str]:
    """What the pipelines need to run, and where they go wrong."""
    size, found = sampler.recipe.scale.size, []
    if size not in BINS[kind_of(sampler)]:
        found.append(f"`use_resolution_binning=False` is needed: the pipeline has no bins for {size} pixels.")
    found.append(f"Prompts are read up to {sampler.encoder.length} tokens. The pipeline needs the package `ftfy`.")
    found.append(
        "Draw one image per call (diffusers 0.42.1): with guidance the pipeline stops at several prompts or images, and without it "
        "`num_images_per_prompt` gives several prompts each other's masks."
    )
    if sampler.recipe.precision.compute == "bf16":
        found.append("The recorded images were computed in bfloat16; the pipeline computes in float32 unless `torch_dtype` says otherwise.")
    return found
