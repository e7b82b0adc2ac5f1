"""The command line: run, grid, table, sample, export, encode, pretrain, variants, recipes, cost, doctor; heavy imports stay in them."""

import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from prx_lab.errors import LabError
from prx_lab.progress import speaks

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

PATIENCE = 30  # seconds that a process which does not speak leaves its launcher to end it, on a busy machine too
HELP = "A laboratory bench for text-to-image training: train a recipe, compare it with the baseline, sample from it."


class Commands(TyperGroup):
    """Leaves a command that was interrupted with a sentence and the shell's exit code for it."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            if speaks():
                typer.echo(str(stop) or "Interrupted.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands, help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)  # fmt: skip

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A name from `prx-lab recipes`.")]
ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale", help="smoke (seconds), cpu (minutes), cpu-short, cpu-long, cpu-256, cpu-1024 or gpu; by default the recipe's own."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of weights, data order and noise.")]
Root = Annotated[Path, typer.Option("--root", help="Folder of the recorded runs.")]
Data = Annotated[
    str,
    typer.Option("--data", help="Folder, Parquet file or hub name in place of the embedded scenes; #COLUMN behind it names the captions'."),
]
Sets = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change a field, e.g. scale.steps=500; repeatable.", default_factory=list, show_default=False
    ),
]


@app.callback()
def options(ctx: typer.Context, debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1" and ctx.invoked_subcommand != "run":
        raise LabError(f"`accelerate launch` is for `run`; start `prx-lab {ctx.invoked_subcommand}` by itself.")


def resolve(name: str, scale: str, data: str, sets: list[str]):
    """The recipe that the options describe. Raises LabError for an unknown name, scale or field."""
    from prx_lab.recipes import recipe

    chosen = recipe(name, scale)
    if data:
        chosen = chosen.but(data=data)
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise LabError(f"--set takes field=value, such as scale.steps=500, not '{text}'.")
        chosen = chosen.set(path.strip(), value.strip())
    return chosen


@app.command()
def run(
    name: Name,
    sets: Sets,
    scale: ScaleOption = "",
    seed: Seed = 0,
    data: Data = "",
    root: Root = Path("results"),
    accumulate: Annotated[int, typer.Option("--accumulate", min=1, help="Micro-batches of each process: less memory, same step.")] = 1,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Run blocks again in the backward pass: less memory.")] = False,
) -> None:
    """Train and evaluate a recipe, and record it; an interrupted run goes on where it stopped.

    `accelerate launch -m prx_lab run ...` shares the same batches and images out over several devices, with DDP or FSDP2.

    Example: `prx-lab run repa --scale cpu --seed 1 --set scale.steps=500`
    """
    from prx_lab import run as experiment
    from prx_lab.parallel import Budget, world
    from prx_lab.record import Record, run_folder

    chosen = resolve(name, scale, data, sets)
    if world().main and (run_folder(root, chosen, seed) / "eval.json").exists():
        typer.echo("This run is on record already; delete its folder to repeat it.")
    folder = experiment.run(chosen, seed, root, Budget(accumulate, checkpointing))
    if world().main:
        typer.echo(f"{summary(Record.load(folder))}\nRecorded in {folder}")


def summary(record) -> str:
    """The numbers of one run in a line each, with the interval of each over images."""
    from prx_lab.columns import METRICS, columns

    lines = []
    for metric in columns([m for m in METRICS if record.metric(m) == record.metric(m)], [record]):
        found = record.eval["metrics"].get(metric.name)
        interval = ""
        if isinstance(found, dict) and found.get("lo") is not None and found.get("hi") is not None:
            interval = f"  [{metric.show(found['lo'])}, {metric.show(found['hi'])}] over {found.get('n', record.eval.get('n'))} images"
        lines.append(f"  {metric.head:<18}{metric.show(record.metric(metric.name)):>9}{interval}")
    return "\n".join([f"{record.name} at {record.scale} scale, seed {record.seed}, n = 1 run", *lines])


@app.command()
def grid(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[RECIPE or GROUP]...",
            help="Recipes, or the groups post, speedrun, many-tokens, sensitivity and all; all when none is named.",
            default_factory=list,
            show_default=False,
        ),
    ],
    sets: Sets,
    scale: ScaleOption = "cpu",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of each recipe, from 0 on; sensitivity rows have at most two.")] = 3,
    plan: Annotated[bool, typer.Option("--plan", help="Only tell what is recorded, what is missing and how long it will take.")] = False,
    data: Data = "",
    root: Root = Path("results"),
) -> None:
    """Record every run of a grid that is not recorded, one after the other; a grid that was interrupted goes on where it stopped.

    Recipes that differ only in sampling or evaluation are trained once per seed. Start it twice for two at a time: a run that another
    process is at work on is told of at the end.

    Example: `prx-lab grid post --scale cpu --seeds 3 --plan`
    """
    from prx_lab import grid as runs

    wanted = runs.jobs(runs.rows(names, seeds), lambda name: resolve(name, scale, data, sets))
    if plan:
        from prx_lab.budget import plan as planned

        typer.echo(repr(planned(wanted, root)))
        return
    failed = runs.run(wanted, root, runs.in_a_process)
    for job, said in failed:
        typer.echo(f"{job.name}, seed {job.seed}: {said}", err=True)
    recorded = sum(job.recorded(root) is not None for job in wanted)
    if failed or recorded < len(wanted):
        typer.echo(f"{recorded} of {len(wanted)} runs are recorded in {root}. Run the same command to go on.", err=True)
        raise typer.Exit(2)
    typer.echo(f"All {len(wanted)} runs are recorded in {root}.")


@app.command()
def table(
    scale: ScaleOption = "cpu",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print GitHub's Markdown.")] = False,
    baseline: Annotated[str, typer.Option("--baseline", help="The recipe that the others are compared with.")] = "baseline",
    root: Root = Path("results"),
) -> None:
    """Print the scoreboard of a scale: n, mean, sd and paired difference to the baseline, beside the published rows.

    Example: `prx-lab table --scale cpu --markdown`
    """
    from prx_lab.table import Table

    found = Table.of(scale, baseline=baseline, root=root)
    typer.echo(found.markdown() if markdown else repr(found))


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
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("samples.png"),
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
    typer.echo(f"Wrote {Samples(images, prompts).save(out)}: {len(prompts)} images.")


def is_ours(name: str) -> bool:
    """Whether a name means a recipe, rather than a folder or a published variant."""
    from prx_lab.recipes import PUBLISHED, RECIPES

    return name in RECIPES | PUBLISHED or not (name.startswith("prx-") or is_folder(name))


def is_folder(name: str) -> bool:
    """Whether a name is a path, whether or not something is there."""
    return os.sep in name or Path(name).is_dir()


def sides(text: str) -> tuple[int, int]:
    """Height and width from text such as 384x672."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise LabError(f"--size takes height and width in pixels, such as 384x672, not '{text}'.")
    return int(height), int(width)


