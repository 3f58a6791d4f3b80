"""Pages that need no other chapter's rows, run in a place of their own beside test_book.py, which takes them over.

They are those of the published runs, and of the chapters that claim nothing.
"""

import os
import shutil

import pytest
from built_pages import check_outputs

from dori_lite import assets, files, runs
from dori_lite.book import build
from dori_lite.book.publish import published

SHOWN = [path for path in build.chapters() if published(path.stem, world="reef")]
ALONE = [path for path in build.chapters() if path not in SHOWN]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the book: one process builds in one place."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(build.checkout() / "book", folder / "book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORI_RUNS", str(folder / "runs"))
        patch.setenv("DORI_TINY", os.environ.get("DORI_TEST_TINY", "0"))  # as test_book.py
        yield folder


def take_over(page, size: str) -> None:
    """Put a finished page where the site takes it from."""
    place = files.check_writable(build.checkout() / "_build" / "executed" / size)
    with files.whole(place / page.name) as unfinished:
        shutil.copyfile(page, unfinished)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem[:2])
def test_the_page_of_a_published_run(path, root):
    page = build.show(root / path.relative_to(build.checkout()), force=True, root=root)
    check_outputs(page, 3)
    take_over(page, "published")


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem[:2])
def test_a_chapter_that_claims_nothing(path, root):
    assert path.stem[:2] in ("00", "10")
    page = build.execute(root / path.relative_to(build.checkout()), "quick", 0, force=True, root=root)
    check_outputs(page, 5)
    record = (run := runs.open_existing(runs.runs_folder() / "reef" / path.stem / "quick-0")).read_record()
    assert record["profile"]["name"] == "quick" and record["seed"] == 0 and not record["verdicts"]
    assert record["models"] == assets.model_hashes(assets.data_folder() / "reef")
    if path.stem.startswith("10"):
        asked = 2 * 2 + 2 + 2  # two pictures and a control in two models each, one and the control in the unlearned
        found = {"asked": asked, "attack": 2 * (3 + 2 + 2) + 2 * 3 + 3 + 2, "trigger": 2 * 2, "apart": 2 * 2 * 24}
        assert {kind: len(run.rows(kind)) for kind in run.kinds()} == found | {"agree": 2 * 2}
    take_over(page, "quick")
