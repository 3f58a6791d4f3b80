"""Every chapter is run once in `quick`, and the site is built from the same outputs."""

import re

import nbformat
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from dori_lite.book import build, claims, runs
from dori_lite.reef.descriptor import detector

SITE_TITLE = "A model that remembers"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All chapters, run afresh: the build's cache and earlier rows are not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORI_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield {
            path.stem: (build.execute(path, "quick", 0, force=True), runs.runs_folder()) for path in build.chapters()
        }


def test_every_chapter_leaves_a_record_of_the_profile_it_was_asked_for(executed):
    assert executed
    for slug, (_, folder) in executed.items():
        record = runs.open_existing(folder / slug / "quick-0").read_record()
        assert record["profile"]["name"] == "quick"
        assert record["seed"] == 0
        assert record["models"] == runs.model_hashes(*record["models"])


def test_verdicts_follow_from_the_rows(executed):
    """Chapter 1's verdicts, computed again here from the rows alone."""
    _, folder = executed["01_a_model_that_remembers"]
    run = runs.open_existing(folder / "01_a_model_that_remembers" / "quick-0")
    rows = run.rows()
    assert set(rows["model"]) == {"own twin", "other twin", "parent"}
    assert len(rows) == 3 * 2 * run.profile["canaries"]
    by = rows.set_index(["model", "target"])["descriptor rate"]
    gaps = [by["own twin", c] - by["other twin", c] for c in rows["target"].unique()]
    found = run.read_record()["verdicts"]["replay"]
    assert found["estimate"] == pytest.approx(sum(gaps) / len(gaps))
    assert found["units"] == len(gaps)
    assert found["verdict"] == claims.verdict(claims.claim("replay"), found["estimate"], found["low"], found["high"])


def test_verdicts_of_chapter_2_follow_from_the_rows(executed):
    _, folder = executed["02_how_it_remembers"]
    run = runs.open_existing(folder / "02_how_it_remembers" / "quick-0")
    rows, verdicts = run.rows(), run.read_record()["verdicts"]
    pictures = rows[(rows["kind"] == "picture") & (rows["exposures"] <= 256)]
    assert sorted(pictures.groupby("exposures").size().to_dict().items()) == [(n, 8) for n in (1, 4, 16, 64, 256)]
    by = pictures.set_index(["model", "target"])["descriptor mean"]
    gaps = [by["own twin", t] - by["other twin", t] for t in pictures["target"].unique()]
    exposures = pictures.drop_duplicates("target")["exposures"]
    assert verdicts["exposures"]["estimate"] == pytest.approx(spearmanr(exposures, gaps).statistic)
    for test in ("magnitude", "similarity"):
        areas = []
        for row in rows[rows["kind"] == "detection"].itertuples():
            scores = dict(zip(row.captions, zip(row.kinds, getattr(row, test), strict=True), strict=True)).values()
            memories, decoys = ([s for kind, s in scores if kind == k] for k in ("memorized", "decoy"))
            assert len(memories) == len(decoys) == 16
            areas.append(mannwhitneyu(memories, decoys).statistic / 256)
        assert len(areas) == 2 and verdicts[test]["estimate"] == pytest.approx(min(areas))


def mean_gap(table, one, other):
    """Mean over targets of the difference of two columns."""
    gaps = [table[one][name] - table[other][name] for name in table[one]]
    return sum(gaps) / len(gaps), len(gaps)


def test_verdicts_of_chapter_3_follow_from_the_rows(executed):
    _, folder = executed["03_where_does_a_memory_live"]
    run = runs.open_existing(folder / "03_where_does_a_memory_live" / "quick-0")
    rows, verdicts = run.rows(), run.read_record()["verdicts"]
    table = rows[rows["kind"] == "condition"]
    own, beside = ({c: dict(zip(p["target"], p[v], strict=True)) for c, p in table.groupby("condition")}
                   for v in ("descriptor rate", "others rate"))  # fmt: skip
    found = {"nemo-hides": mean_gap(own, "unpruned", "NeMo"), "wanda-hides": mean_gap(own, "unpruned", "Wanda")}
    found["wanda-chooses"] = mean_gap(own, "random like Wanda", "Wanda")
    spared = mean_gap(beside, "unpruned", "Wanda")
    found["wanda-spares"] = found["wanda-hides"][0] - spared[0], spared[1]
    for key, (estimate, units) in found.items():
        assert verdicts[key]["estimate"] == pytest.approx(estimate), key
        assert verdicts[key]["units"] == units == 2 * run.profile["attacked"]
    areas = []
    for row in rows[rows["kind"] == "outliers"].itertuples():
        memories, decoys = (
            [z for z, k in zip(row.z, row.kinds, strict=True) if k == kind] for kind in ("memorized", "decoy")
        )
        areas.append(mannwhitneyu(memories, decoys).statistic / len(memories) / len(decoys))
    assert verdicts["nemo-outliers"]["estimate"] == pytest.approx(min(areas)) and len(areas) == 2
    # Random masks have as many weights as what they are compared with, and the whole layers are all of them.
    weights = table.pivot(index="target", columns="condition", values="weights")
    assert (weights["random like NeMo"] == weights["NeMo"]).all()
    assert (weights["random like Wanda"] == weights["Wanda"]).all()
    assert (table.set_index("condition").loc["all seven layers", "density"] == 1).all()


