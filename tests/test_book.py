"""The book lists every page once, cites what it knows, and takes its numbers from records."""

import json
import re
import sys
import tomllib
from fnmatch import fnmatch
from html import unescape
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from docutils import nodes
from docutils.utils import new_document
from PIL import Image

from tests.made_up import write_run

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import prx_alt  # noqa: E402
import prx_api  # noqa: E402
import prx_book  # noqa: E402
import prx_cite  # noqa: E402
import prx_methods  # noqa: E402
import prx_results  # noqa: E402

from prx_lab.flow import T_MIN  # noqa: E402
from prx_lab.gallery import Gallery  # noqa: E402
from prx_lab.recipes import PUBLISHED, RECIPES  # noqa: E402
from prx_lab.record import records, write_json  # noqa: E402
from prx_lab.report.posts import published  # noqa: E402
from prx_lab.report.table import Table, current_id  # noqa: E402
from prx_lab.scales import SCALES  # noqa: E402
from prx_lab.terms import REPA  # noqa: E402

METHODS = prx_methods.entries(BOOK / "methods.yml")
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def chapters() -> list[dict[str, str]]:
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    return [{"file": toc["root"]}, *(entry for part in toc["parts"] for entry in part["chapters"])]


# ------------------------------------------------------------------------------------------ configuration
def test_jupyter_book_builds_a_folder():
    """Version 2 answers `jupyter-book build book` with status 0 and no book."""
    assert version("jupyter-book").startswith("1.")


def test_outputs_are_stored_not_made_by_the_build():
    config = yaml.safe_load((BOOK / "_config.yml").read_text())
    assert config["execute"]["execute_notebooks"] == "off"


def test_toc_lists_existing_files_and_every_notebook_once():
    for entry in chapters():
        if "file" in entry:
            assert (BOOK / f"{entry['file']}.md").exists()
        else:
            assert any(fnmatch(f"notebooks/{name}", entry["glob"]) for name in NOTEBOOKS), f"{entry['glob']} matches nothing"
    for name in NOTEBOOKS:
        assert sum(fnmatch(f"notebooks/{name}", entry.get("glob", "")) for entry in chapters()) == 1, f"{name} is not in the book"


def test_every_page_of_the_folder_is_in_the_book():
    assert {path.stem for path in BOOK.glob("*.md")} == {entry["file"] for entry in chapters() if "file" in entry}


# ------------------------------------------------------------------------------------------ bibliography
ENTRIES = re.findall(r"^@\w+\{([^,]+), (.*)\}$", (BOOK / "references.bib").read_text(), re.MULTILINE)
ARXIV = re.compile(r"(?<![\d.])(?:0[7-9]|1\d|2\d)(?:0[1-9]|1[0-2])\.\d{5}(?!\d)")


@pytest.mark.parametrize(("key", "fields"), ENTRIES, ids=[key for key, _ in ENTRIES])
def test_an_entry_says_who_what_when_and_where(key, fields):
    names = dict(re.findall(r"(\w+) = \{(.+?)\}(?=, \w+ = |$)", fields))
    assert {"author", "title", "year"} <= names.keys() and re.fullmatch(r"20\d\d|1\d{3}", names["year"])
    assert names.get("url", "").startswith("https://") or names["note"].startswith("Report")
    if "arxiv.org" in names.get("url", ""):
        (number,) = ARXIV.findall(names["url"])
        assert 0 <= int(names["year"]) - 2000 - int(number[:2]) <= 2, "published within two years after the preprint, and not before it"


def test_no_paper_is_listed_twice():
    urls = re.findall(r"url = \{([^}]+)\}", (BOOK / "references.bib").read_text())
    assert len(urls) == len(set(urls)) and len(ENTRIES) == (BOOK / "references.bib").read_text().count("\n@") + 1


def test_every_preprint_that_is_named_is_in_the_bibliography():
    known = set(ARXIV.findall((BOOK / "references.bib").read_text()))
    named = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "prx_lab").rglob("*.py"), *BOOK.glob("*.md")]
    for path in named:
        text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text(encoding="utf-8"))
        numbers = set(re.findall(rf"(?i)arxiv[^\w]*(?:\.org/abs/)?({ARXIV.pattern})", text))
        assert numbers <= known, f"{path.name}: {numbers - known}"


