"""Tables and figures by their names: the list is the book's page of figures, and what is written is the run's."""

import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from dori_lite import cli
from dori_lite.book import build, claims, pages, publish, reported, reproduce, told
from dori_lite.book.reproduce import ENTRIES, LAYERS, NOT_HERE, expected, quantities, status
from dori_lite.runs import open_run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "figures.md").read_text(encoding="utf-8")
MADE = [name for name, about in ENTRIES.items() if about.get("made", True)]
PUBLISHED = [name for name in MADE if status(name) == "published"]


# ---- the names, in both places ---------------------------------------------------------------------------


def lines_of(text: str) -> list[list[str]]:
    """The cells of a page's tables, without their heads; what stands in a comment is no cell's end."""
    lines = [line for line in re.sub(r"<!--.*?-->", "", text).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("| ").split(" |")] for line in lines if "`" in line.split("|")[1]]


def names_of(line: list[str]) -> list[str]:
    return re.findall(r"`([^`]+)`", line[0])


def problems(text: str, entries: dict) -> list[str]:
    """Where a page of figures and the entries differ: names and their order, chapters, status, how many figures."""
    theirs, ours = (lines_of(part) for part in text.split("## Ours\n"))
    lines, found = theirs + ours, []
    if (names := [name for line in lines for name in names_of(line)]) != [*entries]:
        found.append(f"names: {set(names) ^ {*entries} or 'their order'}")
    for line in lines:
        chapter = re.search(r"\]\((?:chapters/(\d\d)_\w+\.ipynb|(\w+)\.md)\)", " ".join(line))
        linked = chapter and (chapter[1] or chapter[2])
        for about in (entries[name] for name in names_of(line) if name in entries):
            in_book = about.get("chapter") in {path.stem[:2] for path in pages.chapters()} | {"is_memory_local"}
            if linked != (about["chapter"] if in_book else None):
                found.append(f"{line[0]} links to {linked}")
    for line in theirs:
        known = [name for name in names_of(line) if name in entries]
        found += [f"{name} is {line[3]}" for name in known if not line[3].startswith(status(name))]
    found += [f"{line[0]}: {line[3]}" for line in ours if line[3].count(";") + 1 != len(names_of(line))]
    return found


def test_the_page_of_figures_and_the_list_have_the_same_names():
    assert not problems(PAGE, ENTRIES)
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| name")]
    assert len(rows) == len(lines_of(PAGE)), "a row without a name"
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in ENTRIES)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("`attack-steps`", "`attack-curve`", "names: "),
        ("| `siss` | SISS under the attack | – | not made | |\n", "", "names: {'siss'}"),
        ("`replay`, `name-decides`", "`name-decides`, `replay`", "names: their order"),
        ("[Chapter 6](chapters/06_triggers_all_over", "[Chapter 6](chapters/04_the_picture_comes_back", "links to 04"),
        ("| – | not made |", "| – | published |", "esd is published"),
        ("score over exposures; the", "score over exposures, the", "`exposures`, `detector-errors`: "),
    ],
)
def test_the_comparison_of_names_bites(old, new, said):
    assert old in PAGE
    found = problems(PAGE.replace(old, new, 1), ENTRIES)
    assert found and any(said in problem for problem in found), found
    assert problems(PAGE, {**ENTRIES, "another": {"chapter": "04"}}) == ["names: {'another'}"]


@pytest.mark.parametrize("name", [name for name in MADE if ENTRIES[name].get("cells")])
def test_an_entry_s_cells_and_rows_are_its_chapter_s(name):
    about = ENTRIES[name]
    notebook = nbformat.read(pages.find(about["chapter"]), 4)
    tags = {cell.id: {*cell.metadata.get("tags", [])} for cell in notebook.cells if cell.cell_type == "code"}
    assert not [cell for cell in about["cells"] if cell not in tags]
    assert not [cell for cell in about["cells"] if about["chapter"] != "00" and "figure" not in tags[cell]]
    assert status(name) != "published" or any("live" not in tags[cell] for cell in about["cells"])
    if status(name) == "published":
        assert not {*about["rows"]} - {*told.runs()[about["chapter"]].kinds()}


