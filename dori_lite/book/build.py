"""Run the chapters and build the site.

    build(profile="quick")  # what `dori-lite book` does

The site shows the chapters as they are written now, with the outputs of their last run by papermill. A chapter
is run again only when its code, the package, the data, the profile or the seed have changed: that is a page's key.
What a page shows comes from rows, which have a key of their own (`stamps`): a page that is run again goes on from the
rows there are, unless `force` makes them anew.

    _build/stage/                a copy of book/: chapters run in it, the site is built from it
    _build/executed/<profile>/   executed copies, each whole and with the key it was run under; of another world than
                                 the book's in <world>-<profile>/, which no site shows
    _build/html/                 the site
    _build/times.json            {profile: {slug: seconds}}, of another world {<world>-<profile>: …}
    _build/lock                  one build at a time: a second one is refused while the first is at work
"""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import nbformat
import yaml

from .. import assets, files, locks
from ..ranges import check_seed
from . import profiles
from .chapter import ANEW, check_world
from .kernel import environment, run

# A page has no kernel: widgets, progress bars among them, would be dead there and load scripts from elsewhere.
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
WORLD = "reef"  # the book's
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "matplotlib")  # whose version decides about a rerun


def checkout() -> Path:
    """The folder that holds `book/`: the one around the package, else the current one.

    Raises FileNotFoundError when neither does: an installed package has no book.
    """
    for folder in (assets.PACKAGE.parent, Path.cwd()):
        if (folder / "book" / "_toc.yml").exists():
            return folder.resolve()
    raise FileNotFoundError("there is no book/ here; clone the repository and run this in it")


def pages(root=None) -> list[str]:
    """The pages of `_toc.yml` in order, as paths below `book/` without suffix."""
    toc = yaml.safe_load((Path(root or checkout()) / "book" / "_toc.yml").read_text(encoding="utf-8"))

    def below(entry):
        found = [entry["file"]] if "file" in entry else []
        for child in entry.get("parts", []) + entry.get("chapters", []) + entry.get("sections", []):
            found += below(child)
        return found

    return [toc["root"], *below(toc)]


def chapters(root=None) -> list[Path]:
    """The notebooks among the pages. Raises FileNotFoundError for a page that does not exist."""
    book = Path(root or checkout()).resolve() / "book"
    for page in pages(book.parent):
        if not any((book / f"{page}{suffix}").exists() for suffix in (".ipynb", ".md")):
            raise FileNotFoundError(f"book/_toc.yml names {page}, which does not exist")
    return [path for page in pages(book.parent) if (path := book / f"{page}.ipynb").exists()]


def alone(root: Path):
    """The builder to itself for the length of a body. Raises RuntimeError while another process builds here."""
    return locks.held(root / "_build" / "lock", f"the book in {root} is being built")


def find(slug: str, root=None) -> Path:
    """The chapter called `slug`, or the one whose number it is. Raises ValueError when there is none."""
    known = chapters(root)
    found = [path for path in known if path.stem == slug or path.stem.split("_")[0] == slug]
    if len(found) != 1:
        raise ValueError(f"no chapter called {slug!r}; there are: {', '.join(path.stem for path in known)}")
    return found[0]


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def key(chapter, profile: str, seed: int, world: str = WORLD) -> str:
    """A hash over everything that decides what running `chapter` gives. Raises FileNotFoundError without data."""
    data = assets.data_folder()
    versions = [platform.python_version(), *map(metadata.version, LIBRARIES)]
    code = [cell.source for cell in code_cells(nbformat.read(chapter, 4))]
    about = [profile, seed, world, versions, code, assets.manifest(data / "reef")]
    digest = hashlib.sha256(json.dumps(about).encode())
    parts = ((assets.PACKAGE, "*.py"), (assets.PACKAGE, "*.toml"), (data, "manifest.json"), (data / "results", "*"))
    for folder, pattern in parts:
        for file in sorted(path for path in folder.rglob(pattern) if path.is_file()):
            digest.update(f"{file.relative_to(folder).as_posix()} {files.sha256(file)}\n".encode())
    return digest.hexdigest()