def test_every_citation_is_known():
    known = [key for key, _ in ENTRIES]
    assert len(known) == len(set(known))
    pages = [*BOOK.glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert {key for method in METHODS for key in method["cite"].split(",")} <= set(known)
    for page in pages:
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text()):
            assert set(map(str.strip, keys.split(","))) <= set(known), page.name


# --------------------------------------------------------------------------------------------- new pages
@pytest.mark.parametrize("method", METHODS, ids=[method["name"] for method in METHODS])
def test_a_method_names_what_exists_and_types_no_number_of_ours(method):
    assert (ROOT / f"{method['page']}.ipynb").exists() and set(method["recipes"]) <= (RECIPES | PUBLISHED).keys()
    assert set(method.get("gallery", ())) <= set(method["recipes"])
    for what, _, _, ours in method["rows"]:
        typed = re.sub(r"`[^`]*`", "", prx_methods.PLACE.sub("", ours))
        assert not re.search(r"(?<![\w-])\d", typed), f"{what}: {ours}"
        assert "{" not in prx_methods.filled(ours)


def test_every_row_of_the_post_and_every_recipe_is_among_the_methods():
    treated = prx_methods.pages(BOOK / "methods.yml")
    assert {row.recipe for row in published() if row.recipe} <= treated.keys()
    assert RECIPES.keys() == treated.keys(), "give a new recipe its place in book/methods.yml"


def test_our_column_is_what_the_code_says():
    assert prx_methods.filled("{repa:terms[1].weight} of {prx_lab.flow:T_MIN}") == f"{REPA().weight:g} of {T_MIN:g}"
    assert prx_methods.filled("{baseline@gpu:scale.images}") == f"{SCALES['gpu'].images:,}"
    for wrong in ("{repa:terms[1].wieght}", "{rapa:clip}"):
        with pytest.raises(KeyError):
            prx_methods.filled(wrong)


