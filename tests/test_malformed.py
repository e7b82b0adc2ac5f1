"""Malformed input of every kind: each ends in one clear sentence, harms no folder, and reaches no pickle."""

import ast
import io
import json
import math
import os
import pickle
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import CPU, store, tiny

from prx_lab import checkpoint, cli
from prx_lab import run as experiment
from prx_lab.data.load import load_source
from prx_lab.data.store import Store, cached
from prx_lab.errors import LabError
from prx_lab.optim import EMA
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES
from prx_lab.record import append_json, records, write_json
from prx_lab.report.table import Table
from prx_lab.routing import TREAD
from prx_lab.terms import REPA
from prx_lab.text import load_text
from prx_lab.train import Training
from tests.made_up import write_run

PACKAGE = Path(checkpoint.__file__).parent


def refused(call: Callable[[], object]) -> str:
    """The sentence with which a call is refused: one line, of a length one reads, and no other exception."""
    with pytest.raises(LabError) as error:
        call()
    said = str(error.value)
    assert said and "\n" not in said and len(said) < 600 and "Traceback" not in said
    return said


def fingerprint(root: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(root)): sha256(p.read_bytes()).hexdigest() for p in files}


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


# ------------------------------------------------------------------------------------------------ recipes

RICH = BASE.but(router=TREAD(), ema=EMA(0.9)).plus(REPA()).then(0.4, BASE.plus(REPA()))
DEEP = "[" * 100_000 + "]" * 100_000

FIELDS = [  # (path in the recipe's JSON, what stands there instead)
    ("scale", None),
    ("scale", {"type": "Scale"}),
    ("scale", {"type": "TREAD"}),
    ("scale.steps", "many"),
    ("scale.steps", 12.5),
    ("scale.steps", True),
    ("scale.steps", -1),
    ("scale.steps", 10**30),
    ("scale.width", 10**9),
    ("scale.depth", 2**31),
    ("scale.batch", math.inf),
    ("scale.images", 10**13),
    ("scale.lr", math.nan),
    ("scale.lr", math.inf),
    ("scale.lr", 1e300),
    ("scale.name", ["smoke"]),
    ("data", 7),
    ("data", "folder\udcff"),
    ("predict", "w"),
    ("drop", "0.1"),
    ("drop", math.nan),
    ("drop", -0.1),
    ("noise", math.inf),
    ("clip", math.nan),
    ("shift", 0),
    ("ema.decay", 1.0),
    ("ema", 0.9),
    ("router", "TREAD"),
    ("router", {"type": "Router"}),
    ("router", {"type": "REPA"}),
    ("router.rate", math.nan),
    ("router.rate", 1.5),
    ("router.span", 3),
    ("optim", {"type": "AdamW", "betas": [0.9]}),
    ("optim", {"type": "AdamW", "betas": ["a", "b"]}),
    ("optim", {"type": "AdamW", "eps": math.nan}),
    ("optim", {"type": "__import__('os')"}),
    ("schedule.warmup", 7),
    ("schedule.final", -1.0),
    ("time", {"type": "Uniform", "shift": math.nan}),
    ("time.std", [1.0]),
    ("terms", []),
    ("terms", {"type": "FlowMatching"}),
    ("terms", [{"type": "FlowMatching"}, {"type": "FlowMatching"}]),
    ("terms", [{"type": "FlowMatching"}, "REPA"]),
    ("terms", [{"type": "Term"}]),
    ("terms", [[{"type": "FlowMatching"}]]),
    ("terms.1.weight", math.inf),
    ("terms.1.depth", 7.0),
    ("terms.1.hidden", -1.0),
    ("terms.1.hidden", 1e12),
    ("terms.1.teacher", 5),
    ("terms.1.type", "Repa"),
    ("terms.1.wieght", 1.0),
    ("phases", [1]),
    ("phases.0.start", 0.0),
    ("phases.0.start", 1.0),
    ("phases.0.start", math.nan),
    ("phases.0.recipe", None),
    ("phases.0.recipe.predict", "x"),
    ("phases.0.recipe.scale.width", 192),
]


