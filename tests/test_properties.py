"""Laws that hold for any recipe, any caption and any record store, searched for counterexamples; the same examples everywhere."""

import json
import math
import string
import unicodedata
from dataclasses import MISSING, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prx_lab.data.captions import PHRASE, RELATIONS, caption, facts
from prx_lab.data.graph import COLOURS, LEVELS, MATERIALS, SHAPES, SIZES
from prx_lab.data.listed import Item, part, shuffled, tidy
from prx_lab.data.scenes import Scenes
from prx_lab.errors import LabError
from prx_lab.flow import LogitNormal, Uniform
from prx_lab.muon import Muon
from prx_lab.optim import EMA, AdamW, Schedule
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE
from prx_lab.record import append_json, records, write_json, write_lines
from prx_lab.report.table import Table
from prx_lab.routing import TREAD
from prx_lab.run import lines
from prx_lab.sample import CFG
from prx_lab.scales import SCALES, Scale
from prx_lab.spec import Spec, essence, to_json
from prx_lab.sprint import SPRINT
from prx_lab.terms import IREPA, REPA, FlowMatching
from prx_lab.terms.contrastive import Contrastive
from prx_lab.text import load_text
from tests.made_up import write_run

SAME = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
FEW = settings(SAME, max_examples=20)
ANY = st.text(st.characters(exclude_categories=()), max_size=60)  # halves of surrogate pairs too

# ------------------------------------------------------------------------------------------------ recipes


def share(low: float = 0.0, high: float = 1.0, **more: bool) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **more)


SIZED = st.builds(
    lambda grid, cell, heads, wide, depth, steps: replace(
        SCALES["smoke"], size=8 * grid * cell, grid=grid, heads=heads, width=4 * heads * wide, depth=depth, steps=steps, evals=1
    ),
    *(st.integers(1, n) for n in (8, 3, 4, 8)),
    st.integers(3, 12),
    st.integers(1, 10**6),
)
TERMS = st.lists(
    st.one_of(
        st.builds(REPA, weight=share(0, 5), teacher=st.sampled_from(("lab-dino", "lab-dino-dense")), depth=share(0.1)),
        st.builds(IREPA, weight=share(0, 5), gamma=share()),
        st.builds(Contrastive, weight=share(0.01, 0.4)),
    ),
    max_size=3,
    unique=True,
)
ROUTERS = st.one_of(
    st.just(BASE.router),
    st.builds(TREAD, rate=share(0.1), start=share(0, 0.4), end=share(0.6)),
    st.builds(SPRINT, pattern=st.just("uniform")),
)
CHANGES = {
    "scale": SIZED,
    "data": st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20),
    "captions": st.sampled_from(("long", "short", "mixed")),
    "subset": share(0.01),
    "space": st.sampled_from(("pixels", "lab-vae")),
    "bottleneck": st.integers(0, 64),
    "predict": st.sampled_from(("v", "x")),
    "time": st.one_of(st.builds(LogitNormal, mean=share(-2, 2), std=share(0, 2)), st.builds(Uniform, shift=share(0.1, 5))),
    "terms": TERMS.map(lambda terms: (FlowMatching(), *terms)),
    "noise": share(0.5, 2),
    "router": ROUTERS,
    "optim": st.one_of(st.builds(AdamW, lr_scale=share(0.1, 10), betas=st.tuples(share(0, 0.9), share(0, 0.99))), st.just(Muon())),
    "schedule": st.builds(Schedule, warmup=share(), final=share()),
    "ema": st.builds(EMA, decay=share(0, 0.9999)),
    "drop": share(0, 0.99),
    "clip": share(0.01, 100),
    "guidance": st.builds(CFG, scale=share(0, 9), low=share(0, 0.4), high=share(0.6)),
    "shift": share(0.1, 10),
}
PART = st.fixed_dictionaries({}, optional=CHANGES)


