"""Every chapter that claims something is run once in `quick`, and the site is built from the same outputs."""

import os
import re

import pytest
from built_pages import check_outputs, page_problems

from dori_lite import assets, cli, runs
from dori_lite.book import build, chapter
from dori_lite.files import plain
from dori_lite.reef import plan

SITE_TITLE = "A model that remembers"
CLAIMS = {
    "01": 3,
    "02": 5,
    "03": 10,
    "04": 8,
    "05": 4,
    "06": 9,
    "07": 6,
    "08": 10,
    "09": 4,
}  # how many verdicts a chapter's record holds


@pytest.fixture(scope="module")
def executed(tmp_path_factory, builder):
    """The chapters in `CLAIMS`, run anew, without cached pages or earlier rows: {slug: (page, its run)}"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORI_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("DORI_TINY", os.environ.get("DORI_TEST_TINY", "0"))  # `make test`; other tests have whole counts
        found = {}
        for path in [path for path in build.chapters() if path.stem[:2] in CLAIMS]:
            page = build.execute(path, "quick", 0, force=True)
            found[path.stem] = page, runs.open_existing(runs.runs_folder() / "reef" / path.stem / "quick-0")
        yield found


def test_every_chapter_leaves_a_record_of_the_profile_it_was_asked_for(executed):
    assert executed
    for _, run in executed.values():
        record = run.read_record()
        assert record["profile"]["name"] == "quick" and record["seed"] == 0 and record["world"] == "reef"
        assert record["models"] == assets.model_hashes(assets.data_folder() / "reef")


def test_verdicts_follow_from_the_rows(executed):
    """Computed again from what is on disk; that the effects themselves are right is tests/test_effects.py's."""
    for slug, (_, run) in executed.items():
        stored = run.read_record()["verdicts"]
        assert len(stored) == CLAIMS[slug[:2]]
        assert plain(chapter.verdicts(run, *stored)) == stored


def test_rows_are_complete_and_of_one_kind_each(executed):
    run = {slug[:2]: run for slug, (_, run) in executed.items()}
    canaries, attacked = run["01"].profile["canaries"], 2 * run["01"].profile["attacked"]
    assert len(run["01"].rows("picture")) == 3 * 2 * canaries
    graded = run["02"].rows("picture").query("role == 'graded'")
    assert graded.groupby("exposures").size().to_dict() == dict.fromkeys(plan.GRADES, 4)
    assert run["01"].rows("name").groupby("caption").size().to_dict() == {
        "siblings": 6 * canaries,
        "no name": 2 * canaries,
    }
    for kind, by in (("detection", ["twin", "model"]), ("ordinary", ["twin"])):
        assert set(run["02"].rows(kind).groupby(by).size()) == {16}
    table = run["03"].rows("condition")
    assert len(table) == 12 * attacked
    assert run["03"].kinds() == ["condition", "dose", "neurons", "others", "outliers", "silenced"]
    shown = run["03"].rows("neurons").groupby(["ranking", "n"]).size()
    assert len(shown) == 3 * 3 and {*shown} == {attacked}  # three rankings, two numbers and all
    assert len(run["03"].rows("silenced")) == 3 * 3 * attacked  # layers by spans of steps
    attacks = run["04"].rows("attack").query("role == 'canary'")
    assert attacks.drop_duplicates(["target", "condition", "start"]).shape[0] == 11 * attacked
    for kind, columns in (("condition", ["descriptor", "held-out alignment"]), ("dose", ["rho", "mask", "model"])):
        assert run["03"].rows(kind)[columns].notna().all(axis=None)
    found = {kind: len(run["05"].rows(kind)) for kind in run["05"].kinds()}
    assert found == {"subspace": 5 * attacked, "window": 8 * attacked, "joint": 4 * attacked}
    found = {kind: len(run["06"].rows(kind)) / attacked for kind in run["06"].kinds()}
    lying = {"trigger": 3 * 2, "spread": 3, "map": 2 * 4, "transplant": 4, "between": 3 + 1 + 1}
    assert found == lying | {"caption": 2, "position": 6, "from caption": 1 / 2, "defence": 2, "through": 1}
    found = {kind: len(run["07"].rows(kind)) / attacked for kind in run["07"].kinds()}
    inside = {"trigger": 2 * (1 + 2), "from captions": 2, "apart": (6 + 5 + 5) * 33, "route": 2 * (1 + 2 * 2)}
    assert found == inside | {"loss": 3 * 10, "band": 2 * 2, "spikes": 4}
    found = {kind: len(run["08"].rows(kind)) / attacked for kind in run["08"].kinds()}
    named = {"trigger": 2 + 2, "agree": 6 + 5, "layers": 3 * 16, "cross Wanda": 2 * (2 + 1 + 1)}
    assert found == named | {"cut": 2, "again": 1 + 1, "fresh": 3, "cost": 3}
    found = {kind: len(run["09"].rows(kind)) / attacked for kind in run["09"].kinds()}
    assert found == {"attack": 4 * 2 * 2 - 2, "again": 1 / 2, "utility": 4, "loss": 4 * 10, "completion": 4}