def replaced(path: str, value: object) -> dict:
    """The JSON of a recipe with a term, a router, an average and two phases, with one value replaced."""
    data = json.loads(json.dumps(RICH.to_json()))
    *way, last = (int(name) if name.isdecimal() else name for name in path.split("."))
    inner = data
    for name in way:
        inner = inner[name]
    inner[last] = value
    return data


@pytest.mark.parametrize("path, value", FIELDS)
def test_recipes_with_a_wrong_value(path, value):
    refused(lambda: Recipe.from_json(replaced(path, value)))


def test_phases_in_another_order():
    early, late = RICH.phases[0], RICH.then(0.7, BASE.plus(REPA())).phases[1]
    assert "increasing" in refused(lambda: RICH.but(phases=(late, early)))


@pytest.mark.parametrize(
    "data", [None, 7, "BASE", [], [RICH.to_json()], {}, {"type": 1}, {"type": "Recipe"}, {"type": "Spec"}, {"type": "Recipe", "a": 1}]
)
def test_json_that_is_no_recipe(data):
    refused(lambda: Recipe.from_json(data))


def test_a_recipe_nested_without_end():
    data: dict = {}
    for _ in range(5000):
        data = {"type": "TREAD", "rate": data}
    assert "nested" in refused(lambda: Recipe.from_json(data))


LINES = [  # the same through the command line
    ["run", "baseline", "--set", "scale.lr=nan"],
    ["run", "baseline", "--set", "drop=inf"],
    ["run", "baseline", "--set", "scale.steps=1e400"],
    ["run", "baseline", "--set", f"scale.steps={10**20}"],
    ["run", "baseline", "--set", f"scale.steps={'9' * 5000}"],
    ["run", "baseline", "--set", "=1"],
    ["run", "baseline", "--set", "scale=1"],
    ["run", "baseline", "--set", "router.rate=0.5"],
    ["run", "baseline", "--set", "terms.0.weight=1"],
    ["run", "baseline", "--set", "space=\udcff"],
    ["run", "baseline", "--data", "no/such/folder"],
    ["run", "baseline", "--data", "\udcff\udcfe"],
    ["run", "\U0001f600"],
    ["run", "../../etc/passwd"],
    ["run", ""],
    ["sample", "baseline", "a cube", "--set", "shift=nan"],
    ["table", "--scale", "cpu", "--baseline", "nothing-0000"],
    ["pretrain", "lab-vae", "--effort", "nan"],
]


