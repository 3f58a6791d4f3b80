"""The pages of the published runs, executed while test_book.py runs the chapters; its site takes what is finished."""

import shutil

import nbformat
import pytest

from dori_lite import files
from dori_lite.book import build
from dori_lite.book.publish import published

PAGES = build.checkout() / "_build" / "executed" / "published"
SHOWN = [path for path in build.chapters() if published(path.stem, world="reef")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the book in a place of its own, as only one process builds in one place."""
    shutil.copytree(build.checkout() / "book", (folder := tmp_path_factory.mktemp("checkout")) / "book")
    return folder


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem[:2])
def test_a_published_page_shows_its_figures_without_error_or_noise(path, root):
    page = build.show(root / path.relative_to(build.checkout()), force=True, root=root)
    outputs = [output for cell in nbformat.read(page, 4).cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    PAGES.mkdir(parents=True, exist_ok=True)
    with files.whole(PAGES / page.name) as unfinished:
        shutil.copyfile(page, unfinished)