@st.composite
def recipes(draw: st.DrawFn, phases: bool = True) -> Recipe:
    """A valid recipe: what a check refuses, such as a convolution inside a route, is not one."""
    try:
        found = BASE.but(**draw(PART))
        if phases and draw(st.booleans()):
            kept = {"scale", "space", "bottleneck", "predict", "noise"}
            found = found.then(draw(share(0.01, 0.99)), found.but(**{k: v for k, v in draw(PART).items() if k not in kept}))
    except LabError:
        assume(False)
    return found


@SAME
@given(recipes())
def test_a_recipe_is_its_json(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe and again.id == recipe.id and hash(again) == hash(recipe)
    assert recipe.diff(again) == {}


def bare(spec: object) -> object:
    """The JSON of a spec with only the fields that must be given or differ from their defaults: as an older version wrote it."""
    if isinstance(spec, Spec):
        told = (f for f in fields(spec) if f.default is MISSING or getattr(spec, f.name) != f.default)
        return {"type": type(spec).__name__} | {f.name: bare(getattr(spec, f.name)) for f in told}
    return [bare(item) for item in spec] if isinstance(spec, tuple) else spec


@SAME
@given(recipes())
def test_defaults_fill_what_an_older_recipe_does_not_say(recipe):
    again = Recipe.from_json(json.loads(json.dumps(bare(recipe))))
    assert again == recipe and again.id == recipe.id
    assert essence(recipe) == bare(recipe)


@SAME
@given(recipes(), recipes())
def test_two_recipes_differ_alike_from_either_side(a, b):
    there, back = a.diff(b), b.diff(a)
    assert there == {path: (old, new) for path, (new, old) in back.items()}
    assert (there == {}) == (a == b) == (a.id == b.id) or same_number(a, b)


def same_number(a: Recipe, b: Recipe) -> bool:
    """Whether two equal recipes differ only in how a number is written, 1 or 1.0."""
    return a == b and json.dumps(to_json(a)) != json.dumps(to_json(b))


@SAME
@given(recipes(phases=False), PART)
def test_but_changes_what_it_names_and_twice_is_once(recipe, changes):
    try:
        changed = recipe.but(**changes)
    except LabError:
        assume(False)
    assert changed.but(**changes) == changed
    assert all(getattr(changed, f.name) == changes.get(f.name, getattr(recipe, f.name)) for f in fields(recipe))
    assert {path.split(".")[0].split("[")[0] for path in recipe.diff(changed)} <= changes.keys()
    back = {name: getattr(recipe, name) for name in changes}
    assert changed.but(**back) == recipe


@SAME
@given(recipes(phases=False), share(0.01, 0.9), st.integers(1, 10**6))
def test_set_is_but_for_one_number(recipe, drop, steps):
    assert recipe.set("drop", repr(drop)) == recipe.but(drop=drop)
    assert recipe.set("scale.steps", str(steps)) == recipe.but(scale=replace(recipe.scale, steps=steps))


@SAME
@given(recipes())
def test_at_another_scale_only_the_scale_changes(recipe):
    try:
        there = recipe.at("cpu")
    except LabError:
        assume(False)
    assert {path.split(".")[0] for path in recipe.diff(there)} <= {"scale"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from([f.name for f in fields(Recipe)] + ["type"]), x, max_size=3),
    max_leaves=8,
)


@SAME
@given(st.sampled_from([f.name for f in fields(Recipe)] + [f"scale.{f.name}" for f in fields(Scale)]), JSON)
def test_any_json_in_any_field_is_a_recipe_or_refused(path, value):
    data = json.loads(json.dumps(BASE.to_json()))
    head, _, rest = path.partition(".")
    if rest:
        data[head][rest] = value
    else:
        data[head] = value
    try:
        recipe = Recipe.from_json(data)
    except LabError as error:
        assert "\n" not in str(error)
    else:
        assert Recipe.from_json(recipe.to_json()) == recipe


# ------------------------------------------------------------------------------------------------ captions


