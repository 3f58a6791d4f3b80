"""The threshold's rule on planted scores, descriptors that it must refuse, and the calibration that is shipped."""

import json
import shutil

import pandas as pd
import pytest
import torch

from dori_lite import assets
from dori_lite.reef import calibrate, canaries, descriptor
from dori_lite.reef.captions import read, write
from dori_lite.reef.paint import paint_all
from dori_lite.reef.scenes import CHOICES, facts, fits
from dori_lite.stats import upper_limit

# ---- the rule --------------------------------------------------------------------------------------------


def planted(high, n=1000, low=0.1):
    """`n` scores, `high` among them and the rest `low`."""
    return torch.tensor([*high, *[low] * (n - len(high))])


@pytest.mark.parametrize("kinds, expected", [
    ([planted([])], 0.11),  # a score equal to the threshold counts
    ([planted([], low=0.105)], 0.11),
    ([planted([], low=-0.3)], 0.0),
    ([planted([0.9])], 0.11),  # 0.1 %, just what the rule allows
    ([planted([0.9], n=999)], 0.91),  # a little more
    ([planted([0.9, 0.8])], 0.81),
    ([planted([0.9, 0.8], n=2000)], 0.11),
    ([planted([0.5, 0.5])], 0.51),
    ([planted([0.5, 0.499])], 0.5),
    ([planted([]), planted([0.7, 0.6])], 0.61),  # the worse kind decides, and
    ([planted([0.7, 0.6]), planted([], n=100_000)], 0.61),  # many scores of the other kind do not dilute it
    ([planted([], low=0.999)], 1.0),
])  # fmt: skip
def test_the_lowest_hundredth_that_keeps_the_rule(kinds, expected):
    kinds = {str(k): scores for k, scores in enumerate(kinds)}
    threshold = calibrate.choose(kinds)
    assert threshold == expected

    def kept(hundredths):
        return all((scores >= hundredths / 100).sum() <= 0.001 * len(scores) for scores in kinds.values())

    assert kept(round(100 * threshold)) and not any(kept(k) for k in range(round(100 * threshold)))


def test_no_threshold_is_an_error(one_line):
    one_line(ValueError, "no threshold up to 1", calibrate.choose, {"one": planted([1.0, 1.0])})
    one_line(ValueError, "no threshold up to 1", calibrate.choose, {"fine": planted([]), "one": planted([1.0, 1.0])})
    wrong = planted([float("nan")])
    for scores in ({}, {"one": planted([], 0)}, {"one": wrong}, {"fine": planted([]), "one": wrong}):
        one_line(ValueError, "one or more finite scores", calibrate.choose, scores)


def test_counts_and_rates():
    scores = torch.tensor([0.2, 0.5, 0.9, 0.4999])
    assert calibrate.counted(scores, 0.5) == {"count": 2, "n": 4, "rate": 0.5, "upper95": round(upper_limit(2, 4), 4)}
    none = calibrate.counted(torch.zeros(300), 0.5)
    assert none["count"] == none["rate"] == 0 and none["upper95"] == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-4)
    sides = {"positives": {"x": scores}, "negatives": {"y": scores - 0.5, "z": scores}}
    assert calibrate.rates(sides, 0.5) == {
        "positives": {"x": calibrate.counted(scores, 0.5)},
        "negatives": {"y": calibrate.counted(scores - 0.5, 0.5), "z": calibrate.counted(scores, 0.5)},
    }


# ---- scores ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return paint_all(descriptor.split("calibration", 10)).float() / 255


@pytest.fixture
def no_models(monkeypatch, images):
    """Stand-ins: the autoencoder blurs, a model draws what `drawn` says; what it was asked is returned."""
    asked = []

    def generate(pipe, captions, *, seeds, **options):
        assert options == {"guidance": 5.0, "steps": 25, "batch": 32}
        asked.append((pipe, captions, seeds))
        return torch.stack([torch.full((3, 64, 64), (seed % 200) / 255) for seed in seeds])

    monkeypatch.setattr(calibrate, "reconstructed", lambda pipe, images: descriptor.blur(images))
    monkeypatch.setattr(calibrate, "generate", generate)
    return asked


