"""What rows depend on: code that makes them, not its words; and rows made otherwise make room."""

import ast
import os
import shutil
import threading
import time

import pytest

from dori_lite import assets, files, stamps
from dori_lite.stamps import code_of_rows, code_only, move_if_stale

# ---- code without its words ------------------------------------------------------------------------------

SOURCE = '''"""What the module does."""

import math  # for π

LIMIT = 3  # a comment


class Thing:
    """What it is."""

    size: int = 1

    def area(self, x):
        """A docstring
        of two lines."""
        text = "no docstring"  # kept
        return math.pi * x**2 + self.size


def nothing():
    """Only words."""


async def later():
    r"""Raw \\words."""
    return nothing()
'''


def changed(*pairs):
    source = SOURCE
    for before, after in pairs:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    return source


@pytest.mark.parametrize("pairs", [
    [("# a comment", "# another comment")], [("  # a comment", "")], [("LIMIT = 3", "# above\nLIMIT = 3")],
    [("What the module does.", "Other words.")], [('"""What the module does."""\n', "")],
    [("What it is.", "What it was.")], [('    """What it is."""\n\n', "")], [('    r"""Raw \\words."""\n', "")],
    [("of two lines.", "of\n        three lines.")], [('"""Only words."""', "pass")],
    [('"""Only words."""', '"""Only words."""\n    pass')],
    [("Only words.", "Fewer.")],
    [("LIMIT = 3", "LIMIT   =   (3)")], [("import math", "\n\n\nimport math\n")],
    [("math.pi * x**2 + self.size", "(\n            math.pi * x**2\n            + self.size\n        )")],
    [('"no docstring"', "'no docstring'")], [("def area(self, x):", "def area(\n        self,\n        x,\n    ):")],
])  # fmt: skip
def test_words_and_layout_do_not_count(pairs):
    assert code_only(changed(*pairs)) == code_only(SOURCE)


@pytest.mark.parametrize("pairs", [
    [("LIMIT = 3", "LIMIT = 4")], [("import math", "import cmath as math")], [("x**2", "x**3")],
    [('"no docstring"', '"another text"')], [("size: int = 1", "size: int = 2")], [("async def", "def")],
    [('"""Only words."""', "return 1")], [("return nothing()", "nothing()")], [("self.size", "self.size + 0")],
    [("LIMIT = 3", "LIMIT = 3\nEXTRA = 1")], [("def later", "def at_last")], [('text = "no docstring"  # kept', "")],
    [("class Thing:", "@final\nclass Thing:")], [("size: int = 1", "size: float = 1")], [("(self, x)", "(self, x=0)")],
    [("    return nothing()", '    text = """words"""\n    return nothing()')],
])  # fmt: skip
def test_code_counts(pairs):
    assert code_only(changed(*pairs)) != code_only(SOURCE)


def test_what_is_left_is_the_code():
    found = code_only(SOURCE)
    assert "words" not in found and "#" not in found and "What" not in found and "'no docstring'" in found
    assert code_only(found) == found and ast.parse(found)
    for source in ("", "# nothing\n", '"""Only words."""\n', "if x:\n    'words'\n", "f = lambda: 'text'\n"):
        assert code_only(code_only(source)) == code_only(source)
    assert "'text'" in code_only("f = lambda: 'text'\n")
    assert code_only("x = 1\n'words'\n") != code_only("'words'\nx = 1\n")  # only the first is a docstring