def stage(root: Path) -> Path:
    """Replace `_build/stage/` by a fresh copy of `book/`."""
    staged = root / "_build" / "stage"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(root / "book", staged, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return staged


def last_run(path: Path) -> dict:
    """Key, seed and seconds of an executed copy; empty when there is none."""
    return nbformat.read(path, 4).metadata.get("dori_lite", {}) if path.exists() else {}


def execute(chapter, profile: str = "quick", seed: int = 0, force: bool = False, root=None, world: str = WORLD) -> Path:
    """Run one of `chapters()` unless nothing it depends on has changed; the path of its executed copy.

    With `force` its rows are made anew as well. `world` is a world's name, for chapters with the parameter `where`.
    Raises ValueError for an unknown profile, world or parameter, or a bad seed, FileNotFoundError without data,
    RuntimeError when a cell fails, the machine lacks what the profile needs, or another process builds here.
    """
    check_world(world)
    profiles.load(profile)
    check_seed(seed)
    root, chapter = Path(root or checkout()).resolve(), Path(chapter).resolve()
    with alone(root):
        return execute_alone(chapter, profile, seed, force, root, world)


def execute_alone(chapter: Path, profile: str, seed: int, force: bool, root: Path, world: str = WORLD) -> Path:
    size = profile if world == WORLD else f"{world}-{profile}"
    done = root / "_build" / "executed" / size / chapter.name
    wanted = key(chapter, profile, seed, world)
    if not force and (note := last_run(done)).get("key") == wanted:
        print(f"{chapter.stem}: unchanged, not run again (it took {note['seconds']:.0f} s)")
        return done
    staged = stage(root) / chapter.relative_to(root / "book")
    notebook = nbformat.read(staged, 4)
    notebook.metadata.update(kernelspec=KERNELSPEC, language_info={"name": "python"})  # Colab stores others
    nbformat.write(notebook, staged)
    done.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    settings = {"TQDM_DISABLE": "1", "DORI_BUILD": "1", "HF_HUB_OFFLINE": "1", ANEW: str(int(force))}
    with environment(**settings):
        given = {"profile": profile, "seed": seed} | ({"where": world} if asks_where(chapter) else {})
        notebook = run(staged, done.with_suffix(".partial.ipynb"), given)
    seconds = round(time.monotonic() - began, 1)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    notebook.metadata["dori_lite"] = {"key": wanted, "seed": seed, "seconds": seconds}
    with files.whole(done) as partial:
        nbformat.write(notebook, partial)
    done.with_suffix(".partial.ipynb").unlink(missing_ok=True)
    note_time(root, size, chapter.stem, seconds)
    print(f"{chapter.stem}: {seconds:.0f} s")
    return done


def times(root=None) -> dict:
    """How long each chapter took when it was last run: {profile: {slug: seconds}}."""
    return files.read_json(Path(root or checkout()) / "_build" / "times.json", {})


def note_time(root: Path, profile: str, slug: str, seconds: float) -> None:
    known = times(root)
    known.setdefault(profile, {})[slug] = seconds
    files.write_json(root / "_build" / "times.json", known)


def with_outputs(chapter: Path, executed: Path, profile: str):
    """The chapter as it is written now with the outputs of its executed copy.

    Raises FileNotFoundError when it was never run with this profile, ValueError when it has changed since.
    """
    cure = f"run `dori-lite book --profile {profile}`"
    if not executed.exists():
        raise FileNotFoundError(f"{chapter.stem} has not been run with profile {profile}; {cure}")
    done = nbformat.read(executed, 4)
    note = done.metadata.pop("dori_lite")
    if note["key"] != key(chapter, profile, note["seed"]):
        raise ValueError(f"{chapter.stem}: its code, the package or the data have changed since it was run; {cure}")
    notebook = nbformat.read(chapter, 4)
    notebook.metadata.update({k: v for k, v in done.metadata.items() if k not in ("papermill", "widgets")})
    for cell, its_run in zip(code_cells(notebook), code_cells(done), strict=True):
        cell.outputs = [output for output in its_run.outputs if WIDGET not in output.get("data", {})]
        cell.execution_count = its_run.execution_count
    return notebook


def site(profile: str = "quick", root=None) -> Path:
    """Build the site from the executed copies; the path of its first page.

    Raises FileNotFoundError or ValueError when a chapter has no current copy, RuntimeError when a page gives
    a warning or is missing, or another process builds here. Then there is no site.
    """
    root = Path(root or checkout()).resolve()
    with alone(root):
        return site_alone(profile, root)


def site_alone(profile: str, root: Path) -> Path:
    build, staged = root / "_build", stage(root)
    for old in (".doctrees", "html"):  # with old doctrees Sphinx does not repeat their warnings
        shutil.rmtree(build / old, ignore_errors=True)
    for chapter in chapters(root):
        notebook = with_outputs(chapter, build / "executed" / profile / chapter.name, profile)
        nbformat.write(notebook, staged / chapter.relative_to(root / "book"))
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", staged]
    command += ["--config", root / "_config.yml", "--path-output", root, "-W", "--keep-going"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    log = build / "site.log"
    log.write_text(done.stdout, encoding="utf-8")
    missing = [page for page in [*pages(root), "index"] if not (build / "html" / f"{page}.html").exists()]
    if done.returncode or missing:
        shutil.rmtree(build / "html", ignore_errors=True)
        problems = [line.strip() for line in done.stdout.splitlines() if re.search("WARNING|ERROR|Error", line)]
        reason = (problems or [f"pages are missing: {', '.join(missing)}" if missing else "jupyter-book failed"])[0]
        raise RuntimeError(f"the site was not built: {reason} (all messages are in {log})")
    return build / "html" / "index.html"


def build(
    profile: str = "quick", seed: int = 0, force: bool = False, only: str | None = None, world: str = WORLD
) -> None:
    """`dori-lite book`: run the chapters and build the site, or run the one chapter `only` and no site.

    Of another world than the book's, the chapters that ask for one are run, and no site is built.
    """
    profiles.load(profile)
    check_seed(seed)
    root = checkout()
    wanted = [chapter for chapter in chapters(root) if world == WORLD or asks_where(chapter)]
    wanted = wanted if only is None else [find(only, root)]
    with alone(root):
        done = [execute(chapter, profile, seed, force, root, world) for chapter in wanted]
        print(f"Open {site(profile, root).as_uri() if only is None and world == WORLD else done[-1]}")


def asks_where(chapter) -> bool:
    """Whether a chapter has the parameter `where`, a world's name."""
    cells = code_cells(nbformat.read(chapter, 4))
    return any(re.search(r"^where = ", c.source, re.M) for c in cells if "parameters" in c.metadata.get("tags", []))
