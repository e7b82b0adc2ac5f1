"""What the original framework and diffusers document of PRX, each fact against a plain computation of its own.

The references are written from the facts, token by token in float64, and are shown to notice the mistake each of them is for.
"""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import CPU, store, tiny

from prx_lab.flow import LogitNormal, draw, shift_time
from prx_lab.model import PRX, PUBLISHED, Arch, Attention, Block, FinalLayer, patchify, rope_table, time_embedding, unpatchify
from prx_lab.recipes import BASE
from prx_lab.train import build

ARCH = Arch(channels=4, patch=2, context=12, width=32, depth=2, heads=2)  # heads of 16: four angles a row, four a column
H, W, L = 3, 2, 4  # a grid of tokens that is not square, and places for text


def random(module, std: float = 0.3):
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=std)
    return module.eval()


def close(a, b, tolerance: float = 2e-5) -> bool:
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).max() < tolerance


# ------------------------------------------------------------------------------------------------ tokens
@pytest.mark.parametrize("C, p, h, w", [(3, 2, 4, 3), (16, 2, 2, 5), (32, 1, 3, 4), (3, 8, 1, 2)])
def test_tokens_run_row_by_row_and_patches_channel_by_channel(C, p, h, w):
    x = torch.arange(2.0 * C * h * p * w * p).view(2, C, h * p, w * p)
    z = patchify(x, p)
    assert z.shape == (2, h * w, C * p * p)
    for token in range(h * w):
        row, column = divmod(token, w)
        for place in range(C * p * p):
            c, y, x_ = place // (p * p), place // p % p, place % p
            assert z[1, token, place] == x[1, c, row * p + y, column * p + x_]
    assert torch.equal(unpatchify(z, p, h, w), x)


@torch.no_grad()
def test_the_output_has_the_input_s_order():
    model = PRX(ARCH)  # fresh: what it says is its last bias
    model.final_layer.linear.bias.copy_(torch.arange(16.0))
    out = model(torch.randn(1, 4, 2 * H, 2 * W), torch.rand(1), torch.randn(1, L, 12))[0][0]
    for c in range(4):
        for y in range(2 * H):
            for x in range(2 * W):
                assert out[c, y, x] == 4 * c + 2 * (y % 2) + x % 2


