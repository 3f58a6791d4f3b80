"""Running chapters and building the site, on a tiny book; and the environment that `make` prepares."""

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dori_lite import assets, cli
from dori_lite.book import build

ROOT = Path(__file__).parents[1]
SLUG = "01_first"
CODE = """import os
print(profile, seed, *(os.environ[name] for name in ("HF_HUB_OFFLINE", "DORI_ANEW", "DORI_BUILD", "TQDM_DISABLE")))
print(os.path.basename(os.getcwd()))"""


def write_chapter(root, *cells, parameters='profile = "quick"\nseed = 0', text="# The first chapter"):
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_markdown_cell(text), first, *map(new_code_cell, cells or (CODE,))])
    nbformat.write(notebook, root / "book" / "chapters" / f"{SLUG}.ipynb")
    return root / "book" / "chapters" / f"{SLUG}.ipynb"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with a book of one chapter and one page, the project's own _config.yml, and empty data."""
    (tmp_path / "book" / "chapters").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    for name, text in {
        "_toc.yml": f"format: jb-book\nroot: intro\nchapters:\n- file: chapters/{SLUG}\n",
        "intro.md": "# A book\n\nIts first page.\n",
        "references.bib": "@misc{one, title={One}, author={Some One}, year={2000}}\n",
    }.items():
        (tmp_path / "book" / name).write_text(text)
    (tmp_path / "data" / "reef").mkdir(parents=True)
    (tmp_path / "data" / "reef" / "manifest.json").write_text('{"files": {}, "models": {}}')
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "data"))
    write_chapter(tmp_path)
    return tmp_path


