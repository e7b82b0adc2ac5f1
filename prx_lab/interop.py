"""Checkpoints in both directions: our PRX, diffusers' PRXTransformer2DModel folders, the original training framework's files.

Reading needs no diffusers.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from prx_lab import stored
from prx_lab.errors import LabError
from prx_lab.model import DENSE, PRX, PUBLISHED, Arch
from prx_lab.routing import Router
from prx_lab.stored import Stored

if TYPE_CHECKING:
    from diffusers import PRXTransformer2DModel

Value = TypeVar("Value")
PREFIXES = ("state.model.denoiser.", "model.denoiser.", "denoiser.", "")  # of the original framework, outermost first
AVERAGES = tuple(prefix.replace("denoiser.", "ema_denoiser.model.") for prefix in PREFIXES if prefix)
BEGUN = "ema_denoiser._is_active"  # ends the name of a flag beside an average: until it is set, the average is the first weights
RENAMED = {  # inside a block: the original framework's name -> diffusers' and ours
    "img_qkv_proj.weight": "attention.img_qkv_proj.weight",
    "txt_kv_proj.weight": "attention.txt_kv_proj.weight",
    "attn_out.weight": "attention.to_out.0.weight",
    "qk_norm.query_norm.scale": "attention.norm_q.weight",
    "qk_norm.query_norm.weight": "attention.norm_q.weight",
    "qk_norm.key_norm.scale": "attention.norm_k.weight",
    "qk_norm.key_norm.weight": "attention.norm_k.weight",
    "k_norm.scale": "attention.norm_added_k.weight",
    "k_norm.weight": "attention.norm_added_k.weight",
}
SIZES = {"channels": "in_channels", "patch": "patch_size", "context": "context_in_dim", "width": "hidden_size", "depth": "depth",
         "heads": "num_heads"}  # fmt: skip
DEFAULTS = {"in_channels": 16, "patch_size": 2, "context_in_dim": 2304, "hidden_size": 1792, "depth": 16, "num_heads": 28}
FIXED = {"theta": 10000, "time_factor": 1000.0, "time_max_period": 10000, "resolution_embeds": False}
PATCHES = {a.channels * a.patch**2: (a.channels, a.patch) for a in PUBLISHED.values()}  # a patch vector's length -> its division


# ------------------------------------------------------------------------------------------------ names and shapes
def rename(state: Mapping[str, Value], averaged: bool = True) -> dict[str, Value]:
    """Keys of the original framework as ours, values untouched; diffusers' keys are ours and stay as they are.

    Of a whole training state only the denoiser is taken: its average where there is one, which the framework itself samples from, or
    with averaged=False the weights in training. LabError where two tensors stand for one name.
    """
    prefixes = (AVERAGES if averaged else ()) + PREFIXES
    prefix = next((p for p in prefixes if f"{p}txt_in.weight" in state), "")
    renamed: dict[str, Value] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            block, inner = re.fullmatch(r"(blocks\.\d+\.)?(.*)", key.removeprefix(prefix)).groups(default="")
            name = block + (RENAMED.get(inner, inner) if block else inner)
            if name in renamed:
                raise LabError(f"Two tensors of this checkpoint stand for '{name}': keep one of them.")
            renamed[name] = value
    return renamed


def arch_of(config: Mapping[str, Any]) -> Arch:
    """The shape that a diffusers transformer config describes; LabError for one that this network cannot have."""
    kind = config.get("_class_name", "PRXTransformer2DModel")
    if kind != "PRXTransformer2DModel":
        raise LabError(f"The config describes a {kind}, not a PRXTransformer2DModel: give the transformer of a PRX pipeline.")
    for name, ours in FIXED.items():
        if config.get(name, ours) != ours:
            raise LabError(f"The config has {name} = {config[name]!r}, and this network knows {ours!r} only: its weights cannot be used.")
    sizes = {ours: config.get(theirs, DEFAULTS[theirs]) for ours, theirs in SIZES.items()}
    sizes |= {"bottleneck": config.get("bottleneck_size") or 0, "mlp_ratio": config.get("mlp_ratio", 3.5)}
    for name, value in sizes.items():
        kinds = (int, float) if name == "mlp_ratio" else (int,)
        if type(value) not in kinds or not (0 < value < math.inf or (name, value) == ("bottleneck", 0)):
            raise LabError(f"The config has {SIZES.get(name, name)} = {value!r}; it must be a positive number.")
    arch = Arch(**sizes)
    require_heads(arch)
    half = arch.width // arch.heads // 2
    axes = config.get("axes_dim") or [32, 32]
    if list(axes) != [half, half]:
        raise LabError(f"The config has axes_dim = {axes}, and this network turns rows and columns alike, [{half}, {half}].")
    return arch


def require_heads(arch: Arch) -> None:
    """Refuse, with a LabError, heads that cannot turn by rows and columns: the width of each must be a multiple of 4."""
    if arch.width % (4 * arch.heads):
        raise LabError(f"Width {arch.width} over {arch.heads} heads is not a multiple of 4, which turning by rows and columns needs.")


def config_of(arch: Arch) -> dict[str, Any]:
    """The config of diffusers' PRXTransformer2DModel for a shape."""
    half = arch.width // arch.heads // 2
    sizes = {theirs: getattr(arch, ours) for ours, theirs in SIZES.items()}
    own = {"mlp_ratio": arch.mlp_ratio, "axes_dim": [half, half], "bottleneck_size": arch.bottleneck or None}
    return {"_class_name": "PRXTransformer2DModel"} | sizes | own | FIXED


