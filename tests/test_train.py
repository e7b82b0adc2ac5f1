"""Training: pairing, liveness, neutrality, exact resume, and failures that lose nothing."""

import os
import signal

import pytest
import torch
from tiny import AS_THE_BASELINE, CPU, TINY, store, tiny

from prx_lab import checkpoint
from prx_lab.errors import LabError
from prx_lab.flow import draw
from prx_lab.generic import breaks, resumes
from prx_lab.optim import EMA, AdamW, Schedule
from prx_lab.precision import Precision, audit
from prx_lab.recipe import Reference
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD
from prx_lab.terms import IREPA, LPIPS, REPA, PerceptualDINO
from prx_lab.terms.contrastive import Contrastive
from prx_lab.terms.haste import AttentionAlignment
from prx_lab.train import Training


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in training.learner.model.state_dict().items()}


def trained(recipe, steps: int = 6, seed: int = 0) -> Training:
    training = Training(tiny(recipe), [store(part) for _, part in recipe.plan], seed, CPU)
    training.log = [row["loss"] for row in training.fit(steps)]
    return training


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def baseline() -> Training:
    return trained(BASE)


SAMES = AS_THE_BASELINE | {"ema", "fp32"}  # an average changes no step, and on a CPU all is computed in float32


@pytest.mark.parametrize("name", RECIPES)
def test_live(name, baseline):
    assert equal(weights(trained(RECIPES[name])), weights(baseline)) == (name in SAMES)


@pytest.mark.parametrize(
    "neutral",
    [
        BASE.plus(REPA(weight=0.0)),
        BASE.plus(IREPA(weight=0.0)),
        BASE.plus(AttentionAlignment(weight=0.0)),
        BASE.but(router=TREAD(rate=1.0)),
        BASE.but(ema=EMA(0.5)),
        BASE.but(reference=Reference("photo", "short")),
        BASE.plus(Contrastive(weight=0.0)),
        BASE.plus(LPIPS(weight=0.0, space=BASE.space), PerceptualDINO(weight=0.0, space=BASE.space)),
    ],
)
def test_neutral(neutral, baseline):
    assert equal(weights(trained(neutral)), weights(baseline))