def test_every_recipe_stands_in_the_table_of_diffs():
    page = prx_methods.recipes_table()
    lines = dict(re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert lines.keys() == RECIPES.keys() and lines["baseline"] == "nothing" and lines["x-pred"] == '`predict = "x"`'
    assert lines["repa-stop"] == '`+ REPA(teacher="lab-dino-dense")`; from 0.6 of the steps: `− REPA`'


def test_glossary_terms_are_many_and_each_is_explained():
    body = (BOOK / "glossary.md").read_text().split(":::{glossary}\n:sorted:\n")[1]
    terms = re.findall(r"^(\S.*)\n  \S", body, re.MULTILINE)
    assert len(terms) >= 40 and len(terms) == len({term.lower() for term in terms})
    assert set(re.findall(r"\{term\}`([^`]+)`", body)) <= set(terms)


# ----------------------------------------------------------------------------------------------- citation
def test_citation_file_is_whole_and_says_what_the_package_says():
    cff, project = prx_cite.citation(ROOT / "CITATION.cff"), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= cff.keys() and cff["cff-version"] == "1.2.0"  # required by the format
    known = {"abstract", "authors", "cff-version", "contact", "date-released", "doi", "keywords", "license", "message", "references"}
    assert cff.keys() <= known | {"repository-code", "title", "type", "url", "version"} and cff["type"] == "software"
    assert (str(cff["version"]), cff["license"]) == (project["version"], project["license"])
    assert re.search(rf"(?m)^(To be {cff['version']},|## \[{cff['version']}\])", (ROOT / "CHANGELOG.md").read_text())


def test_citation_in_bibtex_and_in_words():
    cff = {"title": "A bench", "version": "1.2", "date-released": "2027-03-01", "doi": "10.1/x", "license": "MIT"}
    cff["authors"] = [{"given-names": "Ada", "family-names": "B."}, {"name": "The others"}]
    entry = prx_cite.bibtex(cff)
    assert "author = {{Ada B.} and {The others}}" in entry and "year = {2027}" in entry and "url" not in entry
    assert prx_cite.plain(cff) == "Ada B., The others (2027). *A bench*, version 1.2. 10.1/x"
    assert "year" not in prx_cite.bibtex(cff | {"date-released": ""})
    built = cff | {"date-released": "", "date": "2028-01-02", "commit": "0123abc"}
    assert "year = {2028}" in prx_cite.bibtex(built) and "note = {commit 0123abc}" in prx_cite.bibtex(built)
    assert prx_cite.plain(built).endswith("(2028). *A bench*, version 1.2, commit 0123abc. 10.1/x")


def test_a_citation_names_the_commit_that_is_built(tmp_path):
    assert re.fullmatch(r"[0-9a-f]{7,}", prx_cite.commit(ROOT)["commit"]) and prx_cite.commit(tmp_path) == {}


# ------------------------------------------------------------------------------------------------ pictures
def bundle(words: str, alt: str = "") -> tuple[nodes.document, nodes.image]:
    """An output as the book reads it: a picture and its text form, side by side."""
    image = nodes.image(uri="a.png", alt=alt) if alt else nodes.image(uri="a.png")
    drawn, said = nodes.container("", image, mime_type="image/png"), nodes.container("", nodes.literal_block(words, words))
    said["mime_type"] = "text/plain"
    both = nodes.container("", drawn, said, nb_element="mime_bundle")
    document = new_document("page")
    document += both
    return document, image


@pytest.mark.parametrize(
    ("words", "given", "alt", "drawn"),
    [
        ("fid against step: baseline n=3", "", "fid against step: baseline n=3", True),
        ("grid of 6 images, 32 x 32 pixels", "", "grid of 6 images, 32 x 32 pixels", False),
        ("Images: what a judge sees", "", "Images: what a judge sees", False),
        ("Samples: 6 images\n  0: a cone", "", "Samples: 6 images", False),
        (repr(Gallery({"a": np.zeros((8, 4, 4, 3), np.uint8)})), "", "1 row of 8 images, 4 x 4 pixels: a", False),
        (repr(Gallery(dict.fromkeys("ab", np.zeros((1, 4, 4, 3), np.uint8)))), "", "2 rows of 1 image, 4 x 4 pixels: a, b", False),
        ("<Figure size 1056x209 with 6 Axes>", "six clouds", "six clouds", True),
        ("<Figure size 1056x209 with 6 Axes>", "", "", True),
    ],
)
def test_a_picture_has_the_words_of_its_output(words, given, alt, drawn, tmp_path):
    Image.new("L", (700, 4)).save(tmp_path / "a.png")
    document, image = bundle(words, given)
    prx_alt.describe_pictures(SimpleNamespace(srcdir=tmp_path), document)
    assert image["alt"] == alt and image["classes"] == ["prx-plot"] * drawn


def test_a_drawing_that_fits_a_phone_is_known_by_its_width(tmp_path):
    Image.new("L", (500, 4)).save(tmp_path / "a.png")
    document, image = bundle("repa 0.8")
    prx_alt.describe_pictures(SimpleNamespace(srcdir=tmp_path), document)
    assert image["classes"] == ["prx-plot", "prx-narrow"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("lr      1  2\n0.1  0.25  4", True),
        ("    indented: yes\n    so is this: no", False),
        ("baseline  seed 0, half scale\nmuon      seed 1, half scale", False),
        ("  25 steps: 1.1\n 100 steps: 1.1", False),
    ],
)
def test_printed_columns_are_told_from_lines(text, columns):
    printed, code = nodes.literal_block(text, text, classes=["output", "stream"]), nodes.literal_block(text, text)
    document = new_document("page")
    document += [printed, code]
    prx_alt.mark_columns(None, document)
    assert ("prx-columns" in printed["classes"]) == columns and not code["classes"]


# ------------------------------------------------------------------------------------------------ mirror
def test_mirror_copies_updates_and_deletes(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "img").mkdir(parents=True)
    (source / "one.ipynb").write_text("1")
    (source / "img/two.png").write_text("2")
    prx_book.mirror(source, target)
    assert (target / "img/two.png").read_text() == "2"

    before = (target / "one.ipynb").stat().st_mtime_ns
    (source / "img/two.png").unlink()
    (source / "new.ipynb").write_text("3")
    prx_book.mirror(source, target)
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["new.ipynb", "one.ipynb"]
    assert (target / "one.ipynb").stat().st_mtime_ns == before  # an unchanged page is not built again


# ----------------------------------------------------------------------------------------------- results
def test_without_records_the_page_says_so():
    assert "No runs are recorded" in prx_results.number_cards((), Path("results"))
    assert "No runs are recorded" in prx_results.scoreboards((), Path("results"), {})
    assert "No runs are recorded" in prx_results.example((), Path("results"))
    assert "No runs are recorded" in prx_results.glance((), Path("results"), Path())


