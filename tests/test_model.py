"""PRX against diffusers' class, and the properties that the architecture promises."""

import pytest
import torch

from prx_lab.model import DENSE, PRX, Arch, attend, patchify, rope_table, rotate, time_embedding, unpatchify
from prx_lab.routing import TREAD, Router, put, take

ARCH = Arch(channels=4, patch=2, context=12, width=64, depth=4, heads=2)
MIDDLE = TREAD(0.5, 0.25, 0.75)  # blocks 1 and 2 of 4


def randomised(arch: Arch = ARCH, router: Router = DENSE) -> PRX:
    torch.manual_seed(0)
    model = PRX(arch, router)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model.eval()


def inputs(arch: Arch = ARCH, h=8, w=12):
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, arch.channels, h, w, generator=g), torch.randn(2, 7, arch.context, generator=g)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 3:] = False
    return x, torch.rand(2, generator=g), text, mask


@pytest.mark.parametrize("bottleneck", [0, 24])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_agrees_with_diffusers(masked, bottleneck):
    from diffusers import PRXTransformer2DModel

    arch = Arch(4, 2, 12, 64, 4, 2, bottleneck=bottleneck)
    torch.manual_seed(0)
    theirs = PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=12, hidden_size=64, mlp_ratio=3.5, num_heads=2, depth=4,
        axes_dim=[16, 16], bottleneck_size=bottleneck or None,
    )  # fmt: skip
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.1)
    ours = PRX(arch)
    ours.load_state_dict(theirs.state_dict())  # strict: the same keys and shapes
    x, t, text, mask = inputs()
    mask = mask if masked else None
    expected = theirs(hidden_states=x, timestep=t, encoder_hidden_states=text, attention_mask=mask, return_dict=False)[0]
    assert expected.std() > 0.1
    assert (ours(x, t, text, mask)[0] - expected).abs().max() < 1e-4


@torch.no_grad()
def test_a_fresh_network_outputs_zero():
    assert torch.equal(PRX(ARCH)(*inputs())[0], torch.zeros(2, 4, 8, 12))


@torch.no_grad()
def test_text_order_and_masked_tokens_do_not_matter():
    model, (x, t, text, mask) = randomised(), inputs()
    out = model(x, t, text, mask)[0]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(x, t, text[:, order], mask[:, order])[0], out, atol=1e-5)
    scrambled = torch.where(mask[..., None], text, torch.full_like(text, 9.0))
    assert torch.allclose(model(x, t, scrambled, mask)[0], out, atol=1e-6)


def test_patchify_round_trip_and_order():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    z = patchify(x, 2)
    assert z.shape == (2, 6, 12) and torch.equal(unpatchify(z, 2, 2, 3), x)
    assert torch.equal(z[0, 1], x[0, :, :2, 2:4].flatten())  # token 1 is row 0, column 1; channel-major inside


def test_rotation_depends_on_relative_position_only():
    cos, sin = rope_table(4, 4, 32, torch.device("cpu"))
    q, k = torch.randn(2, 1, 1, 1, 32).unbind(0)
    at = lambda v, i: rotate(v, cos[:, i : i + 1], sin[:, i : i + 1])  # noqa: E731
    products = [(at(q, i) * at(k, i + 5)).sum() for i in (0, 1, 5, 6)]  # always one row and one column apart
    assert torch.allclose(torch.stack(products), products[0].expand(4), atol=1e-5)


@torch.no_grad()
def test_keeping_every_token_is_dense_and_taps_return_features():
    model, batch = randomised(router=MIDDLE), inputs()
    N = 4 * 6
    dense, feats = model(*batch, taps=(0, 2))
    kept = model(*batch, keep=torch.arange(N).expand(2, N))[0]
    assert torch.equal(dense, kept)
    assert set(feats) == {0, 2} and feats[0].tokens.shape == (2, N, 64) and feats[0].keep is None


@torch.no_grad()
def test_kept_tokens_run_as_a_subsequence_at_their_true_positions():
    model, batch = randomised(router=MIDDLE), inputs()
    keep = TREAD(0.5).keep(torch.rand(2, 24, generator=torch.Generator().manual_seed(2)))
    _, feats = model(*batch, keep=keep, taps=(0, 1, 2, 3))
    assert feats[1].tokens.shape == (2, 12, 64) and torch.equal(feats[1].keep, keep)
    assert feats[3].tokens.shape == (2, 24, 64) and feats[3].keep is None
    cos, sin = rope_table(4, 6, 32, torch.device("cpu"))
    vec = model.time_in(time_embedding(batch[1]))
    mask = torch.nn.functional.pad(batch[3], (0, 12), value=True)[:, None, None]
    expected = model.blocks[1](take(feats[0].tokens, keep), model.txt_in(batch[2]), mask, vec, take(cos, keep), take(sin, keep), False)[0]
    assert torch.allclose(feats[1].tokens, expected, atol=1e-6)


def test_put_inverts_take_and_masks_differ_across_samples():
    x, keep = torch.randn(2, 24, 3), TREAD(0.5).keep(torch.rand(2, 24))
    assert torch.equal(put(x, keep, take(x, keep)), x)
    assert not torch.equal(keep[0], keep[1]) and torch.equal(keep, keep.sort(1).values)


def test_one_graph():
    model, batch = randomised(router=MIDDLE), inputs()
    explained = torch._dynamo.explain(model)(*batch, TREAD().keep(torch.rand(2, 24)), None, (1, 2), (2,))
    assert explained.graph_count == 1 and explained.graph_break_count == 0


# ------------------------------------------------------------------------------------------- speed that changes no number
def attention_inputs(dtype: torch.dtype, masked: bool):
    g = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, n, 16, generator=g).to(dtype).requires_grad_() for n in (20, 27, 27))
    mask = torch.ones(2, 1, 1, 27, dtype=torch.bool)
    mask[0, ..., 3:7] = False
    return (q, k, v), mask if masked else None


def answers(attention, dtype: torch.dtype, masked: bool) -> list[torch.Tensor]:
    """The output and the three gradients, float32."""
    inputs, mask = attention_inputs(dtype, masked)
    out = attention(*inputs, mask)
    return [v.float() for v in (out, *torch.autograd.grad(out.float().square().sum(), inputs))]


def by_hand(q, k, v, mask):
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhnm,bhmd->bhnd", scores.masked_fill(torch.tensor(False) if mask is None else ~mask, -1e30).softmax(-1), v)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_a_cpu_in_bf16_is_as_exact_as_the_fused_one(masked):
    exact = answers(by_hand, torch.float64, masked)
    mine = answers(attend, torch.bfloat16, masked)
    fused = answers(lambda q, k, v, m: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=m), torch.bfloat16, masked)
    for a, b, c in zip(mine, fused, exact):
        assert (a - c).norm() < 1.5 * (b - c).norm() < 0.03 * c.norm()
    for a, b in zip(answers(attend, torch.float32, masked), exact):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("router", [DENSE, MIDDLE])
@torch.no_grad()
def test_text_read_once_gives_what_text_read_in_every_call_gives(router):
    model, (x, t, text, mask) = randomised(router=router), inputs()
    words = model.context(text)
    assert sum(v.numel() for pair in words for v in pair) == 2 * 4 * 2 * 7 * 64  # 2 depth B L D
    keep = None if router is DENSE else router.keep(torch.rand(2, 24))
    for seen in (mask, None):
        assert torch.equal(model(x, t, words, seen, keep)[0], model(x, t, text, seen, keep)[0])
    assert not torch.equal(model(x, t, model.context(text.roll(1, 0)), mask, keep)[0], model(x, t, text, mask, keep)[0])
