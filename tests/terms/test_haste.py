"""HASTE: known answers of the attention's cross entropy, the teacher's logits against its own attention, and the stop."""

import math

import pytest
import torch
from tiny import CPU, store, tiny

from prx_lab.data import store as data_store
from prx_lab.data.store import fingerprint, order
from prx_lab.errors import LabError
from prx_lab.flow import draw
from prx_lab.model import PRX, Arch
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD
from prx_lab.teachers import TimmTeacher, freeze, load_vision, look
from prx_lab.terms import REPA
from prx_lab.terms.haste import AttentionAlignment, AttentionLoss, attention_cross_entropy
from prx_lab.train import Training


def from_logits(*rows):
    """Queries and keys (1, 1, n, d) whose product, unscaled, is the n x n matrix of logits `rows`."""
    q = torch.tensor(rows)[None, None]
    return q, torch.eye(q.shape[-1])[None, None]


def entropy_of(student, teacher):
    (q, k), (a, b) = from_logits(*student), from_logits(*teacher)
    return attention_cross_entropy(q * q.shape[-1] ** 0.5, k, torch.cat([a, b], -1)).item()


def test_known_answers():
    level, three = [0.0, 0.0], [0.0, math.log(3)]
    assert entropy_of([level, level], [three, three]) == pytest.approx(0.693147, abs=1e-6)
    assert entropy_of([three, three], [three, three]) == pytest.approx(0.562335, abs=1e-6)
    flat = torch.zeros(1, 2, 256, 8)
    assert attention_cross_entropy(flat, flat, torch.zeros(1, 2, 256, 16)).item() == pytest.approx(5.545177, abs=1e-5)


def test_it_is_least_at_the_teachers_own_logits():
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 9, 8).unbind(0)
    teacher = torch.cat([q / 8**0.5, k], -1)
    p = (q @ k.mT / 8**0.5).double().softmax(-1)
    least = -(p * p.log()).sum(-1).mean().item()
    assert attention_cross_entropy(q, k, teacher).item() == pytest.approx(least, abs=1e-5)
    for _ in range(5):
        assert attention_cross_entropy(q + 0.3 * torch.randn_like(q), k, teacher).item() > least


def test_equals_a_loop_over_the_formula_with_as_many_heads_as_both_have():
    torch.manual_seed(1)
    B, N = 2, 5
    q, k, teacher = torch.randn(B, 4, N, 6), torch.randn(B, 4, N, 6), torch.randn(B, 3, N, 14)
    total = 0.0
    for b in range(B):
        for h in range(3):
            for i in range(N):
                student = [sum(q[b, h, i, d].item() * k[b, h, j, d].item() for d in range(6)) / math.sqrt(6) for j in range(N)]
                goal = [sum(teacher[b, h, i, d].item() * teacher[b, h, j, 7 + d].item() for d in range(7)) for j in range(N)]
                z, w = sum(map(math.exp, student)), sum(map(math.exp, goal))
                total -= sum(math.exp(g) / w * (s - math.log(z)) for s, g in zip(student, goal))
    assert attention_cross_entropy(q, k, teacher).item() == pytest.approx(total / (B * 3 * N), abs=1e-5)


def test_large_logits_stay_finite():
    q = torch.full((1, 1, 4, 2), 200.0)
    assert torch.isfinite(attention_cross_entropy(q, q * torch.tensor([1.0, -1]), torch.randn(1, 1, 4, 4) * 50))


def test_the_loss_reads_the_queries_and_keys_of_its_blocks_and_is_their_mean():
    recipe = tiny(BASE.plus(AttentionAlignment(depth=0.75, pairs=2)))
    training = Training(recipe, store(), 0, CPU)
    list(training.fit(2))
    learner, batch = training.learner, training.store.batch(order(0, 5, 8, 32))
    variates = draw((0, 5, 0, 0), (8, 16, 4, 4), 16, recipe.time, 0.0)
    assert learner.heads == (1, 2) and recipe.teachers == ("lab-dino-dense:qk-2", "lab-dino-dense:qk-1")
    seen = {}
    for i in (1, 2):  # the attention's own second and third results
        learner.model.blocks[i].attention.register_forward_hook(lambda m, a, out, i=i: seen.update({i: out[1:]}))
    value = learner(batch, variates)[1][1].item()
    parts = [attention_cross_entropy(*seen[i], batch.teachers[f"lab-dino-dense:qk{i - 3}"]).item() for i in (1, 2)]
    assert value == pytest.approx(sum(parts) / 2, abs=1e-6)


def test_it_teaches_queries_keys_and_what_lies_before_them():
    training = Training(tiny(BASE.plus(AttentionAlignment(depth=0.5, pairs=1))), store(), 0, CPU)
    list(training.fit(2))
    batch = training.store.batch(order(0, 5, 8, 32))
    training.learner(batch, draw((0, 5, 0, 0), (8, 16, 4, 4), 16, BASE.time, 0.0))[1][1].backward()
    moved = [{n for n, p in b.named_parameters() if p.grad is not None and p.grad.any()} for b in training.learner.model.blocks]
    assert "down_proj.weight" in moved[0] and "attention.img_qkv_proj.weight" in moved[1]
    assert not moved[1] & {"down_proj.weight", "attention.to_out.0.weight", "attention.txt_kv_proj.weight"} and not moved[2] | moved[3]
    value_rows = training.learner.model.blocks[1].attention.img_qkv_proj.weight.grad[64:]
    assert not value_rows.any()  # values are no part of where a token looks


