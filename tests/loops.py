"""A routed network by the papers' formulas: one sample, token by token, in float64 loops that share no code with the library."""

import math
from collections.abc import Callable

import numpy as np
import torch

from prx_lab.model import PRX, Arch
from prx_lab.routing import TREAD, Router
from prx_lab.sprint import SPRINT

ARCH = Arch(channels=2, patch=2, context=6, width=16, depth=4, heads=2)
SIDE, N = 4, 16
ROUTERS = [TREAD(0.5, 0.25, 0.75), SPRINT(0.25)]  # blocks 1 and 2 of 4


def network(router: Router, seed: int = 0) -> PRX:
    torch.manual_seed(seed)
    model = PRX(ARCH, router)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


def inputs(seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    x, text = torch.randn(3, 2, 2 * SIDE, 2 * SIDE, generator=g), torch.randn(3, 3, 6, generator=g)
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    return x, 0.1 * torch.rand(3, generator=g), text, mask  # early times, whose 1000 t float32 turns into exact enough angles


def scores(n: int = N, batch: int = 3, seed: int = 5) -> torch.Tensor:
    return torch.rand(batch, n, generator=torch.Generator().manual_seed(seed))


def norm(v):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-6)


def silu(v):
    return v / (1 + np.exp(-v))


def gelu(v):
    return 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def rms(v, weight):
    return v / np.sqrt((v**2).mean() + 1e-6) * weight


def turn(v, n):
    """Rotate a head's vector by the true place of token n: pairs of the first half by its row, of the second by its column."""
    d, out = len(v), v.copy()
    for pair in range(d // 2):
        place = n // SIDE if pair < d // 4 else n % SIDE
        a = place * 10000.0 ** (-2 * (pair % (d // 4)) / (d // 2))
        x, y = v[2 * pair : 2 * pair + 2]
        out[2 * pair : 2 * pair + 2] = x * math.cos(a) - y * math.sin(a), x * math.sin(a) + y * math.cos(a)
    return out


def block(w, p, tokens, text, vec):
    """One block on a dict {place: vector} of tokens; `text` are the unmasked caption tokens."""
    D, h = ARCH.width, ARCH.heads
    d, s = D // h, np.split(w[p + "modulation.lin.weight"] @ silu(vec) + w[p + "modulation.lin.bias"], 6)
    at = p + "attention."
    q, k, v = {}, {}, {}
    for n, x in tokens.items():
        q[n], k[n], v[n] = np.split(w[at + "img_qkv_proj.weight"] @ ((1 + s[1]) * norm(x) + s[0]), 3)
    kt, vt = zip(*(np.split(w[at + "txt_kv_proj.weight"] @ c, 2) for c in text))
    out = {}
    for n, x in tokens.items():
        attended = np.zeros(D)
        for i in range(h):
            part = slice(i * d, (i + 1) * d)
            query = turn(rms(q[n][part], w[at + "norm_q.weight"]), n)
            keys = [rms(c[part], w[at + "norm_added_k.weight"]) for c in kt]
            keys += [turn(rms(k[m][part], w[at + "norm_k.weight"]), m) for m in tokens]
            values = [c[part] for c in vt] + [v[m][part] for m in tokens]
            e = np.exp([query @ key / math.sqrt(d) for key in keys])
            attended[part] = sum(a * value for a, value in zip(e / e.sum(), values))
        x = x + s[2] * (w[at + "to_out.0.weight"] @ attended)
        y = (1 + s[4]) * norm(x) + s[3]
        out[n] = x + s[5] * (w[p + "down_proj.weight"] @ (gelu(w[p + "gate_proj.weight"] @ y) * (w[p + "up_proj.weight"] @ y)))
    return out


def loop(model: PRX, b: int, kept: list[int], join: Callable) -> np.ndarray:
    """The network's output (C, H, W) for sample b: blocks 1 and 2 of 4 on the tokens `kept`, then join(w, before, after)."""
    w = {k: v.double().numpy() for k, v in model.state_dict().items()}
    image, t, caption, mask = (v[b].double().numpy() if v.dtype != torch.bool else v[b].numpy() for v in inputs())
    text = [w["txt_in.weight"] @ c + w["txt_in.bias"] for c, seen in zip(caption, mask) if seen]
    angle = 1000 * float(t) * 10000.0 ** (-np.arange(128) / 128)
    vec = np.concatenate([np.cos(angle), np.sin(angle)])
    hidden = silu(w["time_in.in_layer.weight"] @ vec + w["time_in.in_layer.bias"])
    vec = w["time_in.out_layer.weight"] @ hidden + w["time_in.out_layer.bias"]
    x = {}
    for n in range(N):
        y, z = 2 * (n // SIDE), 2 * (n % SIDE)
        x[n] = w["img_in.weight"] @ image[:, y : y + 2, z : z + 2].reshape(-1) + w["img_in.bias"]
    x = block(w, "blocks.0.", x, text, vec)
    deep = {n: x[n] for n in kept}
    for i in (1, 2):
        deep = block(w, f"blocks.{i}.", deep, text, vec) if deep else deep
    x = block(w, "blocks.3.", join(w, x, deep), text, vec)
    shift, scale = np.split(w["final_layer.adaLN_modulation.1.weight"] @ silu(vec) + w["final_layer.adaLN_modulation.1.bias"], 2)
    out = np.zeros((2, 2 * SIDE, 2 * SIDE))
    for n in range(N):
        y, z = 2 * (n // SIDE), 2 * (n % SIDE)
        out[:, y : y + 2, z : z + 2] = (
            w["final_layer.linear.weight"] @ ((1 + scale) * norm(x[n]) + shift) + w["final_layer.linear.bias"]
        ).reshape(2, 2, 2)
    return out


def around(w, before, after):
    return {n: after.get(n, before[n]) for n in before}


def fused(w, before, after):
    streams = {n: np.concatenate([after.get(n, w["route.mask"]), before[n]]) for n in before}
    return {n: w["route.fuse.weight"] @ s + w["route.fuse.bias"] for n, s in streams.items()}


JOINS = [(ROUTERS[0], around), (ROUTERS[1], fused)]
