"""A folder of notebooks becomes a table, whatever the notebooks do; a run that is stopped goes on."""

import json
import os
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from dori_lite import cli
from dori_lite.assignments import grade as grading
from dori_lite.assignments import sandbox
from dori_lite.assignments.grade import grade, read_key
from dori_lite.assignments.parts import Key, Part
from dori_lite.assignments.sandbox import MARK, Limits, isolation

ISOLATED = bool(isolation())
KEY = Key("toy", {"factor": 2}, "2026", "hidden")
OPTIONS = {"module": "toy2", "sandbox": ISOLATED, "limits": Limits(seconds=3, processes=8)}
TOY = """
import math
import numpy as np
from dori_lite.assignments.parts import Part

def given(key, student):
    return {"x": np.arange(4.0) + key.seed(student, "double") % 7}

def call(function, given):
    return {"y": function(given["x"])}

def judge(key, student, given, returned):
    return float((returned["y"] == key.ask["factor"] * given["x"]).mean()), ""

def same(value, given):
    return {"value": value}

def judge_answer(key, student, given, returned):
    return np.mean([a == b for a, b in zip(returned["value"].tolist(), [True, False], strict=True)]), "so many right"

PARTS = (
    Part("double", 2, given, call, judge),
    Part("again", 3, given, call, judge),
    Part("answer", 1, lambda key, student: {}, same, judge_answer),
)
"""
RIGHT = "def double(x):\n    return 2 * x\n\ndef again(x):\n    return ask['factor'] * x\nanswer = [True, False]"
CLASS = {
    "a_right": RIGHT,
    "b_equivalent": "import numpy as np\nF = 2.0\ndef again(x): return np.add(x, x)\ndouble = again\nanswer = (1, 0)",
    "c_half": "double = lambda x: 2 * x\ndef again(x): return ...\nanswer = [True, True]",
    "d_wrong": "def double(x): return 3 * x + 1\ndef again(x): return x[:2]\nanswer = [a for a in ()]",
    "e_crash": "raise SystemExit\ndef double(x): return 1 / 0\nimport os\ndef again(x): os.abort()",
    "f_hostile": """
        import os, numpy as np, multiprocessing.util as util
        def double(x):
            try:
                open("KEYFILE").read()
            except Exception:
                pass
            while True:
                util.spawnv_passfds(b"/bin/sleep", [b"sleep", b"987.25"], [])
                __import__("time").sleep(0.02)
        def again(x):
            return np.zeros(10**10)
        class answer:
            detach = 3
        """,
    "g_loop": "def double(x):\n    while True: pass\n" + RIGHT[RIGHT.index("def again") :],
    "h_twice": 'student = "a_right"\n' + RIGHT,
    "i_nonsense": "def double(x",
}


def notebook(path: Path, text: str) -> None:
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": textwrap.dedent(text)}]}))


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory):
    """An assignment of three parts, `toy2`, which the child process can import."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy2.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A class, and the key beside its folder."""
    root = tmp_path_factory.mktemp("class")
    (root / "key.json").write_text(json.dumps({"secret": "hidden"}))
    (folder := root / "submissions").mkdir()
    for name, text in CLASS.items():
        notebook(folder / f"{name}.ipynb", text.replace("KEYFILE", str(root / "key.json")))
    (folder / "j_broken.ipynb").write_text('{"cells": [')
    (folder / "k_folder.ipynb").mkdir()
    (folder / ".hidden.ipynb").write_text("no submission")
    (folder / "notes.txt").write_text("no submission")
    return folder