# ---- the numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_runs_give_every_number_that_is_asked_for(name):
    table = expected(ENTRIES[name])
    assert NOT_HERE not in {*table["status"]} and table["quantity"].is_unique
    assert not table["obtained"][table["status"] != "the paper's alone"].isna().any()


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_said_of_an_entry_is_known_and_the_paper_s_numbers_have_sources(name):
    about = ENTRIES[name]
    known = {"what", "chapter", "model", "made", "cells", "rows", "claims", "expected", "like"}
    assert not about.keys() - known and about["what"] and ("chapter" in about) == about.get("made", True)
    for line in about.get("expected", []):
        assert not line.keys() - {"quantity", "paper", "source", "obtained", "each"}
        assert ("paper" in line) == ("source" in line)
        each = LAYERS if line.get("each") == "layers" else line.get("each", [1])
        assert not isinstance(line.get("paper"), list) or len(line["paper"]) == len(each)
    for line in quantities(about):
        assert line.get("source") in (None, *claims.SOURCES) and "{" not in line["quantity"]
        asks_of = re.findall(r"(\d\d)/", line.get("obtained", ""))
        assert not asks_of or asks_of == [about["chapter"]] or name == "is-memory-local"


def test_the_paper_s_numbers_are_the_ones_that_the_book_has_elsewhere():
    lines = [line for about in ENTRIES.values() for line in quantities(about) if "model" not in about]
    found = {line["quantity"]: (line["paper"], line["source"]) for line in lines if "paper" in line}
    for setting, (rate, score, source) in reported.ATTACKS.items():
        for what, number in {"rate": rate, "score": score}.items():
            assert number is None or found[f"{what}: {setting}"] == (number, source), setting
    read = {"trigger, Wanda": "pruned by Wanda", "trigger, not memorized": "not memorized"}
    for setting, number in reported.FIGURE.items():
        assert found[f"rate: {read[setting]}, attack steps: 50"] == (number, "figure")
    row = next(line for line in PAGE.splitlines() if line.startswith("| `locality-weights`"))
    for pair in ("captions of two pictures", "triggers of one picture"):
        of_layers = [f"{found[f'IoU: Wanda, {layer}, {pair}'][0]:.2f}" for layer in LAYERS]
        assert ", ".join(of_layers) in row


def test_lines_that_stand_for_several_and_those_of_other_entries():
    several = {"quantity": "{} steps", "each": [0, 5], "paper": [0.1, 0], "source": "blog"}
    several["obtained"] = "04/a b where k={}"
    about = {"expected": [several, {"quantity": "in {}", "each": "layers"}], "claims": ["replay"]}
    first, second, *layers, claim = quantities(about)
    assert first == {"quantity": "0 steps", "source": "blog", "obtained": "04/a b where k=0", "paper": 0.1}
    assert second == {"quantity": "5 steps", "source": "blog", "obtained": "04/a b where k=5", "paper": 0}
    assert layers == [{"quantity": f"in {layer}"} for layer in LAYERS]
    assert claim["claim"] == "replay" and (claim["paper"], claim["source"]) == (0.98, "blog")
    found = quantities({"like": ["esd", "attack-steps"], "expected": [{"quantity": "own"}]})
    esd = {"quantity": "rate: trigger, ESD", "paper": 0.98, "source": "blog"}
    assert found[:2] == [{"quantity": "own"}, esd]
    assert {"quantity": "rate: pruned by NeMo, attack steps: 1", "paper": 0.73, "source": "figure"} in found
    assert not any("obtained" in line or "claim" in line for line in found)
    assert told.SHORT["wanda-returns"] not in {line["quantity"] for line in found}, "a claim is about the reef"


# ---- what is written, of a small book --------------------------------------------------------------------

SLUG = "01_first"
PLOT = """from IPython.display import HTML, Image, display
import io, PIL.Image
def dot(colour):
    held = io.BytesIO()
    PIL.Image.new("RGB", (2, 2), colour).save(held, format="PNG")
    return Image(data=held.getvalue())
import os
shown = os.environ["DORI_SHOW"]"""
ROWS = """from dori_lite.runs import open_run
if shown != "published":
    run = open_run("01_first", profile, seed)
    for k in run.todo("kind", k=range(2)):
        run.keep({"x": 3.0 + k, "list": [k, None]})
    for k in run.todo("even more", k=range(1)):
        run.keep({"y": 1})
    verdict = {"estimate": 0.7, "low": None, "high": None, "verdict": "undecided"}
    run.record(models={"m": "1"}, verdicts={"replay": verdict})"""
