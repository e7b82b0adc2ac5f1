"""Runs that are killed: wherever SIGKILL strikes, the run that goes on ends as the one that was never interrupted."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from prx_lab.record import records
from prx_lab.report.table import Table

VARIES = {"seconds", "images_per_s", "throughput", "git"}  # the clock, and the tree that others may be at work on
HERE = Path(__file__).parent.parent
STILL = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
GRID = {"names": ["baseline", "repa"], "seeds": [0, 1]}


class Server:
    """The process that forks the runs to be killed; see `tests/victim.py`."""

    def __init__(self, cache: Path):
        env, command, pipe = STILL | {"PRX_LAB_CACHE": str(cache)}, [sys.executable, "-m", "tests.victim"], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=env, cwd=HERE)

    def __call__(self, job: str, root: Path | str = "", **more: object) -> dict:
        """One attempt; see the server for what can be asked and what is answered."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"job": job, "root": str(root)} | more) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("cache"))
    yield found
    found.process.stdin.close()
    found.process.wait()


def timeless(value: object) -> object:
    """JSON data without what the clock wrote into it."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in VARIES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, object]:
    """Every file of a run: tensors and pictures byte for byte, JSON without the clock."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, raw = str(path.relative_to(folder)), path.read_bytes()
        if path.suffix == ".json":
            found[name] = timeless(json.loads(raw))
        elif path.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in raw.splitlines()]
        else:
            found[name] = raw
    return found


def kills(server: Server, job: str, root: Path, moments: Iterable[dict], whole: dict[str, object], **more: object) -> None:
    """Kill a run at each of the moments, which a run goes on after as often as it takes, and compare what is left in the end.

    A run that gets through before its moment is compared, and the moment is spent on the next one.
    """
    run = 0
    for moment in moments:
        while "killed" not in (found := server(job, root / f"{run}", **moment, **more)):
            assert found["ok"], found["said"]
            assert contents(root / f"{run}") == whole
            run += 1
        uncounted(root / f"{run}", whole)
    found = server(job, root / f"{run}", **more)
    assert found["ok"], found["said"]
    assert contents(root / f"{run}") == whole


def uncounted(root: Path, whole: dict[str, object]) -> None:
    """A killed run counts in no table unless its record is whole."""
    found = records(root, "smoke")
    assert all(whole[f"{r.folder.relative_to(root)}/eval.json"] == timeless(r.eval) for r in found)
    if found:
        counted = {row.label: row.seeds for row in Table.of("smoke", root=root).rows if row.seeds}
        assert counted == {name: tuple(r.seed for r in found if r.name == name) for name in {r.name for r in found}}


def at_changes(n: int, changes: int, seed: int) -> list[dict]:
    """Random changes of the file system, out of as many as an uninterrupted run makes."""
    rng = random.Random(seed)
    return [{"at": rng.randint(1, changes)} for _ in range(n)]


def at_times(n: int, seconds: float, seed: int) -> list[dict]:
    """Random times of a run that takes so many seconds."""
    rng = random.Random(seed)
    return [{"after": rng.uniform(0.1, 1.0) * seconds} for _ in range(n)]


# ------------------------------------------------------------------------------------------------ training alone


@pytest.fixture(scope="module")
def fitted(server, tmp_path_factory) -> tuple[dict[str, object], int]:
    """What an uninterrupted training leaves, and how often it changes the file system."""
    root = tmp_path_factory.mktemp("whole")
    changes = server("fit", root)["changes"]
    whole = contents(root)
    assert [row["step"] for row in whole["train.jsonl"]] == list(range(12))
    tensors = load_file(root / "checkpoint" / "step-000012" / "state.safetensors")
    assert {name.split("/")[0] for name in tensors} == {"learner", "ema", "optim", "mean"}
    return whole, changes


def test_two_uninterrupted_trainings_are_equal(server, fitted, tmp_path):
    assert server("fit", tmp_path)["ok"] and contents(tmp_path) == fitted[0]


