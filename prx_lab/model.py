"""PRX: a flow transformer whose image tokens attend to text keys that no block updates (Photoroom PRX, part 1).

State-dict keys are those of diffusers' PRXTransformer2DModel. B batch, N image tokens, D width, h heads, d = D/h,
L text tokens, K kept tokens, C channels, p patch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prx_lab.routing import Dense, Router, take


@dataclass(frozen=True)
class Arch:
    """The shape of a PRX network; `bottleneck` > 0 splits the patch embedding into two linear maps (JiT)."""

    channels: int
    patch: int
    context: int  # width of the text features
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 3.5
    bottleneck: int = 0


DENSE = Dense()
PUBLISHED = {  # Photoroom's released sizes
    "prx-1.2b": Arch(channels=16, patch=2, context=2304, width=1792, depth=16, heads=28),
    "prx-1.2b-dc-ae": Arch(channels=32, patch=1, context=2304, width=1792, depth=16, heads=28),
    "prx-1.2b-flux2": Arch(channels=32, patch=2, context=2304, width=1792, depth=16, heads=28),
    "prx-1.2b-pixels": Arch(channels=3, patch=32, context=2304, width=1792, depth=16, heads=28, bottleneck=256),
    "prx-7b": Arch(channels=16, patch=2, context=2304, width=3584, depth=24, heads=28),
}


class Feat(NamedTuple):
    """Tokens after a tapped block; `keep` (B, K) names their places when only a part of the N tokens is there."""

    tokens: Tensor  # (B, N or K, D)
    keep: Tensor | None
    q: Tensor | None = None  # (B, h, N or K, d) normalised and rotated image queries, where they were asked for
    k: Tensor | None = None  # (B, h, N or K, d) and keys


class Words(NamedTuple):
    """What a block reads of the text; neither the time nor the image has a part in it."""

    k: Tensor  # (B, h, L, d) normalised keys
    v: Tensor  # (B, h, L, d) values


def patchify(x: Tensor, p: int) -> Tensor:
    """(B, C, H, W) -> (B, N, C p p): raster token order, channel-major patch vector."""
    return F.pixel_unshuffle(x, p).flatten(2).transpose(1, 2)


def unpatchify(z: Tensor, p: int, h: int, w: int) -> Tensor:
    """(B, h w, C p p) -> (B, C, h p, w p), the inverse of `patchify`."""
    return F.pixel_shuffle(z.transpose(1, 2).unflatten(2, (h, w)), p)


def rope_table(h: int, w: int, d: int, device: torch.device, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin (1, N, d/2): the first half of the angles turns with the row, the second with the column."""
    omega = theta ** -(torch.arange(0, d // 2, 2, dtype=torch.float64, device=device) / (d // 2))
    row = torch.arange(h, dtype=torch.float64, device=device).repeat_interleave(w)
    col = torch.arange(w, dtype=torch.float64, device=device).repeat(h)
    angle = torch.cat([torch.outer(row, omega), torch.outer(col, omega)], -1)[None]
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent pairs of x (B, h, N, d) by the angles of cos, sin (1 or B, N, d/2)."""
    cos, sin, pairs = cos.unsqueeze(1), sin.unsqueeze(1), x.unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():  # one product of complex numbers: the same bits in one pass
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2)
    a, b = pairs.unbind(-1)  # compilers know no complex numbers, but fuse this
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def time_embedding(t: Tensor, width: int = 256, period: float = 10000.0) -> Tensor:
    """Sinusoid (B, width) of 1000 t, cosines first, in float32."""
    omega = torch.exp(-math.log(period) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = 1000.0 * t.float()[:, None] * omega
    return torch.cat([angle.cos(), angle.sin()], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of q (B, h, N, d), k, v (B, h, M, d); mask (B, 1, 1, M) is True where a key may be seen.

    PyTorch's fused attention has a slow gradient on CPUs in bf16, so training there uses the plain formula (`benchmarks.attention`
    compares the two). That one keeps B h N M scores, so sampling, which needs no gradient, stays with the fused one.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, h, N, M)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


class TimeMLP(nn.Module):
    """Two linear maps with a SiLU between them: from the time's sinusoid to the vector that modulates every block."""

    def __init__(self, width: int):
        super().__init__()
        self.in_layer = nn.Linear(256, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, e: Tensor) -> Tensor:
        """(B, 256) -> (B, D)."""
        return self.out_layer(F.silu(self.in_layer(e)))


class Modulation(nn.Module):
    """adaLN-zero: six vectors from the time embedding, all zero at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.lin = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        """(B, D) -> six of (B, 1, D): shift, scale and gate of the attention, then those of the GEGLU."""
        return self.lin(F.silu(vec)).unsqueeze(1).chunk(6, -1)


class Attention(nn.Module):
    """Image queries over text and image keys; q and k are normalised per head, then image q and k are rotated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.img_qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.txt_kv_proj = nn.Linear(width, 2 * width, bias=False)
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_added_k = nn.RMSNorm(width // heads, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False)])  # a list because diffusers names it to_out.0

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts D) -> parts of (B, h, N, d)."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def read(self, text: Tensor) -> Words:
        """Keys and values of text tokens (B, L, D)."""
        k, v = self.split(self.txt_kv_proj(text), 2)
        return Words(self.norm_added_k(k.float()).to(v.dtype), v)

    def forward(self, x: Tensor, text: Tensor | Words, mask: Tensor | None, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) and the text (B, L, D), or what `read` made of it, -> tokens (B, N, D), image queries and keys (B, h, N, d)."""
        q, k, v = self.split(self.img_qkv_proj(x), 3)  # (B, h, N, d)
        words = text if isinstance(text, Words) else self.read(text)
        q = rotate(self.norm_q(q.float()), cos, sin).to(v.dtype)
        k = rotate(self.norm_k(k.float()), cos, sin).to(v.dtype)
        keys, values = torch.cat([words.k, k], 2), torch.cat([words.v, v], 2)  # (B, h, L+N, d)
        out = attend(q, keys, values, mask)
        return self.to_out[0](out.transpose(1, 2).flatten(2)), q, k


class Block(nn.Module):
    """x + gate attention(modulate(x)), then x + gate GEGLU(modulate(x))."""

    def __init__(self, arch: Arch):
        super().__init__()
        D, hidden = arch.width, int(arch.mlp_ratio * arch.width)
        self.modulation = Modulation(D)
        self.attention = Attention(D, arch.heads)
        self.gate_proj = nn.Linear(D, hidden, bias=False)
        self.up_proj = nn.Linear(D, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, D, bias=False)

    def forward(
        self, x: Tensor, text: Tensor | Words, mask: Tensor | None, vec: Tensor, cos: Tensor, sin: Tensor, heads: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens (B, N, D) and, with `heads`, the image queries and keys (B, h, N, d)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(vec)  # (B, 1, D) each
        attended, q, k = self.attention((1 + scale1) * norm(x) + shift1, text, mask, cos, sin)
        x = x + gate1 * attended
        y = (1 + scale2) * norm(x) + shift2
        x = x + gate2 * self.down_proj(F.gelu(self.gate_proj(y), approximate="tanh") * self.up_proj(y))
        return (x, q, k) if heads else (x, None, None)  # an output nobody reads would cost a gradient of zeros


def again(block: Block, given: tuple[Tensor | bool | None, ...]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The block's outputs; only its inputs are kept, and it runs again for the gradients."""
    return checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)  # there is no randomness in it


class FinalLayer(nn.Module):
    """A modulated norm and a linear map to patches, zero at the start: a fresh network outputs exactly 0."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, out)
        for layer in (self.adaLN_modulation[1], self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        """Tokens (B, N, D) and the vector of the time (B, D) -> patches (B, N, C p p)."""
        shift, scale = self.adaLN_modulation(vec).unsqueeze(1).chunk(2, -1)
        return self.linear((1 + scale) * norm(x) + shift)


def norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without weights of its own, eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class PRX(nn.Module):
    """The denoiser f_theta(x_t, t, text; keep), made in float32; the blocks of its router's span see only kept tokens."""

    def __init__(self, arch: Arch, router: Router = DENSE):
        super().__init__()
        self.arch = arch
        patch_dim = arch.channels * arch.patch**2
        if arch.bottleneck:
            self.img_in = nn.Sequential(nn.Linear(patch_dim, arch.bottleneck), nn.Linear(arch.bottleneck, arch.width))
        else:
            self.img_in = nn.Linear(patch_dim, arch.width)
        self.txt_in = nn.Linear(arch.context, arch.width)
        self.time_in = TimeMLP(arch.width)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.depth))
        self.final_layer = FinalLayer(arch.width, patch_dim)
        self.route = router.build(arch.width, arch.depth)
        self.recompute = False  # in the backward pass, what a block's forward would else keep in memory

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "PRX":
        """The network of a diffusers folder, a run folder, an original safetensors file, or a name on the hub; see `interop.load`."""
        from prx_lab.interop import load

        return load(source)

    def context(self, text: Tensor) -> tuple[Words, ...]:
        """What every block reads of the text (B, L, context), to be computed once for many calls: 2 depth B L D numbers."""
        text = self.txt_in(text)
        return tuple(block.attention.read(text) for block in self.blocks)

    def forward(
        self,
        x_t: Tensor,  # (B, C, H, W)
        t: Tensor,  # (B,) in [0, 1]
        text: Tensor | tuple[Words, ...],  # (B, L, context), or what `context` made of it
        mask: Tensor | None = None,  # (B, L) bool, True = attend
        keep: Tensor | None = None,  # (B, K) sorted ids of the tokens that run through the span
        skip: Tensor | None = None,  # (B,) bool, samples in which the router drops the span's output
        taps: Sequence[int] = (),  # blocks, from 0, whose output tokens are returned
        heads: Sequence[int] = (),  # those of them whose image queries and keys are returned too
    ) -> tuple[Tensor, dict[int, Feat]]:
        """The raw prediction (B, C, H, W) and the features after each tapped block."""
        p = self.arch.patch
        h, w = x_t.shape[2] // p, x_t.shape[3] // p
        x = self.img_in(patchify(x_t, p))  # (B, N, D)
        words = text if isinstance(text, tuple) else (self.txt_in(text),) * self.arch.depth
        vec = self.time_in(time_embedding(t).to(x.dtype))
        cos, sin = rope_table(h, w, self.arch.width // self.arch.heads, x.device)
        if mask is not None:  # image keys are always seen; one boolean row per sample, broadcast over heads and queries
            mask = F.pad(mask, (0, h * w), value=True)[:, None, None]  # (B, 1, 1, L+N)
        outside = inside = (mask, vec, cos, sin)
        if keep is not None:  # kept tokens turn by their true positions
            mask_in = mask if mask is None else mask[..., : mask.shape[-1] - h * w + keep.shape[1]]
            inside = (mask_in, vec, take(cos, keep), take(sin, keep))
        first, last = self.route.span
        feats: dict[int, Feat] = {}
        for i, block in enumerate(self.blocks):
            if i == first:
                dense, x = x, x if keep is None else take(x, keep)
            routed = first <= i <= last
            q = k = None
            if x.shape[1]:  # with no kept token the span costs nothing, and has no queries and keys
                given = (x, words[i], *(inside if routed else outside), i in heads)
                x, q, k = again(block, given) if self.recompute and torch.is_grad_enabled() else block(*given)
            if i in taps:
                feats[i] = Feat(x, keep if routed else None, q, k)
            if i == last:
                x = self.route(dense, x, keep, skip)
        return unpatchify(self.final_layer(x, vec), p, h, w), feats