def recorded(name: str, scale: str, chosen: "Recipe", seed: int, root: Path) -> Path:
    """The folder of the run of a recipe that `name` and `scale` describe. Raises LabError where there is none."""
    from prx_lab.record import run_folder

    folder = run_folder(root, chosen, seed)
    if not folder.is_dir():
        command = f"prx-lab run {name}{f' --scale {scale}' if scale else ''} --seed {seed}"
        raise LabError(f"There is no run of this recipe with seed {seed} in {root}: train it with `{command}` and the same options.")
    return folder


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


@app.command()
def encode(
    name: Name,
    sets: Sets,
    scale: ScaleOption = "",
    data: Data = "",
    out: Annotated[str, typer.Option("--out", help="Folder to write to; by default one in the cache.")] = "",
) -> None:
    """Pass a data set once through a recipe's frozen networks and keep what they make of it; an interrupted one goes on.

    Example: `prx-lab encode prx-1.2b --data owner/name --out encoded`
    """
    from prx_lab.data import encode as encoding
    from prx_lab.run import pick_device

    chosen = resolve(name, scale, data, sets)
    folder = Path(out).expanduser() if out else encoding.default_folder(chosen)
    done = encoding.encode(chosen, folder, pick_device(), typer.echo)
    same = ", with the same --set options" if sets else ""
    typer.echo(f"{done}\nTrain on it: `prx-lab run {name}{f' --scale {scale}' if scale else ''} --data {done.folder}`{same}")


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An embedded network, such as lab-vae.")],
    effort: Annotated[float, typer.Option("--effort", help="Length of training; 1 is what ships.")] = 1.0,
    seed: Seed = 0,
    out: Annotated[str, typer.Option("--out", help="Folder to write to; the package's own weights by default.")] = "",
) -> None:
    """Train one of the small frozen networks again from the embedded scenes.

    Example: `prx-lab pretrain lab-vae --effort 0.1 --out trial`
    """
    from prx_lab import zoo
    from prx_lab.pretrain import pretrain as train

    typer.echo(f"Wrote {train(name, effort, seed, Path(out) if out else zoo.WEIGHTS)}")


