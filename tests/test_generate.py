"""Student notebooks are what their solution notebooks say, and graded variants follow from a private seed."""

import ast
import json
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from dori_lite import cli
from dori_lite.assignments import generate
from dori_lite.assignments.parts import Key, chosen, drawn

ROOT = Path(__file__).parents[1]
SOLUTIONS = sorted((ROOT / "book" / "assignments" / "solutions").glob("*.ipynb"))
IDS = [path.stem for path in SOLUTIONS]


def cells(text: str, tag: str | None = None) -> list:
    found = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    return [cell for cell in found if tag is None or tag in cell.metadata.get("tags", [])]


def test_there_are_three():
    assert [path.stem[:2] for path in SOLUTIONS] == [*generate.NAMES]


@pytest.mark.parametrize("path", SOLUTIONS, ids=IDS)
def test_the_student_notebooks_are_those_of_the_solutions(path):
    """Otherwise run `python -c "from dori_lite.assignments import generate; generate.update()"`."""
    assert path.parents[1].joinpath(path.name).read_text(encoding="utf-8") == generate.student_notebook(path)


@pytest.mark.parametrize("path", SOLUTIONS, ids=IDS)
def test_nothing_of_a_solution_is_left(path):
    text, source = generate.student_notebook(path), path.read_text(encoding="utf-8")
    solved, given = cells(source, "solution"), cells(text, "answer")
    assert len(solved) == len(given) > 0 and not cells(text, "solution") and '"stub"' not in text
    for ours, theirs in zip(solved, given, strict=True):
        lines = {line.strip() for line in ours.source.splitlines() if len(line.strip()) > 20}
        kept = {line.strip() for line in theirs.source.splitlines()}
        everywhere = {line.strip() for cell in cells(text) for line in cell.source.splitlines()}
        stub = {line.strip() for line in ours.metadata["stub"].splitlines()}
        assert theirs.source == ours.metadata["stub"] and not (lines - stub) & (kept | everywhere)
        assert "..." in theirs.source or theirs.source.startswith("# ")


@pytest.mark.parametrize("path", SOLUTIONS, ids=IDS)
def test_the_graded_functions_and_values_are_asked_for(path):
    module = import_module(f"dori_lite.assignments.{path.stem[:2]}")
    sources = "\n".join(cell.source for cell in cells(generate.student_notebook(path), "answer"))
    nodes = ast.parse(sources).body
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    names |= {node.targets[0].id for node in nodes if isinstance(node, ast.Assign)}
    assert {part.name for part in module.PARTS} <= names
    assert path.stem[:2] == module.NAME and {*module.CHOICES} <= {*module.PRACTICE}