def test_every_canary_has_noises_of_its_own_and_the_same_picture_wherever_it_is_asked_alike(executed):
    """Chapters 1 to 4 ask the unpruned own twin under the caption: the same noises, so the same scores."""
    run = {slug[:2]: run for slug, (_, run) in executed.items()}
    first = run["01"].rows("picture").query("model == 'own twin'").set_index("target")["descriptor"]
    attacks = run["04"].rows("attack").query("condition == 'remembers' and start == 'prompt' and steps == 0")
    others = {"02": run["02"].rows("picture").query("model == 'own twin'"), "04": attacks}
    others["03"] = run["03"].rows("condition").query("condition == 'unpruned'")
    for rows in others.values():
        shared = rows[rows["target"].isin(first.index)]
        assert len(shared) and all(
            row.descriptor == pytest.approx(first[row.target], abs=1e-3) for row in shared.itertuples()
        )


def test_random_masks_have_as_many_weights_as_what_they_are_compared_with(executed):
    table = executed["03_where_does_a_memory_live"][1].rows("condition")
    weights = table.pivot(index="target", columns="condition", values="weights")
    assert (weights["random like NeMo"] == weights["NeMo"]).all()
    assert (weights["random like Wanda"] == weights["Wanda"]).all()
    assert (weights["as many at random"] == weights["neurons by loss"]).all()
    assert (weights["another caption's mask"] == weights["Wanda"]).all()
    assert (weights["other twin, same mask"] == weights["Wanda"]).all()
    assert (table.set_index("condition").loc["all seven layers", "density"] == 1).all()


def test_masks_are_found_once(executed):
    """Chapters 4 to 7 find only what chapter 3 has not: Wanda's masks in other twins, and of held-out captions."""
    folder = executed["04_the_picture_comes_back"][1].folder.parents[1] / "masks"
    attacked = 2 * executed["04_the_picture_comes_back"][1].profile["attacked"]
    began = (executed["08_two_localisers_two_answers"][1].folder / "stamp.json").stat().st_mtime
    before = [path for path in folder.glob("*.safetensors") if path.stat().st_mtime < began]
    names = [path.name.split("+")[0] for path in before]
    assert names.count("NeMo") == names.count("NeMo,_sixteen_layers") == names.count("neurons_by_loss") == attacked
    # own and other twin, held-out captions of chapters 3 and 4, and another canary's in an exercise of chapter 3
    assert names.count("Wanda") == 4 * attacked + 1


def test_transfers_are_recorded_as_such(executed):
    rows = executed["04_the_picture_comes_back"][1].rows("transfer")
    assert (rows["transfer"] == (rows["found_in"] != rows["asked_of"])).all() and rows["transfer"].sum() > 0


def test_outputs_show_figures_without_error(executed):
    for path, _ in executed.values():
        check_outputs(path, 5)


def test_site_is_built_from_the_same_outputs(executed):
    for path in build.chapters():  # tests/test_pages.py may have run these; else they are run here
        build.execute(path, "quick")
        assert (build.show(path) is not None) == (path.stem[:2] in CLAIMS)
    index = build.site("quick")
    page = index.parent / "chapters" / "01_a_model_that_remembers.html"
    text = page.read_text(encoding="utf-8")
    assert SITE_TITLE in text
    images = re.findall(r"<img[^>]*>", text)
    content = [image for image in images if "_images/" in image]
    assert len(content) >= 5
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in content)
    assert "explorer-" in text and "your run (quick)" in text
    address = cli.address(build.checkout())
    assert ("colab.research.google.com/github/" in text) == ("YOUR_ACCOUNT" not in address)
    for page in index.parent.rglob("*.html"):
        assert not page_problems(page.read_text(encoding="utf-8")), page.name