@app.command()
def variants() -> None:
    """List the published variants of PRX with their suggested settings.

    Example: `prx-lab variants`
    """
    from prx_lab.variants import table as listed

    typer.echo(repr(listed()))


@app.command()
def recipes() -> None:
    """List every recipe with the fields in which it differs from the baseline.

    Example: `prx-lab recipes`
    """
    from prx_lab.recipes import BASE, PUBLISHED, RECIPES

    for name, recipe in (RECIPES | PUBLISHED).items():
        typer.echo(name)
        for path, (old, new) in BASE.diff(recipe).items():
            typer.echo(f"    {path} = {new}" + ("" if old is None else f"  (baseline: {old})"))


@app.command()
def cost(
    name: Name,
    sets: Sets,
    scale: ScaleOption = "",
    batch: Annotated[int, typer.Option("--batch", min=0, help="Images on one device at a time; 0: the recipe's batch.")] = 0,
) -> None:
    """Print what a recipe costs, computed from its shapes: parameters, operations, and bytes of a step.

    Example: `prx-lab cost prx-1.2b --batch 32`
    """
    from rich.console import Console

    from prx_lab.cost import table as priced

    Console().print(priced(resolve(name, scale, "", sets), batch=batch))


@app.command()
def doctor(
    network: Annotated[bool, typer.Option("--network/--no-network", help="Ask whether real networks can be downloaded.")] = True,
) -> None:
    """Tell what this machine has: versions, devices, allocator, compiler, and which networks can be loaded.

    Example: `prx-lab doctor --no-network`
    """
    from prx_lab import doctor as check

    for line in check.report(network):
        typer.echo(line)


def call(words: list[str]) -> int:
    """Run a command line; every error is one sentence on stderr. Returns the exit code.

    `--debug` is accepted anywhere on the line and adds the traceback.
    """
    debug = "--debug" in words
    try:
        app(args=[word for word in words if word != "--debug"], prog_name="prx-lab")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except Exception as error:
        if not speaks():
            time.sleep(PATIENCE)  # an error of all processes is told by the first; the launcher then ends this one
        if debug:
            traceback.print_exc()
        told = isinstance(error, LabError)
        typer.echo(str(error) if told else f"Unexpected {type(error).__name__}: {error} (`prx-lab --debug ...` shows where)", err=True)
        return 2 if told else 1
    return 0


def main() -> None:
    """The `prx-lab` command."""
    sys.exit(call(sys.argv[1:]))


if __name__ == "__main__":
    main()
