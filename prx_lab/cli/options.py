"""What the commands share: the app, the options of recipes, and the recipe that they describe."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from prx_lab.errors import LabError
from prx_lab.progress import speaks
from prx_lab.scales import SCALES

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

HELP = "A laboratory bench for text-to-image training: train a recipe, compare it with the baseline, sample from it."


class Commands(TyperGroup):
    """Leaves a command that was interrupted with a sentence and the shell's exit code for it."""

    def invoke(self, ctx: typer.Context) -> object:
        """Run the command that was asked for; an interrupted one ends with exit code 130."""
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
    typer.Option("--scale", help=f"One of {', '.join(SCALES)}: smoke takes seconds, cpu minutes. By default the recipe's own."),
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


def resolve(name: str, scale: str, data: str, sets: list[str]) -> "Recipe":
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


def recorded(name: str, scale: str, chosen: "Recipe", seed: int, root: Path) -> Path:
    """The folder of the run of a recipe that `name` and `scale` describe. Raises LabError where there is none."""
    from prx_lab.record import run_folder

    folder = run_folder(root, chosen, seed)
    if not folder.is_dir():
        command = f"prx-lab run {name}{f' --scale {scale}' if scale else ''} --seed {seed}"
        raise LabError(f"There is no run of this recipe with seed {seed} in {root}: train it with `{command}` and the same options.")
    return folder


def is_folder(name: str) -> bool:
    """Whether a name is a path, whether or not something is there."""
    return os.sep in name or Path(name).is_dir()