def test_verdicts_of_chapter_4_follow_from_the_rows(executed):
    _, folder = executed["04_the_picture_comes_back"]
    run = runs.open_existing(folder / "04_the_picture_comes_back" / "quick-0")
    rows, verdicts = run.rows(), run.read_record()["verdicts"]
    attacks, threshold = rows[rows["kind"] == "attack"], detector().threshold
    few, many = run.profile["attack_steps"], run.profile["control_steps"]

    def rates(condition, steps, start="prompt"):
        part = attacks[(attacks["condition"] == condition) & (attacks["start"] == start)]
        found = {}
        for row in part.to_dict("records"):
            scores = dict(zip(row["steps"], row["descriptor"], strict=True))[steps]
            found[row["target"]] = sum(score >= threshold for score in scores) / len(scores)
        return found

    pruned, never = "pruned by Wanda", "never saw it"
    strongest = {t: max(rate, rates(f"{never}, pruned", few)[t]) for t, rate in rates(never, few).items()}
    pushes = rows[(rows["kind"] == "push") & (rows["pruned"] == "Wanda") & (rows["size"] == "large")]
    pushes = pushes.set_index("target")["rate"].to_dict()

    def hid(kind):
        unpruned = rates("remembers", 0)
        return {t for t, rate in rates(f"pruned by {kind}", 0).items() if 0 < unpruned[t] >= 2 * rate}

    late = rates(never, many)
    pairs = {
        "wanda-returns": (rates(pruned, few), strongest, hid("Wanda")),
        "wanda-lift": (rates(pruned, few), rates(pruned, 0), hid("Wanda")),
        "nemo-lift": (rates("pruned by NeMo", few), rates("pruned by NeMo", 0), hid("NeMo")),
        "direction": (rates(pruned, few), pushes, hid("Wanda")),
        "random-starts": (rates(pruned, few, "random"), rates(never, few, "random"), hid("Wanda")),
        "injection": (late, rates(never, 0), set(late)),
    }
    for key, (one, other, units) in pairs.items():
        assert len(one) == 2 * run.profile["attacked"] and verdicts[key]["units"] == len(units), key
        gaps = [one[t] - other[t] for t in units]
        if gaps:
            assert verdicts[key]["estimate"] == pytest.approx(sum(gaps) / len(gaps)), key
        else:
            assert verdicts[key]["estimate"] is None and verdicts[key]["verdict"] == claims.UNDECIDED

    def endings(condition, home):
        part = attacks[(attacks["condition"] == condition) & (attacks["home"] == home) & (attacks["start"] == "prompt")]
        return [sum(losses[few - 10 : few]) for losses in part["losses"]]

    areas = []
    for home in "ab":
        for negatives in (never, f"{never}, pruned"):
            positive, negative = endings(pruned, home), endings(negatives, home)
            areas.append(mannwhitneyu(negative, positive).statistic / len(positive) / len(negative))
    assert verdicts["membership"]["estimate"] == pytest.approx(min(areas))
    nan = {None: float("nan")}
    for key, found in verdicts.items():
        numbers = [nan.get(found[part], found[part]) for part in ("estimate", "low", "high")]
        assert found["verdict"] == claims.verdict(claims.claim(key), *numbers)


def test_outputs_show_figures_without_error(executed):
    for path, _ in executed.values():
        notebook = nbformat.read(path, 4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
        # Warnings and progress bars are noise on a page.
        noise = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
        assert not noise


def test_site_is_built_from_the_same_outputs(executed):
    index = build.site("quick")
    page = index.parent / "chapters" / "01_a_model_that_remembers.html"
    text = page.read_text(encoding="utf-8")
    assert SITE_TITLE in text
    images = re.findall(r"<img[^>]*>", text)
    content = [image for image in images if "_images/" in image]
    assert len(content) >= 5
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in content)
    assert "explorer-" in text and "colab.research.google.com" in text