def printed(path):
    return "".join(out.text for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", []))


def test_a_chapter_runs_once_and_the_site_shows_its_present_text(root, capsys, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "DORI_ANEW"):
        monkeypatch.delenv(name, raising=False)
    (chapter,) = build.chapters(root)
    done = build.execute(chapter, "quick", 3, root=root)
    assert printed(done) == "quick 3 1 0 1 1\nchapters\n"
    assert len(nbformat.read(done, 4).cells) == 3, "the injected parameters stay in the copy"
    assert list(build.times(root)["quick"]) == [SLUG]
    assert not {"HF_HUB_OFFLINE", "DORI_ANEW"} & os.environ.keys()
    assert sorted(path.name for path in done.parent.iterdir()) == [done.name]

    written = done.stat().st_mtime_ns
    write_chapter(root, text="# Another heading")
    assert build.execute(chapter, "quick", 3, root=root).stat().st_mtime_ns == written
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{SLUG}: unchanged, not run again")
    index = build.site("quick", root)
    assert index == root / "_build" / "html" / "index.html" and index.exists()
    page = (index.parent / "chapters" / f"{SLUG}.html").read_text()
    assert "Another heading" in page and "quick 3 1 0 1 1" in page and "Injected" not in page
    assert "colab.research.google.com/github/" in page and f"/book/chapters/{SLUG}.ipynb" in page

    write_chapter(root, "print('new code')")
    with pytest.raises(ValueError, match="have changed since it was run"):
        build.site("quick", root)
    assert not (root / "_build" / "html").exists(), "a site that is not current is left to be found"
    assert printed(build.execute(chapter, "quick", 3, root=root)) == "new code\n"


def test_force_runs_what_has_not_changed_and_asks_for_new_rows(root, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the kernel is offline whatever is set outside
    monkeypatch.setenv("DORI_ANEW", "1")  # and only --force asks for new rows
    (chapter,) = build.chapters(root)
    assert build.ANEW == "DORI_ANEW"
    assert printed(build.execute(chapter, root=root)) == "quick 0 1 0 1 1\nchapters\n"
    assert printed(build.execute(chapter, force=True, root=root)) == "quick 0 1 1 1 1\nchapters\n"
    assert "unchanged" not in capsys.readouterr().out
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["DORI_ANEW"]) == ("0", "1")
    assert printed(build.execute(chapter, root=root)) == "quick 0 1 1 1 1\nchapters\n"
    assert "unchanged" in capsys.readouterr().out


def test_the_environment_is_as_before_whatever_happens(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("DORI_ANEW", raising=False)
    with pytest.raises(KeyError), build.environment(HF_HUB_OFFLINE="1", DORI_ANEW="0"):
        assert (os.environ["HF_HUB_OFFLINE"], os.environ["DORI_ANEW"]) == ("1", "0")
        raise KeyError
    assert os.environ["HF_HUB_OFFLINE"] == "0" and "DORI_ANEW" not in os.environ


@pytest.mark.parametrize(("only", "force"), [(None, True), ("01", False)])
def test_the_command_hands_on_what_it_is_asked(root, monkeypatch, capsys, only, force):
    calls = []
    monkeypatch.setattr(build, "checkout", lambda: root)
    monkeypatch.setattr(build, "execute", lambda path, *rest: calls.append((path.stem, *rest)) or path)
    monkeypatch.setattr(build, "site", lambda *rest: calls.append(("site", *rest)) or root / "index.html")
    arguments = ["--profile", "standard", "--seed", "2", *(["--force"] if force else [])]
    monkeypatch.setattr(sys, "argv", ["dori-lite", "book", *arguments, *(["--chapter", only] if only else [])])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code and "Open " in capsys.readouterr().out
    assert calls == [(SLUG, "standard", 2, force, root), *([] if only else [("site", "standard", root)])]


def test_widgets_stay_out_of_the_site(root):
    """Without a kernel they are dead, and they load scripts from elsewhere."""
    chapter = write_chapter(root, "from ipywidgets import IntSlider\nprint('before')\nIntSlider(description='dead')")
    executed = build.execute(chapter, root=root)
    assert "dead" in executed.read_text()
    notebook = build.with_outputs(chapter, executed, "quick")
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "before" in shown and "dead" not in shown and "widgets" not in notebook.metadata


def test_what_a_run_depends_on_is_in_its_key(root, monkeypatch):
    chapter = write_chapter(root)
    package = root / "dori_lite"
    (package / "figures").mkdir(parents=True)
    (package / "figures" / "charts.py").write_text("x = 1\n")
    (package / "notes.txt").write_text("no code")
    monkeypatch.setattr(assets, "PACKAGE", package)
    keys = [build.key(chapter, "quick", 0), build.key(chapter, "standard", 0), build.key(chapter, "quick", 1)]
    rows = root / "data" / "results" / "reef" / SLUG / "standard" / "rows"
    rows.mkdir(parents=True)
    (rows / "picture-0.jsonl").write_text('{"x": 1}\n')
    keys.append(build.key(chapter, "quick", 0))
    (rows / "picture-0.jsonl").write_text('{"x": 2}\n')
    keys.append(build.key(chapter, "quick", 0))
    (rows / "picture-0.jsonl").rename(rows / "attack-0.jsonl")
    keys.append(build.key(chapter, "quick", 0))
    (package / "figures" / "charts.py").write_text("x = 2\n")  # what makes no row may still make a page
    keys.append(build.key(chapter, "quick", 0))
    (package / "figures" / "charts.py").rename(package / "charts.py")
    keys.append(build.key(chapter, "quick", 0))
    monkeypatch.setattr(build.platform, "python_version", lambda: "3.99")
    keys.append(build.key(chapter, "quick", 0))
    (root / "data" / "reef" / "manifest.json").write_text('{"files": {"a": "0"}, "models": {}}')
    keys.append(build.key(chapter, "quick", 0))
    write_chapter(root, "1 + 1")
    keys.append(build.key(chapter, "quick", 0))
    assert len(set(keys)) == len(keys)
    write_chapter(root, "1 + 1", text="# Only text")
    (package / "notes.txt").write_text("other words")
    assert build.key(chapter, "quick", 0) == keys[-1]


def test_a_page_with_a_warning_gives_no_site(root):
    (root / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (root / "book" / "intro.md").write_text("# A book\n\n{ref}`nowhere`\n")
    with pytest.raises(RuntimeError, match="the site was not built: .*nowhere"):
        build.site("quick", root)
    assert not (root / "_build" / "html").exists()


def test_a_failing_cell_is_one_line_and_the_last_good_copy_stays(root, capsys):
    done = root / "_build" / "executed" / "quick" / f"{SLUG}.ipynb"
    done.parent.mkdir(parents=True)
    nbformat.write(new_notebook(metadata={"dori_lite": {"key": "of an earlier run"}}), done)
    chapter = write_chapter(root, "x = 1", "raise KeyError('no such\\ncanary')")
    with pytest.raises(RuntimeError, match=f"^{SLUG}: KeyError: .*canary.*in the cell that begins") as caught:
        build.execute(chapter, root=root)
    assert "\n" not in str(caught.value)
    assert build.last_run(done)["key"] == "of an earlier run"
    assert build.times(root) == {} and not capsys.readouterr().out


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('profile = "quick"', "unknown parameter 'seed'; its parameters cell declares: profile$"),
        ('profile = "quick"\nseed = 0\nn = 1', "nothing is passed for its parameter 'n'"),
    ],
)
def test_parameters_must_be_the_declared_ones(root, parameters, message):
    chapter = write_chapter(root, parameters=parameters)
    with pytest.raises(ValueError, match=message):
        build.execute(chapter, root=root)


@pytest.mark.parametrize("profile", ["quikc", "sd14"])
def test_an_unknown_profile_stops_before_anything_is_written(root, profile, one_line):
    match = f"no profile called '{profile}'; there are: quick, standard, full$"
    one_line(ValueError, match, build.execute, write_chapter(root), profile, root=root)
    assert not (root / "_build").exists()


def test_the_table_of_contents(root):
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nparts:\n- caption: One\n  chapters:\n"
        f"  - file: chapters/{SLUG}\n    sections:\n    - file: chapters/02_second\n"
    )
    assert build.pages(root) == ["intro", f"chapters/{SLUG}", "chapters/02_second"]
    with pytest.raises(FileNotFoundError, match="02_second"):
        build.chapters(root)
    (root / "book" / "chapters" / "02_second.md").write_text("# Text only\n")
    assert [path.stem for path in build.chapters(root)] == [SLUG]
    assert build.find("01", root) == build.find(SLUG, root)
    with pytest.raises(ValueError, match=f"no chapter called '03'; there are: {SLUG}"):
        build.find("03", root)


