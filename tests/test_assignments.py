"""The notebooks of the assignments run from top to bottom: with stubs, and solved."""

import re
from pathlib import Path

import nbformat
import pytest

from dori_lite.assignments import a1, a2, a3
from dori_lite.book.kernel import run

FOLDER = Path(__file__).parents[1] / "book" / "assignments"
MODULES = {"a1": a1, "a2": a2, "a3": a3}


def printed(path: Path, out: Path) -> str:
    """What a notebook prints, executed with its own parameters; an error or a warning fails."""
    run(path, out, {"student": "practice"})
    outputs = [o for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    return "".join(o.text for o in outputs if o.output_type == "stream")


def said(name: str, text: str) -> dict[str, str]:
    """What each check of an assignment said last: {part: word}."""
    lines = re.findall(rf"(?m)^{name.upper()} (\w+)(?!, a rehearsal)[^:\n]*: (.+)", text)
    return {part: word for part, word in lines if part in {p.name for p in MODULES[name].PARTS}}


@pytest.mark.parametrize("name", MODULES)
def test_run_all_finishes_before_anything_is_attempted(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_RUNS", str(tmp_path))
    [path] = FOLDER.glob(f"{name}_*.ipynb")
    words = said(name, printed(path, tmp_path / "out.ipynb"))
    assert words.keys() == {part.name for part in MODULES[name].PARTS}
    assert set(words.values()) == {"not attempted"}, words


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_solved_notebook_is_right_in_every_part(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_RUNS", str(tmp_path))
    [path] = (FOLDER / "solutions").glob(f"{name}_*.ipynb")
    words = said(name, printed(path, tmp_path / "out.ipynb"))
    assert words.keys() == {part.name for part in MODULES[name].PARTS}
    assert all(word.startswith("right") for word in words.values()), words
