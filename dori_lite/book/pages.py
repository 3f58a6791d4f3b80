"""The book's pages: which there are, and the key under which a chapter was run.

    for chapter in chapters():
        print(chapter.stem, key(chapter, "quick", 0))

A chapter is run once for its reader (`profile`), and once more to show its published run (`PUBLISHED`): the same
notebook without the cells that a reader works on.
"""

import hashlib
import json
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

import nbformat
import yaml

from .. import assets, files, locks
from .profiles import TINY

WORLD = "reef"  # the book's
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "matplotlib")  # whose version decides about a rerun
PUBLISHED = "published"  # stands for a profile where the published run is shown
OWN = {"solution", "exercise", "live"}  # tags of cells that are about the reader's run alone


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
    """The chapters among the pages: notebooks that are run. Raises FileNotFoundError for a page that does not exist."""
    book = Path(root or checkout()).resolve() / "book"
    for page in pages(book.parent):
        if not any((book / f"{page}{suffix}").exists() for suffix in (".ipynb", ".md")):
            raise FileNotFoundError(f"book/_toc.yml names {page}, which does not exist")
    found = [book / f"{page}.ipynb" for page in pages(book.parent) if page.startswith("chapters/")]
    return [path for path in found if path.exists()]


def alone(root: Path):
    """The builder to itself for the length of a body. Raises RuntimeError while another process builds here."""
    return locks.held(root / "_build" / "lock", f"the book in {root} is being built")


def find(slug: str, root=None) -> Path:
    """The chapter called `slug`, or the one whose number it is. Raises ValueError when there is none."""
    known = chapters(root)
    number = slug.zfill(2) if isinstance(slug, str) and slug.isdecimal() else slug
    found = [path for path in known if slug == path.stem or number == path.stem.split("_")[0]]
    if len(found) != 1:
        raise ValueError(f"no chapter called {slug!r}; there are: {', '.join(path.stem for path in known)}")
    return found[0]


def code_cells(notebook, profile: str = "quick") -> list:
    """The code cells that are run in a profile: where the published run is shown, not those that are `OWN`."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if profile != PUBLISHED or not OWN & {*cell.metadata.get("tags", [])}]


def key(chapter, profile: str, seed: int, world: str = WORLD) -> str:
    """A hash over everything that decides what running `chapter` gives. Raises FileNotFoundError without data."""
    data = assets.data_folder()
    versions = [platform.python_version(), *map(metadata.version, LIBRARIES)]
    code = [cell.source for cell in code_cells(nbformat.read(chapter, 4), profile)]
    tiny = profile == "quick" and os.environ.get(TINY) == "1"
    about = [profile, seed, world, versions, code, assets.manifest(data / "reef"), tiny]
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


def asks_where(chapter) -> bool:
    """Whether a chapter has the parameter `where`, a world's name."""
    cells = code_cells(nbformat.read(chapter, 4))
    return any(re.search(r"^where = ", c.source, re.M) for c in cells if "parameters" in c.metadata.get("tags", []))