def places(images):
    """A descriptor that knows the layout: small pictures without their rows' means."""
    small = torch.nn.functional.adaptive_avg_pool2d(images, 16)
    return (small - small.mean(3, keepdim=True)).flatten(1)


def constant(images):
    return torch.ones(len(images), 4)


def histogram(images):
    level = (images * 7.999).long()
    return torch.stack([(level == k).float().mean((2, 3)) for k in range(8)], 2).flatten(1)


def test_scores_are_cosines_to_the_recorded_decimals(images):
    scores, other = calibrate.compare(places, images, images.roll(1, 0)), images.roll(1, 0)
    expected = torch.nn.functional.cosine_similarity(places(images), places(other))
    assert torch.allclose(scores, expected, atol=6e-5)
    assert scores.tolist() == pytest.approx([round(s, 4) for s in scores.tolist()], abs=1e-7)


def test_what_is_recorded_is_what_was_judged():
    """A score just below a hundredth is written as that hundredth: the rule must have seen it so."""
    z = torch.tensor([[1.0, 0], [0.79997, (1 - 0.79997**2) ** 0.5]])
    told = iter([z[1:], z[1:], z[1:], z[:1], z[1:], z[:1]])  # the first four: it is tried on two pictures
    (score,) = calibrate.compare(lambda images: next(told), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    assert score >= 0.8 and round(score.item(), 4) == 0.8


def test_positives_are_edits_of_each_picture(monkeypatch, images, no_models):
    given = {}
    monkeypatch.setattr(calibrate, "compare", lambda model, some, targets: given.update({len(given): some}) or targets)
    assert list(calibrate.positives(None, None, images)) == ["reconstruction", "blur", "shift", "brightness"]
    assert all(some.min() >= 0 and some.max() <= 1 and some.shape == images.shape for some in given.values())
    moves = [(dy, dx) for image, moved in zip(images, given[2], strict=True) for dy in (-2, 2) for dx in (-2, 2)
             if torch.equal(descriptor.shift(image, dy, dx), moved)]  # fmt: skip
    assert len(moves) == 10 and len(set(moves)) == 4
    assert torch.equal(given[3][0], images[0] * 0.85) and torch.equal(given[3][1], (images[1] * 1.15).clamp(max=1))


def test_negatives_are_siblings_and_generations(monkeypatch, images, no_models):
    seen = []
    monkeypatch.setattr(calibrate, "compare", lambda model, some, targets: seen.append((some, targets)))
    calibrate.negatives(["a", "b"], None, images, 5)
    (elsewhere, goals), (drawn, few) = seen
    assert elsewhere.shape[0] == 40 and torch.equal(goals[::4], images) and torch.equal(goals[3::4], images)
    scene, seed = descriptor.split("calibration", 10)[9]
    assert torch.equal(elsewhere[36:] * 255, paint_all(descriptor.siblings(scene, seed, 4, start=10)).float())
    assert len(drawn) == 5 and torch.equal(few, images[:5])


def test_complete_captions_name_everything_and_come_in_order(no_models):
    pairs = descriptor.split("test", 5)
    images = calibrate.complete_captions(["a", "b"], pairs)
    assert [round(v * 255) for v in images[:, 0, 0, 0].tolist()] == [0, 1, 2, 3, 4]  # the seeds
    (first, captions, seeds), (second, others, more) = no_models
    assert (first, second, seeds, more) == ("a", "b", [0, 2, 4], [1, 3])
    everything = dict(zip([*seeds, *more], [*captions, *others], strict=True))
    for k, (scene, _) in enumerate(pairs):
        description = read(everything[k])
        silent = {
            key for key, value in facts(scene).items() if (key, value) in (("plants", "none"), ("bubbles", False))
        }
        assert set(description.named()) == set(CHOICES) - silent and fits(description, scene)
        assert description.name is None


def test_wrong_descriptors_are_refused_or_find_no_copies(images, no_models, one_line):
    """The rule holds false positives down; what then is left of the copies shows a descriptor that sees nothing."""
    one_line(ValueError, "descriptor's features see nothing", calibrate.negatives, [None], constant, images, 5)
    threshold = calibrate.choose(calibrate.negatives([None], histogram, images, 5))
    found = calibrate.rates({"positives": calibrate.positives(None, histogram, images)}, threshold)["positives"]
    assert min(kind["rate"] for kind in found.values()) < 0.7


def test_pictures_of_the_wrong_kind_are_refused(images, one_line):
    """Floats divided by 255 would be black, bytes as they are would be white."""
    one_line(ValueError, "painted pictures are bytes, not torch.float32", calibrate.as_images, images)
    one_line(ValueError, "images must be floats", calibrate.nearest_score, places, (255 * images).byte(), 3)
    one_line(ValueError, "images must be floats", calibrate.compare, places, (255 * images).byte(), images)


def test_one_that_sees_the_layout_finds_them(images, no_models):
    threshold = calibrate.choose(calibrate.negatives([None], places, images, 5))
    positives = calibrate.positives(None, places, images)
    assert calibrate.counted(positives["reconstruction"], threshold)["rate"] == 1
    assert calibrate.counted(positives["brightness"], threshold)["rate"] == 1


@pytest.fixture
def table(monkeypatch):
    """The first pair's training table: ten base scenes."""
    rows = [(seed, write(description)) for description, _, seed in map(canaries.base, range(10))]
    found = pd.DataFrame(rows, columns=["seed", "caption"]).assign(name="")
    monkeypatch.setattr(canaries, "load_table", {"reef-first": found}.__getitem__)
    return found


def test_nearest_score_is_the_highest_cosine(table, images):
    def unit(images):
        return torch.nn.functional.normalize(places(images), dim=1)

    pictures = paint_all([canaries.base(k)[1:] for k in range(10)]).float() / 255
    expected = [max(float(unit(i[None]) @ unit(p[None]).T) for p in pictures) for i in images]
    assert calibrate.nearest_score(unit, images, 10).tolist() == pytest.approx(expected, abs=1e-5)
    few = calibrate.nearest_score(unit, images, 4)
    assert (few <= torch.tensor(expected) + 1e-5).all() and few.sum() < sum(expected) - 1e-3
    assert calibrate.nearest_score(unit, pictures, 10).tolist() == pytest.approx([1] * 10, abs=1e-5)


# ---- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def reef(tmp_path, monkeypatch):
    """A data folder with an untrained, uncalibrated descriptor and the first pair's canaries; the path of its reef/."""
    torch.manual_seed(0)
    planted = assets.data_folder() / "reef-first" / "planted.json"
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    (tmp_path / "reef-first").mkdir()
    shutil.copy(planted, tmp_path / "reef-first")
    assets.record(tmp_path / "reef-first", "planted.json")
    descriptor.save(descriptor.Descriptor(width=4, size=8), tmp_path / "reef" / "descriptor")
    assets.record(tmp_path / "reef", "descriptor", {"steps": 3})
    return tmp_path / "reef"


def test_the_threshold_is_kept_and_the_manifest_follows(reef):
    before = assets.manifest(reef)
    weights = descriptor.load()[0].state_dict()
    calibrate.set_threshold(reef, 0.83)
    model, threshold = descriptor.load()  # checks the hashes
    assert threshold == 0.83 == descriptor.detector().threshold
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    after = assets.manifest(reef)
    assert after["models"] == before["models"] == {"descriptor": {"steps": 3}}
    changed = {path for path in before["files"] if before["files"][path] != after["files"][path]}
    assert changed == {"descriptor/config.json"} and before["files"].keys() == after["files"].keys()
    calibrate.set_threshold(reef, 0.5)
    assert descriptor.load()[1] == 0.5


@pytest.mark.parametrize("quick", [True, False])
def test_calibrating_from_end_to_end(reef, table, no_models, monkeypatch, quick):
    """On few scenes, with stand-ins for the models and a descriptor that knows layouts."""
    for name, count in {"SCENES": 6, "GENERATED": 4, "TRAINING": 10, "SIBLINGS": 2}.items():
        monkeypatch.setattr(calibrate, name, count)
    monkeypatch.setattr(calibrate, "load", lambda name, device: name)
    monkeypatch.setitem(canaries.HELD_OUT, "test", 8 if quick else 3)
    monkeypatch.setattr(
        descriptor, "load", lambda folder=None: (lambda x: torch.nn.functional.normalize(places(x)), None)
    )
    if quick:
        monkeypatch.setattr(table, "sample", lambda most, random_state: table.head(most))  # it asks for 500
    report = calibrate.main(quick=quick)
    negatives = {kind: torch.tensor(scores) for kind, scores in report["scores"]["negatives"].items()}
    assert report["threshold"] == calibrate.choose(negatives)
    assert {pipe for pipe, *_ in no_models} == {"reef-first/twin-a", "reef-first/twin-b"}  # nobody else draws
    sizes = {kind: len(scores) for side in report["scores"].values() for kind, scores in side.items()}
    n = 16 if quick else 6
    assert sizes == {
        **dict.fromkeys(["reconstruction", "blur", "shift", "brightness"], n),
        "same attributes, other positions": 2 * n,
        "generated for the complete caption": 16 if quick else 4,
    }
    test = report["test"]
    assert test["canary_reconstructions"]["n"] == 40 and test["nearest_of_training_set"]["n"] == (16 if quick else 4)
    assert {kind["n"] for kind in test["positives"].values()} == {8 if quick else 3}
    path, config = reef / "calibration.json", reef / "descriptor" / "config.json"
    assert path.exists() != quick
    assert json.loads(config.read_text())["threshold"] == (None if quick else report["threshold"])
    assert quick or json.loads(path.read_text(encoding="utf-8")) == report
    assets.verified(reef, "descriptor")


# ---- what is shipped -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    found = json.loads((assets.data_folder() / "reef" / "calibration.json").read_text(encoding="utf-8"))
    scores = {side: {k: torch.tensor(v) for k, v in kinds.items()} for side, kinds in found["scores"].items()}
    return found, scores


def test_the_shipped_threshold_follows_from_the_shipped_scores(shipped):
    found, scores = shipped
    config = json.loads((assets.data_folder() / "reef" / "descriptor" / "config.json").read_text(encoding="utf-8"))
    assert calibrate.choose(scores["negatives"]) == found["threshold"] == config["threshold"]
    assert descriptor.detector().threshold == found["threshold"]  # and the hashes are right


def test_the_shipped_rates_follow_from_the_shipped_scores(shipped):
    found, scores = shipped
    assert calibrate.rates(scores, found["threshold"]) == found["rates"]
    sizes = {kind: len(some) for side in scores.values() for kind, some in side.items()}
    assert sizes.pop("same attributes, other positions") == calibrate.SCENES * calibrate.SIBLINGS
    assert sizes.pop("generated for the complete caption") == calibrate.GENERATED
    assert set(sizes.values()) == {calibrate.SCENES} == {found["scenes"]}


def test_the_shipped_descriptor_passes_its_bars_on_the_test_split(shipped):
    test = shipped[0]["test"]
    for kind, counts in test["negatives"].items():
        assert counts["rate"] <= calibrate.FALSE_POSITIVES, kind
    assert test["canary_reconstructions"]["rate"] >= calibrate.TRUE_POSITIVES
    assert test["positives"]["reconstruction"]["n"] == canaries.HELD_OUT["test"]
    assert test["training_pictures"] == calibrate.TRAINING