def test_the_command_says_what_is_wrong_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dori-lite", "book", "--profile", "quikc"])
    with pytest.raises(SystemExit, match="^dori-lite: no profile called 'quikc'; [^\n]*$"):
        cli.main()


def test_set_url_writes_every_copy(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    old = cli.address(tmp_path)
    name = old.removeprefix("https://github.com/")
    (tmp_path / "README.md").write_text(f"{old}.git {old}-other https://colab.research.google.com/github/{name}/blob/x")
    new = "https://github.com/reef/finding"
    assert {path.name for path in cli.write_address(new + ".git", tmp_path)} == {"pyproject.toml", "README.md"}
    assert cli.address(tmp_path) == new
    colab = "https://colab.research.google.com/github/reef/finding/blob/x"
    assert (tmp_path / "README.md").read_text() == f"{new}.git {old}-other {colab}"
    with pytest.raises(ValueError, match="OWNER/NAME"):
        cli.write_address("https://example.org/x", tmp_path)


# ---- tools/bootstrap.py ----------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
  -c*) echo {version} ;;
  *"pip install"*) exit {status} ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A checkout that holds what the bootstrap reads, and fake Pythons that only note how they are called."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/bootstrap.py", "pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)

    class Machine:
        root, log = tmp_path, tmp_path / "log"

        def python(self, folder, version="3.12", status=0):
            path = tmp_path / folder / "bin" / "python"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(FAKE_PYTHON.format(log=self.log, version=version, status=status))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            return str(tmp_path / folder)

        def run(self, *arguments, before="", **environ):
            """Run the bootstrap after the statements `before`; (status, stderr, calls of the fake Python)."""
            self.log.write_text("")
            script = str(tmp_path / "tools" / "bootstrap.py")
            code = f"import runpy, sys\n{before}\nsys.argv = {[script, *arguments]}\nrunpy.run_path({script!r}, "
            clean = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
            command = [sys.executable, "-c", code + "run_name='__main__')"]
            done = subprocess.run(command, env=clean | environ, capture_output=True, text=True)
            return done.returncode, done.stderr, self.log.read_text().splitlines()

    return Machine()


