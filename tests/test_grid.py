"""The grid: what it runs and in which order, what it says beforehand, and that it shares weights only where training is the same."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from threading import Event

import numpy as np
import pytest
import torch
from tiny import AS_THE_BASELINE, CPU, store, tiny

from prx_lab import budget, cli, grid, siblings
from prx_lab.cost import sampling_flops
from prx_lab.errors import LabError
from prx_lab.evaluate import bench, pictures
from prx_lab.grid import Job
from prx_lab.guidance import SelfGuidance
from prx_lab.recipe import Recipe
from prx_lab.recipes import GROUPS, RECIPES
from prx_lab.record import CHECKOUT, Record, records, run_folder, write_json
from prx_lab.report import fidelity
from prx_lab.routing import TREAD
from prx_lab.sample import CFG, from_run
from prx_lab.scales import SCALES, Scale
from prx_lab.train import Training
from tests.made_up import write_run

SHORT = Scale("smoke", 32, "simple", 32, 4, 48, 3, 3, 8, 8, 2e-3, 8, 2, 2)


def small(name: str) -> Recipe:
    return RECIPES[name].but(scale=SHORT)


# ------------------------------------------------------------------------------------------------ what runs
def test_groups_hold_every_recipe_and_no_other():
    named = {name for group in GROUPS.values() for name in group.names}
    assert named == set(RECIPES) and "baseline" in GROUPS["post"].names
    assert all(len(set(group.names)) == len(group.names) for group in GROUPS.values())


def test_contributing_has_a_command_for_every_folder_of_records():
    text, results = (CHECKOUT / "CONTRIBUTING.md").read_text(), CHECKOUT / "results"
    lines = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", text, re.MULTILINE))
    tracked = subprocess.run(["git", "ls-files", "results"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert lines.keys() == {path.split("/")[1] for path in tracked.splitlines() if path.count("/") > 1}  # not what a user records
    for scale in SCALES.keys() & lines.keys():
        [(names, told)] = re.findall(r"prx-lab grid (.*?) ?--scale ([\w-]+)", lines[scale])
        assert told == scale and {run.name for run in records(results, scale)} <= grid.rows(names.split(), 3).keys() | {"custom"}


def test_seeds_follow_the_group_and_a_recipe_that_is_named_has_all():
    counts = grid.rows([], 3)
    assert set(counts) == set(RECIPES) and next(iter(counts)) == "baseline"
    assert counts["muon"] == counts["speedrun"] == counts["jit-muon-tread"] == 3 and counts["muon-fused"] == 2
    assert grid.rows(["sensitivity", "muon-fused"], 3)["muon-fused"] == 3 and set(grid.rows(["sensitivity"], 1).values()) == {1}
    with pytest.raises(LabError, match="Did you mean 'post'"):
        grid.rows(["psot"], 3)


def test_jobs_go_seed_by_seed_and_a_sibling_follows_the_recipe_that_trains():
    found = grid.jobs(grid.rows([], 3), small)
    assert [job.seed for job in found] == sorted(job.seed for job in found)
    assert [job.name for job in found if job.seed == 2][0] == "baseline"
    assert Counter(job.name for job in found) == grid.rows([], 3)
    first: dict[str, str] = {}
    for name in grid.rows([], 3):  # whoever trains first is a recipe with the plain evaluation
        first.setdefault(siblings.trained_as(small(name)), name)
    assert {"baseline", "tread", "sprint", "contrastive", "sft", "short-captions", "mixed-finish", "jit-tread"} <= set(first.values())


# ------------------------------------------------------------------------------------------------ siblings
def groups() -> list[list[str]]:
    """Names of recipes that train alike, where there are several."""
    found: dict[str, list[str]] = {}
    for name in RECIPES:
        found.setdefault(siblings.trained_as(small(name)), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def final(name: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    one = tiny(RECIPES[name])
    training = Training(one, [store(part) for _, part in one.plan], 0, CPU)
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in training.fit(one.scale.steps)]
    return rows, training.tensors()


def test_the_recipes_that_only_sample_or_judge_differently_are_found():
    pairs = {tuple(names) for names in groups()}
    assert ("tread", "tread-self-guided", "tread-sparse", "tread-half-guidance") in pairs and (
        "contrastive",
        "contrastive-corrected",
    ) in pairs
    assert any(set(names) == AS_THE_BASELINE for names in pairs)
    assert ("jit-muon-tread", "jit-muon-tread-sparse", "jit-muon-tread-half-guidance") in pairs
    assert len(pairs) == 15


@pytest.mark.parametrize("names", groups(), ids=lambda names: names[0])
def test_siblings_train_bit_for_bit_alike(names):
    rows, tensors = final(names[0])
    for name in names[1:]:
        again, theirs = final(name)
        assert again == rows
        assert theirs.keys() == tensors.keys() and all(torch.equal(theirs[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize(
    "change",
    [dict(shift=2.0), dict(drop=0.2), dict(style="photo"), dict(captions="short"), dict(noise=2.0), dict(clip=0.5), dict(router=TREAD())],
)
def test_whatever_training_reads_tells_recipes_apart(change):
    base = small("baseline")
    assert siblings.trained_as(base.but(**change)) != siblings.trained_as(base)


def test_sampling_evaluation_and_their_size_do_not():
    base = small("tread")
    other = base.but(guidance=SelfGuidance(), sampler_steps=3, scale=replace(SHORT, eval_n=16, evals=1))
    assert siblings.trained_as(base) == siblings.trained_as(other)
    phased = base.then(0.5, base.but(router=RECIPES["baseline"].router))
    assert siblings.trained_as(phased) == siblings.trained_as(phased.but(guidance=CFG(1.0)))
    assert siblings.trained_as(phased) != siblings.trained_as(base)


# ------------------------------------------------------------------------------------------------ running
def here(job: Job, root, stop: Event) -> str:
    """A job in this process."""
    try:
        grid.one(job.recipe, job.seed, root)
    except LabError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A grid of two recipes that train alike, and one that does not exist in the cache's world."""
    root = tmp_path_factory.mktemp("results")
    names = {"baseline": 1, "eight-steps": 1}
    jobs = [*grid.jobs(names, small), Job("custom", small("baseline").but(data=str(root / "nowhere")), 0)]
    return root, jobs, grid.run(jobs, root, here)


