"""Transformer weights on disk, looked at before they are loaded: a file, a folder, a pipeline, a run, a name on the hub.

Only safetensors are read; what would have to be unpickled is refused with the way to convert it.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prx_lab import checkpoint, hub
from prx_lab.errors import LabError, nearest
from prx_lab.files import read_json
from prx_lab.routing import Dense, Router

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".distcp")
DCP = ".metadata"  # the file that marks a folder of torch.distributed.checkpoint
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
USUAL = "diffusion_pytorch_model.safetensors"  # diffusers' name; with .index.json for the list of its shards
WANTED = (
    "config.json", "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.json",
    "transformer/*.json", "transformer/*.safetensors",
)  # of a repository  # fmt: skip
AGAIN = "download or save it again"
# What a user runs on a pickle: the parts of torch.distributed.checkpoint as one file, and the tensors of nested dicts under joined names.
MERGE = "from torch.distributed.checkpoint.format_utils import dcp_to_torch_save as merge; merge(%s, %s); "
FLATTEN = (
    'import torch; from safetensors.torch import save_file; flat = lambda d, at="": {k: v for name, x in d.items() for k, v in '
    '(flat(x, at + str(name) + ".") if isinstance(x, dict) else {at + str(name): x}).items() if torch.is_tensor(v)}; '
    'save_file({k: v.contiguous().clone() for k, v in flat(torch.load(%s, "cpu", weights_only=%s)).items()}, %s)'
)


@dataclass(frozen=True)
class Stored:
    """By name, the file, key and shape of every tensor of a checkpoint; no tensor is read yet."""

    source: str  # as the user named it
    places: Mapping[str, tuple[Path, str]]
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any] = field(default_factory=dict)  # of a diffusers transformer; empty where there is none
    channels: int = 0  # of the space it was trained in, where a run tells it
    router: Router = Dense()  # of the run it comes from

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, file by file, mapped from the file; one that is not finite or not a float is refused."""
        for file in dict.fromkeys(file for file, _ in self.places.values()):
            with opened(file) as tensors:
                for name, (where, key) in self.places.items():
                    if where == file:
                        yield name, sound(tensors.get_tensor(key), name, file)


def sound(tensor: Tensor, name: str, file: Path) -> Tensor:
    """The tensor itself; LabError where it is of no type in FLOATS, or not finite."""
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise LabError(f"'{name}' in {file} is stored as {kind}: take a checkpoint that is not quantised.")
    if not tensor.isfinite().all():
        raise LabError(f"'{name}' in {file} holds values that are not finite: take another checkpoint.")
    return tensor


def find(source: str | Path) -> Stored:
    """Look at the checkpoint that `source` names. LabError when there is none, or none that can be read."""
    from prx_lab.variants import VARIANTS

    name, path = str(source), Path(source).expanduser()
    if hub.means_name(source, VARIANTS) or not path.exists():
        path = download(name)
    if path.is_file():
        return listed(name, [path], {})
    pipeline = (path / "transformer").is_dir()  # an exported one carries its recipe too
    if not pipeline and ((path / "recipe.json").is_file() or checkpoint.steps(path / "checkpoint")):
        return run(name, path)
    folder = path / "transformer" if pipeline else path
    config = folder / "config.json"
    return listed(name, files(folder), read(config) if config.is_file() else {})


def listed(source: str, paths: Iterable[Path], config: Mapping[str, Any]) -> Stored:
    """Names and shapes from the headers of some files; LabError where a name stands in two of them."""
    places: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with opened(path) as tensors:
            for key in tensors.keys():
                if key in places:
                    raise LabError(f"'{key}' stands in {places[key][0]} and in {path}: {AGAIN}.")
                places[key], shapes[key] = (path, key), tuple(tensors.get_slice(key).get_shape())
    return Stored(source, places, shapes, config)


def run(source: str, folder: Path) -> Stored:
    """The weights that a run samples from: its average where it keeps one. LabError where there are none in one file."""
    where, tensors, recipe, prefix = checkpoint.sampled(folder, source, "start from")
    file = where / "state.safetensors"
    if not file.exists():  # written by processes that held shards
        raise LabError(f"The checkpoint {where} is in shards: write it as one with `prx-lab export`, and start from that folder.")
    keys = {key.removeprefix(prefix): key for key in tensors if key.startswith(prefix)}
    if not keys or "mean" not in tensors:
        raise LabError(f"The checkpoint {where} holds no network ({prefix} and mean): delete it and run the recipe again.")
    shapes = {name: tuple(tensors[key].shape) for name, key in keys.items()}
    places = {name: (file, key) for name, key in keys.items()}
    return Stored(source, places, shapes, channels=tensors["mean"].shape[0], router=recipe.router)


def files(folder: Path) -> list[Path]:
    """The safetensors of a folder: the shards that its index names, or the only file there; LabError where there is neither."""
    index, single = folder / f"{USUAL}.index.json", folder / USUAL
    if index.is_file():
        return shards(index)
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise LabError(f"{folder} holds {len(found)} safetensors files and no {index.name}: give the path of the file that is meant.")
    pickled = sorted(p for p in folder.iterdir() if p.suffix in PICKLED or p.name == DCP)
    if pickled:
        raise LabError(unopened(pickled[0]))
    raise LabError(f"{folder} holds no *.safetensors: give a diffusers transformer or pipeline folder, a run folder or a file.")


def shards(index: Path) -> list[Path]:
    """The files that an index names, each of them there and beside it; LabError where one is not."""
    names = read(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise LabError(f"{index} names no shard: {AGAIN}.")
    found = sorted(map(str, set(names.values())))
    for name in found:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise LabError(f"The shard {name} that {index} names is not beside it: {AGAIN}.")
    return [index.parent / name for name in found]


def unopened(path: Path) -> str:
    """The refusal of a pickled file or folder, with a command that converts what the user trusts."""
    parts = path.suffix == ".distcp" or path.name == DCP
    source = path.parent if parts else path
    file, target = f"{source}.pt" if parts else str(path), f"{source if parts else path.with_suffix('')}.safetensors"
    old, whole, new = (json.dumps(str(p)) for p in (source, file, target))
    code = (MERGE % (old, whole) if parts else "") + FLATTEN % (whole, not parts, new)
    return (
        f"{path} is pickled, and reading a pickle can run any code, so it is not read. Where you trust it, this makes {target} of its "
        f"tensors, which can be given instead: `python -c {shlex.quote(code)}`"
    )


def opened(path: Path) -> Any:
    """A safetensors file, its header read; LabError for a pickle, and for a file that is cut or of another format."""
    if path.suffix in PICKLED:
        raise LabError(unopened(path))
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise LabError(f"{path} cannot be read as safetensors ({error}): it is cut short or of another format, {AGAIN}.") from None


def read(path: Path) -> dict[str, Any]:
    """The JSON object of a downloaded or saved file."""
    return read_json(path, AGAIN)


def download(name: str) -> Path:
    """The local copy of a repository's transformer; a published variant needs no owner. LabError where it cannot be had."""
    from prx_lab.variants import VARIANTS

    repo = VARIANTS[name].repo if name in VARIANTS else name
    if repo.count("/") != 1:
        known = f"nor is it a name on the hub.{nearest(name, VARIANTS)} Published: {', '.join(VARIANTS)}."
        raise LabError(f"There is no file or folder '{name}' here, {known}")
    return hub.fetch(repo, WANTED, needed=("*.safetensors", "transformer/*.safetensors"))
