"""Costs: operations against PyTorch's own counter on the real module, memory against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny import CPU, TINY, store, tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prx_lab import cli, cost
from prx_lab.cost import Dims, dims, forward_flops, memory, run_flops, sampling_flops, step_flops
from prx_lab.data.batch import Batch, Text
from prx_lab.flow import draw
from prx_lab.footprint import DTYPES, autocast
from prx_lab.model import PRX, PUBLISHED, Arch
from prx_lab.muon import Muon
from prx_lab.optim import EMA
from prx_lab.precision import Precision
from prx_lab.recipes import BASE, RECIPES, recipe
from prx_lab.routing import TREAD, Dense
from prx_lab.sample import CFG, Condition, Network, generate
from prx_lab.sprint import SPRINT
from prx_lab.train import Learner, build

REAL = recipe("prx-1.2b")
META = torch.device("meta")


def counted(run) -> int:
    """Operations that PyTorch counts; the plain attention kernel, as a fused one computes the scores twice."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def batch_of(shapes: Dims, size: int, n: int, device: torch.device = CPU) -> Batch:
    """Random latents, text of two to all of its places, random teachers' tokens."""
    side, mask = size // shapes.stride, torch.arange(shapes.text) < torch.randint(2, shapes.text + 1, (n, 1))
    text = Text(torch.randn(n, shapes.text, shapes.context), mask, torch.randn(1, shapes.text, shapes.context), mask[:1])
    teachers = {name: torch.randn(n, *shape).half() for name, shape in shapes.teachers.items()}
    return Batch(torch.randn(n, shapes.channels, side, side), text, teachers).to(device)


def variates(chosen, batch: Batch):
    return draw((0, 0, 0, 0), tuple(batch.x.shape), chosen.scale.tokens, chosen.time, chosen.drop).to(batch.x.device)


# ------------------------------------------------------------------------------------------------ operations
ARCHS = {
    "prx-1.2b": PUBLISHED["prx-1.2b"],
    "small": Arch(16, 1, 12, 32, 4, 2),
    "narrow-mlp": Arch(4, 2, 20, 48, 3, 3, mlp_ratio=1.7),
    "pixels": Arch(3, 8, 12, 32, 5, 2, bottleneck=7),
}


@pytest.mark.parametrize("router", [Dense(), TREAD(), SPRINT(), SPRINT(rate=1.0)], ids=str)
@pytest.mark.parametrize("name", ARCHS)
def test_a_forward_pass_is_what_pytorch_counts(name, router):
    arch, grid, text, n = ARCHS[name], 8, 11, 3
    with META:
        model = PRX(arch, router)
        x, t, words = torch.empty(n, arch.channels, 8 * arch.patch, 8 * arch.patch), torch.empty(n), torch.empty(n, text, arch.context)
        keep = router.keep(torch.empty(n, grid**2))
    assert counted(lambda: model(x, t, words, None, keep)) == n * forward_flops(arch, grid**2, text, router)


COUNTED = ["baseline", "repa", "irepa", "contrastive", "flux2", "jit", "tread-repa", "tread-repa-outside", "sprint-raw"]


@pytest.mark.parametrize("name", COUNTED)
def test_a_training_step_is_what_pytorch_counts(name):
    chosen = tiny(RECIPES[name])
    learner = build(chosen, store(chosen), 0, CPU)
    batch = store(chosen).batch(torch.arange(4).numpy())
    shapes = shapes_of(chosen)

    def step():
        learner(batch, variates(chosen, batch))[0].backward()

    assert counted(step) == 4 * step_flops(chosen, shapes)


