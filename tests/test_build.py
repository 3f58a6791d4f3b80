"""Running chapters and building the site, on a tiny book; and the environment that `make` prepares."""

import ast
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from built_pages import page_problems
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dori_lite import assets, cli, files, locks
from dori_lite.book import build, pages
from dori_lite.book.kernel import helpers
from dori_lite.book.site import block, configured, contents, fenced, fold, side_by_side, tabs
from dori_lite.runs import open_existing

posix = pytest.mark.skipif(os.name == "nt", reason="shell scripts, signals and links of POSIX")
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
        "intro.md": "# A book\n\nIts first page: <!--wanda-hides-->0.99<!--/-->.\n",
        "references.bib": "@misc{one, title={One}, author={Some One}, year={2000}}\n",
    }.items():
        (tmp_path / "book" / name).write_text(text)
    (tmp_path / "data" / "reef").mkdir(parents=True)
    (tmp_path / "data" / "reef" / "manifest.json").write_text('{"files": {}, "models": {}}')
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "data"))
    write_chapter(tmp_path)
    return tmp_path


def give_address(root):
    """What `dori-lite set-url` does to the configuration."""
    path = root / "_config.yml"
    path.write_text(path.read_text().replace("YOUR_ACCOUNT/dori-lite", "reef/finding"))


