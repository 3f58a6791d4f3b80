"""Numbers in sentences come from published runs, and a page whose verdicts have changed must be read again."""

import json
import re
from pathlib import Path

import pytest

from dori_lite.book import told
from dori_lite.book.build import chapters
from dori_lite.book.claims import CLAIMS
from dori_lite.book.effects import half_memory
from dori_lite.book.publish import all_published, published

ROOT = Path(__file__).parents[1]
HIDES = published("03_where_does_a_memory_live").read_record()["verdicts"]["wanda-hides"]
ROWS = published("03_where_does_a_memory_live").rows("condition")
SAID = [said["verdict"] for run in all_published() for said in run.read_record()["verdicts"].values()]
WANDA = ROWS[ROWS["condition"] == "Wanda"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("wanda-hides", f"{HIDES['estimate']:.2f}"),
        ("wanda-hides interval", "{estimate:.2f} [{low:.2f}, {high:.2f}]".format(**HIDES)),
        ("wanda-hides low as .3f", f"{HIDES['low']:.3f}"),
        ("wanda-hides n", "16 in 8"),
        ("wanda-hides verdict", HIDES["verdict"]),
        ("wanda-hides rates", HIDES["rates"]["verdict"]),
        ("variety rates", "no rate was named"),
        ("03/condition descriptor rate where condition=Wanda", f"{WANDA['descriptor rate'].mean():.2f}"),
        ("max 03/condition descriptor rate where condition=Wanda as %", f"{WANDA['descriptor rate'].max():.0%}"),
        ("count 03/condition target where condition=Wanda, home=a", "8"),
        ("03/condition descriptor where condition=Wanda as .4f", f"{WANDA['descriptor mean'].mean():.4f}"),
        ("04/attack steps where condition=never saw it, pruned, steps=50, start=prompt", "50.00"),
        ("99/condition descriptor rate", "not yet run"),
        ("02 minutes", f"{published('02_how_it_remembers').read_record()['minutes']:.0f}"),
        ("02 machine", published("02_how_it_remembers").read_record()["machine"]),
        ("99 minutes", "not yet run"),
        ("claims", f"{len(SAID)}"),
        ("claims holds here", f"{SAID.count('holds here')}"),
        ("claims committed", "26"),
        ("claims later", f"{len(SAID) - 26}"),
        ("claims nonsense", "0"),
        ("half-memory", f"{half_memory(published('02_how_it_remembers')):.0f}"),
    ],
)
def test_a_key_gives_what_the_record_or_the_rows_hold(key, expected):
    assert told.value(key) == expected.replace("%", " %")


def test_the_first_pair_is_asked_by_name():
    first = published("03_where_does_a_memory_live", world="reef-first")
    assert told.value("first wanda-hides") == f"{first.read_record()['verdicts']['wanda-hides']['estimate']:.2f}"
    rows = first.rows("condition")
    rate = rows[rows["condition"] == "Wanda"]["descriptor rate"].mean()
    assert told.value("first 03/condition descriptor rate where condition=Wanda") == f"{rate:.2f}"


def test_what_no_published_run_says_is_not_yet_run(monkeypatch):
    monkeypatch.setattr(told, "runs", lambda world="reef": {})
    assert told.value("wanda-hides") == told.value("first wanda-hides interval") == "not yet run"


def test_there_is_no_minus_zero():
    assert told.shown(-0.001) == "0.00" and told.shown(-0.01) == "-0.01" and told.shown(0.126, "%") == "13 %"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("wanda-hide", "is no number of the book"),
        ("wanda-hides mean", "a claim has no 'mean'; there are: interval, n"),
        ("03/condition height", "no column 'height'; there are: target"),
        ("03/condition descriptor rate where model=Wanda", "model is never 'Wanda'; there are: ['twin-a'"),
        ("03/condition descriptor rate where pruned=Wanda", "no column 'pruned'"),
        ("03/condition home", "home holds words"),
        ("best 03/condition descriptor rate", "there is no 'best'; choose one of mean"),
    ],
)
def test_a_key_that_nobody_can_answer_is_an_error_that_says_what_there_is(key, message):
    with pytest.raises(ValueError) as error:
        told.value(key)
    assert message in str(error.value) and "\n" not in str(error.value)


PAGE = """It hides <!--wanda-hides-->0.99<!--/--> of it.

<!--table wanda-hides nemo-hides-->
<!--/table-->

<!--record 03 00000000-->
"""


