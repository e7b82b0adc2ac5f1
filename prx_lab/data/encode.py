"""`prx-lab encode`: a data set passed once through a recipe's frozen networks and kept on disk, shard by shard.

What is on disk is whole: a shard is written under another name and renamed, so after any interruption the same command goes
on behind the last one. See `shards` for what a folder holds.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prx_lab import progress
from prx_lab.data.decode import BROKEN, problem, square
from prx_lab.data.folder import CAPTION_COLUMNS
from prx_lab.data.listed import THREADS, VAL_SHARE
from prx_lab.data.manifest import ASKED, Manifest
from prx_lab.data.shards import DONE, EXAMPLES, NULL, SHARD, Part, Pictures, Samples, listed, save_whole, verify
from prx_lab.data.source import kind_at
from prx_lab.data.store import cache_root, to_float
from prx_lab.data.streams import TRAIN, VALIDATION, Row, Stream, open_streams, peek
from prx_lab.errors import LabError
from prx_lab.evaluate import reference_n
from prx_lab.locks import locked
from prx_lab.recipe import Recipe
from prx_lab.record import write_json
from prx_lab.spaces import Space, load_space
from prx_lab.teachers import look
from prx_lab.text import TextEncoder, reader

CHUNK = 64  # samples that go through the networks at once
PEEK = 64  # captions from which the length of all is guessed
END: list[tuple[Row, NDArray | str]] = []  # this one, not an equal one


@dataclass
class Networks:
    """The frozen networks of a recipe, and what they make of images and captions."""

    recipe: Recipe
    device: torch.device
    space: Space = field(init=False)
    text: TextEncoder = field(init=False)
    teachers: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.space, self.text = load_space(recipe.space).to(self.device), reader(recipe).to(self.device)
        self.teachers = teachers_of(recipe)
        recipe.arch(self.space.channels, self.space.stride, self.text.width)  # refuses a size that does not split into tokens

    @torch.inference_mode()
    def __call__(self, images: NDArray, captions: list[str]) -> dict[str, Tensor]:
        """What is kept of n samples: latents as `x` or pixels as `images`, tokens of all captions end to end, their lengths, teachers."""
        seen, found = to_float(images).to(self.device), {}
        if self.recipe.space == "pixels":
            found["images"] = torch.from_numpy(images)
        else:
            found["x"] = self.space.encode(seen).half()
        tokens, mask = self.text.encode(captions)
        found |= {"tokens": tokens[mask].bfloat16(), "lengths": mask.sum(1)}
        found |= {f"teacher/{name}": look(name, seen, self.recipe.scale.grid).half() for name in self.teachers}
        return {k: v.cpu() for k, v in found.items()}

    def caption(self, row: Row) -> str:
        """The caption of a row in the recipe's kind."""
        return row.long if kind_at(self.recipe.captions, row.index) == "long" else row.short


@dataclass(frozen=True)
class Summary:
    """What an encoded folder holds, and what was left out of it."""

    folder: Path
    rows: dict[str, int]
    skipped: dict[str, int]
    examples: list[str]

    def __str__(self) -> str:
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
        named = f" ({'; '.join(self.examples)})" if self.examples else ""
        return (
            f"{self.folder} holds {self.rows[TRAIN]:,} training samples and {self.rows[VALIDATION]:,} validation images. "
            f"Left out or shortened: {left + named if left else 'none'}."
        )