def printed(path):
    return "".join(out.get("text", "") for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", []))


def test_a_chapter_runs_once_and_the_site_shows_its_present_text(root, capsys, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "DORI_ANEW"):
        monkeypatch.delenv(name, raising=False)
    give_address(root)
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
    colab = "https://colab.research.google.com/github/reef/finding/blob/main/book/chapters"
    assert f'href="{colab}/{SLUG}.ipynb"' in page and 'href="https://github.com/reef/finding/issues/new' in page
    assert page.count('href="https://github.com/reef/finding"') == 1 and not page_problems(page)
    assert "sd-tab" not in page.split("<main")[1], "nothing is published, and there are tabs"
    intro = (index.parent / "intro.html").read_text()
    assert "not yet run" in intro and "0.99" not in intro, "its number is not the record's, of which there is none"

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


BUILDER = """
import sys
from dori_lite.book import build
build.execute(build.chapters(sys.argv[1])[0], root=sys.argv[1])
"""
UNTIL = """import pathlib, time
pathlib.Path("started").touch()
end = time.monotonic() + 20  # a second build that is let in would take the stage away
while not pathlib.Path("ended").exists() and time.monotonic() < end: time.sleep(0.05)
print("to the end")"""


def test_two_processes_do_not_build_in_one_checkout(root, one_line):
    """The second is refused in one line, and the first one's stage stays."""
    chapter, staged = write_chapter(root, UNTIL), root / "_build" / "stage" / "chapters"
    with subprocess.Popen([sys.executable, "-c", BUILDER, root], cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        try:
            while not (staged / "started").exists() and first.poll() is None:
                time.sleep(0.05)
            match = rf"the book in .* is being built by process {first.pid}; wait until it has ended, or end it"
            one_line(RuntimeError, match, build.execute, chapter, root=root)
            one_line(RuntimeError, match, build.site, root=root)
            (staged / "ended").touch()
            said, _ = first.communicate(timeout=60)
        finally:
            first.kill()
    assert first.returncode == 0 and f"{SLUG}: " in said
    done = build.execute(chapter, root=root)  # free again, and nothing to do
    assert printed(done) == "to the end\n"


ROWS = """import os, time
from dori_lite.runs import open_run
run = open_run("c", profile, seed, base={base!r})
for k in run.todo("a", k=range(8)):
    time.sleep(0.3)
    {body}
    run.keep({{"rank": run.rank, "threads": os.environ["OMP_NUM_THREADS"]}})"""


def shared_chapter(root, body="pass"):
    chapter = write_chapter(
        root, ROWS.format(base=str(root / "runs"), body=body), "print(run.rows('a')['rank'].nunique())"
    )
    notebook = nbformat.read(chapter, 4)
    for cell, tag in zip(notebook.cells[2:], ("experiment", "figure"), strict=True):
        cell.metadata["tags"] = [tag]
    nbformat.write(notebook, chapter)
    return chapter


def test_processes_share_a_chapter_s_rows(root, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    wait = "while run.rank == 0 and not [*run.folder.glob('rows/a-1.jsonl')]: time.sleep(0.1)"
    done = build.execute(shared_chapter(root, wait), processes=2, root=root)
    found = open_existing(root / "runs" / "reef" / "c" / "quick-0")
    assert found.rows("a")["k"].tolist() == [*range(8)] and {*found.rows("a")["threads"]} == {"2"}
    assert printed(done) == "2\n" and sorted(path.name for path in done.parent.iterdir()) == [done.name]
    assert not {"RANK", "WORLD_SIZE"} & os.environ.keys()


def test_what_a_helper_that_fails_leaves_is_done(root, capfd):
    partial = root / "_build" / "executed" / "quick" / f"{SLUG}.partial-1.ipynb"
    failed = f"os.path.exists({str(partial)!r}) and 'out of memory' in open({str(partial)!r}).read()"
    wait = f"while not ({failed}): time.sleep(0.1)"  # however late it began
    there = f"any({str(partial)!r} in (p.info['cmdline'] or []) for p in psutil.process_iter(['cmdline']))"
    gone = f"import psutil\n    while {there}: time.sleep(0.1)"  # it has said so, and ended
    chapter = shared_chapter(root, f"assert run.rank == 0, 'out of' + ' memory'\n    {wait}\n    {gone}")
    done = build.execute(chapter, processes=2, root=root)
    found = open_existing(root / "runs" / "reef" / "c" / "quick-0")
    assert found.rows("a")["k"].tolist() == [*range(8)] and printed(done) == "1\n"
    said = "a helping process has ended: 01_first.partial-1: AssertionError: out of memory, in the cell that begins"
    assert said in capfd.readouterr().err and done.with_name(f"{SLUG}.partial-1.ipynb").exists()


def test_helpers_end_with_the_chapter(root, one_line):
    chapter = shared_chapter(root, "assert run.rank or k < 2; time.sleep(60 * run.rank)")
    began = time.monotonic()
    one_line(RuntimeError, "AssertionError", build.execute, chapter, processes=2, root=root)
    assert time.monotonic() - began < 50, "it waited for the helper, which had a minute to go"
    assert not (root / "_build" / "executed" / "quick" / f"{SLUG}.partial-1.ipynb").exists()


def test_chapters_without_rows_have_no_helpers(root, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with helpers(3, build.chapters(root)[0], root / "out.ipynb", {}):
        assert locks.ranks() == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "0"], "processes=0 is not a count that fits; give a whole number from 1"),
        (["--processes", "2", "--force"], "one process has to begin rows anew: leave out either --force or --proc"),
        (["--chapter", ""], f"no chapter called ''; there are: {SLUG}"),
        (["--seed", "-1"], "seed=-1 is not a count that fits; give a whole number from 0"),
        (["--profile", ""], "no profile called ''; there are: quick, standard, full"),
    ],
)
def test_bad_arguments_are_refused_at_once(root, monkeypatch, arguments, said):
    monkeypatch.setattr(build, "checkout", lambda: root)
    monkeypatch.setattr(build, "execute_alone", lambda *rest: pytest.fail("executed"))
    monkeypatch.setattr(sys, "argv", ["dori-lite", "book", *arguments])
    with pytest.raises(SystemExit, match=f"^dori-lite: {said}[^\n]*$"):
        cli.main()
    assert not (root / "_build" / "stage").exists()


@pytest.mark.parametrize("seed", [-1, 0.5, "0"])
def test_bad_seeds_are_refused_before_a_kernel_starts(root, one_line, seed):
    one_line(ValueError, "is not a count that fits", build.execute, write_chapter(root), seed=seed, root=root)
    assert not (root / "_build").exists()


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
    assert calls == [(SLUG, "standard", 2, force, root, "reef", 1), *([] if only else [("site", "standard", root)])]


