"""Sampling against diffusers' pipeline with the same network, text, noise, steps and guidance: `python -m benchmarks.sampling`.

The loop alone runs on encoded captions; the whole pipeline begins with prompts and ends with images.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from benchmarks.cases import diffusers_transformer, randomised, recipe, store
from benchmarks.harness import DEVICE, command, interleave
from prx_lab.data.batch import Text
from prx_lab.export import pipeline
from prx_lab.flow import noise, scores, times
from prx_lab.model import PRX
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe
from prx_lab.report.speed import Record
from prx_lab.sample import Condition, Network, Sampler, generate

STEPS, SCALE = 8, 3.0
PROMPTS = ["a small red cube left of a large blue sphere, both on a grey floor", "one green cone behind a yellow cylinder"]


def network(one: Recipe) -> PRX:
    return randomised(PRX(one.arch(16, 4, 128), one.router)).to(DEVICE).eval()


def text_of(one: Recipe, n: int) -> Text:
    return store(one.set("scale.batch", str(n))).batch(range(n)).text.to(DEVICE)


@torch.inference_mode()
def their_loop(transformer: torch.nn.Module, text: Text, x: Tensor, autocast) -> Tensor:
    """The loop of diffusers' pipeline: both halves of the guidance in one call, the text projected in every block at every step."""
    B = len(x)
    both = torch.cat([text.null.expand(B, -1, -1), text.tokens])
    mask = torch.cat([text.null_mask.expand(B, -1), text.mask])
    for t, s in zip(*(part.tolist() for part in (times(STEPS)[:-1], times(STEPS)[1:]))):
        with autocast():
            v = transformer(torch.cat([x, x]), torch.full((2 * B,), t, device=DEVICE), both, mask, return_dict=False)[0].float()
        u, c = v.chunk(2)
        x = x + (s - t) * (u + SCALE * (c - u))
    return x


def loops(one: Recipe, model: PRX, theirs: torch.nn.Module, n: int, compute: str) -> dict:
    """Both loops as functions without arguments, on n captions."""
    text, x = text_of(one, n), noise(0, list(range(n)), (16, 2 * one.scale.grid, 2 * one.scale.grid)).to(DEVICE)
    given = Condition(text, scores(0, list(range(n)), one.scale.tokens).to(DEVICE), torch.zeros_like(x[0]))
    autocast = nullcontext if compute == "fp32" else lambda: Precision(compute=compute).autocast(DEVICE)
    v, guidance = Network(model, "v", autocast), one.set("guidance.scale", str(SCALE)).guidance
    return {
        "prx_lab": lambda: generate(v, given, x, guidance, STEPS),
        "diffusers": lambda: their_loop(theirs, text, x, autocast),
    }


def loop_groups(record: Record, tokens: int, n: int, repeats: int) -> None:
    """The loop alone, in float32 and bf16, eager and compiled."""
    one = recipe(tokens)
    for compute, compiled in (("fp32", False), ("bf16", False), ("bf16", True)):
        model = network(one)
        theirs = diffusers_transformer(model.arch, model.state_dict()).to(DEVICE).eval()
        if compiled:
            for block in (*model.blocks, *theirs.blocks):
                block.compile()
        found = interleave(loops(one, model, theirs, n, compute), repeats)
        group = f"loop, {tokens} tokens x {n}, {compute}, {'compiled' if compiled else 'eager'}"
        record.compare(group, found, [("prx_lab", "diffusers", 1.3)])
        torch._dynamo.reset()


def whole(record: Record, repeats: int) -> None:
    """From prompts to images: a sampler and the pipeline made of it, each as it is used, one prompt at a time."""
    one = recipe()
    side = one.scale.size // 4
    sampler = Sampler(one, network(one), torch.zeros(16, side, side))
    plain = Sampler(one.but(precision=Precision("fp32", "fp32")), network(one), torch.zeros(16, side, side))
    pipe = pipeline(plain).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "use_resolution_binning": False, "output_type": "np"}
    size = {"height": one.scale.size, "width": one.scale.size}

    def ask(draw: Sampler) -> None:
        for prompt in PROMPTS:
            draw([prompt], steps=STEPS).cpu()

    found = interleave(
        {
            "prx_lab": lambda: ask(sampler),
            "prx_lab, fp32": lambda: ask(plain),
            "prx_lab, batched": lambda: sampler(PROMPTS, steps=STEPS).cpu(),
            "diffusers": lambda: [pipe(prompt, **size, **options) for prompt in PROMPTS],
        },
        repeats,
    )
    goals = [("prx_lab", "diffusers", 1.3), ("prx_lab, fp32", "diffusers", 1.3), ("prx_lab, batched", "diffusers", 0.0)]
    record.compare(f"whole pipeline, {one.scale.tokens} tokens, {len(PROMPTS)} prompts", found, goals)


LOOPS = {64: 16, 256: 4}  # tokens: captions at once


def measure(tokens: int, repeats: int) -> Record:
    """The loop at a number of tokens, or with 0 the whole pipeline."""
    if tokens:
        record = Record(f"sampling-{tokens}", f"Sampling against diffusers' pipeline, the loop, {tokens} tokens")
        loop_groups(record, tokens, LOOPS[tokens], repeats)
    else:
        record = Record("sampling-whole", "Sampling against diffusers' pipeline, from prompts to images")
        whole(record, repeats)
    record.facts["memory of text read once"] = {
        "MB a row, this network": 2 * 6 * 35 * 128 * 4 / 1e6,
        "MB a row, PRX 1.2 B in bf16, 256 words": 2 * 16 * 256 * 1792 * 2 / 1e6,
    }
    return record


if __name__ == "__main__":
    command(__doc__, measure, 9, (*LOOPS, 0))
