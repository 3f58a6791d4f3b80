"""Run the chapters and build the site.

    build(profile="quick")  # what `dori-lite book` does

Each chapter is run by papermill, once with the reader's profile and, if it has a published run, once more on that:
the site shows both (`site`). A chapter is run again only when its code, the package, the data, the profile or the seed
have changed: that is a page's key. What a page shows comes from rows, which have a key of their own (`stamps`): a page
that is run again goes on from the rows there are, unless `force` makes them anew.

    _build/stage/                a copy of book/: chapters run in it, the site is built from it
    _build/executed/<profile>/   executed copies, each whole and with the key it was run under; of another world than
                                 the book's in <world>-<profile>/, which no site shows
    _build/executed/published/   the same on the published runs, of any profile's site; nothing is computed for them
    _build/config.yml            _config.yml as the site is built with it
    _build/html/                 the site; in _static/mathjax/ what sets its formulas
    _build/times.json            {profile: {slug: seconds}}, of another world {<world>-<profile>: …}
    _build/lock                  one build at a time: a second one is refused while the first is at work
"""

import time
from pathlib import Path

import nbformat

from .. import files
from ..ranges import check_count, check_seed
from . import profiles
from .chapter import ANEW, SHOW, check_world
from .kernel import environment, helpers, run
from .pages import (
    PUBLISHED,
    WORLD,
    alone,
    asks_where,
    chapters,
    checkout,
    code_cells,
    find,
    key,
    last_run,
    pages,
    stage,
)
from .publish import published
from .site import site, with_outputs

__all__ = ["chapters", "checkout", "find", "key", "pages", "site", "with_outputs", "execute", "show", "build"]
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(
    chapter, profile: str = "quick", seed: int = 0, force: bool = False, root=None, world: str = WORLD, processes=1
) -> Path:
    """Run one of `chapters()` unless nothing it depends on has changed; the path of its executed copy.

    With `force` its rows are made anew as well. `world` is a world's name, for chapters with the parameter `where`.
    Several `processes` share its rows. Raises ValueError for an unknown profile, world or parameter, a bad seed, or
    several processes and `force`, FileNotFoundError without data, RuntimeError when a cell fails, the machine lacks
    what the profile needs, or another process builds here.
    """
    check(profile, seed, force, world, processes)
    root, chapter = Path(root or checkout()).resolve(), Path(chapter).resolve()
    with alone(root):
        return execute_alone(chapter, profile, seed, force, root, world, processes)


def check(profile: str, seed: int, force: bool, world: str, processes: int) -> None:
    check_world(world)
    profiles.load(profile)
    check_seed(seed)
    if check_count("processes", processes) > 1 and force:
        raise ValueError("one process has to begin rows anew: leave out either --force or --processes")


def show(chapter, force: bool = False, root=None) -> Path | None:
    """Run one of `chapters()` on its published run, without the cells that are `pages.OWN`; None where it has none.

    Nothing is computed that makes rows, and nothing is kept. Unchanged, it is not run again. Raises as `execute`.
    """
    root, chapter = Path(root or checkout()).resolve(), Path(chapter).resolve()
    if published(chapter.stem, world=WORLD) is None:
        return None
    with alone(root):
        return execute_alone(chapter, PUBLISHED, 0, force, root)


def execute_alone(
    chapter: Path, profile: str, seed: int, force: bool, root: Path, world: str = WORLD, processes: int = 1
) -> Path:
    size = profile if world == WORLD else f"{world}-{profile}"
    called = f"{chapter.stem}, published run" if profile == PUBLISHED else chapter.stem
    done = root / "_build" / "executed" / size / chapter.name
    wanted = key(chapter, profile, seed, world)
    if not force and (note := last_run(done)).get("key") == wanted:
        print(f"{called}: unchanged, not run again (it took {note['seconds']:.0f} s)")
        return done
    staged = stage(root) / chapter.relative_to(root / "book")
    notebook = nbformat.read(staged, 4)
    runs = code_cells(notebook, profile)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "code" or cell in runs]
    notebook.metadata.update(kernelspec=KERNELSPEC, language_info={"name": "python"})  # Colab stores others
    nbformat.write(notebook, staged)
    done.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    anew, shown = force and profile != PUBLISHED, PUBLISHED if profile == PUBLISHED else ""
    settings = {"TQDM_DISABLE": "1", "DORI_BUILD": "1", ANEW: str(int(anew)), SHOW: shown}
    settings |= {"HF_HUB_OFFLINE": "1"} if world.startswith(WORLD) else {}  # the reef is shipped
    with environment(**settings):
        given = {"profile": profile if profile != PUBLISHED else "quick", "seed": seed}
        given |= {"where": world} if asks_where(chapter) else {}
        partial = done.with_suffix(".partial.ipynb")
        with helpers(processes - 1, staged, partial, given):
            notebook = run(staged, partial, given, called)
    seconds = round(time.monotonic() - began, 1)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    notebook.metadata["dori_lite"] = {"key": wanted, "seed": seed, "seconds": seconds}
    with files.whole(done) as whole:
        nbformat.write(notebook, whole)
    partial.unlink(missing_ok=True)
    note_time(root, size, chapter.stem, seconds)
    print(f"{called}: {seconds:.0f} s")
    return done


def times(root=None) -> dict:
    """How long each chapter took when it was last run: {profile: {slug: seconds}}."""
    return files.read_json(Path(root or checkout()) / "_build" / "times.json", {})


def note_time(root: Path, profile: str, slug: str, seconds: float) -> None:
    known = times(root)
    known.setdefault(profile, {})[slug] = seconds
    files.write_json(root / "_build" / "times.json", known)


def build(
    profile: str = "quick",
    seed: int = 0,
    force: bool = False,
    only: str | None = None,
    world: str = WORLD,
    processes: int = 1,
) -> None:
    """`dori-lite book`: run the chapters and build the site, or run the one chapter `only` and no site.

    For the site, chapters are run on their published runs as well. Of another world than the book's, the chapters that
    ask for one are run, and no site is built.
    """
    check(profile, seed, force, world, processes)
    root = checkout()
    wanted = [chapter for chapter in chapters(root) if world == WORLD or asks_where(chapter)]
    wanted = wanted if only is None else [find(only, root)]
    with alone(root):
        done = [execute(chapter, profile, seed, force, root, world, processes) for chapter in wanted]
        if only is None and world == WORLD:
            for chapter in wanted:
                show(chapter, force, root)
            print(f"Open {site(profile, root).as_uri()}")
        else:
            print(f"Open {done[-1]}")