def test_a_class_is_graded_twice_alike(handed_in, tmp_path):
    """Once after the other, once two at a time: the same table, in which everything has a line and a reason."""
    table = grade(handed_in, KEY, tmp_path / "one.csv", **OPTIONS)
    grade(handed_in, KEY, tmp_path / "two.csv", processes=2, **OPTIONS)
    content = (tmp_path / "one.csv").read_text()
    assert content == (tmp_path / "two.csv").read_text()
    assert "hidden" not in content and str(handed_in.parent) not in content
    assert [*table] == ["file", "student", "double", "again", "answer", "total", "of", "reasons", "isolation"]
    assert [*table.file] == sorted(path.name for path in handed_in.glob("[a-z]*.ipynb"))
    assert set(table.isolation[:9]) == {isolation() or "none"} and set(table.of) == {6}
    points = {line.file[0]: (line.double, line.again, line.answer, line.total) for line in table.itertuples()}
    assert points["a"] == points["b"] == points["h"] == (2, 3, 1, 6)
    assert points["c"] == (2, 0, 0.5, 2.5)
    assert points["g"] == (0, 3, 1, 4)
    for name in "defijk":
        assert points[name] == (0, 0, 0, 0)
    told = {line.file[0]: line.reasons for line in table.itertuples()}
    assert told["a"].startswith("a_right also handed in h_twice.ipynb") and "a_right.ipynb" in told["h"]
    assert told["b"] == "answer: so many right"
    assert "again: not attempted" in told["c"]
    assert "again: cannot be judged (ValueError" in told["d"]
    assert "answer: not attempted (its value is computed" in told["d"]
    assert "double: ZeroDivisionError" in told["e"] and "again: crashed (SIG" in told["e"]
    assert "answer: not attempted" in told["e"]
    assert "double: tried to open …/key.json" in told["f"] and "started more than 8 processes" in told["f"]
    assert "again: took more than 3 GB" in told["f"] and "answer: " in told["f"]
    assert "double: took longer than 3 s" in told["g"]
    assert "cell 1 is not Python" in told["i"] and "j_broken.ipynb is no notebook" in told["j"]
    assert "k_folder.ipynb cannot be read" in told["k"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "one.csv"), table, check_dtype=False)


def grader(toy, folder, out) -> subprocess.Popen:
    code = f"""if True:
    from dori_lite.assignments.grade import grade
    from dori_lite.assignments.parts import Key
    from dori_lite.assignments.sandbox import Limits
    key = Key("toy", {{"factor": 2}}, "2026", "hidden")
    grade({str(folder)!r}, key, {str(out)!r}, module="toy2", sandbox={ISOLATED}, limits=Limits(seconds=60))
    """
    paths = [str(toy), str(Path(sandbox.__file__).parents[2])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(out.parent)}
    return subprocess.Popen([sys.executable, "-c", code], env=env)