@pytest.mark.parametrize("words", LINES, ids=lambda words: " ".join(words)[:40].encode("ascii", "replace").decode())
def test_command_lines(words, tmp_path, capsys):
    write_run(tmp_path, "baseline", 0, 20.0)
    before = fingerprint(tmp_path)
    code = cli.call([*words, *(["--root", str(tmp_path)] if words[0] != "pretrain" else ["--out", str(tmp_path)])])
    shown = capsys.readouterr()
    assert code == 2 if words[0] != "table" else code in (0, 2)
    assert shown.err.count("\n") <= 1 and "Traceback" not in shown.err and "Unexpected" not in shown.err
    assert fingerprint(tmp_path) == before


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run folder of two steps of a recipe with an average."""
    folder = tmp_path_factory.mktemp("run")
    list(Training(tiny(AVERAGED), store(), 0, CPU).fit(2, folder))
    return folder


AVERAGED = BASE.but(ema=EMA(0.9))


def resume(folder: Path, recipe: Recipe = AVERAGED, seed: int = 0) -> Training:
    training = Training(tiny(recipe), store(), seed, CPU)
    training.resume(folder)
    return training


def cut(at: float, file: str, folder: Path) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])


def flip(folder: Path) -> None:
    path = folder / "state.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def forge(change: Callable[[dict], object], folder: Path) -> None:
    """Change tensors and put down the right hash, as no accident would."""
    tensors = load_file(folder / "state.safetensors")
    change(tensors)
    save_file(tensors, folder / "state.safetensors")
    sign(folder)


def sign(folder: Path) -> None:
    say(folder, sha256=sha256((folder / "state.safetensors").read_bytes()).hexdigest())


def say(folder: Path, **changes: object) -> None:
    state = json.loads((folder / "state.json").read_text()) | changes
    (folder / "state.json").write_text(json.dumps(state))


def put(name: str, text: str | bytes, folder: Path) -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def pickled(folder: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, folder / "state.safetensors")
    sign(folder)


W = "learner/model.img_in.weight"
DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"tensors cut at {at}": partial(cut, at, "state.safetensors") for at in (0, 0.001, 0.01, 0.3, 0.7, 0.9999)},
    **{f"state cut at {at}": partial(cut, at, "state.json") for at in (0, 0.1, 0.5, 0.999)},
    "a bit flipped": flip,
    "no tensors": lambda folder: (folder / "state.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "state is a list": partial(put, "state.json", "[1]"),
    "state is null": partial(put, "state.json", "null"),
    "state is binary": partial(put, "state.json", b"\x80\x04\x95\xff"),
    "state is nested without end": partial(put, "state.json", DEEP),
    "no step": lambda folder: say(folder, step=None),
    "a step in words": lambda folder: say(folder, step="two"),
    "a phase there is not": lambda folder: say(folder, phase=9),
    "a phase before the first": lambda folder: say(folder, phase=-1),
    "no recipe": lambda folder: say(folder, recipe="baseline"),
    "a recipe of another time": lambda folder: say(folder, recipe=BASE.to_json() | {"colour": "red"}),
    "a pickle for the tensors": pickled,
    "a tensor is missing": partial(forge, lambda t: t.pop(W)),
    "an averaged tensor is missing": partial(forge, lambda t: t.pop("ema/img_in.weight")),
    "a tensor too many": partial(forge, lambda t: t.update({"learner/model.extra": torch.zeros(1)})),
    "another shape": partial(forge, lambda t: t.update({W: t[W][:1].clone()})),
    "a scalar": partial(forge, lambda t: t.update({W: torch.tensor(1.0)})),
    "another dtype": partial(forge, lambda t: t.update({W: t[W].half()})),
    "integers": partial(forge, lambda t: t.update({W: t[W].long()})),
    "not a number": partial(forge, lambda t: t[W].view(-1)[3:4].fill_(math.nan)),
    "infinite": partial(forge, lambda t: t["ema/img_in.weight"].fill_(math.inf)),
    "an optimiser's tensor of another shape": partial(forge, lambda t: t.update({"optim/model.img_in.weight/exp_avg": torch.zeros(3)})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoints(damage, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    DAMAGES[damage](folder / "checkpoint" / "step-000002")
    before = fingerprint(folder)
    refused(lambda: resume(folder))
    assert fingerprint(folder) == before


@pytest.mark.parametrize("recipe, seed", [(BASE, 0), (RECIPES["repa"], 0), (AVERAGED, 1)])
def test_checkpoints_of_another_run(recipe, seed, trained):
    before = fingerprint(trained)
    assert "another recipe or seed" in refused(lambda: resume(trained, recipe, seed))
    assert fingerprint(trained) == before


def test_a_file_in_the_place_of_a_checkpoint(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "step-000002").write_text("notes")
    refused(lambda: resume(tmp_path))


def test_weights_saved_by_torch_are_not_read(tmp_path):
    torch.save(Bomb(tmp_path / "trace"), tmp_path / "model.pt")
    shutil.copytree(tmp_path, tmp_path / "checkpoint" / "step-000001", ignore=shutil.ignore_patterns("checkpoint"))
    refused(lambda: resume(tmp_path))
    assert not (tmp_path / "trace").exists()


# ------------------------------------------------------------------------------------------------ images


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


NOISE = Image.effect_noise((96, 96), 90).convert("RGB")
RED = Image.new("RGB", (20, 12), (200, 30, 30))
PALETTE = RED.convert("P")
TURNED = Image.Exif()
TURNED[0x0112] = 6
FRAMES = {"save_all": True, "append_images": [NOISE.convert("P")]}

SOUND = {
    "one.png": encoded(Image.new("RGB", (1, 1))),
    "strip.png": encoded(Image.new("RGB", (4000, 1))),
    "cmyk.jpg": encoded(RED.convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16))),
    "float.tif": encoded(Image.fromarray(np.full((9, 9), math.nan, np.float32)), "TIFF"),
    "palette.png": encoded(PALETTE, transparency=0),
    "animated.gif": encoded(PALETTE, "GIF", **FRAMES),
    "animated.png": encoded(RED, "PNG", save_all=True, append_images=[RED.rotate(90)]),
    "grey.jpg": encoded(RED.convert("L"), "JPEG"),
    "alpha.png": encoded(RED.convert("LA")),
    "bit.png": encoded(RED.convert("1")),
    "turned.jpg": encoded(RED, "JPEG", exif=TURNED),
    "profile.png": encoded(RED, icc_profile=b"nonsense"),
    "jpeg named.png": encoded(RED, "JPEG"),
    "upper.PNG": encoded(RED),
    "tail.jpg": encoded(RED, "JPEG") + b"<?php system($_GET[0]); ?>",
}
BROKEN = {
    "empty.png": b"",
    "cut.jpg": encoded(NOISE, "JPEG")[:-2000],
    "cut.png": encoded(NOISE)[:-4000],
    "cut.gif": encoded(NOISE.convert("P"), "GIF")[:300],
    "cut.webp": encoded(NOISE, "WEBP")[:-500],
    "head.png": encoded(RED)[:20],
    "sum.png": encoded(RED).replace(b"IDAT", b"IDAX"),
    "bomb.png": png(60_000, 60_000, bytes(1000)),
    "short.png": png(500, 500, bytes(10)),
    "flat.png": png(0, 7, b""),
    "text.png": b"this is no image",
    "page.jpg": b"<html><body>404</body></html>",
    "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "zeros.jpg": bytes(5000),
    "pickle.png": pickle.dumps({"image": [1, 2, 3]}),
}


def album(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def opened(root: Path) -> list:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [load_source(str(root), split, "a photo") for split in ("train", "val")]


def test_every_odd_but_sound_image_is_used(tmp_path):
    sources = opened(album(tmp_path, SOUND))
    assert {item.name for source in sources for item in source.items} == set(SOUND)
    for source in sources:
        assert source.images(range(len(source)), 8).shape == (len(source), 8, 8, 3)


def test_every_broken_image_is_left_out_with_a_reason(tmp_path):
    before = fingerprint(album(tmp_path, BROKEN | {f"good{i}.png": encoded(RED) for i in range(20)}))
    sources = opened(tmp_path)
    assert {name for source in sources for name in source.unreadable} == set(BROKEN)
    assert all(reason for source in sources for reason in source.unreadable.values())
    assert sum(map(len, sources)) == 20 and fingerprint(tmp_path) == before


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_of_one_broken_image_is_refused(name, tmp_path):
    assert name in refused(lambda: load_source(str(album(tmp_path, {name: BROKEN[name]})), caption="a photo"))


def test_what_is_no_file_is_left_out(tmp_path):
    album(tmp_path, {f"good{i}.png": encoded(RED) for i in range(20)})
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    sources = opened(tmp_path)
    assert sum(map(len, sources)) == 20
    assert {name for source in sources for name in source.unreadable} == {"pipe.png", "gone.png", "self.png", "endless.png"}


def test_a_table_of_pickles_is_refused_and_none_is_loaded(tmp_path):
    data = pickle.dumps(Bomb(tmp_path / "trace"))
    pq.write_table(pa.table({"image": [data, data], "text": ["a", "b"]}), tmp_path / "train.parquet")
    assert "None of the" in refused(lambda: load_source(str(tmp_path)))
    assert not (tmp_path / "trace").exists()


# ------------------------------------------------------------------------------------------------ captions and prompts

PROMPTS = {
    "empty": "",
    "blank": " \t\n\u3000",
    "gigantic": "a red cube " * 100_000,
    "one word": "x" * 1_000_000,
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202eevil\u202c \u0635\u0648\u0631\u0629",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "control": "a\x00b\x07c\x1b[31md\x7f",
    "surrogates": "\ud800 a \udfff",
    "noncharacters": "\uffff\ufdd0\U0010ffff",
    "combining": "e" + "\u0301" * 2000,
    "special tokens": "<pad><eos><bos><unk></s>",
    "zalgo and zero width": "\u200b\u200c\ufeff",
}


@pytest.fixture(scope="module")
def encoder():
    return load_text("lab-t5")


@pytest.mark.parametrize("name", PROMPTS)
def test_any_prompt_is_read(name, encoder):
    tokens, mask = encoder.encode([PROMPTS[name], "a red cube"])
    assert torch.isfinite(tokens).all() and mask[1].any() and tokens.shape[1] == encoder.length
    alone = encoder.encode(["a red cube"])[0]
    assert torch.allclose(tokens[1], alone[0], atol=1e-4)  # what stands beside it changes nothing


@pytest.mark.parametrize("name", PROMPTS)
def test_any_caption_in_a_folder_is_used_or_named(name, tmp_path):
    album(tmp_path, {"a.png": encoded(RED), "b.png": encoded(RED)})
    rows = [{"file_name": "a.png", "text": PROMPTS[name]}, {"file_name": "b.png", "text": "a red field"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if not PROMPTS[name].strip():
        assert "1 of 2 images" in refused(lambda: load_source(str(tmp_path), caption="{label}"))
        return
    captions = [c for source in opened(tmp_path) for c in source.captions(range(len(source)))]
    assert len(captions) == 2 and all(c == " ".join(c.split()) for c in captions)
    write_json(tmp_path / "captions.json", captions)  # they are recorded
    assert json.loads((tmp_path / "captions.json").read_text()) == captions


METADATA = {
    "a line that is cut": '{"file_name": "a.png", "text": "x"}\n{"file_name": "b.p',
    "a list": '["a.png", "x"]',
    "a number": "7",
    "nested without end": DEEP,
    "no names": '{"text": "x"}',
    "a name that climbs": '{"file_name": "../../etc/passwd", "text": "x"}',
    "a name of another type": '{"file_name": {"a": 1}, "text": "x"}',
    "a name with half a pair": '{"file_name": "a\\ud800.png", "text": "x"}',
    "a name with a null": '{"file_name": "a\\u0000.png", "text": "x"}',
    "binary": "\x80\x04\x95\x00\x01",
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name, tmp_path):
    album(tmp_path, {"a.png": encoded(RED), "b.png": encoded(RED)})
    (tmp_path / "metadata.jsonl").write_text(METADATA[name])
    before = fingerprint(tmp_path)
    refused(lambda: load_source(str(tmp_path)))
    assert fingerprint(tmp_path) == before


# ------------------------------------------------------------------------------------------------ values that are not finite


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["latents", "captions", "teacher"])
def test_data_that_are_not_finite_stop_the_run_and_the_weights_stay(where, value, tmp_path):
    whole = store()
    x, text, teachers = whole.x.copy(), {k: v.copy() for k, v in whole.text.items()}, {k: v.copy() for k, v in whole.teachers.items()}
    {"latents": x, "captions": text["tokens"], "teacher": teachers["lab-dino"]}[where][:] = value
    training = Training(tiny(RECIPES["repa"]), Store(whole.images, x, text, teachers), 0, CPU)
    assert "at step 0" in refused(lambda: list(training.fit(2, tmp_path)))
    assert all(torch.isfinite(v).all() for k, v in training.learner.state_dict().items())
    tensors, _ = checkpoint.load(tmp_path / "checkpoint" / "step-000000")
    assert all(torch.isfinite(v).all() for k, v in tensors.items() if k.startswith("learner/"))


# ------------------------------------------------------------------------------------------------ records

CHANGES = {
    "metrics": [None, [], 7, "good"],
    "curve": [None, {}, 7, [1], [{"step": 1}], [{"seconds": 2}, {"seconds": 1}], [{"seconds": "now"}]],
    "throughput": [None, [], 7],
    "ceiling": [None, [], "high"],
    "captions": [None, "a cube"],
}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in CHANGES.items() for value in values])
def test_records_with_a_wrong_value_are_skipped_and_named(key, value, tmp_path):
    write_run(tmp_path, "baseline", 0, 20.0)
    folder = write_run(tmp_path, "baseline", 1, 30.0)
    write_json(folder / "eval.json", json.loads((folder / "eval.json").read_text()) | {key: value})
    before = fingerprint(tmp_path)
    table = Table.of("cpu", root=tmp_path)
    assert table.rows[0].seeds == (0,) and "seed1/eval.json" in table.notes[-1]
    assert repr(table) and table.markdown() and table._repr_html_() and len(table.to_pandas())
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize(
    "metric",
    [None, True, "low", [], {}, {"value": None}, {"value": "low"}, {"value": 10**400}, {"value": 1.0, "judge": ["a"]}, {"value": {}}],
)
def test_metrics_of_any_kind_are_a_number_or_missing(metric, tmp_path, capsys):
    folder = write_run(tmp_path, "baseline", 0, 20.0)
    write_json(folder / "eval.json", {"n": "many", "metrics": {"fid": metric, "cmmd": 0.5}})
    assert cli.call(["table", "--scale", "cpu", "--root", str(tmp_path)]) == 0
    assert "0.500" in capsys.readouterr().out


@pytest.mark.parametrize("at", [0, 1, 20, -5, -1])
@pytest.mark.parametrize("file", ["eval.json", "recipe.json", "env.json"])
def test_records_cut_anywhere_do_not_count(file, at, tmp_path):
    write_run(tmp_path, "baseline", 0, 20.0)
    path = write_run(tmp_path, "baseline", 1, 30.0) / file
    path.write_bytes(path.read_bytes().rstrip()[:at])
    assert [r.seed for r in records(tmp_path)] == [0] and len(records(tmp_path).skipped) == 1


def test_foreign_files_among_the_results_are_passed_over(tmp_path):
    write_run(tmp_path, "baseline", 0, 20.0)
    for name in (
        "cpu/notes.txt",
        "cpu/baseline-0123abcd/seed2",
        "cpu/baseline-0123abcd/seedling/x",
        "cpu/odd/seed0/x",
        ".DS_Store",
        "cpu/a-b/seed\u00b2/x",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x00\xff")
    (tmp_path / "cpu" / "loop-00000000").symlink_to(tmp_path / "cpu")
    table = Table.of("cpu", root=tmp_path)
    assert [row.seeds for row in table.rows if row.seeds] == [(0,)]


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", "7", '{"loss": 1}', '{"step": "two"}', "\x00\xff", DEEP])
@pytest.mark.parametrize("name", ["train.jsonl", "curve.jsonl"])
def test_a_log_damaged_in_its_middle_is_not_cut_there(name, line, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / name).write_text('{"step": 0}\n' + line + '\n{"step": 1}\n')
    before = fingerprint(folder)
    training = Training(tiny(AVERAGED), store(), 0, CPU)
    assert f"Line 2 of {folder / name}" in refused(lambda: experiment.resume(training, folder))
    assert fingerprint(folder) == before


# ------------------------------------------------------------------------------------------------ full and read-only disks


def test_a_full_disk_under_a_log_or_a_record(tmp_path):
    (tmp_path / "train.jsonl").symlink_to("/dev/full")
    assert "free some space" in refused(lambda: append_json(tmp_path / "train.jsonl", {"step": 1}))


@pytest.mark.parametrize("write", [append_json, write_json])
def test_a_file_in_the_place_of_a_folder(write, tmp_path):
    (tmp_path / "results").write_text("mine")
    assert "Cannot write" in refused(lambda: write(tmp_path / "results" / "cpu" / "a.json", {"step": 1}))
    assert (tmp_path / "results").read_text() == "mine"


def test_a_file_in_the_place_of_the_results(tmp_path, capsys):
    (tmp_path / "results").write_text("mine")
    assert cli.call(["run", "baseline", "--root", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and (tmp_path / "results").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_results(tmp_path, capsys):
    (tmp_path / "results").mkdir(mode=0o500)
    assert cli.call(["run", "baseline", "--root", str(tmp_path / "results")]) == 2
    assert "permissions" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the data cache


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of one cached array."""
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path))
    cached("numbers", ["k"], 8, numbers)
    (folder,) = tmp_path.glob("numbers-*")
    return folder