def test_one_of_two_siblings_is_trained_and_the_other_says_where(recorded):
    root, jobs, _ = recorded
    trained, judged = (job.recorded(root) for job in jobs[:2])
    assert (trained.folder / "checkpoint" / f"step-{SHORT.steps:06d}").is_dir() and not list(judged.folder.glob("checkpoint/step-*"))
    assert (
        judged.env["trained"] == {"run": f"smoke/{trained.folder.parent.name}/seed0", "env": trained.env} and "trained" not in trained.env
    )
    assert judged.train == trained.train and judged.eval["throughput"] == trained.eval["throughput"]
    assert [p["step"] for p in trained.curve] == [4, 8] and judged.curve == ()
    assert judged.recipe == json.loads(json.dumps(jobs[1].recipe.to_json())) and judged.samples.is_file()
    assert set(judged.eval) == set(trained.eval)


def test_a_sibling_of_the_same_sampling_has_the_same_numbers(recorded):
    """The oracle of the short cut: a recipe that differs in name alone gets what the trained run got."""
    root, jobs, _ = recorded
    one = jobs[0].recipe
    same = one.but(scale=replace(SHORT, evals=1))
    assert siblings.sibling_of(same, 0, root) == run_folder(root, one, 0) and siblings.sibling_of(same, 1, root) is None
    folder = grid.one(same, 0, root)
    ours, theirs = Record.load(folder), jobs[0].recorded(root)
    for name in ("fid", "cmmd", "dino_mmd", "composition"):
        assert ours.metric(name) == pytest.approx(theirs.metric(name), rel=1e-6)


def test_a_failed_run_stops_no_other_and_is_told_in_a_sentence(recorded):
    root, jobs, failed = recorded
    ((job, said),) = failed
    assert job.name == "custom" and said.endswith(".") and "\n" not in said
    assert [job.recorded(root) is not None for job in jobs] == [True, True, False]