def test_a_restored_step_counter_lies_beside_its_parameter():
    learner = torch.nn.Linear(2, 2, device="meta", dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(learner.parameters(), 0.1)
    checkpoint.restore_optimizer(optimizer, learner, {"optim/weight/step": torch.tensor(3.0)})
    step = optimizer.state[learner.weight]["step"]
    assert step.device.type == "meta" and step.dtype == torch.float32


def test_fresh_weights_and_draws_are_paired_across_recipes():
    a, b = (Training(tiny(r), store(), 3, CPU) for r in (BASE, RECIPES["repa"]))
    assert equal(weights(a), weights(b))
    assert next(a.fit(1))["terms"]["FlowMatching"] == next(b.fit(1))["terms"]["FlowMatching"]


def test_the_first_loss_is_the_mean_square_of_the_target():
    training = Training(tiny(BASE), store(), 0, CPU)
    from prx_lab.data.store import order

    batch = training.store.batch(order(0, 0, 8, 32))
    eps = draw((0, 0, 0, 0), (8, 16, 4, 4), 16, BASE.time, BASE.drop).eps
    assert next(training.fit(1))["loss"] == pytest.approx((eps - batch.x).square().mean().item(), rel=1e-6)


def test_x_prediction_starts_at_the_weighted_square_of_x():
    recipe = tiny(BASE.but(predict="x"))
    training = Training(recipe, store(), 0, CPU)
    from prx_lab.data.store import order

    batch = training.store.batch(order(0, 0, 8, 32))
    t = draw((0, 0, 0, 0), (8, 16, 4, 4), 16, BASE.time, BASE.drop).t.clamp(min=0.05)
    expected = (batch.x / t.view(-1, 1, 1, 1)).square().mean().item()  # independent of the noise
    assert next(training.fit(1))["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_equals_uninterrupted(name):
    recipe = tiny(RECIPES[name])
    assert resumes(recipe, recipe.scale.steps, store)


@pytest.mark.parametrize("name", ["baseline", "repa-stop", "sprint", "muon", "bf16", "distilled"])
def test_resumed_equals_uninterrupted_with_an_average(name):
    assert resumes(tiny(RECIPES[name].but(ema=EMA(0.9))), 6, store)


def test_a_checkpoint_of_another_recipe_or_seed_is_refused(tmp_path):
    list(Training(tiny(BASE), store(), 0, CPU).fit(2, tmp_path))
    for recipe, seed in [(tiny(BASE), 1), (tiny(RECIPES["repa"]), 0)]:
        with pytest.raises(LabError, match="another recipe or seed"):
            Training(recipe, store(), seed, CPU).resume(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_damaged_checkpoint_is_refused_by_name(cut, tmp_path):
    training = Training(tiny(BASE), store(), 0, CPU)
    list(training.fit(2, tmp_path))
    file = checkpoint.steps(tmp_path / "checkpoint")[-1] / "state.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(LabError, match="step-000002 is damaged"):
        Training(tiny(BASE), store(), 0, CPU).resume(tmp_path)


def test_an_interrupted_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    training = Training(tiny(BASE), store(), 0, CPU)
    list(training.fit(2, tmp_path))

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(LabError, match="free some space"):
        list(training.fit(4, tmp_path))
    assert [f.name for f in (tmp_path / "checkpoint").iterdir()] == ["step-000002"]
    checkpoint.load(tmp_path / "checkpoint" / "step-000002")


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_weights(tmp_path):
    recipe = tiny(BASE).but(optim=AdamW(lr_scale=1e30), schedule=Schedule(warmup=0.0))
    training = Training(recipe, store(), 0, CPU)
    with pytest.raises(LabError, match=r"at step \d+.*kept in"):
        list(training.fit(6, tmp_path))
    tensors, state = checkpoint.load(checkpoint.steps(tmp_path / "checkpoint")[-1])
    assert state["step"] == training.step_index and all(torch.isfinite(v).all() for v in tensors.values())


def test_ctrl_c_finishes_the_step_and_writes_a_checkpoint(tmp_path):
    training = Training(tiny(BASE), store(), 0, CPU)
    with pytest.raises(KeyboardInterrupt, match="Stopped after step"):
        for row in training.fit(6, tmp_path):
            if row["step"] == 2:
                os.kill(os.getpid(), signal.SIGINT)
    assert checkpoint.load(checkpoint.steps(tmp_path / "checkpoint")[-1])[1]["step"] == training.step_index < 6


def test_phase_two_starts_from_weights_and_optimiser_by_name():
    first, second = trained(RECIPES["repa"]), Training(tiny(BASE), store(), 0, CPU)
    tensors = {f"learner/{k}": v for k, v in first.learner.state_dict().items()}
    second.start_from(tensors | checkpoint.optimizer_tensors(first.optimizer, first.learner))
    assert equal(weights(second), weights(first))
    assert len(second.optimizer.state) == len(list(second.learner.parameters()))


@pytest.mark.parametrize("precision", [Precision(), Precision("fp32", "fp32"), Precision("bf16", "bf16")])
def test_audit_finds_the_claimed_dtypes(precision):
    training = Training(BASE.but(scale=TINY, precision=precision), store(), 0, CPU)
    list(training.fit(2))
    found = audit(training.learner, training.optimizer, precision, CPU)
    assert list(found["weights"]) == [precision.store] and list(found["optimizer"]) == [precision.store]
    assert found["matmul"] == precision.compute


def test_another_seed_trains_another_network(baseline):
    assert not equal(weights(trained(BASE, seed=1)), weights(baseline))


def test_schedule_warms_up_and_ends_low():
    schedule = Schedule(warmup=0.1, final=0.0)
    factors = [schedule(i, 100) for i in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)]) and factors[-1] < 1e-3
    assert all(a >= b for a, b in zip(factors[10:], factors[11:]))
    assert {Schedule(0.0, 1.0)(i, 100) for i in range(1, 100)} == {1.0}


def test_ema_follows_its_recursion():
    training = Training(tiny(BASE.but(ema=EMA(0.6))), store(), 0, CPU)
    name = "img_in.weight"
    expected = weights(training)[name]
    for i, _ in enumerate(training.fit(4)):
        rate = min(0.6, (1 + i) / (10 + i))
        expected = rate * expected + (1 - rate) * training.learner.model.state_dict()[name]
    assert torch.allclose(training.ema[name], expected, atol=1e-6)
    assert torch.equal(training.sampler_model().state_dict()[name], training.ema[name])


@pytest.mark.parametrize("name", RECIPES)
def test_one_graph(name):
    assert breaks(tiny(RECIPES[name]), store) == 0


def test_phases_change_the_recipe_at_their_step_and_hand_over_weights_and_optimiser():
    recipe = tiny(BASE.plus(REPA()).then(0.5, BASE))
    assert [(start, [type(t).__name__ for t in part.terms]) for start, part in recipe.plan] == [
        (0, ["FlowMatching", "REPA"]),
        (3, ["FlowMatching"]),
    ]
    training, data = Training(recipe, store(), 0, CPU), store()
    rows = list(training.fit(3))
    before = weights(training)
    moments = {k: v.clone() for k, v in checkpoint.optimizer_tensors(training.optimizer, training.learner).items()}
    rows += list(training.fit(4))
    assert ["REPA" in row["terms"] for row in rows] == [True, True, True, False]
    second = Training(tiny(BASE), data, 0, CPU)  # the fourth step is the baseline's, from those weights and moments
    second.start_from({f"learner/model.{k}": v for k, v in before.items()} | moments)
    second.step_index = 3
    second.step()
    assert equal(weights(second), weights(training))


def test_a_phase_equal_to_the_recipe_changes_nothing(baseline):
    assert equal(weights(trained(BASE.then(0.5, BASE))), weights(baseline))