def test_of_another_world_the_chapters_that_ask_for_one_are_run_and_no_site_is_built(root, monkeypatch, capsys):
    asks = root / "book" / "chapters" / f"{SLUG}.ipynb"
    notebook = nbformat.read(asks, 4)
    monkeypatch.setattr(build, "checkout", lambda: root)
    monkeypatch.setattr(build, "site", lambda *rest: pytest.fail("a site was built"))
    with pytest.raises(ValueError, match="no world called 'sea'; there are: reef, reef-first"):
        build.execute(asks, world="sea", root=root)
    assert not build.asks_where(asks)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += '\nwhere = "reef"'
    source = "import os\nprint('in', where, 'offline', os.environ.get('HF_HUB_OFFLINE', 0))"
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, asks)
    assert build.asks_where(asks)
    build.build(world="reef-first")
    done = root / "_build" / "executed" / "reef-first-quick" / asks.name
    assert "in reef-first" in done.read_text() and done.as_posix() in capsys.readouterr().out
    assert build.times(root)["reef-first-quick"].keys() == {SLUG}
    assert build.key(asks, "quick", 0) != build.key(asks, "quick", 0, "reef-first")
    assert "in reef offline 1" in build.execute(asks, root=root).read_text()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "in sd14 offline 0" in build.execute(asks, world="sd14", root=root).read_text()  # its model is on the hub


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
    monkeypatch.setattr(pages.platform, "python_version", lambda: "3.99")
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
    assert build.find("1", root) == build.find("01", root) == build.find(SLUG, root)
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
    wrong = ("https://example.org/x", "", "x", "https://github.com/x", "https://github.com/a/b/c", "https://github.com/a/..",
             "http://github.com/a/b", "https://github.com/a b/c", "https://github.com/ä/b", "https://github.com/a/b?c",
             "https://github.com/a/b\n", "https://github.com/a.b/c")  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for url in wrong:
        with pytest.raises(ValueError, match="is not of the form https://github.com/OWNER/NAME$"):
            cli.write_address(url, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_set_url_stopped_half_way_is_done_again(tmp_path, monkeypatch):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in (tmp_path / "README.md", tmp_path / "CITATION.cff"):
        path.write_text(cli.address(tmp_path))
    known = files.write_text

    def failing(path, text):
        if path.name != "CITATION.cff":
            raise OSError(28, "No space left on device", str(path))
        known(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_text", failing)
        with pytest.raises(OSError, match="No space"):
            cli.write_address("https://github.com/reef/finding", tmp_path)
    assert {path.name for path in cli.write_address("https://github.com/reef/finding", tmp_path)} == {
        "pyproject.toml", "README.md"}  # fmt: skip
    assert (tmp_path / "CITATION.cff").read_text() == cli.address(tmp_path) == "https://github.com/reef/finding"


# ---- the command's last words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (OSError(28, "No space left on device", "/x/y"), "dori-lite: /x/y: No space left on device; make room", 1),
        (OSError(30, "Read-only file system", "/x/y"), "dori-lite: /x/y: Read-only file system; name another place", 1),
        (PermissionError(13, "Permission denied", "/x"), "dori-lite: /x: Permission denied; name another place", 1),
        (FileExistsError(17, "File exists", "/x"), "dori-lite: /x: File exists; a file is in the way", 1),
        (NotADirectoryError(20, "Not a directory", "/x"), "dori-lite: /x: Not a directory; a file is in the way", 1),
        (FileNotFoundError(2, "No such file", "/x", None, "/y"), "dori-lite: /x → /y: No such file", 1),
        (OSError(5, "Input/output error"), "dori-lite: the system: Input/output error", 1),
        (OSError("words of\nour own"), "dori-lite: words of our own", 1),
        (BrokenPipeError(32, "Broken pipe"), "", 1),
        (KeyboardInterrupt(), "", 130),
        (RuntimeError("no\nHOME"), "dori-lite: no HOME", 1),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, said, status):
    def fails(*_):
        raise error

    monkeypatch.setitem(assets.DOWNLOADS, "sscd", ("https://far/x", "x"))
    monkeypatch.setattr(assets, "fetch", fails)
    monkeypatch.setattr(sys, "argv", ["dori-lite", "fetch", "sscd"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    if isinstance(end.value.code, str):  # what Python prints, with status 1
        assert end.value.code.startswith(said) and said and "\n" not in end.value.code and status == 1
    else:
        assert end.value.code == status and not said
    print("still here")
    assert capsys.readouterr().out == "still here\n"


def command(*arguments, **options):
    """`dori-lite` as a process of its own: its status and what it printed as errors."""
    words = [sys.executable, "-m", "dori_lite.cli", *arguments]
    given = {"cwd": ROOT, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True} | options
    done = subprocess.run(words, **given)
    return done.returncode, done.stderr


@posix
def test_an_output_that_is_closed_or_full_leaves_no_traceback():
    read, write = os.pipe()
    os.close(read)
    try:
        assert command("--help", stdout=write) == (1, "")
    finally:
        os.close(write)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            status, said = command("--help", stdout=full)
        assert status == 1 and said == "dori-lite: the system: No space left on device; make room, then run it again\n"


def test_places_of_no_use_are_said_before_anything_is_done(tmp_path, monkeypatch):
    def said(*words):
        monkeypatch.setattr(sys, "argv", ["dori-lite", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert "\n" not in end.value.code
        return end.value.code

    (tmp_path / "taken").write_text("a file")
    for name, value in cli.MALLOC.items():  # else the process is replaced by another one
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.set_flush_denormal", lambda _: None)
    monkeypatch.setattr("dori_lite.reef.train.fit", lambda *_, **__: pytest.fail("trained"))
    for option in ("--out", "--work"):
        free = {"--out": tmp_path / "out", "--work": tmp_path / "work"} | {option: tmp_path / "taken"}
        match = r"dori-lite: nothing can be written to the folder .*taken.* \(a file is in the way\); name another one"
        words = [word for pair in free.items() for word in pair]
        assert re.fullmatch(match, said("train", "autoencoder", "--smoke", *words))
    assert said("unlearn", "magic").startswith("dori-lite: there is no method 'magic'; there are: adversarial, ")
    assert said("unlearn", "--twin", "c").startswith("dori-lite: there is no twin 'c'; there are: a, b")
    assert said("publish", tmp_path / "taken").startswith("dori-lite: no run in ")
    assert said("publish", "").startswith("dori-lite: no run in ")
    assert said("fetch", "").startswith("dori-lite: there is no download called ''; there are: ")
    assert said("set-url", "github.com/a/b").startswith("dori-lite: 'github.com/a/b' is not of the form ")


@posix
def test_an_output_that_fails_at_the_end_is_no_traceback_either():
    """What is printed is kept back until the command is done."""
    code = "import sys; from dori_lite import assets, cli; sys.argv = ['dori-lite', 'fetch', 'sscd']\n"
    code += "assets.fetch = lambda *_: 'a file'\ncli.main()"
    read, write = os.pipe()
    os.close(read)
    try:
        kept_back = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        options = {"cwd": ROOT, "env": kept_back, "stdout": write, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run([sys.executable, "-c", code], **options)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@posix
def test_an_interrupted_command_says_nothing_and_ends_with_130():
    code = "import os, signal, sys; from dori_lite import assets, cli; sys.argv = ['dori-lite', 'fetch', 'sscd']\n"
    code += "assets.fetch = lambda *_: os.kill(os.getpid(), signal.SIGINT)\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


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


EMPTIED = "import venv\nvenv.create = lambda folder, **k: print('EMPTIED', file=sys.stderr)"


def put(machine, what):
    """Something in the place of .venv that is no environment which works here; the file that must stay."""
    place, precious = machine.root / ".venv", machine.root / "elsewhere" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("hours of work")
    if what == "a link to a folder":
        place.symlink_to(precious.parent)
    elif what == "a link to an empty folder":
        (machine.root / "empty").mkdir()
        place.symlink_to(machine.root / "empty")
    elif what == "a link to nothing":
        place.symlink_to(machine.root / "gone")
    elif what == "a file":
        place.write_text("hours of work")
        return place
    elif what == "a folder of other things":
        shutil.move(precious.parent, place)
        return place / "precious.txt"
    elif what == "another's environment whose Python is gone":
        (place / "lib").mkdir(parents=True)
        (place / "pyvenv.cfg").write_text("home = /gone")
        precious = shutil.move(precious, place / "lib" / "package.py")
    else:  # Windows', where both see one folder
        (place / "Scripts").mkdir(parents=True)
        (place / "Scripts" / "python.exe").write_text("")
        (place / "dori-lite-installed").write_text("")
    return Path(precious)


@posix
@pytest.mark.parametrize(
    "what",
    ["a link to a folder", "a link to nothing", "a link to an empty folder", "a file", "a folder of other things",
     "another's environment whose Python is gone", "another system's"],
)  # fmt: skip
def test_nothing_but_an_environment_of_ours_is_emptied(machine, what):
    precious = put(machine, what)
    status, stderr, calls = machine.run("-m", "pytest", before=EMPTIED)
    assert precious.read_text() == "hours of work" and "EMPTIED" not in stderr and not calls
    assert status == 1 and stderr.count("\n") == 1
    assert ".venv is in the way: it is no environment that works here, and making one would empty it; remove" in stderr


@posix
@pytest.mark.parametrize("left", ["nothing", "empty folders", "a configuration", "one of ours without its Python"])
def test_what_was_left_half_made_is_made_again(machine, left):
    place, made = machine.root / ".venv", machine.python("template")
    if left != "nothing":
        (place / "bin").mkdir(parents=True)
    if left == "a configuration":
        (place / "pyvenv.cfg").write_text("home = /usr")
    if left == "one of ours without its Python":
        (place / "bin" / "python").symlink_to("/gone/python3.11")
        (place / "lib.py").write_text("")
        (place / "dori-lite-installed").write_text("of another time")
    fake = "import shutil, venv\ndef make(folder, **k):\n  shutil.rmtree(folder, ignore_errors=True)\n"
    fake += f"  shutil.copytree({made!r}, folder)\nvenv.create = make"
    status, _, calls = machine.run("-m", "pytest", before=fake)
    assert status == 0 and installs(calls) and calls[-1] == "-m pytest"


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
    for target in ("book PROFILE=standard", "test", "test-all", "test-gpu", "verify-models", "bench"):
        subprocess.run(["make", "-s", *target.split(), "PYTHON=./python"], cwd=machine.root, check=True)
    calls = [line.removeprefix("tools/bootstrap.py ") for line in machine.log.read_text().splitlines()]
    assert calls == [
        "-m dori_lite.cli book --profile standard",
        "-m ruff check .",
        "-m ruff format --check .",
        "-m pytest -n 2 --dist loadfile --no-loadscope-reorder -m not slow and not gpu and not hub",
        "-m ruff check .",
        "-m ruff format --check .",
        "-m pytest -n 2 --dist loadfile --no-loadscope-reorder -m not hub",
        "tools/colab_floor.py",
        "-m pytest -m gpu",
        "-m pytest tests/test_book.py tests/test_pages.py tests/test_assignments.py",
        "-m dori_lite.cli verify-models",
        "-m dori_lite.cli bench",
    ]
    assert "make book" in subprocess.run(["make"], cwd=machine.root, capture_output=True, text=True).stdout


def test_times_are_json(root):
    assert build.times(root) == {}
    (root / "_build").mkdir()
    build.note_time(root, "quick", SLUG, 1.5)
    assert json.loads((root / "_build" / "times.json").read_text()) == {"quick": {SLUG: 1.5}}


# ---- the published run beside the reader's ---------------------------------------------------------------


def publish(root):
    """A published run of the chapter, as far as the builder looks."""
    folder = root / "data" / "results" / "reef" / SLUG / "standard"
    folder.mkdir(parents=True)
    record = {"chapter": SLUG, "world": "reef", "profile": {"name": "standard"}, "seed": 0, "verdicts": {}}
    files.write_json(folder / "record.json", record)


def tagged(source, *tags, **metadata):
    return new_code_cell(source, metadata={"tags": list(tags), **metadata})


N = "import os\nn = 8 if os.environ['DORI_SHOW'] == 'published' else 3"
NOT_SHOWN = "assert n == 3, 'run in the published pass'\nprint('of your own')"
DRAWN = """import matplotlib.pyplot as plt
plt.plot(range(n))
print("drawn");"""
EXPLORED = """from PIL import Image
from dori_lite.figures import explorer
frames = {(k,): Image.new("RGB", (8, 8), (k, k, k)) for k in (0, 1)}
explorer.explore(frames, (f"noise of {n}",))"""
ALT = {"mystnb": {"image": {"alt": 'A line that rises: "x" over näive steps, one a step'}}}


def write_figures(root, *more, solution=NOT_SHOWN):
    """A chapter with cells of every tag."""
    cells = [new_markdown_cell("# The first chapter\n\n{math}`x_0` and\n\n```{math}\n\\sqrt{2}\n```")]
    cells += [tagged('profile = "quick"\nseed = 0', "parameters"), tagged(f"{N}\nprint('set up')", "set-up")]
    cells += [tagged("print('asked of', n)", "experiment"), tagged("print('alike')\nprint('same')", "figure")]
    cells += [tagged("print('of these:', n)", "figure"), tagged(DRAWN, "figure", **ALT)]
    cells += [tagged(EXPLORED, "figure"), tagged("n if n > 5 else None", "figure")]
    cells += [tagged(NOT_SHOWN, "figure", "live"), tagged(NOT_SHOWN, "exercise"), *more]
    cells += [tagged(solution, "solution", "hide-cell"), tagged("print('the idea of', n)", "idea")]
    path = root / "book" / "chapters" / f"{SLUG}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_chapter_without_a_published_run_is_run_once(root):
    chapter = write_figures(root)
    assert build.show(chapter, root=root) is None and not (root / "_build").exists()


def test_the_published_pass_leaves_out_what_is_the_reader_s_and_runs_again_only_when_it_must(root, capsys, monkeypatch):
    monkeypatch.setenv("DORI_SHOW", "published")  # the reader's own run is that, whatever is set outside
    monkeypatch.setenv("DORI_ANEW", "1")
    publish(root)
    chapter, before = write_figures(root), everything(root / "data")
    assert "of these: 3" in printed(build.execute(chapter, root=root))
    done = build.show(chapter, root=root)
    assert done == root / "_build" / "executed" / "published" / f"{SLUG}.ipynb" and everything(root / "data") == before
    said = printed(done)
    assert "asked of 8" in said and "of these: 8" in said and "the idea of 8" in said and "of your own" not in said
    assert [*build.times(root)["published"]] == [SLUG]
    assert re.search(rf"(?m)^{SLUG}, published run: \d+ s$", capsys.readouterr().out)

    write_figures(root, solution="print('another')")  # not of this pass
    build.show(chapter, root=root)
    assert capsys.readouterr().out.startswith(f"{SLUG}, published run: unchanged, not run again")
    write_figures(root, tagged("print('one more', os.environ['DORI_ANEW'])", "idea"))
    assert "one more 0" in printed(build.show(chapter, force=True, root=root))


def test_a_cell_that_fails_in_the_published_pass_is_one_line(root, one_line):
    publish(root)
    chapter = write_figures(root, tagged("assert n == 3, 'no such\\nrows'", "figure"))
    build.execute(chapter, root=root)
    one_line(RuntimeError, f"^{SLUG}, published run: AssertionError: no such rows, in", build.show, chapter, root=root)
    match = f"{SLUG} has not been run on its published run; run `dori-lite book`$"
    one_line(FileNotFoundError, match, build.site, root=root)


@pytest.mark.parametrize(("only", "world", "passes"), [(None, "reef", 1), ("01", "reef", 0), (None, "reef-first", 0)])
def test_only_a_site_needs_the_published_pass(root, monkeypatch, only, world, passes):
    calls = []
    monkeypatch.setattr(build, "checkout", lambda: root)
    monkeypatch.setattr(build, "asks_where", lambda chapter: True)
    monkeypatch.setattr(build, "execute", lambda path, *rest: path)
    monkeypatch.setattr(build, "show", lambda path, *rest: calls.append((path.stem, *rest)))
    monkeypatch.setattr(build, "site", lambda *rest: root / "index.html")
    build.build(only=only, world=world, force=True)
    assert calls == [(SLUG, True, root)] * passes


def test_the_site_shows_the_published_run_beside_the_reader_s(root):
    publish(root)
    chapter = write_figures(root)
    build.execute(chapter, root=root)
    build.show(chapter, root=root)
    site = build.site("quick", root).parent
    text = (site / "chapters" / f"{SLUG}.html").read_text()
    assert not page_problems(text) and "github.com" not in text  # no address, no button
    assert text.count('class="sd-tab-set') == 4, "a figure of two outputs has tabs, and no other cell"
    assert text.count(">\npublished</label>") == text.count(">\nyour run (quick)</label>") == 4
    assert len(re.findall(r'<input checked="checked"[^>]*>\s*<label[^>]*data-sync-id="version-0"', text)) == 4
    assert text.count('data-sync-group="runs"') == 8
    for once in ("alike", "of these: 8", "of these: 3", "This run shows nothing here."):
        assert text.count(once) == 1 + (once == "alike"), once  # its code too
    assert text.count("of your own") == 6  # code and output of three cells that are not shown side by side
    assert text.count("the idea of 3") == 1 and "the idea of 8" not in text
    drawn = re.findall(
        r'<img alt="A line that rises: &quot;x&quot; over näive steps, one a step"[^>]*src="([^"]*)"', text
    )
    first, second = ((site / "chapters" / name).resolve().read_bytes() for name in drawn)
    assert first != second and first.startswith(b"\x89PNG")
    ids = re.findall(r"id='(explorer-[^']*)'", text)
    assert len({*ids}) == 2 and all(text.count(f'getElementById("{each}")') == 1 for each in ids)
    folded = re.findall(r'(?s)<details class="[^"]*\bhide\b[^"]*">(.*?)</details>', text)
    assert len(folded) == 3 and "set up" in folded[1] and "of your own" in folded[2]  # set-up twice, and a solution
    assert len(re.findall(r'class="[^"]*\bsearch-button-field\b', text)) == 1
    mathjax = site / "_static" / "mathjax"
    assert 'src="../_static/mathjax/MathJax.js' in text and (mathjax / "MathJax.js").exists()
    for part in ("jax/output/HTML-CSS/fonts/STIX-Web/fontdata.js", "config/TeX-AMS-MML_HTMLorMML-full.js", "LICENSE"):
        assert (mathjax / part).exists(), part
    assert any((mathjax / "fonts" / "HTML-CSS" / "STIX-Web" / "woff").iterdir())
    assert "window.MathJax =" not in text, "there are settings for MathJax 3"


def outputs(*given):
    return new_code_cell("x", outputs=list(given))


def test_what_a_page_shows_of_an_output():
    display = {"text/plain": "<Figure>", "image/png": "AAAA", "text/html": "<b>x</b>\n"}
    first, second = new_output("stream", text="a\n"), new_output("stream", text="b\n")
    rich = new_output("display_data", display)
    assert contents(outputs(first, second, rich)) == [("text/plain", "a\nb"), ("text/html", "<b>x</b>")]
    for kind in ("text/html", "image/png", "text/plain"):
        assert contents(outputs(new_output("display_data", display)))[0][0] == kind
        display.pop(kind)
    assert contents(outputs(new_output("display_data", {"text/latex": "x"}))) == contents(outputs()) == []


def test_fences_are_longer_than_what_they_hold(tmp_path):
    assert block("text/plain", "a\n```\nb", {}, "") == "````text\na\n```\nb\n````"
    assert fenced(":", "{note}", "a ::: b") == ":::{note}\n\na ::: b\n\n:::"
    inside = ":::::{note}\nx\n:::::"
    text = tabs({"one": [("text/markdown", inside)], "two": []}, {}, tmp_path / "x")
    fences = [line.strip() for line in text.splitlines() if line.startswith(":::")]
    assert [len(line) - len(line.lstrip(":")) for line in fences] == [7, 6, 5, 5, 6, 3, 3, 7]
    assert text.count(":selected:") == 1 and text.index(":selected:") < text.index(inside) < text.index("} two")


@pytest.mark.parametrize("tag", ["hide-cell", "hide-output", "remove-output", "live", "solution", None])
def test_a_hidden_output_stays_hidden(tmp_path, tag):
    def notebook(text):
        cell = tagged("x", "figure", *([tag] if tag else []))
        cell.outputs = [new_output("stream", text=text)]
        return new_notebook(cells=[cell])

    found = side_by_side(notebook("a"), notebook("b"), "quick", tmp_path / "x.ipynb").cells
    assert len(found) == (1 if tag else 2) and bool(found[0].outputs) == bool(tag)


def test_buttons_wait_for_an_address(root):
    (root / "_build").mkdir()
    without = configured(root).read_text()
    assert "YOUR_ACCOUNT" not in without and "colab" not in without and "use_issues_button: false" in without
    give_address(root)
    given = configured(root).read_text()
    assert "reef/finding" in given and "colab" in given and "use_issues_button: true" in given
    assert "mathjax_path" in without and "mathjax_path" in given


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<p>a {math}`x`</p>", "{math} is shown"),
        ("<p>a {math} b</p>", "{math} is shown"),
        ("<p>one `two</p>", "a back-tick"),
        ("<a href='https://github.com/YOUR_ACCOUNT/x'>x</a>", "the placeholder"),
        ("<pre>git clone github.com/YOUR_ACCOUNT/x</pre>", "the placeholder"),
        ("<script src='https://cdn.org/x.js'></script>", "a script from elsewhere"),
        ("<link href='//cdn.org/x.css' rel='stylesheet'>", "a link from elsewhere"),
        ("<img src='http://cdn.org/x.png'>", "a img from elsewhere"),
    ],
)
def test_the_check_of_built_pages_bites(text, problem):
    found = page_problems(text)
    assert found and problem in found[0]


def test_a_cell_that_clones_stays_out_of_pages_until_there_is_an_address():
    clone = "!git clone https://github.com/YOUR_ACCOUNT/dori-lite"
    notebook = new_notebook(cells=[new_code_cell(source, metadata={"tags": ["set-up"]}) for source in (clone, "x = 1")])
    assert [cell.metadata["tags"] for cell in fold(notebook).cells] == [
        ["set-up", "remove-cell"],
        ["set-up", "hide-cell"],
    ]
    notebook.cells[0].source = clone.replace("YOUR_ACCOUNT", "reef")
    notebook.cells[0].metadata["tags"] = ["set-up"]
    assert fold(notebook).cells[0].metadata["tags"] == ["set-up", "hide-cell"]


def test_the_check_of_built_pages_lets_code_and_links_pass():
    assert not page_problems(
        "<p><a href='https://arxiv.org/x'>x</a> <code>`a`</code></p><pre>git clone github.com/reef/x `x`</pre>"
        "<script src='../_static/x.js'>`{math}`</script>"
    )


# ---- tools/colab.py --------------------------------------------------------------------------------------


@pytest.fixture
def colab(monkeypatch):
    spec = importlib.util.spec_from_file_location("colab", ROOT / "tools" / "colab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_colab_installs_what_is_missing_into_this_python(colab, monkeypatch):
    calls = []
    monkeypatch.setattr(colab, "MISSING", ("torchmetrics", "no_such_package"))
    monkeypatch.setattr(colab.subprocess, "call", lambda command: calls.append(command) or 0)
    for _ in range(2):  # a cell may be run twice
        colab.main()
    assert calls == [[sys.executable, "-m", "pip", "install", "-q", "--no-deps", str(ROOT), "no_such_package"]] * 2
    monkeypatch.setattr(colab.subprocess, "call", lambda command: 1)
    with pytest.raises(SystemExit, match="^dori-lite: the installation did not finish .*: run this cell again$"):
        colab.main()


def test_colab_says_what_to_click_where_something_is_too_old(colab, monkeypatch):
    assert not colab.too_old(ROOT)
    known = {"diffusers": "0.35.2", "torch": "2.11.0+cu128"}
    monkeypatch.setattr(colab.metadata, "version", lambda name: known.get(name, "99.0"))
    monkeypatch.setattr(colab.subprocess, "call", lambda command: pytest.fail("installed"))
    match = "^dori-lite: diffusers is 0.35.2, and 0.39 is needed: in Colab, click Runtime > Change runtime type"
    with pytest.raises(SystemExit, match=match):
        colab.main()


GIT = """#!/bin/sh
[ -e "$HOME/unreachable" ] && exit 128
for place; do :; done
mkdir -p dori-lite/tools && echo new > dori-lite/tools/colab.py
"""


def test_the_set_up_cell_runs_in_a_new_folder_again_and_after_a_crash(tmp_path):
    """Its lines for the shell, with a `git` of our own."""
    cells = nbformat.read(ROOT / "book" / "chapters" / "00_diffusion_in_one_reef.ipynb", 4).cells
    source = next(cell.source for cell in cells if "set-up" in cell.metadata.get("tags", []))
    lines = [line.strip()[1:] for line in source.splitlines() if line.strip().startswith("!")]
    (tmp_path / "git").write_text(GIT)
    (tmp_path / "git").chmod(0o755)
    (work := tmp_path / "work").mkdir()
    place = work / "dori-lite" / "tools" / "colab.py"

    def run():
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
        shell = [subprocess.run(["sh", "-c", line], cwd=work, env=environment, capture_output=True) for line in lines]
        return b"".join(done.stdout for done in shell).decode()

    assert not run() and place.read_text() == "new\n"
    place.write_text("here already\n")
    assert not run() and place.read_text() == "here already\n"
    place.unlink()  # a clone that was broken off
    assert not run() and place.read_text() == "new\n"
    shutil.rmtree(work / "dori-lite")
    (tmp_path / "unreachable").touch()
    assert run() == "GitHub is out of reach: run this cell again later\n"