def left_of(folder) -> list:
    """The processes of answers whose home is below a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            if MARK in environment and environment.get("HOME", "").startswith(str(folder)):
                found.append(process)
    return found


def test_a_run_that_was_killed_goes_on(toy, tmp_path, monkeypatch):
    (folder := tmp_path / "in").mkdir()
    notebook(folder / "a.ipynb", RIGHT)
    notebook(folder / "b.ipynb", "def double(x):\n    while True: pass")
    killed, kept = grader(toy, folder, tmp_path / "out.csv"), tmp_path / "out.csv.parts"
    until = time.monotonic() + 60
    while not list(kept.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    while not left_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    until = time.monotonic() + 20
    while left_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left_of(tmp_path), "the answer outlives the grader"
    assert not (tmp_path / "out.csv").exists() and len(list(kept.glob("*.json"))) == 1
    notebook(folder / "b.ipynb", RIGHT)
    asked, limits = [], Limits(seconds=60)
    one = grading.one
    monkeypatch.setattr(grading, "one", lambda path, **options: asked.append(path.name) or one(path, **options))
    options = OPTIONS | {"limits": limits}
    table = grade(folder, KEY, tmp_path / "out.csv", tell=asked.append, **options)
    assert asked == ["b.ipynb", "2 of 2 graded; b.ipynb: 6 of 6 points"] and [*table.total] == [6, 6]
    before = (tmp_path / "out.csv").read_bytes()
    next(iter(kept.glob("*.json"))).write_text("torn")
    grade(folder, KEY, tmp_path / "out.csv", **options)
    assert len(asked) == 3 and (tmp_path / "out.csv").read_bytes() == before
    grade(folder, Key("toy", {"factor": 3}, "2026", "hidden"), tmp_path / "out.csv", **options)
    assert len(asked) == 5  # another key: other grades


@pytest.mark.parametrize(
    "given, share, reason",
    [
        (lambda: (0.5, "half"), 0.5, "half"),
        (lambda: (float("nan"), "odd"), 0, "odd; its measure is no number"),
        (lambda: (np.float32(7), ""), 1, ""),
        (lambda: (-1, ""), 0, ""),
        (lambda: (np.ones(3), ""), 0, "cannot be judged (TypeError"),
        (lambda: {}["y"], 0, "cannot be judged (KeyError: 'y')"),
        (lambda: None, 0, "cannot be judged (TypeError"),
    ],
)
def test_a_judge_that_stumbles_gives_nothing(given, share, reason):
    part = Part("a", 1, None, None, lambda *args: given())
    got = grading.judgement(part, KEY, "ada", {}, {})
    assert got[0] == share and got[1].startswith(reason)


def test_a_name_is_no_formula_and_practice_is_told(tmp_path):
    notebook(tmp_path / "a.ipynb", 'student = "=1+2"')
    notebook(tmp_path / "b.ipynb", 'student = "practice"')
    table = grade(tmp_path, KEY, tmp_path / "out.csv", **OPTIONS)
    assert [*table.student] == ["=1+2", "practice"] and "the student's name was left" in table.reasons[1]
    assert pd.read_csv(tmp_path / "out.csv").student[0] == "'=1+2"


def test_what_cannot_be_graded_is_an_error_in_one_line(tmp_path, one_line, monkeypatch):
    one_line(ValueError, "no notebooks", grade, tmp_path, KEY, tmp_path / "out.csv", **OPTIONS)
    notebook(tmp_path / "a.ipynb", RIGHT)
    one_line(ValueError, "no assignment 'a9'", grade, tmp_path, Key("a9", {}), tmp_path / "out.csv")
    one_line(ValueError, "processes=0", grade, tmp_path, KEY, tmp_path / "out.csv", processes=0, **OPTIONS)
    monkeypatch.setattr(sandbox, "way", lambda: ())
    options = OPTIONS | {"sandbox": True}
    one_line(RuntimeError, "--no-sandbox", grade, tmp_path, KEY, tmp_path / "out.csv", **options)
    assert not list(tmp_path.glob("out*"))
    table = grade(tmp_path, KEY, tmp_path / "out.csv", **options | {"sandbox": False})
    assert [*table.total] == [6] and [*table.isolation] == ["none"]


def test_a_key_is_read(tmp_path, one_line):
    path = tmp_path / "key.json"
    one_line(FileNotFoundError, "there is no key", read_key, path)
    whole = {"assignment": "a1", "ask": {"tile": 16}, "salt": "s", "secret": "t"}
    for text, reason in (
        ("{", "damaged"),
        ("[]", "it has no 'assignment'"),
        (json.dumps(whole | {"ask": 3}), "it has no 'ask'"),
        (json.dumps(whole | {"more": 3}), "it has 'more'"),
        (json.dumps(whole | {"assignment": "../a"}), "does not fit"),
    ):
        path.write_text(text)
        one_line(ValueError, reason, read_key, path)
    path.write_text(json.dumps(whole))
    assert read_key(path) == Key("a1", {"tile": 16}, "s", "t")


def test_a_name_that_nobody_filled_in_is_told(toy, tmp_path):
    """Of the graded notebook as it is handed out; all who leave it so would share their canaries."""
    notebook(tmp_path / "a.ipynb", 'student = "your student id"\n' + RIGHT)
    table = grade(tmp_path, KEY, tmp_path / "out.csv", **OPTIONS)
    assert "the student's name was left as it was" in table.reasons[0] and table.total[0] == 6


def test_the_command_tells_each_grade_and_no_bars(toy, tmp_path, monkeypatch, capsys):
    (folder := tmp_path / "class").mkdir()
    for name in ("a", "b"):
        notebook(folder / f"{name}.ipynb", RIGHT)
    about = {"assignment": KEY.assignment, "ask": dict(KEY.ask), "salt": KEY.salt, "secret": KEY.secret}
    (tmp_path / "key.json").write_text(json.dumps(about))
    monkeypatch.setattr(grading, "grade", partial(grade, module="toy2", limits=OPTIONS["limits"]))
    monkeypatch.setenv("TQDM_DISABLE", "1")  # so that what the command sets is taken back
    monkeypatch.delenv("TQDM_DISABLE")
    line = ["dori-lite", "grade", str(folder), "--key", str(tmp_path / "key.json"), "--out", str(tmp_path / "g.csv")]
    monkeypatch.setattr("sys.argv", [*line, "--no-sandbox"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and os.environ["TQDM_DISABLE"] == "1"
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [f"{k} of 2 graded; {name}.ipynb: 6 of 6 points" for k, name in enumerate("ab", 1)]