# ------------------------------------------------------------------------------------------------ rotation
def angles(row: int, column: int, d: int) -> list[float]:
    """Of the d / 2 pairs of a head: the first half turns with the row, the second with the column."""
    omega = [10000.0 ** (-2 * i / (d // 2)) for i in range(d // 4)]
    return [row * o for o in omega] + [column * o for o in omega]


def turned(v: np.ndarray, angle: list[float], halves: bool = False) -> np.ndarray:
    """Adjacent pairs of v as complex numbers, each turned by its angle; `halves` pairs i with i + d/2 instead."""
    z = v[: len(v) // 2] + 1j * v[len(v) // 2 :] if halves else v[0::2] + 1j * v[1::2]
    z = z * np.exp(1j * np.array(angle))
    return np.concatenate([z.real, z.imag]) if halves else np.stack([z.real, z.imag], 1).reshape(-1)


def test_angles_are_those_of_whole_positions_rows_first():
    cos, sin = rope_table(H, W, 16, CPU)
    expected = np.array([angles(*divmod(token, W), 16) for token in range(H * W)])
    assert cos.dtype == sin.dtype == torch.float32
    assert close(cos[0], np.cos(expected), 1e-7) and close(sin[0], np.sin(expected), 1e-7)


def test_angles_are_exact_far_from_the_origin():
    cos, _ = rope_table(1, 4000, 64, CPU)  # float32 angles would be wrong by 1e-4 here
    assert close(cos[0, -1], np.cos(angles(0, 3999, 64)), 1e-7)


def test_a_larger_image_only_adds_positions():
    small, large = rope_table(2, 3, 16, CPU), rope_table(5, 7, 16, CPU)
    for a, b in zip(small, large):
        assert torch.equal(a.view(2, 3, 8), b.view(5, 7, 8)[:2, :3])


# ------------------------------------------------------------------------------------------------ attention
def rms(v: np.ndarray, scale: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    return v / math.sqrt(float((v * v).mean()) + eps) * scale


def attention(module: Attention, x: np.ndarray, text: np.ndarray, mask: np.ndarray, mistake: str = "") -> np.ndarray:
    """One sample's attention, head by head and query by query; x (N, D), text (L, D), mask (L,)."""
    w = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    N, D = x.shape
    h, d = module.heads, D // module.heads
    eps = 1e-5 if mistake == "eps" else 1e-6
    place = [angles(*divmod(i, W), d) for i in range(N)]
    if mistake == "columns first":
        place = [a[d // 4 :] + a[: d // 4] for a in place]

    def part(row: np.ndarray, k: int, parts: int, head: int) -> np.ndarray:
        """q, k or v of one head, out of one token's projection: parts one after the other, heads one after the other in each."""
        if mistake == "heads outside":
            return row.reshape(h, parts, d)[head, k]
        if mistake == "interleaved":
            return row.reshape(parts, d, h)[k, :, head]
        return row[k * D + head * d : k * D + (head + 1) * d]

    def image(row: np.ndarray, k: int, i: int, head: int) -> np.ndarray:
        """A normalised and turned query (k = 0) or key (k = 1)."""
        v, scale = part(row, k, 3, head), w[("norm_q.weight", "norm_k.weight")[k]]
        if mistake == "norm after rotation":
            return rms(turned(v, place[i]), scale, eps)
        return turned(rms(v, scale, eps), place[i], halves=mistake == "halves")

    out = np.zeros((N, D))
    for head in range(h):
        qkv, kv = x @ w["img_qkv_proj.weight"].T, text @ w["txt_kv_proj.weight"].T
        keys, values = [], []
        for j, seen in enumerate(mask):
            if seen or mistake == "no mask":
                scale = w["norm_k.weight" if mistake == "one key norm" else "norm_added_k.weight"]
                key = rms(part(kv[j], 0, 2, head), scale, eps)
                keys.append(turned(key, angles(0, j, d)) if mistake == "text turned" else key)
                values.append(part(kv[j], 1, 2, head))
        for i in range(N):
            keys.append(image(qkv[i], 1, i, head))
            values.append(part(qkv[i], 2, 3, head))
        for i in range(N):
            logit = np.array(keys) @ image(qkv[i], 0, i, head) / (d if mistake == "scale" else math.sqrt(d))
            weight = np.exp(logit - logit.max())
            out[i, head * d : (head + 1) * d] = weight @ np.array(values) / weight.sum()
    return out @ w["to_out.0.weight"].T


@pytest.fixture(scope="module")
def attended():
    """(module, small tokens, text, mask, what the module says): tokens so small that eps counts."""
    module = random(Attention(32, 2))
    g = torch.Generator().manual_seed(1)
    x, text = 1e-3 * torch.randn(H * W, 32, generator=g), 1e-3 * torch.randn(L, 32, generator=g)
    for scale in (module.norm_q, module.norm_k, module.norm_added_k):
        scale.weight.data.mul_(5)  # so that the logits differ
    mask = torch.tensor([True, True, False, True])
    seen = F.pad(mask, (0, H * W), value=True)[None, None, None]
    with torch.no_grad():
        found = module(x[None], text[None], seen, *rope_table(H, W, 16, CPU))[0][0]
    return module, x.double().numpy(), text.double().numpy(), mask.numpy(), found.numpy()


def test_attention_is_the_documented_one(attended):
    module, x, text, mask, found = attended
    assert close(found / np.abs(found).max(), attention(module, x, text, mask) / np.abs(found).max())


@pytest.mark.parametrize(
    "mistake",
    ["heads outside", "interleaved", "halves", "columns first", "text turned", "norm after rotation", "one key norm", "no mask", "scale",
     "eps"],
)  # fmt: skip
def test_the_reference_would_notice(attended, mistake):
    module, x, text, mask, found = attended
    wrong = attention(module, x, text, mask, mistake)
    assert np.abs(wrong - found).max() > 0.01 * np.abs(found).max()


@torch.no_grad()
def test_a_mask_hides_text_and_never_an_image_token():
    model = random(PRX(ARCH), 0.2)
    x, t, text = torch.randn(2, 4, 6, 4), torch.rand(2), torch.randn(2, L, 12)
    hidden = model(x, t, text, torch.zeros(2, L, dtype=torch.bool))[0]
    assert hidden.isfinite().all()
    assert torch.allclose(hidden, model(x, t, text[:, :0])[0], atol=1e-5)  # no text at all
    assert torch.equal(hidden, model(x, t, -text, torch.zeros(2, L, dtype=torch.bool))[0])
    seen = model(x, t, text, torch.ones(2, L, dtype=torch.bool))[0]
    assert torch.allclose(seen, model(x, t, text)[0], atol=1e-5) and (seen - hidden).abs().max() > 0.01


@torch.no_grad()
def test_only_text_is_free_of_order():
    """Image tokens know their places: the same patches at other places give another answer at these patches."""
    model = random(PRX(ARCH), 0.2)
    x, t, text = torch.randn(1, 4, 6, 4), torch.rand(1), torch.randn(1, L, 12)
    out, moved = model(x, t, text)[0], model(x.roll(2, 2), t, text)[0].roll(-2, 2)
    assert (out - moved).abs().max() > 0.01
    assert torch.allclose(out, model(x, t, text.flip(1))[0], atol=1e-5)


# ------------------------------------------------------------------------------------------------ time
def test_time_is_a_thousand_t_cosines_before_sines():
    t = [0.0, 0.001, 0.25, 0.7, 1.0]
    omega = [math.exp(-math.log(10000) * i / 128) for i in range(128)]
    expected = [[f(1000 * s * o) for f in (math.cos, math.sin) for o in omega] for s in t]
    assert close(time_embedding(torch.tensor(t)), expected, 2e-4)  # a float32 angle near 1000 is off by 6e-5
    assert time_embedding(torch.zeros(1)).tolist() == [[1.0] * 128 + [0.0] * 128]


def test_time_is_embedded_in_float32_whatever_the_network_computes_in():
    t = torch.tensor([0.3, 0.9], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = time_embedding(t)
    assert embedded.dtype == torch.float32 and torch.equal(embedded, time_embedding(t.float()))


# ------------------------------------------------------------------------------------------------ modulation and MLP
def normed(x: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights, eps 1e-6."""
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def block(module: Block, x: torch.Tensor, rest: tuple, order: list[int], act=gelu, swap: bool = False) -> torch.Tensor:
    """A block whose six vectors stand in the time MLP's bias in this order of (shift, scale, gate) twice."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (module.modulation.lin.bias.view(6, -1)[i] for i in order)
    text, cos, sin = rest
    x = x + gate1 * module.attention((1 + scale1) * normed(x) + shift1, text, None, cos, sin)[0]
    y = (1 + scale2) * normed(x) + shift2
    gate, up = (module.up_proj, module.gate_proj) if swap else (module.gate_proj, module.up_proj)
    return x + gate2 * module.down_proj(act(gate(y)) * up(y))


@pytest.fixture(scope="module")
def blocked():
    module = random(Block(ARCH))
    torch.nn.init.zeros_(module.modulation.lin.weight)
    g = torch.Generator().manual_seed(2)
    x, text, vec = (torch.randn(shape, generator=g) for shape in ((1, H * W, 32), (1, L, 32), (1, 32)))
    x = 2e-3 * x  # small enough for eps to count
    cos, sin = rope_table(H, W, 16, CPU)
    with torch.no_grad():
        return module, x, (text, cos, sin), module(x, text, None, vec, cos, sin, False)[0]


@torch.no_grad()
def test_shift_scale_gate_of_attention_then_of_the_mlp(blocked):
    module, x, rest, found = blocked
    assert close(found, block(module, x, rest, [0, 1, 2, 3, 4, 5]))
    for order in ([1, 0, 2, 4, 3, 5], [2, 1, 0, 5, 4, 3], [0, 2, 1, 3, 5, 4], [3, 4, 5, 0, 1, 2]):
        assert not close(found, block(module, x, rest, order), 1e-3)


@torch.no_grad()
def test_the_mlp_is_gated_by_the_tanh_form_of_gelu(blocked):
    module, x, rest, found = blocked
    order = [0, 1, 2, 3, 4, 5]
    for act, swap in ((F.gelu, False), (F.silu, False), (gelu, True)):
        assert not close(found, block(module, x, rest, order, act, swap), 1e-4)


@torch.no_grad()
def test_the_time_vector_passes_a_silu_before_it_modulates():
    module, vec = random(Block(ARCH)), torch.randn(1, 32)
    six = (vec * torch.sigmoid(vec)) @ module.modulation.lin.weight.T + module.modulation.lin.bias
    assert close(torch.cat(module.modulation(vec), -1)[:, 0], six, 1e-5)


@torch.no_grad()
def test_the_last_layer_shifts_and_scales_in_this_order():
    layer, x, vec = random(FinalLayer(32, 16)), 2e-3 * torch.randn(1, 6, 32), torch.randn(1, 32)
    last = layer.adaLN_modulation[1]
    shift, scale = ((vec * torch.sigmoid(vec)) @ last.weight.T + last.bias).view(2, 1, 1, 32)
    assert close(layer(x, vec), layer.linear((1 + scale) * normed(x) + shift), 1e-5)
    assert not close(layer(x, vec), layer.linear((1 + shift) * normed(x) + scale), 1e-2)


@torch.no_grad()
def test_fresh_blocks_pass_tokens_through():
    model, x = PRX(ARCH), torch.randn(1, 4, 6, 4)
    _, feats = model(x, torch.rand(1), torch.randn(1, L, 12), taps=(0, 1))
    for i in (0, 1):
        assert torch.equal(feats[i].tokens, model.img_in(patchify(x, 2)))
    assert not any(p.any() for name, p in model.named_parameters() if "modulation" in name or "adaLN" in name or "final" in name)


# ------------------------------------------------------------------------------------------------ training
def test_a_dropped_caption_is_the_empty_one_and_the_batch_stays_as_it_is():
    recipe, data = tiny(BASE), store()
    learner, batch = random(build(recipe, data, 0, CPU), 0.1), data.batch(np.arange(8))
    variates = draw((0, 0, 0, 0), tuple(batch.x.shape), recipe.scale.tokens, recipe.time, 0.0)
    before = copy.deepcopy(batch)
    some = torch.tensor([True, False] * 4)
    with torch.no_grad():
        kept, dropped = learner(batch, variates)[0], learner(batch, copy.copy(variates).__class__(**vars(variates) | {"drop": some}))[0]
        for field in ("tokens", "mask", "null", "null_mask"):
            assert torch.equal(getattr(batch.text, field), getattr(before.text, field))
        assert torch.equal(batch.x, before.x)
        for i in range(0, 8, 2):  # by hand: both the embedding and its mask are the empty caption's
            before.text.tokens[i], before.text.mask[i] = before.text.null[0], before.text.null_mask[0]
        assert torch.equal(learner(before, variates)[0], dropped) and (dropped - kept).abs() > 1e-5
    assert not torch.equal(before.text.null_mask.expand(8, -1), batch.text.mask)


@pytest.mark.parametrize("k", [0.3, 1.0, 3.0, 6.0])
def test_a_shift_keeps_the_ends_and_the_order_of_times(k):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    moved = shift_time(t, k)
    assert moved[0] == 0 and moved[-1].item() == pytest.approx(1, abs=1e-9) and bool((moved.diff() > 0).all())
    assert (moved[500] > t[500]) == (k > 1)  # towards noise


@pytest.mark.parametrize("shift, quantiles", [(1.0, (0.147, 0.5, 0.853)), (3.0, (0.293, 0.738, 0.940))])
def test_the_published_mixture_of_times(shift, quantiles):
    """Nine tenths logit-normal and shifted, a tenth uniform and not shifted; quantiles as they were measured on the original."""
    g, n = torch.Generator().manual_seed(0), 400_000
    z, u, choose = torch.randn(n, generator=g), torch.rand(n, generator=g), torch.rand(n, generator=g)
    t = LogitNormal(shift=shift)(z, u, choose)
    assert close(np.quantile(t.numpy(), [0.05, 0.5, 0.95]), quantiles, 5e-3)
    for q in (0.1, 0.3, 0.6, 0.9):
        normal = 0.5 * (1 + math.erf((math.log(q / (1 - q)) - math.log(shift)) / math.sqrt(2)))
        assert (t < q).double().mean().item() == pytest.approx(0.9 * normal + 0.1 * q, abs=3e-3)  # four standard errors
    assert torch.equal(t[choose < 0.1], u[choose < 0.1])
    assert 0 <= t.min() and t.max() <= 1


# ------------------------------------------------------------------------------------------------ sizes
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("prx-7b", 6_985_046_080),
        ("prx-1.2b", 1_170_691_648),
        ("prx-1.2b-dc-ae", 1_170_576_928),
        ("prx-1.2b-flux2", 1_170_921_088),
        ("prx-1.2b-pixels", 1_177_215_744),
    ],
)
def test_published_sizes_have_the_measured_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = PRX(PUBLISHED[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
    if name == "prx-1.2b":  # a quarter of it modulates
        assert sum(p.numel() for n, p in model.named_parameters() if "modulation.lin" in n) / parameters == pytest.approx(0.26, abs=0.005)