def test_cards_and_board_carry_the_recorded_numbers(tmp_path):
    for name, fid in (("baseline", 21.3), ("repa", 18.6)):
        for seed in (0, 1):
            write_run(tmp_path, name, seed, fid + seed / 10, scale="cpu")
    found = records(tmp_path)
    table = Table.of("cpu", root=tmp_path)
    fid = {row.label: table.metrics[0].show(row.cells["fid"].mean) for row in table.rows}
    cards = prx_results.number_cards(found, tmp_path)
    assert f"{fid['baseline']} → {fid['repa']}" in cards and "lab-FID" in cards
    board = prx_results.scoreboards(found, tmp_path, {"repa": "notebooks/10_repa"})
    assert all(number in board for number in fid.values())
    assert '<a href="notebooks/10_repa.html">repa</a>' in board and "<a" not in board.partition("repa")[0]


def test_the_first_figure_shows_the_posts_rows_and_says_its_numbers_in_words(tmp_path):
    for name, fid in (("baseline", 20.0), ("muon", 10.0), ("muon-low-lr", 5.0)):
        write_run(tmp_path, name, 0, fid, scale="cpu")
    out = tmp_path / "_generated"
    out.mkdir()
    told = prx_results.glance(records(tmp_path), tmp_path, out)
    assert "_generated/forest.png" in told and "muon 0.50" in told and "muon-low-lr" not in told and (out / "forest.png").exists()


def test_the_claims_stand_in_a_line_where_a_pair_is_recorded_and_nowhere_else(tmp_path):
    write_run(tmp_path, "baseline", 0, 20.0, scale="cpu")
    assert prx_results.claimed(records(tmp_path), tmp_path) == prx_results.claimed((), tmp_path) == ""
    write_run(tmp_path, "muon", 0, 10.0, scale="cpu")
    told = prx_results.claimed(records(tmp_path), tmp_path)
    assert "not recorded yet" in told and "(notebooks/04_the_evidence.ipynb)" in told and told.count("claims of ") == 2


def test_cards_name_a_technique_and_no_control(tmp_path):
    for name, fid in (("baseline", 21.0), ("muon", 18.0), ("no-guidance", 10.0)):
        write_run(tmp_path, name, 0, fid, scale="cpu")
    cards = prx_results.number_cards(records(tmp_path), tmp_path)
    assert "21.00 → 18.00" in cards and "no-guidance" not in cards


def test_cards_compare_equal_seeds(tmp_path):
    for name, fids in (("baseline", (21.0, 30.0)), ("repa", (18.0,))):
        for seed, fid in enumerate(fids):
            write_run(tmp_path, name, seed, fid, scale="cpu")
    cards = prx_results.number_cards(records(tmp_path), tmp_path)
    assert "21.00 → 18.00" in cards and "25.50" not in cards


def test_a_card_says_how_many_times_sooner_and_takes_one_recipe_of_a_name(tmp_path):
    id = current_id("speedrun-tuned", "cpu")
    for seed in range(3):
        write_run(tmp_path, "baseline", seed, 21.0, id="00000000")
    for seed, fid, own in ((0, 11.0, id), (2, 0.5, "older000")):
        write_run(tmp_path, "speedrun-tuned", seed, fid, id=own)
    cards = prx_results.number_cards(records(tmp_path), tmp_path)
    assert "2.00 ×" in cards and "speedrun-tuned, 2.00 over 1 seed, undecided" in cards
    write_run(tmp_path, "muon", 0, 0.5, id=current_id("muon", "cpu"))  # sooner, and not what the card is about
    write_run(tmp_path, "speedrun-tuned", 1, 11.5, id=id)
    cards = prx_results.number_cards(records(tmp_path), tmp_path)
    assert re.search(r"1\.9\d ×", cards) and "baseline's final lab-FID: speedrun-tuned, 1.9" in cards and "over 2 seeds\n" in cards
    write_run(tmp_path, "speedrun-tuned", 2, 31.0, id=id)  # a seed that never arrives
    assert "sooner" not in prx_results.number_cards(records(tmp_path), tmp_path)


def test_a_board_without_a_baseline_is_held_against_the_one_in_pixels(tmp_path):
    for name, seed in (("jit", 0), ("jit-muon", 0), ("jit-muon", 1), ("jit-muon-tread", 0)):
        write_run(tmp_path, name, seed, 21.0, scale="cpu-1024")
    assert prx_results.compared("cpu-1024", tmp_path) == "jit-muon" and prx_results.compared("cpu-256", tmp_path) == "baseline"
    write_run(tmp_path, "baseline", 0, 21.0, scale="cpu-1024")
    assert prx_results.compared("cpu-1024", tmp_path) == "baseline"


