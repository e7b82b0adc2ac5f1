"""The encoded data set: images, latents, text and teachers' tokens, computed once by the frozen networks and memory-mapped."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from prx_lab import progress, zoo
from prx_lab.data.batch import Batch, Text
from prx_lab.data.source import Source
from prx_lab.errors import LabError
from prx_lab.flow import stream
from prx_lab.locks import FOREVER, lock_of, locked, sweep
from prx_lab.machine import cores
from prx_lab.spaces import Space, load_space
from prx_lab.teachers import load_vision, look
from prx_lab.text import TextEncoder

CHUNK = 256
Arrays = dict[str, NDArray]


def cache_root() -> Path:
    """Where encoded data is kept: $PRX_LAB_CACHE, or ~/.cache/prx_lab."""
    return Path(os.environ.get("PRX_LAB_CACHE") or Path.home() / ".cache" / "prx_lab")


def fingerprint(name: str) -> str:
    """What identifies a network's weights: the hash of an embedded one's file, the sizes and dates of a local folder's files, or
    the name of a published one; `:qk` ends a name."""
    base = name.partition(":qk")[0]
    path = zoo.WEIGHTS / base / "model.safetensors"
    if base in zoo.EMBEDDED and path.exists():
        return f"{name}:{zoo.digest(path)[:16]}"
    folder = Path(base).expanduser()
    if base in zoo.REAL or not folder.is_dir():
        return name
    files = [(p, p.stat()) for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".safetensors")]
    listed = json.dumps([(str(p.relative_to(folder)), s.st_size, s.st_mtime_ns) for p, s in files])
    return f"{name}:{hashlib.sha256(listed.encode()).hexdigest()[:16]}"


def cached(what: str, key: Iterable[object], rows: int, parts: Callable[[], Iterator[Arrays]]) -> Arrays:
    """Arrays of `rows` rows, read from the cache or written there chunk by chunk; an interrupted write leaves nothing."""
    name = hashlib.sha256(json.dumps([what, rows, *map(str, key)]).encode()).hexdigest()[:16]
    folder = cache_root() / f"{what}-{name}"
    if not folder.exists():
        part = folder.with_name(f".part-{folder.name}")
        with locked(lock_of(part), FOREVER, "in use"):  # who comes second waits and reads
            if not folder.exists():
                sweep(folder.parent)
                _fill(part, folder, what, rows, parts())
    return _read(folder, rows)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the disk refuses inside is a LabError; whatever makes the data stays outside, as its errors are not the disk's."""
    try:
        yield
    except OSError as error:
        raise LabError(f"Cannot write the cache {folder} ({error.strerror or error}); free some space or set PRX_LAB_CACHE.") from None


def _read(folder: Path, rows: int) -> Arrays:
    """The arrays of a cache, memory-mapped; LabError where a file is cut or holds something else."""
    try:
        arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(folder.glob("*.npy"))}
        if not arrays or any(len(array) != rows for array in arrays.values()):
            raise ValueError(f"it should hold {rows} rows")
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise LabError(f"The cache {folder} is damaged ({error}); delete that folder and run again.") from None
    return arrays


def _fill(part_folder: Path, folder: Path, what: str, rows: int, parts: Iterator[Arrays]) -> None:
    """Write the arrays under another name, and give them their own when they are whole."""
    shutil.rmtree(part_folder, ignore_errors=True)
    with writing(folder.parent):
        part_folder.mkdir()
    try:
        with progress.bar(total=rows, desc=what, unit="img", leave=False) as bar:
            for part in parts:
                with writing(folder.parent):
                    for key, value in part.items():
                        _append(part_folder / f"{key}.npy", value, rows)
                bar.update(len(value))
        with writing(folder.parent):
            os.replace(part_folder, folder)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)