# ---- the code that makes rows ----------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, which takes its place; `package(path, *edit)` edits a file and says what the hash is."""
    copied = tmp_path / "dori_lite"
    shutil.copytree(assets.PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__", "data"))
    monkeypatch.setattr(assets, "PACKAGE", copied)

    def known(path=None, edit=None):
        if path:
            file = copied / path
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            after = edit(before)
            assert after != before, path
            file.write_text(after, encoding="utf-8")
        code_of_rows.cache_clear()
        return code_of_rows()

    yield known
    code_of_rows.cache_clear()


def more(text):
    return text + "\n\ndef one_more():\n    return 1\n"


def reworded(text):
    """Every comment of its own line is gone, and every docstring of the file says something else."""
    docs = [ast.get_docstring(node, clean=False) for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]  # fmt: skip
    for doc in filter(None, docs):
        text = text.replace(doc, "Other words.")
    return "# a comment\n" + text.replace("\n\n\n", "\n\n\n\n\n")


NO_ROWS = ["figures/charts.py", "figures/style.py", "book/build.py", "book/profiles.py", "book/a_new_one.py", "cli.py",
           "figures/a_new_one.py", "__init__.py", "assets.py", "files.py", "fit.py", "runs.py", "stamps.py", "stats.py",
           "planning.py",
           "locks.py", "units.py", "checkpoints.py", "book/kernel.py", "reef/train.py", "reef/recipes.py",
           "reef/card.py", "reef/verify.py", "reef/calibrate.py"]  # fmt: skip
ROWS = ["wanda.py", "nemo.py", "nemo_search.py", "dori.py", "diffusion.py", "evaluation.py", "masks.py", "copies.py",
        "metrics.py", "detection.py", "models.py", "hooks.py", "reef/world.py", "reef/localisers.py", "reef/paint.py",
        "reef/canaries.py", "reef/shapes.py", "reef/scenes.py", "reef/captions.py", "reef/descriptor.py",
        "reef/attributes.py", "reef/networks.py"]  # fmt: skip


def test_the_copy_is_the_package(package):
    copied = package()
    assert copied == package() and len(copied) == 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "PACKAGE", stamps.Path(stamps.__file__).parent)
        code_of_rows.cache_clear()
        assert code_of_rows() == copied


@pytest.mark.parametrize("path", NO_ROWS)
def test_code_that_makes_no_row_may_change(package, path):
    assert package() == package(path, more)


@pytest.mark.parametrize("path", ROWS)
def test_code_that_makes_rows_may_not(package, path):
    before = package()
    assert package(path, more) != before


@pytest.mark.parametrize("path", ["wanda.py", "dori.py", "evaluation.py", "reef/world.py", "reef/localisers.py"])
def test_words_of_code_that_makes_rows_may_change(package, path):
    assert package() == package(path, reworded)


def test_an_edit_inside_a_function_counts(package):
    found = [package()]
    found.append(package("wanda.py", lambda text: text.replace("CALLS = 10", "CALLS = 11")))
    found.append(package("wanda.py", lambda text: text.replace("(n_target > n_base)", "(n_target >= n_base)")))
    found.append(package("reef/world.py", lambda text: text.replace('"guidance": 5.0', '"guidance": 5.5')))
    assert len(set(found)) == 4
    package("wanda.py", lambda text: text.replace("CALLS = 11", "CALLS = 10").replace(">= n_base", "> n_base"))
    assert package("reef/world.py", lambda text: text.replace('"guidance": 5.5', '"guidance": 5.0')) == found[0]


@pytest.mark.parametrize("path", ["a_new_one.py", "reef/a_new_one.py", "worlds/sd.py", "booklet.py", "reef/book.py"])
def test_a_module_that_nobody_lists_counts(package, path):
    before = package()
    assert package(path, more) != before


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
def test_a_dead_link_of_an_editor_is_no_code(package):
    before = package()
    (assets.PACKAGE / ".#wanda.py").symlink_to("somebody@somewhere.1234")
    assert package() == before


def test_a_module_that_is_gone_or_renamed_counts(package):
    before = package()
    (assets.PACKAGE / "metrics.py").rename(assets.PACKAGE / "measures.py")
    renamed = package()
    (assets.PACKAGE / "measures.py").unlink()
    assert len({before, renamed, package()}) == 3


def test_what_is_listed_is_there():
    """A module that is renamed takes its entry in `NOT_ROWS` with it; else it counts."""
    listed = stamps.NOT_ROWS - {"audit"}  # that one is yet to come
    there = [name for name in listed for path in (name, f"{name}.py") if (assets.PACKAGE / path).exists()]
    assert set(there) == listed and all((assets.PACKAGE / path).is_file() for path in ROWS)


# ---- rows made otherwise ---------------------------------------------------------------------------------

STAMP = {"profile": {"name": "quick", "canaries": 3}, "code": "1", "weights": "2"}


@pytest.fixture
def folder(tmp_path):
    """A run's folder with rows and a stamp."""
    folder = tmp_path / "c" / "quick-0"
    files.append(folder / "rows" / "a-0.jsonl", b'{"x": 1}\n')
    files.write_json(folder / "stamp.json", STAMP)
    return folder