def installs(calls):
    return [call for call in calls if "pip install" in call]


posix = pytest.mark.skipif(os.name == "nt", reason="the fake Python is a shell script")


@posix
@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_used_and_installed_into_once(machine, variable):
    active = {variable: machine.python("mine")}
    status, _, calls = machine.run("-m", "dori_lite.cli", "book", **active)
    assert status == 0 and installs(calls) == ["-m pip install -c constraints.txt -e .[book,dev]"]
    assert calls[-1] == "-m dori_lite.cli book" and not (machine.root / ".venv").exists()
    assert machine.run("-m", "pytest", **active)[2] == ["-m pytest"]
    with open(machine.root / "constraints.txt", "a") as file:
        file.write("another==1.0\n")
    assert installs(machine.run("-m", "pytest", **active)[2])


@posix
def test_an_interrupted_installation_is_done_again(machine):
    machine.python(".venv", status=1)
    status, message, calls = machine.run("-m", "pytest")
    assert status == 1 and message.startswith("dori-lite: the installation did not finish") and "-m pytest" not in calls
    machine.python(".venv")
    assert installs(machine.run("-m", "pytest")[2])


@posix
@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("sys.version_info = (3, 9, 1)", "this is Python 3.9 and 3.11 or newer is needed"),
        ("sys.modules['venv'] = None", "its venv module"),
        ("sys.modules['ensurepip'] = None", "sudo apt install python3-venv"),
        ("import venv\ndef fail(*a, **k): raise OSError('disk full')\nvenv.create = fail", "made: disk full"),
    ],
)
def test_a_python_that_cannot_make_the_environment_says_so_in_one_line(machine, before, message):
    status, stderr, calls = machine.run("-m", "pytest", before=before)
    assert status == 1 and message in stderr and stderr.count("\n") == 1 and not calls


@posix
def test_environments_of_no_use_are_named(machine):
    status, stderr, _ = machine.run("-m", "pytest", CONDA_PREFIX=machine.python("old", version="3.9"))
    assert status == 1 and "has Python 3.9" in stderr and stderr.count("\n") == 1
    status, stderr, _ = machine.run("-m", "pytest", VIRTUAL_ENV=str(machine.root / "gone"))
    assert status == 1 and "has no Python" in stderr and stderr.count("\n") == 1


@posix
def test_a_new_machine_gets_an_environment_of_its_own(machine):
    made = machine.python("template")
    fake = f"import shutil, venv\nvenv.create = lambda folder, **k: shutil.copytree({made!r}, folder)"
    status, _, calls = machine.run("-m", "pytest", before=fake)
    assert status == 0 and installs(calls) and calls[-1] == "-m pytest"
    assert (machine.root / ".venv" / "dori-lite-installed").exists()


def test_old_pythons_can_read_the_bootstrap():
    tree = ast.parse((ROOT / "tools" / "bootstrap.py").read_text(), feature_version=(3, 4))
    newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.Starred, ast.AsyncFunctionDef)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, newer)]


@posix
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_is_a_thin_wrapper(machine):
    (machine.root / "python").write_text(f'#!/bin/sh\necho "$*" >> {machine.log}\n')
    (machine.root / "python").chmod(0o755)
    for target in ("book PROFILE=standard", "test", "verify-models", "bench"):
        subprocess.run(["make", "-s", *target.split(), "PYTHON=./python"], cwd=machine.root, check=True)
    calls = [line.removeprefix("tools/bootstrap.py ") for line in machine.log.read_text().splitlines()]
    assert calls == [
        "-m dori_lite.cli book --profile standard",
        "-m ruff check .",
        "-m ruff format --check .",
        "-m pytest -m not slow and not gpu and not hub",
        "-m dori_lite.cli verify-models",
        "-m dori_lite.cli bench",
    ]
    assert "make book" in subprocess.run(["make"], cwd=machine.root, capture_output=True, text=True).stdout


def test_times_are_json(root):
    assert build.times(root) == {}
    (root / "_build").mkdir()
    build.note_time(root, "quick", SLUG, 1.5)
    assert json.loads((root / "_build" / "times.json").read_text()) == {"quick": {SLUG: 1.5}}
