"""Commands that tell something: table, recipes, variants, cost, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from prx_lab.cli.options import Name, Root, ScaleOption, Sets, app, resolve


@app.command()
def table(
    names: Annotated[
        list[str],
        typer.Argument(metavar="[RECIPE]...", help="Rows; by default all that is recorded.", default_factory=list, show_default=False),
    ],
    scale: ScaleOption = "cpu",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print GitHub's Markdown.")] = False,
    baseline: Annotated[str, typer.Option("--baseline", help="The recipe that the others are compared with.")] = "baseline",
    root: Root = Path("results"),
) -> None:
    """Print the scoreboard of a scale: n, mean, sd and paired difference to the baseline, beside the published rows.

    Example: `prx-lab table repa irepa --scale cpu --markdown`
    """
    from prx_lab.report.table import Table

    found = Table.of(scale, names, baseline, root=root)
    typer.echo(found.markdown() if markdown else repr(found))


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
def variants() -> None:
    """List the published variants of PRX with their suggested settings.

    Example: `prx-lab variants`
    """
    from prx_lab.variants import table as listed

    typer.echo(repr(listed()))


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
