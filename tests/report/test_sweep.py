"""The sweep of guidance: its numbers are those of an evaluation at that scale, and its tables say what the records hold."""

import math
import shutil

import pytest

from prx_lab import cli, grid
from prx_lab.errors import LabError
from prx_lab.recipe import Recipe
from prx_lab.recipes import RECIPES
from prx_lab.record import Record, write_json
from prx_lab.report import sweep
from prx_lab.report.evidence import change
from prx_lab.report.family import noise
from prx_lab.scales import Scale

SHORT = Scale("smoke", 32, "simple", 32, 4, 48, 3, 3, 2, 8, 2e-3, 8, 2, 1)
QUALITY = ("fid", "cmmd", "dino_mmd", "composition")


def small(name: str) -> Recipe:
    return RECIPES[name].but(scale=SHORT)


# ------------------------------------------------------------------------------------------------ judging
@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A trained run, and one at half the scale of guidance that was judged with its weights."""
    root = tmp_path_factory.mktemp("results")
    return [grid.one(small(name), 0, root) for name in ("baseline", "half-guidance")]


@pytest.mark.parametrize("place", [0, 1])
def test_a_swept_scale_has_the_numbers_of_a_run_that_is_recorded_at_it(folders, place):
    """The oracle: two recipes that differ in the scale alone. The second has no weights of its own."""
    own, other = Record.load(folders[place]), Record.load(folders[1 - place])
    told = sweep.study(folders[place], [1.5, 3.0])
    here = {row["scale"]: row for row in told["rows"]}
    assert sorted(here) == [1.5, 3.0] and told["own"] == (3.0, 1.5)[place] and told["name"] == own.name and told["trained"] == own.env
    for metric in QUALITY:
        assert here[told["own"]][metric] == own.metric(metric)
        assert here[(1.5, 3.0)[place]][metric] == pytest.approx(other.metric(metric), rel=1e-6)
    assert own.metric("fid") != other.metric("fid")


def test_what_cannot_be_swept_is_refused_in_a_sentence(folders, tmp_path):
    shutil.copytree(folders[0].parent.parent, tmp_path / "smoke")
    folder = tmp_path / "smoke" / folders[0].parent.name / "seed0"
    shutil.rmtree(folder / "checkpoint")
    with pytest.raises(LabError, match=r"has its weights; delete its folder and train it again with prx-lab run\.$"):
        sweep.study(folder)
    shutil.copytree(folders[0], tmp_path / "smoke" / "ema-01234567" / "seed0")  # trained as it was: these are its weights
    sweep.study(folder, [3.0])
    log = tmp_path / "smoke" / "ema-01234567" / "seed0" / "train.jsonl"
    log.write_text(log.read_text().replace('"loss": ', '"loss": 9'))
    with pytest.raises(LabError, match="but logged other losses: it has other weights"):
        sweep.study(folder, [3.0])
    write_json(folder / "recipe.json", small("contrastive-corrected").to_json())
    with pytest.raises(LabError, match="Corrected, has no scale to sweep"):
        sweep.study(folder)


def test_the_command_records_what_it_swept_and_refuses_in_a_sentence(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "study", lambda folder, made=sweep.study: made(folder, [1.5]))
    assert cli.call(["sweep", str(folders[0])]) == 0
    assert capsys.readouterr().out.startswith(f"smoke/{folders[0].parent.name}/seed0 1.5: ")
    assert set(sweep.load("smoke", folders[0].parents[2] / "guidance")["baseline"].seeds[0]) == {1.5, 3.0}
    assert cli.call(["sweep", str(tmp_path / "nowhere")]) == 2 and "nowhere" in capsys.readouterr().err
    assert cli.call(["fidelity", str(tmp_path / "nowhere")]) == 2 and "nowhere" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ reading
FIDS = {  # recipe -> seed -> scale of guidance -> lab-FID
    "baseline": {0: {1.0: 4.0, 2.0: 1.0, 3.0: 2.0}, 1: {1.0: 5.0, 2.0: 1.2, 3.0: 2.4}},
    "muon": {0: {1.0: 0.5, 2.0: 0.8, 3.0: 1.0}, 1: {1.0: 0.7, 2.0: 0.8, 3.0: 1.1}},
    "tread": {0: {1.0: 8.0, 2.0: 3.0, 3.0: 1.5}},
    "repa": {0: {1.0: 3.0, 2.0: 0.9, 3.0: 1.9}, 1: {1.0: 3.0, 2.0: 0.9, 3.0: 2.3}},
}


@pytest.fixture
def root(tmp_path):
    for name, seeds in FIDS.items():
        for seed, fids in seeds.items():
            rows = [{"scale": s, "fid": v, "cmmd": v / 10, "dino_mmd": v / 20, "composition": 1 / (1 + v)} for s, v in fids.items()]
            told = {"run": f"cpu/{name}-0123abcd/seed{seed}", "name": name, "seed": seed, "own": 3.0, "n": 512, "rows": rows}
            write_json(tmp_path / "guidance" / "cpu" / f"{name}-0123abcd" / f"seed{seed}.json", told)
    return tmp_path / "guidance"


def test_the_best_scale_is_that_of_the_mean_over_seeds(root):
    found = sweep.load(folder=root)
    assert {name: one.best() for name, one in found.items()} == {"baseline": 2.0, "muon": 1.0, "tread": 3.0, "repa": 2.0}
    assert found["baseline"].mean(2.0, "fid") == pytest.approx(1.1) and found["muon"].best("composition") == 1.0
    assert found["baseline"].at(3.0, "cmmd") == {0: 0.2, 1: pytest.approx(0.24)}


def test_a_scale_that_a_seed_lacks_is_left_out():
    one = sweep.Swept("muon", 3.0, {0: {1.0: {"fid": 1.0}, 3.0: {"fid": 2.0}}, 1: {3.0: {"fid": 2.0}}})
    assert one.scales == (3.0,) and one.best() == 3.0 and one.at(1.0, "fid") == {0: 1.0}


def test_recipes_are_ranked_each_at_its_best_with_the_noise_of_all(root):
    rows = {row[0]: row for row in sweep.ranking(folder=root).rows}
    assert list(rows) == ["muon", "repa", "baseline", "tread"]
    best = {"baseline": 2.0, "muon": 1.0, "tread": 3.0, "repa": 2.0}
    values = {name: {seed: fids[best[name]] for seed, fids in seeds.items()} for name, seeds in FIDS.items()}
    one = change(values["muon"], values["baseline"], noise(values).between("muon", "baseline"))
    there = f"{1 + one.mean:.2f} [{1 + one.lo:.2f}, {1 + one.hi:.2f}]"
    assert rows["muon"][1:] == ("2", "1.05", rows["muon"][3], "1", "0.60", there, "62.7")
    assert 1 + one.mean == pytest.approx(math.sqrt(0.5 * 0.7 / 1.2)) and rows["muon"][3].startswith(f"{math.sqrt(1.1 / 4.8):.2f} [")
    few = sweep.ranking(folder=root, recipes=("muon",)).rows  # of fewer rows, with the noise of all
    assert few == (rows["muon"], rows["baseline"])
    assert rows["baseline"][3] == rows["baseline"][6] == "" and rows["tread"][6] == "1.50"  # one seed: no interval


def test_orders_are_compared_over_recipes(root):
    with pytest.raises(LabError, match="at least four pairs; here are 3"):
        sweep.order(folder=root, recipes=("muon", "repa", "tread"))
    told = repr(sweep.order(folder=root))
    assert "tau-b +0.33" in told and "over 4 recipes" in told  # 2 of 6 pairs change places: 1.05 1.5 2.2 2.1 against 0.6 1.5 1.1 0.9


def test_a_curve_has_a_point_per_scale_and_says_where_it_is_lowest(root):
    plot = sweep.curve(("muon", "baseline", "unknown"), folder=root)
    left, right = plot.figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [pytest.approx([0.6, 0.8, 1.05]), pytest.approx([4.5, 1.1, 2.2])]
    assert list(left.lines[0].get_xdata()) == [1.0, 2.0, 3.0] and right.lines[0].get_ydata()[1] == pytest.approx(100 / 1.8)
    assert repr(plot).endswith("lowest lab-FID: muon 0.60 at 1, baseline 1.10 at 2")


def test_what_is_not_swept_is_said(root):
    with pytest.raises(LabError, match="No sweep of guidance is recorded at gpu scale yet"):
        sweep.load("gpu", root)
    with pytest.raises(LabError, match="recorded for sprint; there are baseline, muon, repa, tread"):
        sweep.ranking(baseline="sprint", folder=root)
    with pytest.raises(LabError, match="recorded for sprint at cpu scale"):
        sweep.curve(("sprint",), folder=root)
    for text in ("{", "[]", '{"name": "repa", "own": 3.0, "seed": 0, "rows": [{"fid": 1.0}]}'):
        (root / "cpu" / "repa-0123abcd" / "seed0.json").write_text(text)
        with pytest.raises(LabError, match=r"(is no record of a sweep|JSON) .*sweep the run again\.$"):
            sweep.load(folder=root)


def test_a_network_is_ranked_once_and_one_that_is_only_guided_otherwise_is_not(root):
    for seed in (0, 1):
        for name in ("half-guidance", "tread-sparse", "tread-half-guidance"):
            rows = [{"scale": 1.5, "fid": 1.0, "cmmd": 1.0, "dino_mmd": 1.0, "composition": 0.5}]
            write_json(root / "cpu" / f"{name}-0123abcd" / f"seed{seed}.json", {"name": name, "seed": seed, "own": 1.5, "rows": rows})
    assert {"half-guidance", "tread-sparse"} < set(sweep.load(folder=root))
    assert sweep.networks(sweep.load(folder=root)) == ("baseline", "muon", "repa", "tread")
    assert sweep.networks(["a recipe of old", "muon"]) == ("a recipe of old", "muon")
    with pytest.raises(LabError, match="No recipe of tread-sparse is guided by CFG"):
        sweep.networks(["tread-sparse"])