def test_what_is_recorded_is_not_run_again_and_what_is_half_written_is_not_counted(recorded, tmp_path):
    root, jobs, _ = recorded
    asked = []
    grid.run(jobs, root, lambda job, root, stop: asked.append(job.name) or "")
    assert asked == ["custom"]
    folder = write_run(tmp_path, f"baseline-{jobs[0].recipe.id}".rpartition("-")[0], 0, 20.0, id=jobs[0].recipe.id, scale="smoke")
    assert jobs[0].recorded(tmp_path)
    (folder / "curve.jsonl").write_text("")  # removed last of all
    assert not jobs[0].recorded(tmp_path)
    (folder / "curve.jsonl").unlink()
    (folder / "eval.json").write_text("{")
    assert not jobs[0].recorded(tmp_path)
    assert "damaged" in here(jobs[0], tmp_path, Event())


def test_what_an_interrupted_run_left_does_not_keep_a_sibling_from_finishing(recorded, tmp_path):
    root, jobs, _ = recorded
    other = jobs[0].recipe.but(guidance=CFG(1.5))
    folder = run_folder(tmp_path, other, 0)
    folder.mkdir(parents=True)
    (folder / "curve.jsonl").write_text("")
    siblings.evaluated(other, 0, tmp_path, jobs[0].recorded(root).folder)
    assert Job("custom", other, 0).recorded(tmp_path)