def shapes_of(chosen) -> Dims:
    data = store(chosen)
    C, h, _ = data.shape
    teachers = {name: tuple(y.shape[1:]) for name, y in data.teachers.items()}
    return Dims(C, chosen.scale.size // h, data.context, data.text["mask"].shape[1], teachers)


def test_attention_alignment_multiplies_without_weights_and_is_named_as_uncounted():
    chosen = tiny(RECIPES["haste"]).but(phases=())
    batch = store(chosen).batch(torch.arange(4).numpy())
    learner = build(chosen, store(chosen), 0, CPU)
    more = counted(lambda: learner(batch, variates(chosen, batch))[0].backward()) - 4 * step_flops(chosen, shapes_of(chosen))
    n, heads, d, of_teacher = 16, 2, 16, 4  # tokens; the student's heads and their width; that of the teacher's
    products = 2 * 2 * heads * n * n * (3 * d + of_teacher)  # two pairs of blocks, forward and backward, the teacher's forward alone
    assert more == 4 * products and cost.uncounted(chosen) == ("AttentionAlignment",)


@pytest.mark.parametrize("name", ["baseline", "tread-self-guided", "tread-sparse", "sprint-path-drop", "eight-steps-cfg1"])
def test_sampling_is_what_pytorch_counts(name):
    chosen = tiny(RECIPES[name]).but(phases=())
    data, given = store(chosen), batch_of(shapes_of(chosen), 32, 2)
    model = build(chosen, data, 0, CPU).model.eval()
    v = Network(model, chosen.predict, lambda: chosen.precision.autocast(CPU))
    condition = Condition(given.text, torch.rand(2, 16), data.mean)
    found = counted(lambda: generate(v, condition, given.x, chosen.guidance, 3))
    assert found == 2 * sampling_flops(chosen, shapes_of(chosen), steps=3)


def test_the_guidance_interval_is_paid_only_where_it_acts():
    shapes = Dims(16, 8, 12, 6)
    arch = BASE.arch(16, 8, 12)
    once = forward_flops(arch, 16, 6)
    step, read = once - cost.text_flops(arch, 6), cost.text_flops(arch, 6)  # a text is read once for all steps
    assert sampling_flops(BASE.but(guidance=CFG(1.0)), shapes, 10) == 10 * step + read
    assert sampling_flops(BASE.but(guidance=CFG(3.0)), shapes, 10) == 20 * step + 2 * read
    assert sampling_flops(BASE.but(guidance=CFG(3.0, low=0.45)), shapes, 10) == 16 * step + 3 * read  # t = 1.0, ..., 0.5


def test_a_run_adds_its_phases():
    chosen, other = tiny(BASE.but(router=TREAD())), tiny(BASE)
    both, shapes = chosen.then(0.5, other), Dims(16, 8, 12, 6)
    assert run_flops(both, shapes) == 3 * 8 * (step_flops(chosen, shapes) + step_flops(other, shapes))
    assert step_flops(chosen, shapes) < step_flops(other, shapes)


# ------------------------------------------------------------------------------------------------ memory
def kept(learner: Learner, run) -> int:
    """Bytes of the storages that autograd keeps for the backward pass of `run`, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in learner.parameters()}
    found = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held = run()
    del held
    return sum(size for key, size in found.items() if key not in own)


PRECISIONS = [Precision("fp32", "fp32"), Precision("fp32", "bf16"), Precision("bf16", "bf16")]
SIZED = replace(TINY, grid=8, size=64, width=96, heads=3, depth=3)
SHAPES = Dims(16, 8, 40, 24, {"lab-dino": (64, 16)})


@pytest.mark.parametrize(
    "name, precision",
    [*(("baseline", p) for p in PRECISIONS), ("tread-repa", PRECISIONS[1]), ("sprint-raw", PRECISIONS[0])],
    ids=str,
)
def test_activations_are_what_autograd_keeps(name, precision):
    """Within 1 %: the inputs are kept too and count as given, the scalars of the loss count and are not kept.

    In float16 where the recipe says bfloat16: there the CPU has the fused attention that a GPU has in both.
    """
    chosen = RECIPES[name].but(scale=SIZED, precision=precision, phases=())
    learner = Learner(chosen, 16, 8, 40, SHAPES.widths).to(dtype=DTYPES[precision.store])
    batch = batch_of(SHAPES, 64, 16)
    given = variates(chosen, batch)
    inputs = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in (batch.text.tokens, given.eps, batch.x)}

    def run():
        with autocast(chosen):
            return learner(batch, given)[0]

    found, said = kept(learner, run), memory(chosen, SHAPES, 16).activations
    assert found - sum(inputs.values()) <= said * 1.01 and found >= said * 0.99


@pytest.mark.parametrize("store_as, bytes_each", [("fp32", 4), ("bf16", 2)])
def test_weights_gradients_and_state_are_counted_parameter_by_parameter(store_as, bytes_each):
    chosen = BASE.but(scale=SIZED, precision=Precision(store_as, "bf16"), ema=EMA(0.99))
    found = memory(chosen, SHAPES, 2)
    n = sum(p.numel() for p in PRX(chosen.arch(16, 8, 40)).parameters())
    assert found.network == found.trained == n and found.weights == n * bytes_each and found.gradients == n * bytes_each
    assert found.average == 4 * n
    steps = 4 * len(list(PRX(chosen.arch(16, 8, 40)).parameters()))  # AdamW's counter of each parameter
    assert found.optimiser == 2 * n * bytes_each + steps


def test_muon_keeps_one_moment_of_its_matrices():
    adam, muon = (memory(BASE.but(scale=SIZED, optim=optim), SHAPES, 2) for optim in (BASE.optim, Muon()))
    learner = Learner(BASE.but(scale=SIZED), 16, 8, 40, {})
    matrices = Muon().partition(learner)[0]
    spared = sum(p.numel() for name, p in learner.named_parameters() if name in matrices)
    assert adam.optimiser - muon.optimiser == 4 * spared + 4 * len(matrices) and muon.weights == adam.weights


def test_activations_grow_with_the_batch_and_with_the_depth():
    found = {n: memory(BASE.but(scale=SIZED, precision=Precision("fp32", "fp32")), SHAPES, n) for n in (4, 8, 12)}
    assert found[12].activations - found[8].activations == pytest.approx(found[8].activations - found[4].activations, rel=0.01)
    deep = memory(BASE.but(scale=replace(SIZED, depth=4), precision=Precision("fp32", "fp32")), SHAPES, 12)
    assert deep.activations - found[12].activations == pytest.approx(found[12].block, rel=0.01)
    assert found[12].peak > found[12].weights + found[12].optimiser + found[12].activations
    assert found[12].weights < found[12].sampling < found[12].peak
    assert found[12].peak - found[12].activations < found[12].recomputed < found[12].peak - found[12].block


# ------------------------------------------------------------------------------------------------ the post's baseline
def test_the_baseline_of_the_post_is_the_published_network():
    shapes = dims(REAL)
    assert REAL.arch(shapes.channels, shapes.stride, shapes.context) == PUBLISHED["prx-1.2b"]
    found = memory(REAL, shapes, 1)
    assert cost.flop(forward_flops(PUBLISHED["prx-1.2b"], 256, 256)) == "452 GFLOP"
    assert found.network == 1_170_691_648 and found.optimiser == pytest.approx(8 * found.network, rel=1e-5)
    steps = REAL.scale.steps
    assert [REAL.schedule(i, steps) for i in (0, 499, 999, 1000, 50_000, 99_999)] == [0.001, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_its_first_step_runs_on_the_meta_device():
    learner = cost.on_meta(REAL, dims(REAL))
    optimiser = REAL.optim.build(learner, REAL.scale.lr)
    batch = batch_of(dims(REAL), REAL.scale.size, 1).to(META)
    text = Text(
        *(v.expand(REAL.scale.batch, *v.shape[1:]) for v in (batch.text.tokens, batch.text.mask)), batch.text.null, batch.text.null_mask
    )
    whole = Batch(batch.x.expand(REAL.scale.batch, *batch.x.shape[1:]), text, {})
    with REAL.precision.autocast(META):
        loss, _ = REAL.rule.build(learner)(learner, whole, variates(REAL, whole))
    loss.backward()
    assert torch.nn.utils.clip_grad_norm_(learner.parameters(), REAL.clip).is_meta
    optimiser.step()
    assert sum(s["exp_avg"].numel() for s in optimiser.state.values()) == 1_170_691_648
    assert all(p.grad.shape == p.shape for p in learner.parameters())


def test_its_first_step_with_one_block_runs_on_the_cpu():
    one = REAL.but(scale=replace(REAL.scale, depth=1, batch=2))
    learner = Learner(one, 16, 8, 2304, {})
    optimiser = one.optim.build(learner, one.scale.lr * one.schedule(0, one.scale.steps))
    batch = batch_of(dims(one), one.scale.size, 2)
    before = {name: p.detach().clone() for name, p in learner.named_parameters() if p.numel() < 10**7}
    with one.precision.autocast(CPU):
        loss, _ = learner(batch, variates(one, batch))
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), one.clip)
    optimiser.step()
    target = (batch.x - variates(one, batch).eps).square().mean()  # a fresh network says 0
    assert loss.item() == pytest.approx(target.item(), rel=1e-5) and norm.isfinite()
    moved = {name for name, p in learner.named_parameters() if name in before and not torch.equal(p, before[name])}
    assert moved == {"model.final_layer.linear.weight", "model.final_layer.linear.bias"}  # behind a layer of zeros nothing learns yet


# ------------------------------------------------------------------------------------------------ what people see
def test_the_table_says_what_it_computed():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    chosen = BASE.but(scale=replace(SIZED, steps=100_000, batch=256), precision=Precision("fp32", "fp32"))
    console.print(cost.table(chosen, SHAPES, batch=2))
    shown = console.export_text()
    weights = 4 * sum(p.numel() for p in PRX(chosen.arch(16, 8, 40)).parameters())
    once = forward_flops(chosen.arch(16, 8, 40), 64, 24)
    for text in (cost.size(weights), cost.flop(once), "100,000 steps of 256 images", "2 images on one device", "not measured"):
        assert text in shown, text


@pytest.mark.parametrize(
    "n, shown", [(0, "0 FLOP"), (999, "999 FLOP"), (1000, "1.00 kFLOP"), (451_960_635_392, "452 GFLOP"), (999_600, "1.00 MFLOP")]
)
def test_numbers_are_shown_to_three_digits(n, shown):
    assert cost.flop(n) == shown


def test_the_command_prints_the_table_of_any_recipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.call(["cost", "baseline", "--batch", "4"]) == 0
    shown = capsys.readouterr().out
    assert "with the terms' heads" in shown and "4 images on one device" in shown
    assert cli.call(["cost", "prx-1.2c"]) == 2 and "Did you mean 'prx-1.2b'?" in capsys.readouterr().err
