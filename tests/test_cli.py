"""The command line: every error is one sentence with its exit code, and help is fast and has an example."""

import subprocess
import sys

import pytest

from prx_lab import cli
from prx_lab.cli.making import summary
from prx_lab.cli.options import resolve
from prx_lab.recipes import PUBLISHED, RECIPES
from prx_lab.record import CHECKOUT, name_of, run_folder
from prx_lab.scales import SCALES
from tests.made_up import write_run

COMMANDS = (
    "run",
    "grid",
    "table",
    "sample",
    "export",
    "pretrain",
    "variants",
    "encode",
    "recipes",
    "cost",
    "doctor",
    "sweep",
    "fidelity",
    "influences",
)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def test_help_has_a_sentence_and_an_example_for_each_command(capsys):
    assert cli.call(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in COMMANDS:
        assert command in overview
        assert cli.call([command, "--help"]) == 0
        assert f"Example: prx-lab {command}" in capsys.readouterr().out


def test_the_help_names_every_scale(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.call(["run", "--help"]) == 0
    assert ", ".join(SCALES) in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, heavy",
    [(["--help"], ("torch", "numpy", "matplotlib", "pandas")), (["table", "--root", str(CHECKOUT / "results")], ("torch", "pandas"))],
)
def test_what_only_tells_imports_nothing_heavy(words, heavy):
    code = f"import sys, prx_lab.cli as c; c.call({words}); print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "rpea"], "Did you mean 'repa'?"),
        (["run", "repa", "--scale", "cpuu"], "Did you mean 'cpu'?"),
        (["run", "repa", "--set", "predit=x"], "Did you mean 'predict'?"),
        (["run", "repa", "--set", "scale.steps=many"], "cannot be read as int"),
        (["run", "repa", "--set", "predict"], "takes field=value"),
        (["run", "repa", "--set", "predict=w"], "use one of v, x"),
        (["sample", "repa", "a cube", "--root", "nowhere"], "prx-lab run repa"),
        (["pretrain", "lab-vea"], "Did you mean 'lab-vae'?"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(words, said, capsys):
    assert cli.call(words) == 2
    shown = capsys.readouterr()
    assert said in shown.err and "Traceback" not in shown.err and shown.out == ""
    assert shown.err.count("\n") == 1


def test_an_unknown_command_or_option_is_code_2(capsys):
    assert cli.call(["tabel"]) == 2 and "table" in capsys.readouterr().err
    assert cli.call(["table", "--scael", "cpu"]) == 2
    assert cli.call(["run", "repa", "--seed", "-1"]) == 2


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    for words in (["--debug", "run", "rpea"], ["run", "rpea", "--debug"]):
        assert cli.call(words) == 2
        assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_130_and_a_bug_is_1(capsys, monkeypatch):
    def stop(name, scale, data, sets):
        raise KeyboardInterrupt("Stopped after step 3.")

    def fail(name, scale, data, sets):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli.making, "resolve", stop)
    assert cli.call(["run", "repa"]) == 130 and capsys.readouterr().err == "Stopped after step 3.\n"
    monkeypatch.setattr(cli.making, "resolve", fail)
    assert cli.call(["run", "repa"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Unexpected ZeroDivisionError") and "Traceback" not in shown


def test_set_reaches_deep_fields_and_keeps_the_name():
    chosen = resolve("repa", "cpu", "", ["scale.steps=7", "predict=x"])
    assert (chosen.scale.steps, chosen.predict) == (7, "x")
    assert name_of(resolve("repa", "cpu", "", ["scale.steps=7"])) == "repa"
    assert name_of(resolve("repa", "cpu", "some/folder", [])) == "repa"
    assert name_of(chosen) == "custom"
    for change in ("scale.batch=1", "scale.depth=2", "scale.grid=1"):  # at which some other recipes do not exist
        assert name_of(resolve("muon", "cpu", "", [change])) == "muon"
    folder = run_folder("results", RECIPES["repa"].at("cpu"), 3)
    assert folder.parts == ("results", "cpu", f"repa-{RECIPES['repa'].at('cpu').id}", "seed3")


def test_table_prints_text_and_markdown(tmp_path, capsys):
    write_run(tmp_path, "baseline", 0, 20.0)
    assert cli.call(["table", "--scale", "cpu", "--root", str(tmp_path)]) == 0
    assert "20.00" in capsys.readouterr().out
    assert cli.call(["table", "--markdown", "--scale", "cpu", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("| cpu scale | n |")


def test_table_has_the_rows_that_are_named(tmp_path, capsys):
    for name in ("baseline", "repa", "tread"):
        write_run(tmp_path, name, 0, 20.0)
    assert cli.call(["table", "tread", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "baseline" in shown and "tread" in shown and "repa " not in shown
    assert cli.call(["table", "tred", "--root", str(tmp_path)]) == 2 and "Did you mean 'tread'?" in capsys.readouterr().err


def test_recipes_lists_each_with_its_difference(capsys):
    assert cli.call(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if not line.startswith(" ")] == [*RECIPES, *PUBLISHED]
    assert "teacher = lab-dino-dense" in shown


def test_a_run_is_summed_up_with_its_intervals(tmp_path):
    from prx_lab.record import Record

    shown = summary(Record.load(write_run(tmp_path, "repa", 4, 20.0)))
    assert shown.splitlines()[0] == "repa at cpu scale, seed 4, n = 1 run"
    assert "lab-FID ↓" in shown and "[19.00, 21.00] over 512 images" in shown


def test_doctor_tells_the_machine(capsys):
    assert cli.call(["doctor", "--no-network"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch", "allocator", "compiler", "cpu", "lab-vae"):
        assert word in shown
    assert "real networks" not in shown
