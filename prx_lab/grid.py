"""A grid of recipes and seeds: what of it is recorded, what the rest will take, and its runs, one process each.

Seed by seed, so that a grid that is stopped early has every row with few seeds and not a few rows with all of them: an
effect that is large shows after the first pass, and each further pass narrows every interval. Within a seed the baseline
comes first, as every difference needs it, and then the order of the recipes' table, in which a recipe that only samples or
judges differently follows the one whose weights it can share.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from prx_lab import progress
from prx_lab.errors import LabError, nearest
from prx_lab.process import interruptible
from prx_lab.recipes import GROUPS, PUBLISHED, RECIPES
from prx_lab.record import ERROR, Record, run_folder, write_text

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

ALL = "all"
PARENT_DIED = 1  # PR_SET_PDEATHSIG
UNEXPECTED = 1  # exit code, as Python's own for an error that nothing catches


@dataclass(frozen=True)
class Job:
    """One run: a recipe under its name, and a seed."""

    name: str
    recipe: "Recipe"
    seed: int

    def recorded(self, root: str | Path) -> Record | None:
        """Its finished record; None where it is missing, half written or damaged."""
        from prx_lab.run import finished

        folder = run_folder(root, self.recipe, self.seed)
        try:
            return Record.load(folder) if finished(folder) else None
        except LabError:
            return None


def rows(names: Sequence[str], seeds: int) -> dict[str, int]:
    """{recipe: seeds} for names of recipes and groups, none meaning all of them, in the order in which they run.

    A group may have fewer seeds than `seeds`; a recipe that is named itself has that number.
    """
    found: dict[str, int] = {}
    for name in names or [ALL]:
        found |= {one: max(n, found.get(one, 0)) for one, n in members(name, seeds).items()}
    order = [*RECIPES, *PUBLISHED]
    return {name: found[name] for name in sorted(found, key=order.index)}


def members(name: str, seeds: int) -> dict[str, int]:
    """{recipe: seeds} of one name: a recipe, a group, or all groups. LabError for a name that is none of them."""
    if name == ALL:
        parts = [members(group, seeds) for group in GROUPS]
        return {one: max(part.get(one, 0) for part in parts) for part in parts for one in part}
    if name in GROUPS:
        return dict.fromkeys(GROUPS[name].names, min(seeds, GROUPS[name].seeds))
    known = [*GROUPS, ALL, *RECIPES, *PUBLISHED]
    if name not in known:
        raise LabError(f"There is no recipe or group '{name}'.{nearest(name, known)} The groups are {', '.join([*GROUPS, ALL])}.")
    return {name: seeds}


def jobs(counts: Mapping[str, int], make: Callable[[str], "Recipe"]) -> list[Job]:
    """The runs of a grid in order, seed by seed; `make` gives the recipe of a name."""
    made = {name: make(name) for name in counts}
    return [Job(name, made[name], seed) for seed in range(max(counts.values())) for name, n in counts.items() if seed < n]


# ------------------------------------------------------------------------------------------------ running
def run(wanted: Iterable[Job], root: str | Path, do: Callable[[Job, str | Path, Event], str]) -> list[tuple[Job, str]]:
    """Run the jobs that are not recorded with `do`, which says what went wrong in a sentence; returns (job, sentence) of those.

    Ctrl-C and SIGTERM stop the run at work after its step, with a checkpoint, and raise KeyboardInterrupt.
    """
    wanted, failed = list(wanted), []
    left = [job for job in wanted if not job.recorded(root)]
    with interruptible() as stop, progress.bar(total=len(wanted), initial=len(wanted) - len(left), unit="run") as bar:
        for job in left:
            if job.recorded(root):  # by another process, since
                bar.update()
                continue
            bar.set_postfix_str(f"{job.name}, seed {job.seed}")
            said = do(job, root, stop)
            if stop.is_set():
                recorded = sum(job.recorded(root) is not None for job in wanted)
                raise KeyboardInterrupt(f"Stopped; {recorded} of {len(wanted)} runs are recorded. Run the same command to go on.")
            if said:
                failed.append((job, said))
            bar.update()
    return failed


def in_a_process(job: Job, root: str | Path, stop: Event) -> str:
    """Do a job in a process of its own: its memory, its compiled code and its end touch no other run.

    Returns the sentence of its error, or an empty string. When `stop` is set the process is asked to end with a checkpoint.
    """
    command = [sys.executable, "-m", "prx_lab.grid", str(root), str(job.seed), str(os.getpid())]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as asked, tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        json.dump(job.recipe.to_json(), asked)
        asked.seek(0)
        # a session of its own: Ctrl-C reaches this process, which asks once; a second signal would end the step at once
        process = subprocess.Popen(command, stdin=asked, stdout=told, stderr=told, start_new_session=True)
        try:
            watch(process, job, root, stop)
            if process.poll() is None:
                process.terminate()
            code = process.wait()
        finally:
            process.kill()
        told.seek(0)
        text = told.read()
    return ended(code, text, run_folder(root, job.recipe, job.seed) / ERROR)


def watch(process: subprocess.Popen, job: Job, root: str | Path, stop: Event) -> None:
    """Show the step, loss and images/s of a job, as its log tells them, until its process has ended or `stop` is set."""
    log = run_folder(root, job.recipe, job.seed) / "train.jsonl"
    seen, steps = newest(log), job.recipe.scale.steps  # what is there already is of an earlier attempt
    with ExitStack() as held:
        bar = None
        while process.poll() is None and not stop.wait(0.1):
            row = newest(log)
            if row and row != seen:
                done = int(row["step"]) + 1
                bar = bar or held.enter_context(progress.bar(total=steps, initial=done, desc=job.name, unit="step", leave=False))
                bar.set_postfix(loss=f"{row['loss']:.3f}", images=f"{row['images_per_s']:.0f}/s", refresh=False)
                bar.update(done - bar.n)
                seen = row


def newest(log: Path) -> dict[str, float]:
    """Step, loss and images/s of the last whole row of a log; empty where there is none, and for a damaged one, which its run tells."""
    try:
        row = json.loads(log.read_bytes().split(b"\n")[-2])
        return {name: float(row[name]) for name in ("step", "loss", "images_per_s")}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def ended(code: int, text: str, trace: Path) -> str:
    """What to say of a process that ended with `code` after it told `text`: nothing where all went well.

    Of an unexpected error the whole text is kept in the file `trace`, which a later success removes.
    """
    trace.unlink(missing_ok=True)  # of an earlier attempt
    if code == 0:
        return ""
    if code < 0:
        advice = "free some memory and run" if -code == signal.SIGKILL else "run"  # SIGKILL is what the system sends when memory ends
        return f"Its process was ended by signal {-code}; {advice} again."
    said = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    if code != UNEXPECTED:
        return said
    try:
        write_text(trace, text)
    except LabError:  # the other runs go on also where the disk is full
        return said
    return f"{said.rstrip('.')}; what its process told is in {trace}."


def one(job: "Recipe", seed: int, root: str | Path) -> Path:
    """Record one run: from the weights of a run that trained alike where there is one, else by training; returns its folder."""
    from prx_lab import checkpoint, siblings
    from prx_lab.run import run as train

    folder = run_folder(root, job, seed)
    begun = bool(checkpoint.steps(folder / "checkpoint"))
    sibling = None if begun else siblings.sibling_of(job, seed, root)
    made = siblings.evaluated(job, seed, root, sibling) if sibling and sibling != folder else train(job, seed, root)
    Record.load(made)  # a record that was there already may be damaged
    return made


def end_with(parent: int) -> None:
    """Ask the system for SIGTERM when the process that started this one is gone, however it ended (Linux)."""
    try:
        ctypes.CDLL("libc.so.6").prctl(PARENT_DIED, signal.SIGTERM)
    except OSError:
        return  # elsewhere the run goes on, alone, and records itself
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # it died before it was asked


def main(words: Sequence[str]) -> int:
    """What the process of a job does; its last line on stderr says what went wrong."""
    from prx_lab.recipe import Recipe

    root, seed, parent = words
    end_with(int(parent))
    try:
        one(Recipe.from_json(json.load(sys.stdin)), int(seed), root)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        traceback.print_exc()
        print(f"Unexpected {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return UNEXPECTED
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