def test_a_page_is_filled_and_filling_it_again_changes_nothing():
    filled = told.fill(PAGE)
    assert f"<!--wanda-hides-->{HIDES['estimate']:.2f}<!--/-->" in filled
    lines = [line for line in filled.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and lines[2].split(" | ")[1:5] == [told.value("wanda-hides interval"), "0.4", "16 in 8",
                                                              "**holds**; in rates undecided"]  # fmt: skip
    assert lines[3].split(" | ")[4] == "**does not hold**"
    assert told.fill(filled) == filled and "<!--record 03 00000000-->" in filled


def test_old_numbers_old_tables_and_other_verdicts_are_named():
    assert [problem[:9] for problem in told.problems(PAGE)] == ["says '0.9", "its table", "the verdi"]
    assert "dori-lite fill --read 03" in told.problems(PAGE)[-1]
    assert not told.problems(told.fill(PAGE, read="03"))
    assert len(told.problems(told.fill(PAGE, read="04"))) == 1
    for begins in ("", "  ", "- ", "> "):  # Markdown takes such a line for HTML, and shows nothing of it
        assert "hides it" in told.problems(told.fill(f"{begins}<!--wanda-hides-->0<!--/--> of it"))[0]


def test_a_changed_verdict_changes_the_hash(monkeypatch):
    class Run:
        def __init__(self, estimate):
            self.estimate = estimate

        def read_record(self):
            return {"verdicts": {"wanda-hides": {"estimate": self.estimate}}}

    known = {"reef": {"03": Run(0.5)}, "reef-first": {"03": Run(0.6)}}
    monkeypatch.setattr(told, "runs", lambda world="reef": known[world])
    before = told.record_hash("03")
    for world in known:
        kept, known[world] = known[world], {"03": Run(0.7)}
        assert told.record_hash("03") != before
        known[world] = kept
    assert told.record_hash("03") == before


def test_update_writes_markdown_cells_and_pages_and_nothing_else(tmp_path):
    (tmp_path / "book").mkdir()
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["Hides\n", "<!--x-->", "…"]},
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": ["By <!--wanda-hides-->?<!--/-->\n", "so"]},
        {"cell_type": "code", "id": "c", "metadata": {}, "source": ["'<!--wanda-hides-->?<!--/-->'"], "outputs": []},
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    pages = {"README.md": "none", "book/intro.md": PAGE, "book/one.ipynb": json.dumps(notebook, indent=1) + "\n"}
    for name, text in pages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [path.name for path in told.update(told.pages(tmp_path), read="03")] == ["intro.md", "one.ipynb"]
    assert not told.problems((tmp_path / "book/intro.md").read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "book/one.ipynb").read_text(encoding="utf-8"))
    cells[1]["source"] = [f"By <!--wanda-hides-->{HIDES['estimate']:.2f}<!--/-->\n", "so"]
    cells[0]["source"] = ["Hides\n", "<!--x-->…"]
    assert found["cells"] == cells
    assert not told.update(told.pages(tmp_path))


def test_every_claim_is_said_in_few_words():
    assert told.SHORT.keys() == CLAIMS.keys()
    assert max(map(len, told.SHORT.values())) <= 110 and not any("|" in words for words in told.SHORT.values())


PAGES = told.pages(ROOT)


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_the_book_s_numbers_are_the_published_ones(path):
    assert not [problem for text in told.texts(path) for problem in told.problems(text)]


def test_every_chapter_with_a_published_run_says_what_was_found():
    for path in chapters(ROOT):
        if path.stem[:2] in told.runs():
            text = "\n".join(told.texts(path))
            assert "What we found" in text and f"<!--record {path.stem[:2]} " in text, path.stem


# ---- said, and not left open ----------------------------------------------------------------------------

OUTCOME = r"\b(holds?|held|undecided|verdicts?|thresholds?|your run|differs?|comes? back|intervals?|higher|lower)\b"


def left_open(text: str) -> list[str]:
    """Sentences that say what a result would mean instead of what it is: with *if* or *whether*, about an outcome."""
    text = re.sub(r"<!--.*?-->", "", text)
    sentences = [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.?!:])\s+|\n\n|^\|", text, flags=re.M)]
    open_ = [s for s in sentences if re.search(r"\b(whether|(?<!as )if)\b", s, re.I) and not s.endswith("?")]
    return [sentence for sentence in open_ if re.search(OUTCOME, sentence, re.I)]


@pytest.mark.parametrize("path", [path for path in PAGES if path.suffix == ".ipynb"], ids=lambda path: path.stem)
def test_a_chapter_leaves_at_most_one_outcome_open(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    of_readers = re.compile(r"^## Exercises|Hints|^### Solutions|Check yourself|Reading the solutions|} Predict", re.M)
    assert len(found := [s for text in texts if not of_readers.search(text) for s in left_open(text)]) <= 1, found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("If all of the interval lies above, the claim\nholds here. It holds.", 1),
        ("We ask whether it comes back. It came back, as if the score were\nhigher.", 1),
        ("Does it differ if the noise is lower? A weight is pruned if two things are true.", 0),
    ],
)
def test_the_count_of_open_outcomes_bites(text, count):
    assert len(left_open(text)) == count
