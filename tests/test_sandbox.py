"""A student's code in a process of its own: whatever it does is an answer or a reason."""

import io
import json
import os
import random
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from dori_lite.assignments import exchange, sandbox, submission
from dori_lite.assignments.sandbox import Limits, Outcome, isolation, run

ISOLATED = bool(isolation())
TOY = """
import numpy as np
from dori_lite.assignments.parts import Part

NAME = "toy"

def reference(x):
    return 2 * x

def given(key, student):
    return {"x": np.arange(4.0) + key.seed(student, "double") % 7}

def call(function, given):
    return {"y": function(given["x"])}

def judge(key, student, given, returned):
    y = returned["y"]
    return float((y == reference(given["x"])).mean()), "" if y.shape == (4,) else "of another shape"

NAMES = ("double", "again", *(f"act_{k}" for k in range(40)))
PARTS = tuple(Part(name, 2, given, call, judge) for name in NAMES)
"""
X = np.arange(3.0)


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory):
    """An assignment of two parts, `toy`, which the child process can import."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    (folder / "broken.py").write_text("raise ValueError('it is broken')")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def try_out(source, isolated=ISOLATED, **limits) -> Outcome:
    limits = Limits(**({"seconds": 20} | limits))
    return run("toy", textwrap.dedent(source), {"double": {"x": X}, "again": {"x": X}}, {}, limits, isolated)


def right(outcome, part) -> bool:
    return part in outcome.returned and np.array_equal(outcome.returned[part]["y"], 2 * X)


def test_answers_come_back():
    outcome = try_out("import numpy as np\nTWO = 2\ndef double(x): return TWO * x\nagain = lambda x: np.add(x, x)")
    assert right(outcome, "double") and right(outcome, "again")
    assert outcome.reason == "" and outcome.reasons == {}
    assert outcome.isolation == (isolation() or "none")


def try_all(bodies) -> Outcome:
    """Many functions in one child, as so many parts."""
    source = "\n".join(f"def act_{k}(x):\n{textwrap.indent(body, '    ')}" for k, body in enumerate(bodies))
    return run("toy", source, {f"act_{k}": {"x": X} for k in range(len(bodies))}, {}, Limits(disk=60), ISOLATED)


def test_what_fails_within_python_is_a_reason_and_the_child_goes_on(monkeypatch):
    cases = {
        "raise ValueError('a\\nb')": "ValueError: a b",
        "return y": "NameError: name 'y' is not defined (only imports",
        "return ...": "not attempted",
        "import sys; sys.exit(3)": "SystemExit: 3",
        "return bytearray(10**10)": "took more than 3 GB of memory",
        "import numpy; return numpy.zeros(10**10)": "took more than 3 GB of memory",
        "return act_6(x)": "RecursionError",
        "return [object()]": "y holds object values; numbers or truth values are asked for",
        "return 'text'": "y holds str",
        "x = 2 * x": "y is None; does the function return what it found?",
        "import numpy; return numpy.zeros(3 * 10**7)": "more than 200 MB came back",
        "open('a', 'wb').write(bytes(10**8))": "OSError",
        "class E(Exception): __str__ = None\nraise E": "an exception that cannot be told",
    }
    children, watch = [], sandbox.watch
    monkeypatch.setattr(sandbox, "watch", lambda *args: children.append(args) or watch(*args))
    outcome = try_all(cases)
    assert len(children) == 1
    assert outcome.returned == {} and outcome.reason == "" and len(outcome.reasons) == len(cases)
    for (body, reason), told in zip(cases.items(), outcome.reasons.values(), strict=True):
        assert told.startswith(reason), (body, told)


@pytest.mark.parametrize(
    "body, reason",
    [
        ("import os; os.write(2, b'the end'); os._exit(3)", "ended with exit code 3: the end"),
        ("import os; os._exit(0)", "ended before it had finished"),
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("while True: print('huge output' * 10**4)", "took longer than 2 s"),
        (
            "[open(str(k), 'wb').write(bytes(2 * 10**7)) for k in range(4)]; import time; time.sleep(9)",
            "wrote more than 60 MB",
        ),
    ],
)
def test_what_ends_the_child_is_a_reason_and_the_next_part_is_run(body, reason):
    outcome = try_out(f"def double(x):\n    {body}\ndef again(x): return 2 * x", seconds=2, disk=60)
    assert list(outcome.returned) == ["again"] and right(outcome, "again")
    assert outcome.reasons == {"double": reason} and outcome.reason == ""


def test_memory_that_no_limit_of_the_system_counts_is_seen():
    source = """
    import mmap, time
    def double(x):
        m = mmap.mmap(-1, 10**9)
        for k in range(10):
            m[k * 10**8 : (k + 1) * 10**8] = bytes(10**8)
        time.sleep(9)
    """
    assert try_out(source, memory=0.5).reasons["double"] == "took more than 0.5 GB of memory"


@pytest.mark.parametrize(
    "body, reason",
    [
        ("import os; os._exit(4)", "ended with exit code 4"),
        ("while True: pass", "took longer than 1 s"),
    ],
)
def test_what_ends_before_the_first_part_is_a_reason_for_all(body, reason):
    outcome = try_out(f"def double(x): return 2 * x\nclass A:\n    {body}", seconds=1)
    assert outcome.returned == {} and outcome.reason == reason


def test_statements_that_fail_spoil_only_what_needs_them():
    source = """
    import no_such_module as gone
    class A:
        raise KeyError("no")
    def double(x: gone.Array): return 2 * x
    @gone.compiled
    def again(x): return 2 * x
    """
    outcome = try_out(source)
    assert right(outcome, "double")
    assert outcome.reasons["again"].startswith("not defined (NameError: name 'gone' is not defined (ModuleNotFound")


def living(mark: str) -> list[int]:
    """Processes whose command line has this text."""
    return [p.pid for p in psutil.process_iter() if any(mark in word for word in safely(p.cmdline))]


def safely(function):
    try:
        return function()
    except psutil.Error:
        return []


@pytest.mark.parametrize("isolated", sorted({ISOLATED, False}))
@pytest.mark.parametrize("many", [2, 16])
def test_processes_are_counted_and_none_is_left(many, isolated):
    """Started where Python raises no event; of two, one in a session of its own whose parent has ended."""
    mark = f"{random.Random().randrange(10**6)}.5"  # seconds to sleep, by which we know them
    source = f"""
    import multiprocessing.util as util, time
    def double(x):
        for k in range({many}):
            util.spawnv_passfds(b"/bin/sleep", [b"sleep", b"9{mark}"], [])
            if k == 0:
                util.spawnv_passfds(b"/usr/bin/setsid", [b"setsid", b"-f", b"/bin/sleep", b"9{mark}"], [])
        time.sleep({1 if many == 2 else 20})
        return 2 * x
    again = double
    """
    outcome = try_out(source, isolated, processes=8)
    if many == 2:
        assert right(outcome, "double") and right(outcome, "again") and outcome.reasons == {}
    else:
        assert set(outcome.reasons.values()) == {"started more than 8 processes"}
    assert living(mark) == []


def test_what_is_no_answers_business_is_refused_and_told(tmp_path):
    """Told even where the code catches it and goes on."""
    key, own = tmp_path / "key.json", Path(sandbox.__file__).parent / "parts.py"
    key.write_text("123")
    solutions = Path(__file__).parents[1] / "book/assignments/solutions"
    hidden, told = "which is not the answer's business", "which is the grader's"
    cases = {
        f"open('{key}').read()": f"tried to open …/key.json, {hidden}",
        f"import os; os.open('{key}', os.O_RDONLY)": f"tried to open …/key.json, {hidden}",
        f"import pathlib; pathlib.Path('{key}').read_text()": f"tried to open …/key.json, {hidden}",
        f"import numpy; numpy.loadtxt('{key}')": f"tried to open …/key.json, {hidden}",
        f"open('/proc/self/root{key}')": f"tried to open …/key.json, {hidden}",
        f"import os; os.listdir('{tmp_path}')": f"tried to open …/{tmp_path.name}, {hidden}",
        f"import os; os.listdir('{solutions.parents[1]}')": f"tried to open …/book, {hidden}",
        f"open('{__file__}')": f"tried to open …/test_sandbox.py, {hidden}",
        "open('/etc/passwd')": f"tried to open …/passwd, {hidden}",
        "open('../task.json')": f"tried to open …/task.json, {hidden}",
        f"open('{own}')": f"tried to open …/parts.py, {hidden}",
        "import inspect, dori_lite.assignments.parts as p; inspect.getsource(p)": f"tried to open …/parts.py, {hidden}",
        "import toy; toy.reference(x)": f"tried to use toy.reference, {told}",
        "from toy import judge": f"tried to use toy.judge, {told}",
        f"open('{tmp_path}/new', 'w')": "tried to write …/new, outside its own folder",
        f"import os; os.mkdir('{tmp_path}/new')": "tried to write …/new, outside its own folder",
        "open('../answers/0.json', 'w')": "tried to write …/0.json, outside its own folder",
        f"import os; os.remove('{key}')": "tried to write …/key.json, outside its own folder",
        f"import os; os.symlink('{key}', 'mine')": "tried to write …/key.json, outside its own folder",
        "import socket; socket.create_connection(('127.0.0.1', 9))": "tried to use the network",
        "import urllib.request as r; r.urlopen('http://example.com')": "tried to use the network",
        "import subprocess; subprocess.run(['true'])": "tried to start another process",
        "import os; os.system('true')": "tried to start another process",
        "import os; os.fork()": "tried to start another process",
        "import ctypes; ctypes.CDLL(None)": "tried to load a library of its own (ctypes)",
        "import os; os.kill(os.getppid(), 9)": "tried to stop a process",
    }
    outcome = try_all([f"try:\n    {act}\nexcept Exception: pass\nreturn 2 * x" for act in cases])
    for k, (act, reason) in enumerate(cases.items()):
        assert (act, outcome.reasons.get(f"act_{k}")) == (act, reason)
        assert right(outcome, f"act_{k}")
    assert sorted(os.listdir(tmp_path)) == ["key.json"] and key.read_text() == "123"


def test_a_refusal_that_is_not_caught_is_the_reason(tmp_path):
    (tmp_path / "key.json").write_text("secret")
    outcome = try_out(f"def double(x): return open('{tmp_path}/key.json').read()")
    assert outcome.reasons["double"] == "tried to open …/key.json, which is not the answer's business"


def test_what_answers_need_is_not_refused():
    source = """
    import toy, dataclasses, linecache, os, tempfile, traceback, warnings
    from toy import NAME
    import importlib.metadata
    @dataclasses.dataclass
    class A:
        value: float = 2
    def double(x):
        import dori_lite.ranges, scipy.stats, pandas  # imported late
        assert NAME == "toy" and toy.NAME == "toy"
        open("mine.txt", "w").write("1")
        os.rename("mine.txt", "yours.txt")
        assert open("yours.txt").read() == "1" and os.listdir() == ["yours.txt"]
        with tempfile.TemporaryFile() as file:
            file.write(b"1")
        open("/dev/urandom", "rb").read(1), open("/proc/self/status").read(), importlib.metadata.version("numpy")
        warnings.warn("careful")
        try:
            1 / 0
        except ZeroDivisionError:
            traceback.format_exc(), traceback.format_stack()  # for which Python looks into our files
        try:
            open("/no/such/file")
        except FileNotFoundError:
            pass
        return A().value * x
    again = double
    """
    outcome = try_out(source)
    assert outcome.reasons == {} and outcome.reason == ""
    assert right(outcome, "double") and right(outcome, "again")


def test_it_sees_no_secrets_and_the_same_random_numbers(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "abc")
    source = """
    import os, random, sys, numpy as np
    def double(x): return [random.random(), np.random.random(), hash("text") % 10**6]
    def again(x): return ["SOME_TOKEN" in os.environ, len(sys.stdin.read()), os.environ["OMP_NUM_THREADS"] != "1"]
    """
    one, two = try_out(source), try_out(source)
    assert np.array_equal(one.returned["double"]["y"], two.returned["double"]["y"])
    assert not one.returned["again"]["y"].any()


@pytest.mark.skipif("no network" not in isolation(), reason="namespaces are not permitted here")
def test_there_is_no_network_whatever_the_hook_does():
    source = "def double(x): return [len(open('/proc/self/net/dev').readlines())]"
    assert try_out(source).returned["double"]["y"].tolist() == [3]  # two lines of a head, and the loopback


def test_nothing_isolates_is_an_error_unless_it_is_said(monkeypatch, one_line):
    monkeypatch.setattr(sandbox, "way", lambda: ())
    assert isolation() == ""
    one_line(RuntimeError, "--no-sandbox", try_out, "", True)
    outcome = try_out("def double(x): return 2 * x", False)
    assert right(outcome, "double") and outcome.isolation == "none"


def test_an_assignment_that_cannot_be_loaded_is_no_grade(one_line):
    one_line(RuntimeError, "it is broken", run, "broken", "", {"double": {"x": X}}, {}, None, ISOLATED)


def test_limits_are_looked_at(one_line):
    one_line(ValueError, "seconds must be above 0", Limits, seconds=0)


@pytest.mark.parametrize("isolated", sorted({ISOLATED, False}))
def test_the_child_ends_with_the_grader(toy, isolated, tmp_path):
    given = "{'double': {'x': np.ones(1)}}"
    code = f"""if True:
    from dori_lite.assignments.sandbox import run
    import numpy as np
    run("toy", "def double(x):\\n  while True: pass", {given}, {{}}, None, {isolated})
    """
    paths = [str(toy), str(Path(sandbox.__file__).parents[2])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path)}
    grader = subprocess.Popen([sys.executable, "-c", code], env=env)
    children = []
    while not any("sys.argv[2]" in word for child in children for word in safely(child.cmdline)):
        time.sleep(0.1)
        children = psutil.Process(grader.pid).children(recursive=True)
    time.sleep(0.5)
    grader.kill()
    grader.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    [process.kill() for process in alive]
    assert not alive


def bad_archives() -> dict[str, bytes]:
    def archive(content: bytes, name="y.npy", how=zipfile.ZIP_STORED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", how) as into:
            into.writestr(name, content)
        return file.getvalue()

    def npy(array, pickles=False) -> bytes:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=pickles)
        return file.getvalue()

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    return {
        "empty": b"",
        "no zip": b"PK\x03\x04 nonsense",
        "cut off": archive(npy(X))[:-30],
        "no npy": archive(b"nonsense"),
        "objects": archive(npy(np.array([print], dtype=object), True)),
        "texts": archive(npy(np.array(["a"]))),
        "a huge shape": archive(head.getvalue()),
        "a bomb": archive(npy(np.zeros(10**6)), how=zipfile.ZIP_DEFLATED),
        "another packing": archive(npy(X), how=zipfile.ZIP_LZMA),
    }


@pytest.mark.parametrize("kind", sorted(bad_archives()))
def test_malformed_answers_are_reasons(tmp_path, kind):
    exchange.write_task(tmp_path, {}, {"double": {}})
    (tmp_path / "answers/0.json").write_text('{"reason": ""}')
    (tmp_path / "answers/0.npz").write_bytes(bad_archives()[kind])
    exchange.collect(tmp_path, ["double"], 1, outcome := Outcome())
    assert outcome.returned == {}
    assert outcome.reasons["double"].startswith(
        ("its answer cannot be read", "more came", "object values", "str32 values")
    )


@pytest.mark.parametrize("told", ["", "nonsense", "[]", '{"other": 1}', "link", "pipe", "folder"])
def test_malformed_reasons_are_reasons(tmp_path, told):
    exchange.write_task(tmp_path, {}, {"double": {}})
    place = tmp_path / "answers/0.json"
    if told == "link":
        (tmp_path / "other").write_text('{"reason": "not its own"}')
        place.symlink_to(tmp_path / "other")
    elif told == "pipe":
        os.mkfifo(place)
    elif told == "folder":
        place.mkdir()
    else:
        place.write_text(told)
    exchange.collect(tmp_path, ["double"], 1, outcome := Outcome())
    assert outcome.reasons["double"] == "its answer cannot be read" and not outcome.returned


def notebook(path, *cells) -> Path:
    """A notebook of these cells of code."""
    cells = [{"cell_type": "code", "source": textwrap.dedent(cell), "metadata": {}, "outputs": []} for cell in cells]
    path.write_text(json.dumps({"cells": cells, "metadata": {"broken": 1}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_imports_functions_and_what_is_written_out_are_graded(tmp_path):
    path = notebook(
        tmp_path / "a.ipynb",
        "try:\n    import dori_lite\nexcept ModuleNotFoundError:\n    !git clone x\n    %run y\n    import dori_lite",
        "%matplotlib inline\nimport numpy as np\n!pip install x\nnp.array?\nfrom __future__ import annotations",
        "student = ' Ada  L '\nsalt: str = 'a'",
        "%%bash\nrm -rf /",
        "%%time\ndef f(x):\n    return (x\n        % 2)",
        "A, (B, C) = -1, ([2, 'x'], {'a': (True, None)})\nD = A\nE = lambda x: x\nF = np.ones(3)\nA += 1\nx[0] = 1",
        "def f(x",
        "print(f(3))\nfor k in range(3): g = k\nclass G: pass\nf(2)",
        "answer = [True]",
        "answer = [a > 2 for a in b]",
        "h = ...",
    )
    found = submission.read(path)
    kept = found.source.split("\n")
    for line in [
        "import dori_lite",
        "import numpy as np",
        "student = ' Ada  L '",
        "D = A",
        "answer = [True]",
        "h = ...",
    ]:
        assert kept.count(line) == 1
    assert "    return x % 2" in kept and "class G:" in kept and "E = lambda x: x" in kept
    assert not any(word in found.source for word in ("pip", "rm", "print", "ones", "annotations", "for", "clone"))
    assert found.student == submission.student(path) == "Ada  L"
    assert found.problems == ("cell 7 is not Python and does not count",)
    assert found.computed == ("A", "F", "answer")
    assert submission.source(path) == found.source


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"[" * 10**5, "it is no JSON"),
        (b"[]", "it has no cells"),
        (b'{"cells": 3}', "it has no cells"),
        (b" " * 6 * 10**6, "more than 5 MB"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_notebook_is_an_error_in_one_line(tmp_path, one_line, content, reason):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_bytes(content)
    one_line(ValueError, reason, submission.read, path)


def test_odd_cells_do_no_harm(tmp_path):
    path = tmp_path / "ada.ipynb"
    deep = "x = " + "-" * 5000 + "1"
    cells = [3, {}, {"cell_type": "code"}, {"cell_type": "code", "source": ["a = 1\n", "b = 2"]}]
    cells += [{"cell_type": "code", "source": deep}, {"cell_type": "code", "source": "student = 3\nd = '\\ud800'"}]
    path.write_text(json.dumps({"cells": cells}))
    assert submission.source(path).startswith("a = 1\nb = 2") and submission.student(path) == "ada"