def test_what_is_judged_otherwise_is_not_sorted_among_the_others(tmp_path):
    for name, fid in (("baseline", 21.0), ("muon", 11.0), ("camera", 1.0)):
        folder = write_run(tmp_path, name, 0, fid)
        write_json(folder / "recipe.json", {"type": "Recipe", "reference": {"style": "photo" if name == "camera" else "render"}})
    keys = {key[0]: key[2] for key in (json.loads(unescape(text)) for text in prx_results.sort_keys(Table.of("cpu", root=tmp_path)))}
    assert keys == {"baseline": 21.0, "muon": 11.0, "camera": None}


def test_trainings_are_counted_once(tmp_path):
    scale = {"steps": 10, "eval_n": 8}
    for name, recipe in (("baseline", {}), ("ema", {"ema": {"decay": 0.999}}), ("muon", {"optim": "Muon"})):
        write_json(write_run(tmp_path, name, 0, 21.0) / "recipe.json", {"scale": scale, "phases": []} | recipe)
    env = write_run(tmp_path, "half-guidance", 0, 21.0) / "env.json"
    write_json(env, {"trained": {"run": "cpu/baseline-0123abcd/seed0", "env": {}}})
    assert prx_results.runs_card(records(tmp_path)) == ("4", "recorded runs of 2 trainings and 4 recipes (cpu scale)")


def test_what_columns_are_sorted_by_is_what_they_show(tmp_path):
    for name, fids in (("baseline", (21.0, 22.0)), ("repa'<", (18.0,))):
        for seed, fid in enumerate(fids):
            write_run(tmp_path, name, seed, fid, scale="cpu")
    table, page = Table.of("cpu", root=tmp_path), prx_results.board("cpu", tmp_path, {"sprint": "notebooks/30_token_routing"})
    keys = [json.loads(unescape(text)) for text in re.findall(r"data-keys='(.*?)'", page)]
    assert [key[0] for key in keys] == [row.label for row in table.rows] and keys[0][1:3] == [2, 21.5]
    heads = re.findall(r'<th scope="col">', page)
    assert all(len(key) == len(heads) for key in keys) and keys[0][4] is None  # no DINO-MMD was measured
    bodies = re.findall(r"<tbody.*?</tbody>", page, re.DOTALL)
    assert len(bodies) == 2 and all("prx-run" in body for body in bodies) and "prx-ceiling" in page.partition("<tfoot>")[2]
    assert all(len(re.findall("<t[hd]", row)) == len(heads) for row in re.findall("<tr class.*?</tr>", page))
    assert page.count("repa&#x27;&lt; (1)") == 1 and "1 recipe has no run at this scale" in page


def test_scales_are_those_of_the_package():
    lines = prx_results.scales_table().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(SCALES)


# --------------------------------------------------------------------------------------------------- API
def test_every_public_module_is_on_a_page_of_the_api_and_in_its_list():
    pages, index = prx_api.api_pages(ROOT / "prx_lab"), prx_api.api_index(ROOT / "prx_lab")
    assert "more" not in pages, f"give these modules a group in book/_ext/prx_api.py: {re.findall('## `(.*)`', pages['more'])}"
    assert [prx_api.slug(head) for head in re.findall(r"^## (.*)$", index, re.MULTILINE)] == list(pages)
    for name, path in prx_api.modules(ROOT / "prx_lab").items():
        assert "".join(pages.values()).count(f".. automodule:: {name}\n") == index.count(f" <{name}>`") == prx_api.is_page(path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Uses *args and a_ b."], [r"Uses \*args and a\_ b."]),
        (["Returns `x` as is."], [r"Returns \ ``x``\  as is."]),
        (["Rows:", "  a  1", "then text."], ["Rows:", "", "::", "", "  a  1", "", "then text."]),
        (["Two:", "- one", "- two"], ["Two:", "", "- one", "- two"]),
    ],
)
def test_plain_docstrings_become_valid_markup(given, expected):
    lines = list(given)
    prx_api.plain_docstring(None, "function", "f", None, None, lines)
    assert lines == [*expected, ""]