@SAME
@given(st.sampled_from(LEVELS), st.sampled_from(("render", "photo")), st.integers(0, 9999))
def test_a_long_caption_says_its_facts(level, style, index):
    """Read by words alone: every object with its four attributes, every relation between two named things, nothing else."""
    scene = Scenes(level, style, 10_000).scene(index)
    text, stated = caption(scene, "long"), facts(scene, "long")
    words = text.replace(",", " ").replace(".", " ").split()
    at = [i for i, word in enumerate(words) if word in SIZES]
    assert [tuple(words[i : i + 4]) for i in sorted(at)] == sorted_as_written(stated, words)
    told = sum(text.count(PHRASE[name]) for name in RELATIONS)
    assert told == len(stated.relations) == len(stated.objects) - 1


def sorted_as_written(stated, words: list[str]) -> list[tuple[str, ...]]:
    """The stated objects as (size, material, colour, shape), in the order of the relation where a pair is told in one clause."""
    objects = [(o.size, o.material, o.colour, o.shape) for o in stated.objects]
    if len(objects) == 2:
        ((first, _, second),) = stated.relations
        return [objects[first], objects[second]]
    return objects


@SAME
@given(st.sampled_from(LEVELS), st.integers(0, 9999))
def test_a_short_caption_names_shapes_and_colours_alone(level, index):
    scene = Scenes(level, "render", 10_000).scene(index)
    words = caption(scene, "short").replace(",", " ").split()
    assert [w for w in words if w in COLOURS] == [o.colour for o in scene.objects]
    assert [w for w in words if w in SHAPES] == [o.shape for o in scene.objects]
    assert not set(words) & ({*SIZES, *MATERIALS} - {*COLOURS})


@SAME
@given(ANY)
def test_a_tidy_caption_is_one_line_of_text_and_stays(text):
    once = tidy(text)
    assert tidy(once) == once == " ".join(once.split()) == once.encode().decode()
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in once)


@settings(SAME, max_examples=10)
@given(st.lists(ANY, min_size=1, max_size=3))
def test_any_text_is_encoded_and_what_stands_beside_it_does_not_matter(texts):
    encoder = load_text("lab-t5")
    tokens, mask = encoder.encode(texts)
    assert tokens.shape[:2] == mask.shape == (len(texts), encoder.length) and np.isfinite(tokens.numpy()).all()
    assert (tokens[~mask] == 0).all() and (mask.int().diff(dim=1) <= 0).all()
    alone = encoder.encode(texts[:1])
    assert (alone[1] == mask[:1]).all() and np.allclose(alone[0], tokens[:1], atol=1e-4)
    assert mask.sum(1).tolist() == [min(n, encoder.length) for n in encoder.lengths(texts)]


FILE = st.binary(min_size=1, max_size=20).map(lambda raw: raw.decode(errors="surrogateescape"))  # what a folder's listing may hold
NAMES = st.lists(FILE, min_size=2, max_size=40, unique_by=lambda name: unicodedata.normalize("NFC", name))


@SAME
@given(NAMES, st.data())
def test_files_added_to_a_folder_move_no_other(names, data):
    """Above the size where both parts fill by chance, an image stays where it was."""
    few = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    before, after = ({split: part([Item(n, n, 0, "", "") for n in chosen], split) for split in ("train", "val")} for chosen in (few, names))
    assert sorted(i.name for items in after.values() for i in items) == sorted(names)
    if all(before.values()) and len(before["val"]) == sum(i.name in {j.name for j in after["val"]} for i in before["val"]):
        assert {i.name for i in before["train"]} <= {i.name for i in after["train"]}
    order = [i.name for i in shuffled([Item(n, n, 0, "", "") for n in names])]
    assert [n for n in order if n in few] == [i.name for i in shuffled([Item(n, n, 0, "", "") for n in few])]


# ------------------------------------------------------------------------------------------------ the record store

CELL = st.none() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=6)
ROW = st.dictionaries(st.text(max_size=6), CELL, max_size=4).flatmap(lambda row: st.integers(0, 999).map(lambda step: row | {"step": step}))


