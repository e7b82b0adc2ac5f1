"""What the hub refuses, and what a connection or a disk does to a download: one sentence each, the same at every door."""

import errno
import socket
from pathlib import Path
from threading import Thread

import pytest
import standin
from hub import GATED, serve
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from prx_lab import components, hub, published, spaces, teachers, text, variants, zoo
from prx_lab.errors import LabError
from prx_lab.model import PRX
from prx_lab.variants import VARIANTS

NAME, REPO = "prx-512-t2i", "Photoroom/prx-512-t2i"
DOORS = (PRX.from_pretrained, variants.sampler, components.transformer)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return standin.save(standin.pipeline("kl"), tmp_path_factory.mktemp("pipeline"))


def told(act) -> str:
    with pytest.raises(LabError) as error:
        act()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


# ---- failures ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer, said",
    [
        (GATED, f"{REPO} is gated: accept its conditions at http://127.0.0.1:PORT/{REPO} and log in with `hf auth login`"),
        ((404, "RepoNotFound"), f"the hub has no public repository {REPO}. If it is private, log in"),
        ((401, "RepoNotFound"), f"the hub has no public repository {REPO}"),
        ((403, ""), f"The hub refuses {REPO} (403): log in with `hf auth login`"),
        ((500, ""), f"{REPO} is not, or not wholly, in the hub's local cache, and the hub is too busy (500): wait a little"),
        ((429, ""), f"{REPO} is not, or not wholly, in the hub's local cache, and the hub is too busy (429): wait a little"),
        ((404, "RevisionNotFound"), f"The hub's repository {REPO} has no such version or file ("),
    ],
)
def test_every_door_says_the_same_of_a_repository_that_is_refused(answer, said, tmp_path, monkeypatch):
    with serve({}, tmp_path, monkeypatch, {REPO: answer}):
        port = constants.ENDPOINT.rpartition(":")[2]
        sentences = {told(lambda door=door, name=name: door(name)) for door in DOORS for name in (NAME, REPO)}
    (sentence,) = sentences
    assert said.replace("PORT", port) in sentence


def test_the_networks_beside_the_transformer_are_refused_alike(tmp_path, monkeypatch):
    names = {"flux": spaces.load_space, "t5gemma-2b": text.load_text, "dinov2-s": teachers.load_vision, "dc-ae": components.vae}
    with serve({}, tmp_path, monkeypatch, {zoo.REAL[name].repo: GATED for name in names}):
        for name, door in names.items():
            assert f"{zoo.REAL[name].repo} is gated: accept its conditions at" in told(lambda door=door, name=name: door(name))


def test_a_hub_that_is_down_or_switched_off(tmp_path, monkeypatch):
    with serve({}, tmp_path, monkeypatch):
        pass  # its address stays, and nobody listens there any more
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        (sentence,) = {told(lambda door=door: door(NAME)) for door in DOORS}
        assert f"{REPO} is not, or not wholly, in the hub's local cache, and the hub cannot be reached (no connection, " in sentence
        assert "connect once, or give the folder of a local copy" in sentence


def test_a_file_that_comes_short_is_asked_for_again(stored, tmp_path, monkeypatch):
    with serve({REPO: stored}, tmp_path, monkeypatch, short=True):
        sentence = told(lambda: components.transformer(NAME))
    assert f"The download of {REPO} broke off (Consistency check failed" in sentence and "run the same again" in sentence
    with serve({REPO: stored}, tmp_path, monkeypatch):
        assert components.transformer(NAME).config.hidden_size == standin.WIDTH


def test_a_repository_without_weights(stored, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("Nothing yet.")
    with serve({REPO: tmp_path / "empty", zoo.REAL["flux"].repo: stored}, tmp_path / "cache", monkeypatch):
        assert f"The copy of {REPO} in the hub's cache has none of *.safetensors, transformer" in told(lambda: PRX.from_pretrained(NAME))
        assert f"The copy of {REPO} in the hub's cache has none of model_index.json" in told(lambda: variants.sampler(NAME))
        assert spaces.load_space("flux").channels == standin.CHANNELS


def cut() -> Exception:
    """What the hub's own session raises when the other side hangs up in the middle of an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            at = server.accept()[0]
            at.recv(1000)
            at.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            at.close()

        Thread(target=answer, daemon=True).start()
        try:
            get_session().get(f"http://127.0.0.1:{server.getsockname()[1]}")
        except Exception as error:
            return error
    raise AssertionError("the answer was whole")


@pytest.mark.parametrize(
    "error, said",
    [
        (cut, "The download of a/b broke off ("),
        (lambda: OSError(errno.ENOSPC, "No space left"), "a/b cannot be kept in CACHE (No space left): make room there"),
        (lambda: PermissionError(errno.EACCES, "Permission denied", "/x"), "(Permission denied): make room there, or set HF_HOME"),
        (lambda: LocalEntryNotFoundError("Cannot find it.\nCheck."), "a/b is not, or not wholly, in the hub's local cache"),
        (lambda: HFValidationError("Repo id must use alphanumeric chars"), "There is no folder 'a/b' here, and it is not a valid name"),
        (lambda: RuntimeError(), "The download of a/b broke off (RuntimeError): run the same again, which goes on where it stopped"),
    ],
)
def test_what_the_client_raises_is_one_sentence(error, said):
    sentence = hub.refusal("a/b", error())
    assert said.replace("CACHE", str(constants.HF_HUB_CACHE)) in sentence and "\n" not in sentence and sentence.endswith(".")


def test_a_name_that_is_nearly_right_is_suggested():
    assert "Did you mean 'Photoroom/prx-512-t2i-sft'?" in hub.refusal("Photoroom/prx-512-t2i-stf", HFValidationError("x"))
    assert "Did you mean" not in hub.refusal("somebody/something-else-altogether", HFValidationError("x"))


# ---- names and paths -----------------------------------------------------------------------------------------
def test_a_published_name_is_not_the_folder_that_bears_it(stored, tmp_path, monkeypatch):
    """Whatever lies in the current folder: a word is the name, and ./word the folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("flux", "t5gemma-2b", NAME):
        (tmp_path / name).symlink_to(stored)
    doors = {"flux": (spaces.load_space, components.vae), "t5gemma-2b": (text.load_text, components.tokenizer), NAME: DOORS}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, readers in doors.items():
        for read in readers:
            with pytest.warns(UserWarning, match=rf"'{name}' is taken as the published name; the folder of that name here is \./{name}"):
                assert "is not, or not wholly, in the hub's local cache" in told(lambda read=read, name=name: read(name))
            assert read(f"./{name}") is not None
    assert variants.sampler(Path(NAME)).recipe.scale.size == 32, "a path is a path"


def test_every_published_name_is_a_word():
    """A separator makes a path, so that no name can be taken for one."""
    assert not any("/" in name or "\\" in name or name.startswith((".", "~")) for name in {*VARIANTS, *zoo.REAL})
    assert published.fetch("./flux") == Path("./flux")