def _append(path: Path, value: NDArray, rows: int) -> None:
    """Write a chunk behind those that are there, the first one behind a header that announces all `rows`."""
    with open(path, "ab") as file:  # written, not mapped: a full disk is then an error and not a bus error
        if not file.tell():
            head = {"descr": np.lib.format.dtype_to_descr(value.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, head | {"shape": (rows, *value.shape[1:])})
        file.write(np.ascontiguousarray(value))


def chunks(n: int) -> Iterator[range]:
    """The first n rows as ranges of CHUNK, the last one shorter."""
    return (range(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK))


def to_float(images: NDArray) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> NDArray:
    """float (n, 3, H, W) in [-1, 1] -> uint8 (n, H, W, 3), rounded to nearest."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class Pictures(Dataset):
    """The images of a source, chunk by chunk, for worker processes to render or decode."""

    def __init__(self, source: Source, n: int, size: int):
        self.source, self.chunks, self.size = source, list(chunks(n)), size

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, i: int) -> Arrays:
        return {"images": self.source.images(self.chunks[i], self.size)}


def images_of(source: Source, n: int, size: int) -> NDArray:
    """The first n images of a source, uint8 (n, size, size, 3), rendered or decoded once, on every core when there are many."""

    def parts() -> Iterator[Arrays]:
        workers = 0 if n < 4 * CHUNK else cores()
        yield from DataLoader(Pictures(source, n, size), batch_size=None, num_workers=workers, collate_fn=as_it_is)

    return cached("images", (source.key, size), n, parts)["images"]


def as_it_is(part: Arrays) -> Arrays:
    """A chunk as it is, where a DataLoader's own function would turn its arrays into tensors."""
    return part


def text_of(source: Source, n: int, kind: str, encoder: TextEncoder, device: torch.device) -> Arrays:
    """Encoded captions: tokens float16 (n, L, E) padded to the longest caption here, mask (n, L); null is row n.

    Kept under the hash of the captions as the encoder reads them. Captions that are cut or emptied are told of when they are encoded.
    """
    captions = [c for part in chunks(n) for c in source.captions(part, kind)] + [""]

    def parts() -> Iterator[Arrays]:
        longest = min(max(encoder.surveyed(captions)), encoder.length)
        with visiting(encoder, device):
            for i in range(0, n + 1, CHUNK):
                tokens, mask = (v[:, :longest] for v in encoder.encode(captions[i : i + CHUNK]))
                yield {"tokens": (tokens * mask[..., None]).half().cpu().numpy(), "mask": mask.cpu().numpy()}

    digest = hashlib.sha256("\n".join(encoder.cleaned(captions)).encode()).hexdigest()
    places = () if encoder.length == encoder.own else (encoder.length,)
    return cached("text", (digest, fingerprint(encoder.name), *places), n + 1, parts)


@contextmanager
def visiting(network: nn.Module, device: torch.device) -> Iterator[None]:
    """A frozen network is on the device while it works and back where it was afterwards: the learner needs the room."""
    was = next((tensor.device for tensor in network.parameters()), device)
    network.to(device)
    try:
        yield
    finally:
        network.to(was)


def latents_of(images: NDArray, key: object, space: Space, device: torch.device) -> NDArray:
    """Normalised latents float16 (n, C, h, w); pixels are not stored a second time."""
    space = space.to(device)

    def parts() -> Iterator[Arrays]:
        for c in chunks(len(images)):
            yield {"x": space.encode(to_float(images[c.start : c.stop]).to(device)).half().cpu().numpy()}

    return cached("latents", (key, fingerprint(space.name)), len(images), parts)["x"]


def tokens_of(images: NDArray, key: object, name: str, grid: int, device: torch.device) -> NDArray:
    """What a vision teacher sees, float16: patch tokens (n, grid^2, E), or queries and keys (n, h, grid^2, 2 d); see `look`."""

    def parts() -> Iterator[Arrays]:
        with visiting(load_vision(name.partition(":qk")[0]), device):
            for c in chunks(len(images)):
                yield {"y": look(name, to_float(images[c.start : c.stop]).to(device), grid).half().cpu().numpy()}

    return cached("teacher", (key, fingerprint(name), grid), len(images), parts)["y"]


def gather(text: Arrays, index: NDArray | range) -> Text:
    """The encoded captions at `index`, and the empty one, which is the last row."""
    rows = {k: torch.from_numpy(v[np.asarray(index)]) for k, v in text.items()}
    null = {k: torch.from_numpy(v[-1:].copy()) for k, v in text.items()}
    return Text(rows["tokens"].float(), rows["mask"], null["tokens"].float(), null["mask"])


@dataclass(frozen=True)
class Store:
    """A data set ready to train on; `batch` gathers rows from memory-mapped arrays."""

    images: NDArray  # (n, H, W, 3) uint8
    x: NDArray | None  # (n, C, h, w) float16, None in pixel space
    text: Arrays
    teachers: Mapping[str, NDArray]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of one sample."""
        H, W, C = self.images.shape[1:]
        return (C, H, W) if self.x is None else tuple(self.x.shape[1:])

    @property
    def context(self) -> int:
        """Width of the text features."""
        return self.text["tokens"].shape[2]

    @property
    def widths(self) -> dict[str, int]:
        """Width of what each vision teacher gives, by its name."""
        return {name: y.shape[-1] for name, y in self.teachers.items()}

    @cached_property
    def mean(self) -> Tensor:
        """Mean sample (C, h, w), float32, of at most 4096 of them."""
        every = max(1, len(self) // 4096)
        rows = (self.x if self.x is not None else self.images)[::every]
        return torch.from_numpy(rows.astype(np.float32)).mean(0) if self.x is not None else to_float(rows).mean(0)

    def batch(self, index: NDArray) -> Batch:
        """The samples at `index`."""
        x = to_float(self.images[index]) if self.x is None else torch.from_numpy(self.x[index]).float()
        return Batch(x, gather(self.text, index), {k: torch.from_numpy(v[index]) for k, v in self.teachers.items()})


def order(seed: int, step: int, batch: int, n: int) -> NDArray:
    """Indices (batch,) of a step: a fresh permutation every epoch, a function of (seed, step) alone."""
    place = np.arange(step * batch, (step + 1) * batch)
    return np.array([permutation(seed, p // n, n)[p % n] for p in place.tolist()])


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def permutation(seed: int, epoch: int, n: int) -> NDArray:
    """The order of an epoch's n rows."""
    return torch.randperm(n, generator=stream(seed, 1 << 41, epoch)).numpy()


def prepare(
    source: Source,
    n: int,
    size: int,
    captions: str,
    space: str,
    text: TextEncoder,
    teachers: Iterable[str],
    grid: int,
    device: torch.device,
) -> Store:
    """Encode the first n samples of a source with the frozen networks, or read them from the cache."""
    images = images_of(source, n, size)
    key = (source.key, size)
    return Store(
        images,
        None if space == "pixels" else latents_of(images, key, load_space(space), device),
        text_of(source, n, captions, text, device),
        {name: tokens_of(images, key, name, grid, device) for name in teachers},
    )
