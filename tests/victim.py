"""Runs to be killed: a server that loads the package and its networks once and forks a child for every attempt.

A line of JSON on stdin is one attempt, a line of JSON on stdout tells how it ended:
    {"job": "fit" | "run" | "cache", "root": ..., "at": k, "after": s, "how": "kill" | "stop", ...}
`at` k > 0 sends the child SIGKILL (SIGSTOP for "stop") at its k-th change of the file system; `after` s > 0 kills it
after so many seconds. The library has no hook for this: Python itself reports every change to an audit hook.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import numpy as np
import torch

from prx_lab import run as experiment
from prx_lab.data import store as data
from prx_lab.errors import LabError
from prx_lab.optim import EMA
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD
from prx_lab.scales import Scale
from prx_lab.terms import REPA
from prx_lab.train import Training
from tests.tiny import CPU, store

SCALE = Scale("smoke", 32, "simple", 32, 4, 48, 3, 3, 12, 8, 2e-3, 8, 2, 3)
EVERY = 2  # steps between checkpoints
CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod")


def recipe(name: str = "") -> Recipe:
    """A named recipe at a size of seconds or, without a name, one with a teacher, a router, an average and a second phase."""
    if name:
        return RECIPES[name].but(scale=SCALE)
    first = BASE.but(scale=SCALE, router=TREAD(), ema=EMA(0.9)).plus(REPA())
    return first.then(0.4, first.but(router=BASE.router))


def fit(request: dict) -> str:
    """Train and log, without evaluating, on random data."""
    folder, whole = Path(request["root"]), recipe()
    experiment.GRACE = request.get("patience", experiment.GRACE)
    with experiment.alone(folder):
        training = Training(whole, [store(part) for _, part in whole.plan], request.get("seed", 0), CPU)
        experiment.resume(training, folder)
        experiment.log_steps(training, whole.scale.steps, folder)
    return ""


def run(request: dict) -> str:
    """Real experiments, end to end: every named recipe with every seed, or the one with everything."""
    for name in request.get("names", [""]):
        for seed in request.get("seeds", [0]):
            experiment.run(recipe(name), seed, request["root"])
    return ""


def cache(request: dict) -> str:
    """One array in the data cache."""
    os.environ["PRX_LAB_CACHE"] = request["root"]

    def parts() -> Iterator[dict[str, np.ndarray]]:
        for i in range(4):
            if i == request.get("pause"):
                os.kill(os.getpid(), signal.SIGSTOP)
            yield {"a": np.full(5, i)}

    return str(int(data.cached("numbers", [request["key"]], 20, parts)["a"].sum()))


def armed(request: dict) -> Callable[[], int]:
    """Let the child end itself at its chosen change; returns how many changes it has made so far."""
    seen, root = 0, request["root"]

    def on(event: str, args: tuple) -> None:
        nonlocal seen
        if event not in CHANGES or (event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        inside = event == "os.remove" and args[1] != -1  # rmtree removes by a folder's handle
        if inside or (isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(root)):
            seen += 1
            if seen == request.get("at", 0):
                if event == "open" and args[2] & os.O_TRUNC:
                    os.close(os.open(args[0], args[2]))  # the worst moment: emptied, and not yet written
                os.kill(os.getpid(), signal.SIGSTOP if request.get("how") == "stop" else signal.SIGKILL)

    sys.addaudithook(on)
    return lambda: seen


def work(request: dict, answer: int) -> NoReturn:
    """What a child does: arm, work, tell."""
    if "limit" in request:  # bytes a file may have: the nearest thing to a full disk that needs no rights
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    changes = armed(request)
    try:
        said, ok = {"fit": fit, "run": run, "cache": cache}[request["job"]](request), True
    except LabError as error:
        said, ok = str(error), False
    except BaseException:
        said, ok = traceback.format_exc(), False
    os.write(answer, json.dumps({"said": said, "ok": ok, "changes": changes()}).encode())
    os._exit(0)


def wait(pid: int, answer: int) -> dict:
    """How a child ends, or that it stopped."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return {"stopped": True}
    found = os.read(answer, 1 << 16)
    os.close(answer)
    return {"killed": True} if os.WIFSIGNALED(status) else json.loads(found)


def serve() -> None:
    """Fork a child for every line; a stopped one waits for {"job": "continue"} or {"job": "kill"}."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a run prints is not an answer
    held: tuple[int, int] = (0, 0)
    for line in sys.stdin:
        request = json.loads(line)
        if request["job"] in ("continue", "kill"):
            (pid, reads), held = held, (0, 0)
            os.kill(pid, signal.SIGCONT if request["job"] == "continue" else signal.SIGKILL)
        else:
            reads, writes = os.pipe()
            pid = os.fork()
            if not pid:
                work(request, writes)
            os.close(writes)
            if request.get("after"):
                time.sleep(request["after"])
                os.kill(pid, signal.SIGKILL)
        found = wait(pid, reads)
        held = (pid, reads) if "stopped" in found else held
        out.write(json.dumps(found) + "\n")
        out.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    Training.fit.__defaults__ = (None, EVERY)
    with TemporaryDirectory() as warm:  # what every child would load again
        fit({"root": warm + "/fit"})
        run({"root": warm, "names": ["repa"]})
    serve()