def test_blocks_follow_the_paper():
    assert AttentionAlignment(depth=8 / 28, pairs=4).blocks(28) == (4, 5, 6, 7)
    assert AttentionAlignment(pairs=4).teachers == tuple(f"lab-dino-dense:qk-{i}" for i in (4, 3, 2, 1))
    built = AttentionAlignment(depth=0.5, pairs=2).build(PRX(Arch(3, 1, 4, 32, 6, 2)), {})
    assert isinstance(built, AttentionLoss) and built.heads == (1, 2)


@pytest.mark.parametrize("change, word", [(dict(pairs=0), "use 1 to 2"), (dict(pairs=3), "use 1 to 2")])
def test_wrong_settings_are_refused(change, word):
    with pytest.raises(LabError, match=word):
        BASE.plus(AttentionAlignment(**change))


def test_routed_blocks_are_refused():
    with pytest.raises(LabError, match="Attention alignment needs every token.*block 2"):
        BASE.but(router=TREAD(0.5, start=0.3, end=0.8)).plus(AttentionAlignment())
    BASE.but(router=TREAD(0.5, start=0.5, end=1.0)).plus(AttentionAlignment())


# ---- the stop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, terms", [("repa-stop", ["REPA"]), ("haste", ["REPA", "AttentionAlignment"])])
def test_after_the_stop_every_gradient_is_plain_flow_matchings(name, terms):
    recipe = tiny(RECIPES[name])
    training, stop = Training(recipe, store(), 0, CPU), recipe.plan[1][0]
    rows = list(training.fit(stop))
    assert all(list(row["terms"]) == ["FlowMatching", *terms] for row in rows)
    training.enter(1, training.tensors())
    batch = training.store.batch(order(0, stop, 8, 32))
    variates = draw((0, stop, 0, 0), (8, 16, 4, 4), 16, recipe.time, recipe.drop)
    plain = Training(tiny(BASE), store(), 0, CPU).learner
    plain.model.load_state_dict(training.learner.model.state_dict())
    for learner in (training.learner, plain):
        learner(batch, variates)[0].backward()
    assert not list(training.learner.terms.parameters()) and training.learner.taps == training.learner.heads == ()
    for (a, p), (b, q) in zip(training.learner.named_parameters(), plain.named_parameters()):
        assert a == b and torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("name", ["repa-stop", "haste"])
def test_the_second_phase_needs_no_teacher(name):
    first, second = RECIPES[name], RECIPES[name].last
    assert first.teachers and second.teachers == () and second == BASE
    assert REPA(teacher="lab-dino-dense") in first.terms


# ---- the teacher's queries and keys ---------------------------------------------------------------------------------


def pictures(n=2, side=32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 3, "qk_norm": True, "init_values": 0.1}])
@pytest.mark.parametrize("block", [0, 2, -1])
def test_products_are_the_logits_of_the_teachers_own_attention(options, block):
    """timm's unfused attention gives its probabilities away before its dropout: without CLS they are our softmax, renormalised."""
    from timm.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0, **options)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    teacher, seen = freeze(TimmTeacher("t", network, (0.5,) * 3, (0.5,) * 3, 32)), []
    q, k = teacher.attention(pictures(), 4, block).chunk(2, -1)
    assert q.shape == (2, 3, 16, 8)
    attn = network.blocks[block].attn
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda m, a, out: seen.append(out))
    teacher.tokens(pictures(), 4)
    p = seen[0][:, :, teacher.prefix :, teacher.prefix :]
    assert torch.allclose((q @ k.mT).softmax(-1), p / p.sum(-1, keepdim=True), atol=1e-5)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(LabError, match="has 4 blocks, so no block 4; use -4 to 3"):
        look("lab-dino:qk4", pictures(), 4)
    from timm.models.eva import Eva  # DINOv3's class

    network = Eva(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0, use_rot_pos_emb=True)
    with pytest.raises(LabError, match="'t' cannot be read; use an embedded teacher"):
        TimmTeacher("t", network, (0.5,) * 3, (0.5,) * 3, 32).attention(pictures(), 4, -1)


def test_the_data_set_holds_them_under_the_teachers_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path))
    images = data_store.to_uint8(pictures(3))
    names = ("lab-dino", "lab-dino:qk-1", "lab-dino:qk3", "lab-dino:qk2")
    tokens, last, third, second = (data_store.tokens_of(images, "k", name, 4, CPU) for name in names)
    assert tokens.shape == (3, 16, 144) and last.shape == (3, 3, 16, 96)
    assert (last == third).all() and (last != second).any()
    direct = load_vision("lab-dino").attention(data_store.to_float(images), 4, -1)
    assert torch.equal(torch.from_numpy(last.copy()), direct.half())
    assert fingerprint("lab-dino:qk-1") == fingerprint("lab-dino").replace("lab-dino:", "lab-dino:qk-1:")