FIGURE = "print('of', shown or 'your own'); display(dot('red')); display(dot('blue'))"
ABOUT = {"what": "A thing", "chapter": "01", "cells": ["dots", "table", "alone"], "rows": ["kind", "even more"]}
ABOUT |= {"claims": ["replay"], "expected": [{"quantity": "x", "obtained": "01/kind x"}]}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A checkout with one chapter, of which a run is published, and an entry `thing` of it."""
    (tmp_path / "book" / "chapters").mkdir(parents=True)
    (tmp_path / "book" / "_toc.yml").write_text(f"root: intro\nchapters:\n- file: chapters/{SLUG}\n")
    (tmp_path / "book" / "intro.md").write_text("# A book\n")
    (tmp_path / "data" / "reef").mkdir(parents=True)
    (tmp_path / "data" / "reef" / "manifest.json").write_text('{"files": {}, "models": {"m": "0"}}')
    for name, value in {"DORI_DATA": tmp_path / "data", "DORI_RUNS": tmp_path / "runs"}.items():
        monkeypatch.setenv(name, str(value))
    cells = [new_code_cell('profile = "quick"\nseed = 0', metadata={"tags": ["parameters"]})]
    for name, tag, code in (
        ("plot", "set-up", PLOT),
        ("rows", "experiment", ROWS),
        ("dots", "figure", FIGURE),
        ("table", "figure", "HTML('<table><tr><td>ρ</td></tr></table>')"),
        ("alone", "figure live", "print('in a run of your own')"),
    ):
        cells.append(new_code_cell(code, id=name, metadata={"tags": tag.split()}))
    nbformat.write(new_notebook(cells=cells), tmp_path / "book" / "chapters" / f"{SLUG}.ipynb")
    run = open_run(SLUG, "standard", 0, base=tmp_path / "made")
    for k in run.todo("kind", k=range(2)):
        run.keep({"x": 0.5 + k, "word": "none", "list": [k, None]})
    said = {"estimate": 0.856, "low": 0.6, "high": 1.0, "verdict": "holds here", "units": 16, "clusters": 8}
    run.record(models={"m": "0"}, verdicts={"replay": said})
    published = tmp_path / "data" / "results" / "reef" / SLUG / "standard"
    shutil.copytree(run.folder, published)
    monkeypatch.setattr(pages, "checkout", lambda: tmp_path)
    monkeypatch.setattr(reproduce, "checkout", lambda: tmp_path)
    monkeypatch.setitem(ENTRIES, "thing", ABOUT)
    return tmp_path


def test_what_is_published_is_redrawn_and_the_second_time_is_quick(small, capsys):
    said = reproduce.reproduce("thing")
    out = small / "runs" / "reproduced" / "thing"
    written = ["dots.txt", "dots.png", "dots-2.png", "table.html", "kind.csv", "expected.csv", "provenance.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(written)
    assert said.endswith(f"\n\n{NOT_HERE}: cell alone, rows of even more\n\nin {out}: {', '.join(written)}")
    assert said.startswith("A thing: reef, published run\n\nquantity ")
    assert (out / "dots.txt").read_text() == "of published\n"
    colours = [Image.open(out / f"dots{part}.png").getpixel((0, 0)) for part in ("", "-2")]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    page = (out / "table.html").read_text(encoding="utf-8")
    assert page.startswith('<meta charset="utf-8">') and "<td>ρ</td>" in page

    rows = pd.read_csv(out / "kind.csv")
    assert rows[["k", "x", "word"]].to_dict("list") == {"k": [0, 1], "x": [0.5, 1.5], "word": ["none", "none"]}
    assert [json.loads(text) for text in rows["list"]] == [[0, None], [1, None]]
    table = pd.read_csv(out / "expected.csv")
    assert [*table] == ["quantity", "expected", "source", "obtained", "low", "high", "status"]
    assert table.loc[0, ["quantity", "obtained", "status"]].tolist() == ["x", 1.0, "ours alone"]
    assert table.loc[1, "expected":"status"].tolist() == [0.98, "blog", 0.86, 0.6, 1.0, "holds here"]
    about = json.loads((out / "provenance.json").read_text())
    assert about["published"] is True and about["chapter"] == SLUG and about["models"] == {"m": "0"}
    assert {"world", "profile", "seed", "versions", "minutes"} < about.keys() and about["files"] == written[:-1]
    assert "verdicts" not in about

    assert "unchanged" not in capsys.readouterr().out
    assert reproduce.reproduce("thing") == said
    assert capsys.readouterr().out.startswith(f"{SLUG}, published run: unchanged, not run again")


def test_with_a_profile_it_is_the_reader_s_own_run_beside_the_published_one(small, capsys):
    out = small / "here"
    said = reproduce.reproduce("thing", "quick", out=out)
    assert said.startswith("A thing: reef, quick\n") and NOT_HERE not in said
    assert (out / "alone.txt").exists() and (out / "dots.txt").read_text() == "of your own\n"
    assert pd.read_csv(out / "kind.csv")["x"].tolist() == [3.0, 4.0] and (out / "even_more.csv").exists()
    table = pd.read_csv(out / "expected.csv").set_index("quantity")
    assert table.loc["x", ["published", "obtained"]].tolist() == [1.0, 3.5]
    claim = table.iloc[1]
    assert (claim["published"], claim["obtained"], claim["status"]) == (0.86, 0.7, "undecided (direction only)")
    assert pd.isna(claim["low"])
    about = json.loads((out / "provenance.json").read_text())
    assert about["published"] is False and about["profile"] == {"name": "quick"} and about["models"] == {"m": "1"}

    (out / "mine.txt").write_text("not ours")
    reproduce.reproduce("thing", out=out)  # what only the other run had goes away, and nothing else
    assert not (out / "alone.txt").exists() and not (out / "even_more.csv").exists() and (out / "mine.txt").exists()
    assert pd.read_csv(out / "kind.csv")["x"].tolist() == [0.5, 1.5]
    shutil.rmtree(small / "runs" / "reef")
    with pytest.raises(FileNotFoundError, match="01 --profile quick --world reef --force$") as error:
        reproduce.reproduce("thing", "quick", out=out)
    assert "\n" not in str(error.value)


def test_without_cells_and_rows_all_of_the_chapter_is_given(small, monkeypatch):
    monkeypatch.setitem(ENTRIES, "thing", {"what": "A thing", "chapter": "01"})
    said = reproduce.reproduce("thing", out=small / "all")
    assert "no number is expected" in said and said.endswith(
        "dots.txt, dots.png, dots-2.png, table.html, kind.csv, expected.csv, provenance.json"
    )
    assert pd.read_csv(small / "all" / "expected.csv").empty


def test_rows_that_a_run_has_not_are_said_and_no_error(small, monkeypatch):
    lines = [{"quantity": key, "obtained": f"01/kind x where {key}"} for key in ("k=7", "word=none")]
    lines += [{"quantity": "of the paper", "paper": 0.5, "source": "blog"}]
    run = told.runs()["01"]
    table = expected({"expected": lines, "claims": ["variety"]}, run)
    assert table["status"].tolist() == [NOT_HERE, "ours alone", "the paper's alone", NOT_HERE]
    assert table["obtained"].isna().tolist() == [True, False, True, True]


def test_outputs_of_one_kind_get_names_of_their_own():
    png = {"image/png": "AAAA", "text/plain": "<Figure>"}
    several = [new_output("display_data", png), new_output("display_data", {"text/html": "<b>x</b>"})] * 3
    cells = [new_code_cell("x", id="a", outputs=several), new_code_cell("y", id="b", metadata={"tags": ["figure"]})]
    found, missing = reproduce.figures({"cells": ["a", "c"]}, new_notebook(cells=cells))
    assert [*found] == ["a.png", "a.html", "a-2.png", "a-2.html", "a-3.png", "a-3.html"] and missing == ["cell c"]
    assert found["a-3.png"] == b"\0\0\0"


def test_a_run_of_one_s_own_stands_for_its_chapter_s_published_one(small):
    own = open_run(SLUG, "quick", 0)
    for _ in own.todo("kind", k=[0]):
        own.keep({"x": 9.0})
    said = {"estimate": 0.1, "low": 0.0, "high": 0.2, "verdict": "does not hold here", "units": 16, "clusters": 8}
    own.record(verdicts={"replay": said})
    for key, published, mine in (
        ("01/kind x", "1.00", "9.00"),
        ("replay", "0.86", "0.10"),
        ("replay verdict", "holds here", "does not hold here"),
        ("claims holds here", "1", "0"),
        ("first 01/kind x", "not yet run", "not yet run"),
    ):
        assert (told.value(key), told.value(key, own)) == (published, mine), key
    assert told.verdict_of("replay", own=own)["estimate"] == 0.1
    own.world = "reef-first"
    assert told.value("01/kind x", own) == told.value("first 01/kind x", own) == "9.00"
    assert told.verdict_of("replay", own=own)["estimate"] == 0.856, "of the reef, which this run is not of"


def test_a_run_of_another_model_gives_no_number(tmp_path, one_line):
    """The reef stands in for Stable Diffusion in chapter 10: its numbers are not to stand beside the paper's."""
    known = {}
    for world in ("sd14", "reef"):
        own = known[world] = open_run("10_x", "quick", 0, world=world, base=tmp_path)
        for name in own.todo("asked", condition=["remembers"]):
            own.keep({"target": "t", "sscd rate": 0.25, "name": name})
    table = reproduce.beside("sd-rates", known["sd14"])
    assert dict(table.loc["rate: caption, unpruned"]) == {
        "expected": 0.98,
        "source": "blog",
        "obtained": 0.25,
        "status": "both",
    }
    assert table.index.is_unique and table.loc["rate: caption, Wanda", "status"] == NOT_HERE
    other = reproduce.beside("sd-rates", known["reef"])
    assert {*other["status"]} == {"not yet run"} and {*other["obtained"]} == {""}
    assert other.loc["rate: caption, unpruned", "expected"] == 0.98
    assert {*reproduce.beside("sd2", known["sd14"])["status"]} == {"not yet run"}
    one_line(ValueError, "nothing is called 'sd-rate'", reproduce.beside, "sd-rate", known["sd14"])


