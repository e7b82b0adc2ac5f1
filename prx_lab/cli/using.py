"""Commands that use a trained network: sample, export."""

import itertools
from pathlib import Path
from typing import Annotated

import typer

from prx_lab.cli.options import Data, Root, ScaleOption, Sets, app, is_folder, recorded, resolve
from prx_lab.errors import LabError
from prx_lab.report.layout import counted


@app.command()
def sample(
    name: Annotated[str, typer.Argument(metavar="WHAT", help="A recorded recipe, a published variant, or a folder of a run or pipeline.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw, one image each.")],
    sets: Sets,
    scale: ScaleOption = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise that becomes the images.")] = 0,
    trained: Annotated[int, typer.Option("--trained", min=0, help="Seed of the recorded run whose weights draw.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Sampler steps; 0: as the recipe is evaluated.")] = 0,
    guidance: Annotated[float, typer.Option("--guidance", help="Guidance scale; below 0: the recipe's own.")] = -1.0,
    size: Annotated[str, typer.Option("--size", metavar="HxW", help="Height and width in pixels, such as 384x672.")] = "",
    cleaning: Annotated[str, typer.Option("--cleaning", help="What is done to prompts: none, light or full; by default as usual.")] = "",
    out: Annotated[str, typer.Option("--out", help="The PNG to write; by default samples.png, or the first free samples-2.png, ...")] = "",
    data: Data = "",
    root: Root = Path("results"),
) -> None:
    """Draw prompts with a recorded run, a published variant or a pipeline folder, and write them as one PNG.

    A variant and a folder bring their own settings; a variant is downloaded once.

    Example: `prx-lab sample repa "a red cube left of a blue sphere" --scale cpu --out cube.png`
    """
    from prx_lab import buckets
    from prx_lab.images import Samples
    from prx_lab.sample import from_run
    from prx_lab.variants import opened

    if is_ours(name):
        made = from_run(recorded(name, scale, resolve(name, scale, data, sets), trained, root))
    elif scale or data or sets:
        raise LabError(f"'{name}' has its own settings; --scale, --data and --set belong to recipes, leave them out.")
    else:
        made = opened(name)
    if cleaning:
        made.encoder = made.encoder.reading(made.recipe.set("cleaning", cleaning).cleaning, made.recipe.text_tokens)
    guide = made.recipe.guidance if guidance < 0 else made.recipe.set("guidance.scale", str(guidance)).guidance
    images = buckets.draw(made, prompts, *sides(size), seed, steps, guide) if size else made(prompts, seed, steps, guide)
    place = Samples(images, prompts).save(out or free(Path("samples.png")))
    typer.echo(f"Wrote {place}: {counted(len(prompts), 'image')}.")


def free(path: Path) -> Path:
    """The path, or where something is there the first of path-2, path-3, ... where nothing is."""
    numbered = (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not one.exists())


def is_ours(name: str) -> bool:
    """Whether a name means a recipe, rather than a folder or a published variant."""
    from prx_lab.recipes import PUBLISHED, RECIPES

    return name in RECIPES | PUBLISHED or not (name.startswith("prx-") or is_folder(name))


def sides(text: str) -> tuple[int, int]:
    """Height and width from text such as 384x672; LabError for any other."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise LabError(f"--size takes height and width in pixels, such as 384x672, not '{text}'.")
    return int(height), int(width)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the name of a recipe with the options of its run.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make; it must not exist.")],
    sets: Sets,
    scale: ScaleOption = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the recorded run.")] = 0,
    data: Data = "",
    root: Root = Path("results"),
) -> None:
    """Write a recorded run as a diffusers pipeline with a model card; loading it needs diffusers and nothing from here.

    Example: `prx-lab export results/cpu/repa-c849a3a4/seed0 my-model`
    """
    from prx_lab import export as out
    from prx_lab.recipes import PUBLISHED, RECIPES

    if run not in RECIPES | PUBLISHED and is_folder(run):
        found = Path(run)
    else:
        found = recorded(run, scale, resolve(run, scale, data, sets), seed, root)
    typer.echo(f"Wrote {out.export(found, folder)}; its README.md says how to sample from it.")
