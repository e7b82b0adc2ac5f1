"""One writer at a time: locks that the system frees however their holder ends, and the leftovers of those that were killed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from prx_lab.errors import LabError

FOREVER = -1.0


@contextmanager
def locked(path: Path, seconds: float, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, waiting for its holder at most `seconds`; LabError, `refusal`, where that does not suffice.

    The file stays: to remove it would part those who wait for it from those who come later.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds, poll_interval=0.1)
    except Timeout:
        raise LabError(refusal) from None
    except (OSError, NotImplementedError) as error:
        raise LabError(f"Cannot write in {path.parent} ({error}); check its permissions, or use another folder.") from None
    try:
        yield
    finally:
        lock.release()


def lock_of(part: Path) -> Path:
    """The lock that the writer of a half-written folder `.part-*` holds, beside it."""
    return part.with_name(f"{part.name}.lock")


def sweep(root: Path) -> None:
    """Remove the half-written folders `.part-*` below `root` whose writers are gone."""
    for lock in root.glob(".part-*.lock"):
        part = lock.with_suffix("")
        if part.is_dir():
            try:
                with locked(lock, 0, "in use"):
                    shutil.rmtree(part, ignore_errors=True)
            except LabError:
                continue  # a living process writes it
