"""The command line: one module for each group of commands, whose heavy imports stay inside them."""

import os
import sys
import time
import traceback
from typing import Annotated

import typer

from prx_lab.cli import making, telling, using  # noqa: F401  (their commands register themselves)
from prx_lab.cli.options import app
from prx_lab.errors import LabError
from prx_lab.progress import speaks

PATIENCE = 30  # seconds that a process which does not speak leaves its launcher to end it, on a busy machine too


@app.callback()
def options(ctx: typer.Context, debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """What stands before every command; LabError where `accelerate launch` starts another one than `run`."""
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1" and ctx.invoked_subcommand != "run":
        raise LabError(f"`accelerate launch` is for `run`; start `prx-lab {ctx.invoked_subcommand}` by itself.")


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