def test_another_seed_is_told_apart(server, fitted, tmp_path):
    assert server("fit", tmp_path, seed=1)["ok"] and contents(tmp_path) != fitted[0]


@pytest.mark.parametrize("n", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_changes_ends_the_same(server, fitted, tmp_path, n):
    whole, changes = fitted
    kills(server, "fit", tmp_path, at_changes(n, changes, n), whole)


@pytest.mark.parametrize("n", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_times_ends_the_same(server, fitted, tmp_path, n):
    start = time.perf_counter()
    server("fit", tmp_path / "timed")
    kills(server, "fit", tmp_path, at_times(n, time.perf_counter() - start, n), fitted[0])


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_training_killed_at_any_change_ends_the_same(server, fitted, tmp_path, every):
    """From the first file to the last: the log, each part of each checkpoint, the removal of the one before."""
    whole, changes = fitted
    for at in range(1, changes + 1, every):
        root = tmp_path / f"{at}"
        assert "killed" in server("fit", root, at=at)
        assert server("fit", root)["ok"] and contents(root) == whole


def test_a_training_killed_again_and_again_at_its_first_steps_gets_nowhere_and_loses_nothing(server, fitted, tmp_path):
    for at in (5, 5, 4, 3, 2, 1):
        assert "killed" in server("fit", tmp_path, at=at)
    assert server("fit", tmp_path)["ok"] and contents(tmp_path) == fitted[0]


# ------------------------------------------------------------------------------------------------ experiments


@pytest.fixture(scope="module")
def recorded(server, tmp_path_factory) -> tuple[dict[str, object], int, float]:
    """An uninterrupted experiment with a teacher, a router, an average and two phases: files, changes and seconds."""
    root, start = tmp_path_factory.mktemp("whole"), time.perf_counter()
    changes = server("run", root)["changes"]
    (found,) = records(root)
    assert len(found.curve) == 3 and found.metric("fid") > 0
    return contents(root), changes, time.perf_counter() - start


@pytest.mark.parametrize("n", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_an_experiment_killed_at_random_changes_leaves_the_same_record(server, recorded, tmp_path, n):
    kills(server, "run", tmp_path, at_changes(n, recorded[1], n), recorded[0])


@pytest.mark.parametrize("n", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_an_experiment_killed_at_random_times_leaves_the_same_record(server, recorded, tmp_path, n):
    kills(server, "run", tmp_path, at_times(n, recorded[2], n), recorded[0])


@pytest.mark.parametrize("back", [1, 2, 3])
def test_an_experiment_killed_as_it_ends_leaves_the_same_record(server, recorded, tmp_path, back):
    kills(server, "run", tmp_path, [{"at": recorded[1] + 1 - back}], recorded[0])


@pytest.mark.parametrize("n", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_grid_killed_anywhere_goes_on_and_counts_no_half_written_record(server, tmp_path, n):
    changes = server("run", tmp_path / "whole", **GRID)["changes"]
    whole = contents(tmp_path / "whole")
    assert sum(name.endswith("eval.json") for name in whole) == 4
    kills(server, "run", tmp_path / "killed", at_changes(n, changes, n), whole, **GRID)


@pytest.mark.slow  # each start loads everything again
def test_the_command_line_killed_and_started_again_leaves_the_same_record(tmp_path):
    words = [f"scale.{k}={v}" for k, v in {"steps": 30, "images": 32, "eval_n": 8, "eval_steps": 2, "evals": 3, "batch": 8}.items()]
    command = [sys.executable, "-m", "prx_lab", "run", "sprint", *(word for text in words for word in ("--set", text)), "--root"]
    env = STILL | {"PRX_LAB_CACHE": str(tmp_path / "cache")}
    run = lambda root: subprocess.Popen([*command, str(root)], cwd=HERE, env=env, stderr=subprocess.DEVNULL)  # noqa: E731
    assert run(tmp_path / "whole").wait() == 0
    for seen in ("step-000010", "step-000020"):
        victim = run(tmp_path / "killed")
        while not list(tmp_path.glob(f"killed/*/*/*/checkpoint/{seen}")):
            assert victim.poll() is None
            time.sleep(0.005)
        victim.kill()
        victim.wait()
    assert run(tmp_path / "killed").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------ two at once


def test_of_two_processes_on_one_run_the_second_is_refused_and_harms_nothing(server, fitted, tmp_path):
    assert server("fit", tmp_path, at=40, how="stop") == {"stopped": True}
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    second = server("fit", tmp_path, patience=0)
    assert not second["ok"] and second["said"].startswith("Another process is at work on") and "\n" not in second["said"]
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert server("continue")["ok"] and contents(tmp_path) == fitted[0]


def test_a_killed_run_frees_its_lock(server, fitted, tmp_path):
    assert server("fit", tmp_path, at=40, how="stop") == {"stopped": True}
    assert server("kill") == {"killed": True}
    assert server("fit", tmp_path, patience=0)["ok"] and contents(tmp_path) == fitted[0]


# ------------------------------------------------------------------------------------------------ full disks


@pytest.mark.parametrize("limit", [0, 300, 1000, 20_000, 300_000])
def test_a_disk_that_is_full_is_one_sentence_and_the_run_goes_on_when_it_has_room(server, fitted, tmp_path, limit):
    """Bytes from none to less than a checkpoint: what fails is the lock, the log, or the checkpoint."""
    found = server("fit", tmp_path, limit=limit)
    assert not found["ok"] and found["said"].startswith("Cannot write") and "\n" not in found["said"]
    assert not list(tmp_path.rglob(".part-*")) + list(tmp_path.rglob("*.tmp"))
    assert server("fit", tmp_path)["ok"] and contents(tmp_path) == fitted[0]


def test_a_disk_that_fills_up_between_two_checkpoints_keeps_the_first(server, fitted, tmp_path):
    assert "killed" in server("fit", tmp_path, at=40)
    assert not server("fit", tmp_path, limit=20_000)["ok"] and list(tmp_path.glob("checkpoint/step-*"))
    assert server("fit", tmp_path)["ok"] and contents(tmp_path) == fitted[0]


@pytest.mark.parametrize("limit", [0, 100, 200])
def test_a_cache_on_a_full_disk_is_one_sentence(server, tmp_path, limit):
    found = server("cache", tmp_path, key="a", limit=limit)
    assert not found["ok"] and "free some space or set PRX_LAB_CACHE" in found["said"] and not parts(tmp_path)
    assert server("cache", tmp_path, key="a")["said"] == "30"


# ------------------------------------------------------------------------------------------------ the data cache


def parts(root: Path) -> list[Path]:
    return [p for p in root.glob(".part-*") if p.is_dir()]


def test_a_cache_killed_at_any_change_is_written_again(server, tmp_path):
    whole = server("cache", tmp_path / "whole", key="a")
    assert whole["said"] == "30"
    for at in range(1, whole["changes"] + 1):
        assert "killed" in server("cache", tmp_path / f"{at}", key="a", at=at)
        assert server("cache", tmp_path / f"{at}", key="a")["said"] == "30" and not parts(tmp_path / f"{at}")


def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_living_writers_stays(server, tmp_path):
    assert server("cache", tmp_path, key="a", pause=2) == {"stopped": True}
    (left,) = parts(tmp_path)
    assert server("kill") == {"killed": True} and left.exists()
    assert server("cache", tmp_path, key="b", pause=2) == {"stopped": True}
    assert not left.exists() and len(parts(tmp_path)) == 1
    assert server("cache", tmp_path, key="c")["said"] == "30"  # the second is alive, though it stands still
    assert len(parts(tmp_path)) == 1
    assert server("continue")["said"] == "30" and not parts(tmp_path)