def test_the_command_counts_what_is_recorded_itself(capsys, monkeypatch, tmp_path):
    """A process that ends well without a record is not believed."""
    monkeypatch.setattr(grid, "in_a_process", lambda job, root, stop: "")
    assert cli.call(["grid", "baseline", "--scale", "smoke", "--seeds", "2", "--root", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "0 of 2 runs are recorded" in told.err and "All" not in told.out


@pytest.mark.parametrize("number, memory", [(signal.SIGKILL, True), (signal.SIGSEGV, False)])
def test_only_a_kill_is_taken_for_want_of_memory(tmp_path, number, memory, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nkill -{int(number)} $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    said = grid.in_a_process(Job("baseline", small("baseline"), 0), tmp_path, Event())
    assert f"by signal {int(number)};" in said and ("memory" in said) == memory


TORN = ["", "{", '{"step": 3}\n', "[]\n", '{"step": "x", "loss": 1, "images_per_s": 2}\n', "\n\n", '{"step": 3, "lo']


@pytest.mark.parametrize("text", TORN)
def test_a_log_without_a_whole_row_shows_nothing(tmp_path, text):
    assert grid.newest(tmp_path / "train.jsonl") == {}
    (tmp_path / "train.jsonl").write_text(text)
    assert grid.newest(tmp_path / "train.jsonl") == {}


def test_the_run_at_work_shows_its_step_loss_and_rate(tmp_path, monkeypatch, capsys):
    """A run that goes on after step 10 of 20, five steps in each half second: its rate is that of the steps it makes."""
    job = Job("baseline", small("baseline").but(scale=replace(SHORT, steps=20)), 0)
    log = run_folder(tmp_path, job.recipe, 0) / "train.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 9, "loss": 0.9, "images_per_s": 1}\n')
    row = 'echo \'{"step": %d, "loss": %s, "images_per_s": 120.4}\' >> ' + str(log)
    steps = [f"{row % told}\nsleep 0.5" for told in ((9, 0.5), (14, 0.25), (19, 0.125))]
    script = tmp_path / "python"
    script.write_text("\n".join(["#!/bin/sh", "sleep 1", *steps]))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(grid.progress, "LOGGED_EVERY", 0.01)
    monkeypatch.delenv("PRX_STATIC", raising=False)
    monkeypatch.setattr(grid.progress, "bar", partial(grid.progress.bar, disable=False))  # the tests' environment disables tqdm
    assert grid.in_a_process(job, tmp_path, Event()) == ""
    last = capsys.readouterr().err.splitlines()[-1]
    assert "baseline" in last and "20/20" in last and "images=120/s, loss=0.125" in last
    assert float(re.search(r"([\d.]+)step/s", last)[1]) < 20


def test_an_unexpected_error_keeps_its_traceback_until_the_run_succeeds(tmp_path):
    words = [sys.executable, "-m", "prx_lab.grid", str(tmp_path), "0", str(os.getpid())]
    child = subprocess.run(words, input="{", capture_output=True, text=True)
    assert child.returncode == grid.UNEXPECTED and child.stderr.startswith("Traceback")
    trace = tmp_path / "seed0" / "error.txt"
    said = grid.ended(child.returncode, child.stderr, trace)
    assert said.startswith("Unexpected JSONDecodeError: ") and str(trace) in said and "\n" not in said
    assert trace.read_text() == child.stderr
    assert grid.ended(2, "A sentence.\n", trace) == "A sentence." and grid.ended(0, "", trace) == "" and not trace.exists()


def test_a_stop_leaves_the_grid_and_says_how_to_go_on(recorded):
    root, jobs, _ = recorded

    def stopped(job: Job, root, stop: Event) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    with pytest.raises(KeyboardInterrupt, match="2 of 3 runs are recorded. Run the same command"):
        grid.run(jobs, root, stopped)


@pytest.mark.slow
def test_a_killed_grid_ends_its_run_too_and_continues(tmp_path):
    """SIGKILL to the grid's process while a run trains in another: that one stops with a checkpoint, and the next grid ends it."""
    words = [sys.executable, "-m", "prx_lab", "grid", "baseline", "--scale", "smoke", "--seeds", "1", "--root", str(tmp_path)]
    words += [
        f"--set=scale.{name}={value}" for name, value in {"steps": 60, "images": 32, "eval_n": 8, "eval_steps": 2, "batch": 8}.items()
    ]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    first = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("smoke/*/seed0/train.jsonl")):
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("smoke/*/seed0")
    assert [row["step"] for row in Record.load(folder).train] == list(range(60))


# ---------------------------------------------------------------------------------------------- number and noise
def test_a_study_of_noise_agrees_with_the_record_and_repeats_what_it_says(recorded, tmp_path, monkeypatch, capsys):
    root, jobs, _ = recorded
    run = jobs[0].recorded(root)
    found = fidelity.study(run.folder, sizes=(4, 8), batch=4, draws=2)
    for kind, rows in found["distances"].items():
        draws = found["draws"][kind]
        assert all(one[0] == rows[metric][-1]["mean"] != one[1] for metric, one in draws.items()) and all(map(len, draws.values()))
    own, again = (found["distances"][kind] for kind in ("own", "repeated"))
    for metric in ("fid", "cmmd", "dino_mmd"):
        whole = own[metric][-1]
        assert (whole["n"], whole["parts"], whole["sd"]) == (8, 1, None) and own[metric][0]["parts"] == 2
        assert whole["mean"] == pytest.approx(run.metric(metric), rel=2e-3)  # in batches of another size
        assert whole["mean"] != again[metric][-1]["mean"]
    sampler = from_run(run.folder)
    judge = bench(jobs[0].recipe, CPU)
    images = pictures(sampler.model, sampler.recipe, judge, range(8), sampler.mean, key=lambda i: i % 4)
    assert not np.array_equal(images[:4], images[4:])  # the captions differ
    monkeypatch.setattr(fidelity, "study", lambda folder: found)
    assert cli.call(["fidelity", str(run.folder)]) == 0 and capsys.readouterr().out == f"Wrote {root / 'judges' / 'smoke.json'}\n"
    kept = root / "judges"
    told = repr(fidelity.repeated("smoke", kept))
    logs = [np.log(found["draws"][kind]["fid"]) for kind in ("own", "repeated")]
    assert told.count("4 noises") == 3 and f"× {math.exp(logs[1].mean() - logs[0].mean()):.2f} [" in told.splitlines()[0]
    assert repr(fidelity.law("smoke", kept)).count("of it bias") == 3
    assert fidelity.curve("smoke", kept).figure.axes[0].lines[0].get_xdata() == pytest.approx([4, 8])
    with pytest.raises(LabError, match="No study"):
        fidelity.load("gpu", tmp_path)


def test_a_line_in_one_over_n_is_found(tmp_path):
    rows = [{"n": n, "mean": 2.0 + 300 / n, "sd": 5 / math.sqrt(n), "parts": 400 // n} for n in (100, 200)]
    rows.append({"n": 400, "mean": 2.0 + 300 / 400, "sd": None, "parts": 1})
    write_json(tmp_path / "cpu.json", {"distances": {"own": {"fid": rows}}, "draws": {}})
    n = SCALES["cpu"].eval_n
    told, whole = repr(fidelity.law("cpu", tmp_path)), 2 + 300 / n
    assert (
        told.startswith("lab-FID of this network is about 2.00 ± ") and f"at n = {n} that is {whole:.2f}, {300 / n / whole:.0%} of" in told
    )
    assert fidelity.image_noise("cpu", 100, tmp_path) == pytest.approx(0.5 / 5)
    spread = np.linalg.inv(sum(np.outer(v, v) for v in ((1 / n, 1.0) for n in (100, 200, 400))) / 0.25**2)
    found = fidelity.line(fidelity.load("cpu", tmp_path), "fid")[1]
    assert found == pytest.approx([math.sqrt(spread[0, 0]), 0.25])  # each mean's error is 5 / sqrt(400), and that of the limit
    write_json(tmp_path / "cpu.json", {"distances": {"own": {"fid": rows}}})
    with pytest.raises(LabError, match="no draws of noise: delete it and study a run again"):
        fidelity.load("cpu", tmp_path)


# ------------------------------------------------------------------------------------------------ the plan
def test_the_plan_counts_and_prices_what_is_left(recorded):
    root, jobs, _ = recorded
    more = [*jobs[:2], *grid.jobs({"tread": 2, "tread-sparse": 2}, small)]
    assert budget.whats(more, root) == ["recorded", "recorded", "train", "evaluate", "train", "evaluate"]
    priced = budget.priced(more, root)
    assert [step.source for step in priced] == ["", "", *["computed"] * 4] and priced[2].seconds > priced[3].seconds > 0
    known = budget.here(root, "smoke")
    cost = budget.Cost.of(more[3].recipe)
    assert priced[3].seconds == pytest.approx(cost.final / budget.rate(known))
    assert cost.final == 8 * sampling_flops(more[3].recipe, budget.shapes_of(more[3].recipe)) and cost.evaluations == 1.5 * cost.final
    shown = repr(budget.plan(more, root))
    assert "2 of 6 runs are recorded; 2 are to be trained, 2 only to be evaluated." in shown and "hours in one process" in shown


def test_recorded_times_are_told_apart_from_computed_ones(recorded):
    root, jobs, _ = recorded
    again = [Job("baseline", jobs[0].recipe, 1)]
    (step,) = budget.priced(again, root)
    cost = budget.Cost.of(jobs[0].recipe)
    trained = budget.training_seconds(jobs[0].recorded(root))
    assert step.source == "recorded" and step.seconds == pytest.approx(trained * (1 + cost.evaluations / cost.training), rel=1e-6)


def test_without_a_record_of_the_scale_no_hours_are_told(tmp_path):
    made = budget.priced(grid.jobs({"baseline": 1}, small), tmp_path)
    assert math.isnan(made[0].seconds)
    assert "hours cannot be told" in " ".join(budget.notes(made))


def test_the_command_plans_without_running(recorded, capsys, monkeypatch):
    root, _, _ = recorded
    monkeypatch.setattr(cli.making, "resolve", lambda name, scale, data, sets: small(name))
    assert cli.call(["grid", "baseline", "tread", "--seeds", "1", "--plan", "--root", str(root), "--scale", "smoke"]) == 0
    assert "1 of 2 runs are recorded" in capsys.readouterr().out and not list(root.glob("smoke/tread*"))


def test_the_command_fails_when_a_run_does(capsys, tmp_path):
    """In a process of its own: its sentence comes back, and nothing else of what it printed."""
    words = ["grid", "baseline", "--scale", "smoke", "--seeds", "1", "--data", str(tmp_path / "nowhere"), "--root", str(tmp_path)]
    assert cli.call(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("baseline, seed 0: ") and "nowhere" in told.err and "0 of 1 runs are recorded" in told.err.splitlines()[1]
    assert "Unexpected" not in told.err and not list(tmp_path.glob("smoke/*/seed0/*.json"))


def test_the_help_names_every_group(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.call(["grid", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in GROUPS)


def test_a_plan_names_the_recipe_that_does_not_fit_its_scale(tmp_path):
    wanted = grid.jobs({"jit": 1, "baseline": 1}, lambda name: RECIPES[name].at("cpu-1024"))
    with pytest.raises(LabError, match="^baseline: .* turns 64 pixels into 8 cells"):
        budget.plan(wanted, tmp_path)