def names(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def test_rows_of_the_same_stamp_stay(folder, capsys):
    move_if_stale(folder, dict(reversed(STAMP.items())))
    assert names(folder) == ["quick-0"] and (folder / "rows" / "a-0.jsonl").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("other, said", [
    ({"code": "3"}, "another code"), ({"code": "3", "weights": "3"}, "another code, weights"),
    ({"profile": {"name": "quick", "canaries": 2}}, "another profile"), ({"cells": "new"}, "another cells"),
])  # fmt: skip
def test_rows_of_another_stamp_are_moved_and_one_line_says_so(folder, capsys, other, said):
    move_if_stale(folder, STAMP | other)
    assert names(folder) == ["quick-0.stale-1"] and not folder.exists()
    out = capsys.readouterr().out
    assert out == f"{folder} was made with {said}: moved to quick-0.stale-1, starting afresh\n"
    aside = folder.with_name("quick-0.stale-1")
    assert (
        files.read_lines(aside / "rows" / "a-0.jsonl") == [{"x": 1}] and files.read_json(aside / "stamp.json") == STAMP
    )


def test_a_key_that_is_gone_counts(folder, capsys):
    move_if_stale(folder, {k: v for k, v in STAMP.items() if k != "weights"})
    assert not folder.exists() and "another weights:" in capsys.readouterr().out


def test_what_is_to_be_made_anew_is_moved(folder, capsys):
    move_if_stale(folder, STAMP, anew=True)
    assert names(folder) == ["quick-0.stale-1"]
    assert capsys.readouterr().out == f"{folder} is made anew: moved to quick-0.stale-1, starting afresh\n"


def test_nothing_is_moved_onto_anything(folder, capsys):
    for n in range(1, 4):
        move_if_stale(folder, STAMP, anew=True)
        assert names(folder) == [f"quick-0.stale-{k}" for k in range(1, n + 1)]
        files.append(folder / "rows" / "a-0.jsonl", b'{"x": %d}\n' % (n + 1))
        files.write_json(folder / "stamp.json", STAMP)
    kept = [files.read_lines(path / "rows" / "a-0.jsonl")[0]["x"] for path in sorted(folder.parent.glob("*stale*"))]
    assert kept == [1, 2, 3] and capsys.readouterr().out.count("\n") == 3


def test_rows_without_a_stamp_are_moved_and_an_empty_folder_stays(folder, capsys):
    (folder / "stamp.json").unlink()
    move_if_stale(folder, STAMP)
    assert names(folder) == ["quick-0.stale-1"]
    assert "another profile, code, weights:" in capsys.readouterr().out
    for prepared in (folder, folder / "rows"):
        prepared.mkdir()
        for anew in (False, True):
            move_if_stale(folder, STAMP, anew)
        assert folder.exists()
    move_if_stale(folder.with_name("absent"), STAMP, anew=True)
    assert names(folder) == ["quick-0", "quick-0.stale-1"] and capsys.readouterr().out == ""


def test_a_damaged_stamp_is_one_line(folder, one_line):
    (folder / "stamp.json").write_text("{")
    one_line(ValueError, "stamp.json is damaged", move_if_stale, folder, STAMP)
    for other in ("[]", '"words"', "3"):
        (folder / "stamp.json").write_text(other)
        match = r"stamp.json is damaged \(it is no stamp\); remove it, and the run starts afresh"
        one_line(ValueError, match, move_if_stale, folder, STAMP)
    assert (folder / "rows" / "a-0.jsonl").exists()


def test_other_ranks_wait_for_the_stamp(folder, monkeypatch, one_line):
    monkeypatch.setattr(stamps, "WAIT", 0.2)
    stamps.await_stamp(folder, STAMP)
    match = "was not prepared by rank 0 in 0 s; start all processes alike"
    one_line(RuntimeError, match, stamps.await_stamp, folder, STAMP | {"code": "3"})
    one_line(RuntimeError, match, stamps.await_stamp, folder.with_name("absent"), STAMP)
    monkeypatch.setattr(stamps, "WAIT", 30)
    first = threading.Timer(0.3, lambda: files.write_json(folder / "stamp.json", STAMP | {"code": "3"}))
    began = time.monotonic()
    first.start()
    stamps.await_stamp(folder, STAMP | {"code": "3"})
    assert 0.2 < time.monotonic() - began < 20
    first.join()
