"""JSON that is cut, mangled, too deep or no object: every reader refuses it in one sentence that says what to do."""

from pathlib import Path

import pytest

from prx_lab import published, spaces, stored, variants, zoo
from prx_lab.errors import LabError
from prx_lab.files import read_json
from prx_lab.report import fidelity, speed, sweep

READERS = {  # file below a folder, what reads it from that folder, what it then advises
    "stored": ("config.json", lambda at: stored.read(at / "config.json"), "save it again"),
    "variants": ("model_index.json", lambda at: variants.read(at / "model_index.json"), "export the pipeline again"),
    "published": ("config.json", published.vision, "save the model again"),
    "zoo": ("manifest.json", zoo.sizes, "reinstall the package"),
    "speed": ("cpu/step.json", lambda at: speed.load("cpu", at), "make bench"),
    "fidelity": ("cpu.json", lambda at: fidelity.load("cpu", at), "prx-lab fidelity"),
    "sweep": ("cpu/repa-0123abcd/seed0.json", lambda at: sweep.load("cpu", at), "sweep the run again"),
    "spaces": ("vae/config.json", spaces.load_space, "save the autoencoder again"),
}
DAMAGED = {"empty": b"", "cut": b'{"a": 1', "no text": b'{"a": "\xff"}', "too deep": b"[" * 100_000, "a list": b"[]", "a number": b"3"}


def test_an_object_comes_back(tmp_path):
    (tmp_path / "a.json").write_text('{"a": "\u00d7"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "look again") == {"a": "\u00d7"}
    with pytest.raises(LabError, match=r"b\.json cannot be read as JSON .*: look again\.$"):
        read_json(tmp_path / "b.json", "look again")


@pytest.mark.parametrize("harm", DAMAGED)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_is_damaged(reader, harm, tmp_path):
    name, read, advice = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DAMAGED[harm])
    with pytest.raises(LabError, match="cannot be read as JSON|does not hold a JSON object") as error:
        read(Path(tmp_path) if reader != "spaces" else str(tmp_path))
    said = str(error.value)
    assert str(path) in said and advice in said and "\n" not in said


def test_a_folder_without_the_file_says_what_is_missing(tmp_path):
    for read, said in ((published.vision, "no config.json"), (spaces.load_space, "no config.json")):
        with pytest.raises(LabError, match=said):
            read(str(tmp_path))
    with pytest.raises(LabError, match="is missing: give a folder that holds a whole pipeline"):
        variants.read(tmp_path / "model_index.json")
    with pytest.raises(LabError, match="No study of the number of images"):
        fidelity.load("cpu", tmp_path)
    assert zoo.sizes(tmp_path) == {} and speed.load("cpu", tmp_path) == {}