@dataclass
class Job:
    """An encoding: its streams and networks, the parts of the folder that it fills."""

    recipe: Recipe
    folder: Path
    networks: Networks
    streams: list[Stream]
    parts: dict[str, Part]

    def estimate(self) -> tuple[float, str]:
        """(bytes still to be written, a sentence about them), from the shapes and the first captions."""
        train, held = self.parts[TRAIN], self.parts[VALIDATION]
        rows = [row for stream in self.streams if TRAIN in stream.parts for row in peek(stream, PEEK, TRAIN)]
        captions = [caption for row in rows if (caption := self.networks.caption(row))]
        if not captions:
            raise LabError(
                f"None of the first {len(rows)} training rows of {self.recipe.data} has a caption; name data with captions, in a table in "
                f"a column {', '.join(CAPTION_COLUMNS)} or another that is named as DATA#column."
            )
        length = np.minimum(self.networks.text.surveyed(captions), self.networks.text.length).mean()
        side = self.recipe.scale.size
        one = self.networks(np.zeros((1, side, side, 3), np.uint8), ["a"])
        text = float(length) * self.networks.text.width * 2
        each = text + sum(v.nbytes for k, v in one.items() if k not in ("tokens", "lengths"))
        expected = {name: min(part.wanted, self.available(name) or part.wanted) for name, part in self.parts.items()}
        need = each * max(0, expected[TRAIN] - train.held) + 3 * side**2 * max(0, expected[VALIDATION] - held.held)
        told = (
            f"{expected[TRAIN]:,} training samples of about {gb(each)} (text {gb(text)} at {length:.0f} tokens) and "
            f"{expected[VALIDATION]:,} validation images: about {gb(need)} to write into {self.folder}"
        )
        return need, told

    def available(self, name: str) -> int:
        """Rows of a part, about; 0 where a stream does not know."""
        stream = next((s for s in self.streams if name in s.parts), None)
        if stream is None or len(stream.parts) == 1:
            return stream.total if stream else 0
        return round(stream.total * (VAL_SHARE if name == VALIDATION else 1 - VAL_SHARE))

    def run(self) -> None:
        """Pass every stream once, from the first row that some shard still misses."""
        train = self.parts[TRAIN]
        total = min(train.wanted, self.available(TRAIN) or train.wanted)
        with progress.bar(total=total, initial=train.rows, desc="encoding", unit="img") as bar:
            for stream in self.streams:
                mine = [self.parts[name] for name in stream.parts if not self.parts[name].full]
                if mine:
                    for row, image in decoded(stream, min(part.next for part in mine), self.wants, self.recipe.scale.size):
                        self.take(row, image)
                        bar.update(train.rows + len(train.pending) - bar.n)
                        if all(part.full for part in mine):
                            break
                    for part in mine:
                        part.flush()

    def summary(self) -> Summary:
        """What the folder holds now, and what was left out of it."""
        total = sum((part.total for part in self.parts.values()), Counter())
        examples = [example for part in self.parts.values() for example in part.examples]
        return Summary(self.folder, {name: part.rows for name, part in self.parts.items()}, dict(total), examples[:EXAMPLES])

    def wants(self, row: Row) -> bool:
        """Whether a row is still to be used: its part has not looked at it yet and is not full."""
        part = self.parts[row.part]
        return row.index >= part.seen and not part.full

    def take(self, row: Row, image: NDArray | str) -> None:
        """Give a decoded row, or the reason why there is no image, to its part."""
        if not self.wants(row):
            return
        part, caption = self.parts[row.part], self.networks.caption(row)
        if isinstance(image, str):
            part.skip(row.index, "unreadable image", f"{row.name} ({image})")
        elif not caption:
            part.skip(row.index, "no caption", row.name)
        elif not self.networks.text.cleaned([caption])[0]:
            part.skip(row.index, "caption emptied by cleaning", row.name)
        else:
            part.add(row, image)


