"""Processes that share a run, with DDP and with FSDP2, do what one process does: gradients, updates, checkpoints, scores."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import LOGGED, NAMES, SHARDED, training
from safetensors.torch import load_file
from tiny import CPU, store, tiny

from prx_lab.checkpoint import Archive, files
from prx_lab.data.store import order
from prx_lab.errors import LabError
from prx_lab.flow import draw
from prx_lab.parallel import ALONE, Budget, World, cut
from prx_lab.precision import audit
from prx_lab.recipes import BASE, RECIPES
from prx_lab.record import Record
from prx_lab.sample import from_run
from prx_lab.terms.contrastive import Contrastive
from prx_lab.terms.haste import AttentionAlignment
from prx_lab.train import Training

HERE = Path(__file__).parent
SHARES = [(group, name) for group, names in (("ddp", NAMES), ("fsdp", SHARDED)) for name in (*names, "exclude")]
SPLIT = ("contrastive", "exclude", "x-lpips", "tread-repa")
ROUNDED = {"bf16": 5e-2, "muon": 1e-2, "muon-fused": 1e-2}  # an update in bf16: of the weights, or of what Muon iterates


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What every group of processes found; see `tests/ranks.py`."""
    folder = tmp_path_factory.mktemp("ranks")
    still = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PRX_STATIC": "1"}
    command = [sys.executable, "-m", "tests.ranks", str(folder), "alone", "ddp", "fsdp", "three"]
    done = subprocess.run(command, cwd=HERE.parent, env=os.environ | still, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    if done.stdout:  # a crash that did not come again
        warnings.warn(done.stderr + done.stdout, stacklevel=1)
    return folder


def told(together: Path, group: str) -> dict:
    return json.loads((together / group / "told.json").read_text())


def off(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], kind: str) -> float:
    """How far apart the tensors of a kind are, relative to their norm."""
    ours, theirs = (torch.cat([v.double().flatten() for k, v in sorted(t.items()) if k.startswith(kind)]) for t in (a, b))
    return ((ours - theirs).norm() / ours.norm()).item()


def require_same(alone: Path, shared: Path, step: float, gradient: float = 1e-5) -> None:
    one, many = load_file(alone), load_file(shared)
    assert one.keys() == many.keys() and any(v.abs().max() > 0 for k, v in one.items() if k.startswith("grad/"))
    gradient = 2e-2 if one["grad/model.txt_in.weight"].dtype == torch.bfloat16 else gradient
    for kind, most in {"loss": 1e-5, "grad/": gradient, "norm": gradient, "step/": step}.items():
        assert off(one, many, kind) < most, kind


@pytest.mark.parametrize("group, name", SHARES)
def test_two_processes_have_the_gradients_and_the_update_of_one(group, name, together):
    require_same(together / "alone" / f"{name}.safetensors", together / group / f"{name}.safetensors", ROUNDED.get(name, 1e-4))


@pytest.mark.parametrize("group", ["alone", "ddp", "fsdp"])
@pytest.mark.parametrize("name", SPLIT)
def test_micro_batches_and_checkpointed_blocks_change_nothing(group, name, together):
    """Three pieces of unequal length in one process, two in each of two; blocks run again in the backward pass."""
    # rounded otherwise, one of the network's rectifiers behind LPIPS falls on the other side of its kink
    limits = (1e-2, 1e-3) if name == "x-lpips" else (1e-4, 1e-5)
    require_same(together / "alone" / f"{name}.safetensors", together / group / f"{name}-accumulated.safetensors", *limits)


@pytest.mark.parametrize("group", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", LOGGED)
def test_a_whole_run_over_its_phases_has_the_losses_of_one_process(group, name, together):
    assert told(together, group)["log"][name] == pytest.approx(told(together, "alone")["log"][name], rel=1e-3)


@pytest.mark.parametrize("group, before", [("ddp", "alone"), ("fsdp", "ddp"), ("three", "fsdp"), ("fsdp", "fsdp")])
def test_a_checkpoint_of_any_number_of_processes_is_gone_on_from_by_any_other(group, before, together):
    found = told(together, group)["again" if group == before else "resumed"]
    whole = told(together, before)["log"]["speedrun"][3:]
    assert found["step"] == 3 and found["same"]
    assert found["losses"] == whole if group == before else found["losses"] == pytest.approx(whole, rel=1e-3)


def test_a_sharded_checkpoint_is_gone_on_from_by_one_process(together):
    one = training(tiny(RECIPES["speedrun"]), ALONE)
    assert one.resume(together / "fsdp" / "half") and one.step_index == 3
    assert [row["loss"] for row in one.fit(6)] == pytest.approx(told(together, "alone")["log"]["speedrun"][3:], rel=1e-3)


def test_shards_hold_a_part_each_and_a_damaged_one_is_refused(together, tmp_path):
    (folder,) = (together / "fsdp" / "half" / "checkpoint").glob("step-*")
    parts = [load_file(folder / name) for name in files(2)]
    whole = Archive([folder / name for name in files(2)])
    name = "learner/model.blocks.0.gate_proj.weight"
    assert [len(part[name]) for part in parts] == [56, 56] and torch.equal(whole[name], torch.cat([part[name] for part in parts]))
    assert "mean" in parts[0] and "mean" not in parts[1] and whole.keys() == parts[0].keys()
    damaged = tmp_path / "checkpoint" / folder.name
    damaged.mkdir(parents=True)
    for file in folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[: -1 if file.name == files(2)[1] else None])
    with pytest.raises(LabError, match="is damaged"):
        training(tiny(RECIPES["speedrun"]), ALONE).resume(tmp_path)


