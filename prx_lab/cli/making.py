"""Commands that make networks and records: run, grid, encode, pretrain, sweep, fidelity, influences."""

from pathlib import Path
from typing import Annotated

import typer

from prx_lab.cli.options import Data, Name, Root, ScaleOption, Seed, Sets, app, resolve

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, whose weights must still be there.")]


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
    if world().main and ((place := run_folder(root, chosen, seed)) / "eval.json").exists():
        typer.echo(f"This run is on record already; delete {place}, or choose another --root, to train it again.")
    folder = experiment.run(chosen, seed, root, Budget(accumulate, checkpointing))
    if world().main:
        typer.echo(f"{summary(Record.load(folder))}\nRecorded in {folder}")
    world().leave()


def summary(record) -> str:
    """The numbers of one run in a line each, with the interval of each over images."""
    from prx_lab.report.columns import METRICS, columns

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
            help="Recipes, or the groups post, speedrun, many-tokens, routes, horizon, short, sensitivity and all; all when none is named.",
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
def sweep(runs: Runs) -> None:
    """Judge recorded runs again under other scales of guidance, and keep what they score there.

    Example: `prx-lab sweep results/cpu/baseline-56142243/seed0`
    """
    from prx_lab.report import sweep as swept

    for folder in runs:
        told = swept.keep(folder)
        typer.echo(f"{told['run']} " + " ".join(f"{row['scale']:g}: {row['fid']:.2f}" for row in told["rows"]))


@app.command()
def fidelity(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run with its weights.")]) -> None:
    """Judge a recorded run on more and more of its images, and keep what their number and their noise do to each distance.

    Example: `prx-lab fidelity results/cpu/baseline-56142243/seed0`
    """
    from prx_lab.report import fidelity as study

    typer.echo(f"Wrote {study.keep(run)}")


@app.command()
def influences(runs: Runs) -> None:
    """Draw the images of recorded runs again, and keep by how much each moves each score: the luck of images in a difference.

    Example: `prx-lab influences results/cpu/baseline-56142243/seed0`
    """
    from prx_lab.influences import keep

    for folder in runs:
        typer.echo(f"Wrote {keep(folder)}")