def decoded(stream: Stream, start: int, wants: Callable[[Row], bool], size: int) -> Iterator[tuple[Row, NDArray | str]]:
    """The wanted rows of a stream from `start` on, with square images or the reasons why there are none; reads one chunk ahead.

    LabError where the stream breaks off.
    """

    def load(row: Row) -> tuple[Row, NDArray | str]:
        blob = row.blob()
        try:
            return row, square(blob, size)
        except BROKEN as error:  # Pillow's own words may hold an address in memory, and a shard is to come out the same again
            return row, problem(blob) or type(error).__name__

    def chunk() -> list[tuple[Row, NDArray | str]]:
        try:
            found = list(islice(rows, CHUNK))
        except (LabError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever the network, the hub's client or a damaged table makes of it
            cause = str(error).strip().split("\n")[0] or type(error).__name__
            raise LabError(f"The rows of {stream.name} cannot be read on ({cause}); run the same command again to go on.") from error
        return list(pool.map(load, [row for row in found if wants(row)])) if found else END

    rows = stream.rows(start)
    with ThreadPoolExecutor(THREADS) as pool, ThreadPoolExecutor(1) as fetcher:
        coming = fetcher.submit(chunk)
        while (found := coming.result()) is not END:
            coming = fetcher.submit(chunk)
            yield from found


# ------------------------------------------------------------------------------------------------ the command
def default_folder(recipe: Recipe) -> Path:
    """Where a recipe's encoded data is kept when no folder is named."""
    s, teachers = recipe.scale, teachers_of(recipe)
    made_of = (recipe.data, s.images, s.size, s.grid, s.eval_n, recipe.captions, recipe.space, recipe.text, recipe.cleaning)
    digest = hashlib.sha256(repr((*made_of, recipe.text_tokens, teachers)).encode()).hexdigest()
    return cache_root() / f"encoded-{digest[:12]}"


def teachers_of(recipe: Recipe) -> tuple[str, ...]:
    """Every vision teacher of all phases."""
    return tuple(dict.fromkeys(name for _, part in recipe.plan for name in part.teachers))


def images_needed(recipe: Recipe) -> int:
    """Validation images that an evaluation of a recipe uses."""
    return reference_n(recipe.scale.eval_n, recipe.scale.eval_n)


def begin(recipe: Recipe, folder: Path, networks: Networks, streams: list[Stream], manifest: Manifest) -> Job:
    """The job of a folder as it is now."""
    text = networks.text
    train = Samples(
        folder / TRAIN, manifest.images, manifest.shard, networks=networks, caption=networks.caption, lengths=text.lengths,
        places=text.length, chunk=CHUNK,
    )  # fmt: skip
    held = Pictures(folder / VALIDATION, manifest.validation, manifest.shard)
    return Job(recipe, folder, networks, streams, {TRAIN: train, VALIDATION: held})


def work(job: Job, manifest: Manifest, tell: Callable[[str], None]) -> None:
    """Estimate, begin the folder, and write the shards that are missing; LabError where the disk is too small or no sample is usable."""
    need, told = job.estimate()
    free = shutil.disk_usage(job.folder).free
    if need > free:
        raise LabError(f"{told}, where {gb(free)} are free; take fewer (--set scale.images=...), or another --out.")
    tell(f"{told}, where {gb(free)} are free.")
    manifest.write(job.folder)
    tokens, mask = job.networks.text.encode([""])
    save_whole({"tokens": tokens[mask].bfloat16().cpu()}, job.folder / NULL)
    try:
        job.run()
    except KeyboardInterrupt:
        rows = job.parts[TRAIN].rows
        raise KeyboardInterrupt(f"Stopped with {rows:,} training samples on disk; run the same command to go on.") from None
    if not job.parts[TRAIN].rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in job.parts[TRAIN].total.items()) or "no row"
        raise LabError(f"{job.recipe.data} gives no sample to train on ({reasons}); check the data.")


def encode(recipe: Recipe, folder: Path, device: torch.device, tell: Callable[[str], None] = print, shard: int = SHARD) -> Summary:
    """Encode a recipe's data into a folder, or go on there; a folder that is complete is checked, byte by byte.

    LabError for a folder begun for something else, a damaged shard, a disk that is too small, and data that cannot be read.
    """
    if recipe.data == "scenes":
        raise LabError("The embedded scenes are encoded as a run begins; name a folder, a Parquet file or a hub data set with --data.")
    streams, networks = open_streams(recipe.data), Networks(recipe, device)  # data that are refused cost no download of networks
    manifest = Manifest.of(recipe, networks.text.length, networks.teachers, images_needed(recipe), shard)
    with locked(folder / ".lock", 0, f"Another process is encoding into {folder}; wait until it has finished, or use another --out."):
        if (folder / ASKED).exists():
            Manifest.read(folder).require_same(manifest, folder)
        job = begin(recipe, folder, networks, streams, manifest)
        if (folder / DONE).exists() and {name: part.shards for name, part in job.parts.items()} == listed(folder):
            paths = [part.folder / name for part in job.parts.values() for name, _ in part.shards]
            verify(progress.bar(paths, "checking", leave=False))
        else:
            (folder / DONE).unlink(missing_ok=True)
            work(job, manifest, tell)
            shards = {name: part.shards for name, part in job.parts.items()}
            write_json(folder / DONE, {"shards": shards, "skipped": job.summary().skipped})
    return job.summary()


def gb(n: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    unit = next((i for i in (1, 2, 3, 4) if n < 999.5 * 1000**i), 4)
    return f"{n / 1000**unit:.3g} {('', 'kB', 'MB', 'GB', 'TB')[unit]}"