def test_what_fails_in_one_process_ends_all_with_its_sentence(together):
    first, second = map(json.loads, told(together, "ddp")["refused"])
    assert first == second and first["agreed"] == "The second one has no disk."
    assert "at step 0" in first["nan"] and "are kept in" in first["nan"]
    assert "too small for 2 processes with 5 micro-batches each" in first["small"]
    assert "The joint step trains in one process" in first["joint"]


def test_images_are_shared_out_and_scored_as_by_one_process(together):
    one, two = (told(together, group)["judged"] for group in ("alone", "ddp"))
    assert two["rows"] == list(range(10)) and two["uneven"] == [[1, 1]]
    assert np.abs(np.subtract(one["images"], two["images"])).max() <= 1
    for name, found in one["scores"].items():
        for key in ("value", "lo", "hi", "n"):
            assert two["scores"][name][key] == pytest.approx(found[key], rel=1e-3), (name, key)


def test_a_shared_run_leaves_one_complete_record(together):
    (folder,) = (together / "ddp" / "results" / "smoke").glob("*/seed0")
    record = Record.load(folder)
    assert [row["step"] for row in record.train] == list(range(6)) and [row["step"] for row in record.curve] == [6]
    assert record.eval["metrics"]["fid"]["n"] == 10
    assert record.env["parallel"] == {"kind": "ddp", "processes": 2, "accumulate": 1, "checkpointing": False}
    assert from_run(folder)(["a red cube"]).shape == (1, 3, 32, 32)


# ------------------------------------------------------------------------------------------------ in one process
@pytest.mark.parametrize("size, parts, n", [(1, 1, 8), (1, 3, 8), (2, 1, 8), (3, 2, 8), (4, 1, 3), (8, 4, 256)])
def test_shares_are_every_row_once_and_in_order(size, parts, n):
    found = []
    for rank in range(size):
        world = World()
        world.rank, world.size = rank, size
        found += world.share(n, parts)
    assert [i for rows in found for i in rows] == list(range(n))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("predict", ["v", "x"])
def test_a_part_of_a_batch_knows_the_targets_it_is_pushed_away_from(predict):
    recipe = tiny(BASE.plus(Contrastive()).but(predict=predict))
    data, index = store(recipe), order(0, 5, 8, 32)
    variates = draw((0, 5, 0, 0), (8, *data.shape), 16, recipe.time, recipe.drop)
    whole, all_ = cut(data, index, variates, range(8), recipe)
    assert whole.rest is None and all_ is variates
    s = variates.t[:, None, None, None]
    target = (variates.eps - whole.x) * (1 if predict == "v" else s / s.clamp(min=0.05))
    for rows in (range(0, 3), range(3, 8)):
        part, mine = cut(data, index, variates, rows, recipe)
        b, own = len(rows), target[rows.start : rows.stop]
        assert torch.equal(part.x, whole.x[rows.start : rows.stop]) and torch.equal(mine.t, variates.t[rows.start : rows.stop])
        pool = torch.cat([own, part.rest.target])
        assert torch.allclose(pool[mine.other], target[variates.other[rows.start : rows.stop]], atol=1e-5)
        assert torch.allclose(pool[-1], target[rows.start - 1], atol=1e-5) and len(mine.other) == b


def test_targets_of_others_are_gathered_for_terms_that_read_them_only():
    data, index = store(), order(0, 5, 8, 32)
    for term, others in ((AttentionAlignment(), 0), (Contrastive(), 4)):
        recipe = tiny(BASE.plus(term))
        variates = draw((0, 5, 0, 0), (8, *data.shape), 16, recipe.time, recipe.drop)
        part, _ = cut(data, index, variates, range(3), recipe)
        assert len(part.rest.target) == others


def test_a_budget_changes_no_dtype_and_refuses_no_batches():
    one = Training(tiny(BASE), store(), 0, CPU, budget=Budget(4, True))
    list(one.fit(2))
    assert list(audit(one.learner, one.optimizer, one.recipe.precision, CPU)["weights"]) == ["fp32"]
    with pytest.raises(LabError, match="at least 1"):
        Budget(0)
    with pytest.raises(LabError, match="A batch of 8 is too small for 1 processes with 9 micro-batches each"):
        Training(tiny(BASE), store(), 0, CPU, budget=Budget(9))


LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def launch(*words: str, folder: Path) -> subprocess.CompletedProcess:
    """`accelerate launch -m prx_lab` with these words, on two processes of the CPU."""
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder)}
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--main_process_port", "0", "-m", "prx_lab", *words]
    return subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_trains_on_two_processes_and_refuses_once(tmp_path):
    small = [f"--set=scale.{k}" for k in ("steps=4", "evals=1", "images=64", "eval_n=8", "eval_steps=2")]
    done = launch("run", "baseline", *small, "--root", str(tmp_path / "results"), "--accumulate", "2", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.count("Recorded in") == 1, done.stderr
    (folder,) = (tmp_path / "results" / "smoke").glob("*/seed0")
    assert Record.load(folder).env["parallel"]["accumulate"] == 2
    for words, sentence in ((("run", "baselin"), "Did you mean 'baseline'?"), (("recipes",), "start `prx-lab recipes` by itself")):
        done = launch(*words, folder=tmp_path)
        assert done.returncode and done.stderr.count(sentence) == 1, done.stderr