def numbers():
    yield {"a": np.arange(8.0)}


def empty(folder: Path) -> None:
    (folder / "a.npy").unlink()


def objects(folder: Path) -> None:
    np.save(folder / "a.npy", np.array([Bomb(folder.parent / "trace")] * 8), allow_pickle=True)


HARMS: dict[str, Callable[[Path], object]] = {
    **{f"cut at {at}": partial(cut, at, "a.npy") for at in (0, 0.05, 0.3, 0.9, 0.99)},
    "text": partial(put, "a.npy", "no array"),
    "a pickle": partial(put, "a.npy", pickle.dumps([1, 2])),
    "an archive": lambda folder: np.savez(open(folder / "a.npy", "wb"), a=np.zeros(8)),
    "objects": objects,
    "other rows": lambda folder: np.save(folder / "a.npy", np.zeros(7)),
    "a scalar": lambda folder: np.save(folder / "a.npy", np.float64(1)),
    "nothing there": empty,
}


@pytest.mark.parametrize("harm", HARMS)
def test_caches(harm, cache):
    HARMS[harm](cache)
    before = fingerprint(cache)
    said = refused(lambda: cached("numbers", ["k"], 8, numbers))
    assert "damaged" in said and str(cache) in said
    assert fingerprint(cache) == before and not (cache.parent / "trace").exists()
    shutil.rmtree(cache)  # as the sentence says
    assert len(cached("numbers", ["k"], 8, numbers)["a"]) == 8


def test_a_file_in_the_place_of_the_cache(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path / "cache"))
    refused(lambda: cached("numbers", ["k"], 8, numbers))
    assert (tmp_path / "cache").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ no pickle

MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
CALLS = {"torch.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle", "eval", "exec", "torch.hub.load_state_dict_from_url"}
OPTIONS = {"allow_pickle": True, "weights_only": False, "use_safetensors": False, "trust_remote_code": True}


def unsafe(source: str) -> list[str]:
    """What in a module's source could unpickle, or run, what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            found += [f"{name}={given[name]}" for name, bad in OPTIONS.items() if given.get(name, not bad) == bad]
            called = ast.unparse(node.func)
            unguarded = called in ("np.load", "numpy.load") and given.get("allow_pickle") is not False
            found += [called] if called in CALLS or unguarded else []
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_unpickles(path):
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "torch.load(path)", "np.load(path)", "np.load(path, allow_pickle=True)", "eval(text)"],
)
def test_the_search_finds_what_unpickles(line):
    assert unsafe(line) and not unsafe("np.load(path, allow_pickle=False); model.eval(); re.compile(text)")