# ---- what cannot be had ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("atack-steps", {}, "nothing is called 'atack-steps'; did you mean attack-steps"),
        ("zzz", {}, "nothing is called 'zzz'; all names: dori-lite reproduce --list"),
        ("siss", {}, "siss: SISS under the attack was not made here"),
        ("attack-steps", {"model": "sd14"}, "attack-steps is about reef or reef-first, not about 'sd14'"),
        ("sd-rates", {"model": "reef"}, "sd-rates is about sd14, not about 'reef'"),
        ("is-memory-local", {"profile": "quick"}, "is-memory-local is a page of published numbers: leave out"),
        (
            "what-is-diffusion",
            {},
            "what-is-diffusion: no run of 00_diffusion_in_one_reef with reef is published; `dori-lite r",
        ),
        (
            "what-is-diffusion",
            {"model": "reef-first", "profile": "quick"},
            ".*is about the reef alone; leave out --model",
        ),
        ("savings", {"model": "reef-first"}, "savings: no run of 09_.* with reef-first is published; `dori-lite repro"),
        ("savings", {"profile": "quikc"}, "no profile called 'quikc'"),
        ("savings", {"processes": 0}, "processes=0 is not a count"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_nothing_is_written(tmp_path, one_line, name, options, said):
    one_line(ValueError, f"^{said}", reproduce.reproduce, name, out=tmp_path / "out", **options)
    assert not [*tmp_path.iterdir()]


def test_a_chapter_that_is_not_in_the_book_yet(tmp_path, one_line, monkeypatch):
    later = {"what": "A thing of Stable Diffusion", "chapter": "99", "model": "sd14"}
    monkeypatch.setitem(ENTRIES, "later", later)
    said = "^later: not yet run; chapter 99 is not in the book yet. Once it is, `dori-lite reproduce later --profile "
    said += "standard --model sd14` runs it, on a machine with a GPU$"
    one_line(ValueError, said, reproduce.reproduce, "later", out=tmp_path / "out")
    line = next(line for line in reproduce.listed().splitlines() if line.startswith("later"))
    assert line.split(None, 1)[1] == "99               not yet run  A thing of Stable Diffusion"


def test_places_of_no_use_and_a_full_disk(small, monkeypatch, one_line):
    (small / "taken").write_text("a file")
    monkeypatch.setattr(build, "execute_alone", lambda *_: pytest.fail("executed"))
    one_line(OSError, "nothing can be written to the folder .*taken", reproduce.reproduce, "thing", out=small / "taken")
    monkeypatch.undo()

    out, known = small / "out", Path.write_bytes
    reproduce.replace(out, {"a.png": b"a" * 9, "expected.csv": b"x"}, {"name": "thing"})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before.keys() == {"a.png", "expected.csv", "provenance.json"}

    def full(path, content):
        known(path, content[:3])
        if "b.png" in path.name:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            reproduce.replace(out, {"expected.csv": b"y", "b.png": b"b" * 9}, {"name": "thing"})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "the old files and the new are mixed"
    reproduce.replace(out, {"expected.csv": b"y"}, {"name": "another"})
    assert sorted(path.name for path in out.iterdir()) == ["expected.csv", "provenance.json"]
    assert json.loads((out / "provenance.json").read_text()) == {"name": "another", "files": ["expected.csv"]}


def said_by(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["dori-lite", "reproduce", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_the_command(monkeypatch, capsys, tmp_path):
    assert not said_by(monkeypatch, "--list")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *ENTRIES]
    said = {line.split()[0]: re.split(r"  +", line)[1:3] for line in lines}
    assert said["attack-steps"] == ["4", "published"] and said["what-is-diffusion"][0] == "0"
    assert said["esd"] == ["–", "not made"] and said["is-memory-local"] == ["is_memory_local", "published"]

    assert re.fullmatch(r"dori-lite: siss: SISS [^\n]*", said_by(monkeypatch, "siss"))
    assert re.fullmatch(r"dori-lite: which table or figure\?[^\n]*", said_by(monkeypatch))
    calls = []
    monkeypatch.setattr(reproduce, "reproduce", lambda *given: calls.append(given) or "done")
    words = ["replay", "--profile", "quick", "--model", "reef", "--out", tmp_path, "--processes", 2]
    assert not said_by(monkeypatch, *words) and not said_by(monkeypatch, "replay")
    assert not said_by(monkeypatch, "replay", "--list")
    assert calls == [("replay", "quick", "reef", tmp_path, 2), ("replay", None, None, None, 1)]
    assert capsys.readouterr().out.splitlines() == ["done", "done", *lines]


def test_a_page_has_its_numbers_and_says_of_which_runs(tmp_path):
    said = reproduce.reproduce("is-memory-local", out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.csv", "provenance.json"] and "IoU" in said
    runs = json.loads((tmp_path / "provenance.json").read_text())["runs"]
    assert [run["chapter"][:2] for run in runs] == ["06", "07", "08"]


def test_a_chapter_of_the_book(tmp_path, capsys, builder):
    """The published pass of the site, and its figures."""
    said = reproduce.reproduce("locality-starts", out=tmp_path)
    assert NOT_HERE not in said
    with Image.open(tmp_path / "map-figure.png") as image:
        assert image.format == "PNG" and min(image.size) > 200
    rows = publish.published("06_triggers_all_over").rows("spread")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "spread.csv"), rows, check_dtype=False, check_exact=False)
    assert "scatter-is-the-start" in ENTRIES["locality-starts"]["claims"]
    nearest = rows.loc[rows["condition"] == "never saw it", "nearest"].mean()
    table = pd.read_csv(tmp_path / "expected.csv").set_index("quantity")["obtained"]
    assert table["share of triggers nearest to their own start: never saw it"] == round(nearest, 2)
    capsys.readouterr()
    build.show(pages.find("06"))
    assert "unchanged" in capsys.readouterr().out, "the site's own pass is another one"