def infer(shapes: Mapping[str, tuple[int, ...]], channels: int = 0) -> Arch:
    """The shape of a network with these tensors; `channels` divides its patch vector, 0 as the published ones divide.

    LabError where they are not a PRX network's, or where that vector cannot be divided so.
    """
    first = "img_in.0.weight" if "img_in.0.weight" in shapes else "img_in.weight"
    named = (first, "txt_in.weight", "blocks.0.gate_proj.weight", "blocks.0.attention.norm_q.weight")
    sizes = [shapes.get(name, ()) for name in named]
    if [len(size) for size in sizes] != [2, 2, 2, 1] or not all(all(size) for size in sizes):
        absent = next(name for name, size, n in zip(named, sizes, (2, 2, 2, 1)) if len(size) != n or not all(size))
        raise LabError(f"These are not the weights of a PRX transformer: '{absent}' is missing or of another shape.")
    (inner, length), (width, context), (hidden, _), (head,) = sizes
    depth = len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})
    division = (channels, math.isqrt(length // channels)) if channels else PATCHES.get(length, (0, 0))
    if division[0] * division[1] ** 2 != length:
        raise LabError(
            f"Patches of {length} numbers are none of the published ones ({', '.join(map(str, sorted(PATCHES)))}), so channels and patch "
            "size cannot be told: put config.json beside the weights, or give arch=Arch(...)."
        )
    ratio = 3.5 if int(3.5 * width) == hidden else hidden / width
    ratio = ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)
    arch = Arch(*division, context, width, depth, width // head, ratio, inner if first == "img_in.0.weight" else 0)
    require_heads(arch)
    return arch


# ------------------------------------------------------------------------------------------------ in
def find(source: str | Path, averaged: bool = True) -> Stored:
    """A checkpoint as it lies on disk, its tensors under our names; of an original training state the average, see `rename`.

    LabError where there is none that can be read, and for a network that embeds the resolution.
    """
    found = stored.find(source)
    averaged = averaged and has_begun(found)
    found = replace(found, places=rename(found.places, averaged), shapes=rename(found.shapes, averaged))
    if any(name.startswith("resolution_embedder.") for name in found.shapes):
        raise LabError(f"{source} embeds the resolution, which this network does not do: its weights cannot be used.")
    return found


def has_begun(found: Stored) -> bool:
    """Whether the average in an original training state is one yet, by its flag."""
    for file, key in (place for name, place in found.places.items() if name.endswith(BEGUN)):
        with stored.opened(file) as tensors:
            return bool(tensors.get_tensor(key).any())
    return True


def shape_of(found: Stored) -> Arch:
    """The shape of a checkpoint's network: as its config says, or else as its tensors show."""
    return arch_of(found.config) if found.config else infer(found.shapes, found.channels)


def compare(found: Stored, model: PRX) -> None:
    """Refuse, with a LabError, weights that are not exactly those of `model`; only a router's own may be missing, all of them together."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if not any(name.startswith("route.") for name in found.shapes):
        expected = {name: shape for name, shape in expected.items() if not name.startswith("route.")}
    missing, extra = sorted(expected.keys() - found.shapes.keys()), sorted(found.shapes.keys() - expected.keys())
    if extra and extra[0].startswith("route."):
        raise LabError(f"{found.source} was trained with a router that has weights of its own ({extra[0]}): use the same router.")
    if missing:
        raise LabError(f"{found.source} lacks '{missing[0]}' ({len(missing)} missing): it is incomplete, or another network.")
    if extra:
        raise LabError(f"{found.source} holds '{extra[0]}' ({len(extra)} such), which this network does not have: it is another network.")
    for name, shape in expected.items():
        if found.shapes[name] != shape:
            raise LabError(f"'{name}' in {found.source} has the shape {found.shapes[name]} and not {shape}: config and weights disagree.")


def load(
    source: str | Path, router: Router = DENSE, arch: Arch | None = None, dtype: torch.dtype = torch.float32, averaged: bool = True
) -> PRX:
    """A network with the weights of `source` in `dtype`, for evaluation; tensor by tensor, so that there is one copy.

    `arch` is needed only for weights without a config whose patches are none of the published ones. A run's weights come
    with the run's own router, unless another is given. Of an original training state `averaged` chooses the average or the weights
    in training.
    """
    found = find(source, averaged)
    router = found.router if router == DENSE else router
    with torch.device("meta"):
        model = PRX(arch or shape_of(found), router)
    compare(found, model)
    for name, tensor in found.tensors():
        model.load_state_dict({name: tensor.to(dtype, copy=True)}, strict=False, assign=True)
    if any(p.is_meta for p in model.route.parameters()):  # a router of its own on weights that were trained without one
        model.route = router.build(model.arch.width, model.arch.depth).to(dtype)
    return model.eval()


# ------------------------------------------------------------------------------------------------ out
def to_diffusers(model: PRX) -> "PRXTransformer2DModel":
    """A copy as diffusers' class, in the same dtype, on the CPU; LabError for a router that has weights of its own."""
    from diffusers import PRXTransformer2DModel

    if model.route.state_dict():
        kind = type(model.route).__name__
        raise LabError(f"diffusers' PRX has no place for this router's own weights ({kind}): export a run whose router is Dense or TREAD.")
    with torch.device("meta"):
        theirs = PRXTransformer2DModel.from_config(config_of(model.arch))
    theirs.load_state_dict({name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}, assign=True)
    return theirs.eval()


def save(model: PRX, folder: str | Path, shard: str = "10GB") -> Path:
    """Write `folder`/transformer as diffusers does, in files of at most `shard`."""
    target = Path(folder) / "transformer"
    to_diffusers(model).save_pretrained(target, max_shard_size=shard)
    return target