def test_a_solution_without_a_stub_is_an_error(tmp_path, one_line):
    notebook = json.loads(SOLUTIONS[0].read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["metadata"].pop("stub", None)
    (tmp_path / "a1_x.ipynb").write_text(json.dumps(notebook))
    one_line(ValueError, "a1_x.ipynb: the solution .* has no stub", generate.student_notebook, tmp_path / "a1_x.ipynb")


@pytest.mark.parametrize("name", generate.NAMES)
def test_a_graded_variant_follows_from_its_seed_and_asks_something_else(name, tmp_path):
    (tmp_path / "seed.txt").write_text("only the lecturer knows\n")
    notebook, key = generate.graded(name, tmp_path / "seed.txt", tmp_path / "course")
    before = notebook.read_bytes(), key.read_bytes()
    assert generate.graded(name, tmp_path / "seed.txt", tmp_path / "course") == (notebook, key)
    assert (notebook.read_bytes(), key.read_bytes()) == before
    module, about = import_module(f"dori_lite.assignments.{name}"), json.loads(key.read_text())
    assert about["ask"] != module.PRACTICE and about["ask"].keys() == module.PRACTICE.keys()
    assert all(about["ask"][k] in values for k, values in module.CHOICES.items())
    text = notebook.read_text(encoding="utf-8")
    [variant], [parameters] = cells(text, "variant"), cells(text, "parameters")
    here = {}
    exec(variant.source, here)
    assert here["ask"] == about["ask"] and here["salt"] == about["salt"]
    assert parameters.source == 'student = "your student id"'
    assert about["secret"] not in text and "only the lecturer" not in text + key.read_text()
    other = generate.key_of(name, "somebody else's seed")
    assert other.salt != about["salt"] and other.secret != about["secret"]


def test_what_cannot_be_made_is_one_line(tmp_path, one_line):
    seed, out = tmp_path / "seed.txt", tmp_path / "course"
    seed.write_text("only the lecturer knows")
    one_line(ValueError, "no assignment 'a4'; there are: a1, a2, a3", generate.graded, "a4", seed, out)
    generate.graded("a1", seed, out)
    seed.write_text("another private text")
    one_line(FileExistsError, ".*is the key of another variant", generate.graded, "a1", seed, out)
    seed.write_text("short")
    one_line(ValueError, ".* holds 5 letters; write a private text", generate.graded, "a1", seed, out)
    one_line(FileNotFoundError, "none.txt", generate.graded, "a1", tmp_path / "none.txt", out)


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "seed.txt").write_text("only the lecturer knows")
    line = ["dori-lite", "assignment", "a1", "--seed", str(tmp_path / "seed.txt"), "--out", str(tmp_path / "c")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "for you alone" in capsys.readouterr().out and (tmp_path / "c" / "a1.key.json").exists()


# ---- keys and choices ------------------------------------------------------------------------------------


def test_hidden_seeds_depend_on_everything_and_on_the_secret():
    key = Key("a1", {}, "2026", "secret")
    seeds = [key.seed("ada", "x"), key.seed("bob", "x"), key.seed("ada", "y"), key.seed("ada", "x", 1)]
    seeds += [Key("a2", {}, "2026", "secret").seed("ada", "x"), Key("a1", {}, "2027", "secret").seed("ada", "x")]
    seeds += [Key("a1", {}, "2026", "secret2").seed("ada", "x")]
    assert len({*seeds}) == 7 and key.seed(" ada ", "x") == seeds[0] and "secret" not in repr(key)


def test_a_student_s_items_are_his_own_and_stay(one_line):
    mine = chosen(range(20), 5, "2026", "ada")
    assert mine == chosen(range(20), 5, "2026", "ada ") and len({*mine}) == 5
    assert mine != chosen(range(20), 5, "2026", "bob") and mine != chosen(range(20), 5, "2027", "ada")
    one_line(ValueError, "student='' is no name", chosen, range(20), 5, "2026", "")
    one_line(ValueError, "count=21 is not a count", chosen, range(20), 21, "2026", "ada")


def test_a_drawn_variant_is_never_the_practice_one(one_line):
    practice = {"a": 1, "b": "x", "fixed": 3}
    found = [drawn({"a": (1, 2), "b": ("x", "y")}, f"secret {k}", practice) for k in range(60)]
    assert {(ask["a"], ask["b"]) for ask in found} == {(1, "y"), (2, "x"), (2, "y")}
    one_line(ValueError, "nothing to choose from", drawn, {"a": (1,)}, "s", practice)


def test_answers_that_do_not_go_together_are_not_drawn(one_line):
    choices, practice = {"a": (1, 2), "b": ("x", "y")}, {"a": 1, "b": "x"}
    found = [drawn(choices, f"secret {k}", practice, [{"a": 2, "b": "x"}]) for k in range(60)]
    assert {(ask["a"], ask["b"]) for ask in found} == {(1, "y"), (2, "y")}
    one_line(ValueError, "nothing to choose from", drawn, choices, "s", practice, [{"b": "y"}, {"a": 2}])
    asks = [generate.key_of("a1", f"a text, {k}").ask for k in range(60)]
    assert not any((ask["norm"], ask["reduce"]) == (1, "mean") for ask in asks)
    assert {(ask["norm"], ask["reduce"]) for ask in asks} == {(1, "max"), (2, "max"), (2, "mean")}