@SAME
@given(st.lists(ROW, max_size=6), st.data())
def test_a_log_cut_anywhere_reads_back_its_complete_rows(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("log") / "train.jsonl"
    path.touch()
    ends = [0]
    for row in rows:
        append_json(path, row)
        ends.append(path.stat().st_size)
    whole = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    assert list(lines(path)) == whole
    raw, at = path.read_bytes(), data.draw(st.integers(0, ends[-1]))
    path.write_bytes(raw[:at])
    found = list(lines(path))
    complete = sum(end <= at for end in ends[1:])
    assert found[:complete] == whole[:complete] and len(found) <= complete + (at + 1 in ends)  # the newline alone may be missing
    write_lines(path, found)
    append_json(path, {"step": 1})
    assert list(lines(path)) == [*found, {"step": 1}]


FID = st.floats(0.01, 500)
RUNS = st.dictionaries(st.tuples(st.sampled_from(("baseline", "repa", "tread")), st.integers(0, 5)), FID, max_size=12)


@FEW
@given(RUNS, st.sets(st.integers(0, 11)))
def test_a_table_is_what_pandas_computes(tmp_path_factory, runs, torn):
    """n, mean, sd and the paired difference, over the records that are whole."""
    import pandas

    root = tmp_path_factory.mktemp("results")
    whole = {}
    for i, ((name, seed), fid) in enumerate(runs.items()):
        folder = write_run(root, name, seed, fid)
        if i in torn:
            path = folder / ("eval.json", "env.json", "recipe.json")[i % 3]
            path.write_bytes(path.read_bytes().rstrip()[:-1])
        else:
            whole[name, seed] = fid
    table = Table.of("cpu", root=root)
    assert len(records(root)) == len(whole) and len(records(root).skipped) == len(runs) - len(whole)
    data = pandas.DataFrame([(*key, fid) for key, fid in whole.items()], columns=["recipe", "seed", "fid"])
    by_seed = data.pivot(index="seed", columns="recipe", values="fid")
    found = table.to_pandas().query("metric == 'fid'").set_index("recipe")
    for name in by_seed.columns:
        values = by_seed[name].dropna()
        assert found.loc[name, "n"] == len(values)
        assert found.loc[name, "mean"] == pytest.approx(values.mean()) and found.loc[name, "sd"] == pytest.approx(values.std(), nan_ok=True)
        if "baseline" in by_seed:
            pairs = (by_seed[name] - by_seed["baseline"]).dropna()
            assert found.loc[name, "common"] == len(pairs)
            assert found.loc[name, "difference"] == pytest.approx(pairs.mean(), abs=1e-9, nan_ok=True)


@FEW
@given(
    st.dictionaries(st.sampled_from(("metrics", "curve", "throughput", "ceiling", "captions", "n", "seed")), JSON, max_size=4), JSON, JSON
)
def test_any_json_in_a_record_is_shown_or_skipped(tmp_path_factory, evaluation, environment, row):
    root = tmp_path_factory.mktemp("results")
    write_run(root, "baseline", 0, 20.0)
    folder = write_run(root, "baseline", 1, 30.0)
    write_json(folder / "eval.json", {"metrics": {}} | evaluation)
    write_json(folder / "env.json", environment)
    (folder / "train.jsonl").write_text(json.dumps(row, allow_nan=False) + "\n" if finite(row) else "")
    table = Table.of("cpu", root=root)
    assert 0 in table.rows[0].seeds and repr(table) and table.markdown() and table._repr_html_() and len(table.to_pandas())


def finite(value: object) -> bool:
    """Whether strict JSON can say it."""
    try:
        return bool(json.dumps(value, allow_nan=False))
    except ValueError:
        return False


@SAME
@given(st.text(st.sampled_from(string.printable + "é\u2028\U0001f600"), max_size=30), ANY)
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path_factory, old, new):
    path = Path(tmp_path_factory.mktemp("files")) / "a.json"
    write_json(path, {"text": old})
    try:
        write_json(path, {"text": new})
    except UnicodeEncodeError:
        new = old
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": new} and [p.name for p in path.parent.iterdir()] == ["a.json"]
