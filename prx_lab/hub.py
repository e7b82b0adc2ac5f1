"""The hub's repositories: the one place that downloads, and a sentence for each way in which that fails.

A word that is the name of something published means that, whatever lies in the current folder; a path with a separator is a path.
"""

import errno
import warnings
from collections.abc import Container, Sequence
from pathlib import Path

from prx_lab.errors import LabError, nearest

UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
LOCAL = "or give the folder of a local copy"
LOGIN = "log in with `hf auth login`"


def means_name(source: str | Path, published: Container[str]) -> bool:
    """Whether a source is a published name and no path; where a folder bears that name too, a warning says how to mean the folder."""
    named = isinstance(source, str) and source in published
    if named and Path(source).is_dir():
        warnings.warn(f"'{source}' is taken as the published name; the folder of that name here is ./{source}", stacklevel=3)
    return named


def fetch(repo: str, files: Sequence[str], without: Sequence[str] = (), needed: Sequence[str] = ()) -> Path:
    """The local copy of the `files` (patterns) of a repository but those `without`, downloaded where the hub's cache lacks them.

    LabError in one sentence where the repository cannot be had, or holds none of the files of which one is `needed`.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(files), ignore_patterns=list(without)))
    except MemoryError:
        raise
    except Exception as error:  # a cut connection has no class that all versions of the client share
        raise LabError(refusal(repo, error)) from error
    if needed and not any(any(folder.glob(pattern)) for pattern in needed):
        raise LabError(
            f"The copy of {repo} in the hub's cache has none of {', '.join(needed)}: connect once, so that they can be fetched, or name a "
            f"repository that has them, {LOCAL}."
        )
    return folder


def refusal(repo: str, error: Exception) -> str:
    """The sentence for what the hub's client raised when `repo` was asked for."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    answer = next((e.response.status_code for e in (error, error.__cause__) if isinstance(e, HfHubHTTPError)), 0)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its conditions at {constants.ENDPOINT}/{repo} and {LOGIN}, {LOCAL}."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no folder {repo} here, and the hub has no public repository {repo}.{meant(repo)} If it is private, {LOGIN}."
    if isinstance(error, HFValidationError):
        return f"There is no folder '{repo}' here, and it is not a valid name on the hub, which is owner/name.{meant(repo)}"
    if isinstance(error, DisabledRepoError):
        return f"The hub has switched {repo} off, so nobody can load it from there: give another repository, {LOCAL}."
    if answer == 429 or answer >= 500:
        return f"{repo} is not, or not wholly, in the hub's local cache, and the hub is too busy ({answer}): wait a little, {LOCAL}."
    if answer == 404:
        return f"The hub's repository {repo} has no such version or file ({reason}): give another repository, {LOCAL}."
    if answer in (401, 403):
        return f"The hub refuses {repo} ({answer}): {LOGIN} as somebody who may read it, {LOCAL}."
    if isinstance(error, LocalEntryNotFoundError):
        why = "no connection, or HF_HUB_OFFLINE is set"
        return f"{repo} is not, or not wholly, in the hub's local cache, and the hub cannot be reached ({why}): connect once, {LOCAL}."
    if isinstance(error, OSError) and error.errno in UNWRITTEN:
        return f"{repo} cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror}): make room there, or set HF_HOME to another disk."
    return f"The download of {repo} broke off ({reason}): run the same again, which goes on where it stopped, {LOCAL}."


def meant(repo: str) -> str:
    """The known repository that a name may have been meant for, as a sentence."""
    from prx_lab import zoo
    from prx_lab.variants import VARIANTS

    known = [*(v.repo for v in VARIANTS.values()), *(real.repo for real in zoo.REAL.values() if real.library != "local")]
    return "" if repo in known else nearest(repo, known)
