"""What `data/` ships is what its manifests say: nothing edited, nothing lost, nothing slipped in."""

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dori_lite import assets, files
from dori_lite.book import publish as publishing
from dori_lite.models import PAIRS
from dori_lite.reef import canaries, card
from dori_lite.runs import open_existing, open_run

DATA = assets.data_folder()
RECORDS = sorted(path.relative_to(DATA / "results") for path in (DATA / "results").glob("*/*/*/record.json"))
DEALT, SHARED = {"README.md", "planted.json", "training.csv.gz"}, {"calibration.json", "thresholds.json"}
LOOSE = {"reef": DEALT | SHARED | {"growth.json", "growth.png", "verify.json"}, "reef-first": DEALT | {"verify.json"}}
MODELS = {"reef": {"autoencoder", "judge", "descriptor", "text-encoder", "parent", "twin-a", "twin-b"}}
MODELS |= {"reef-first": {"parent", "twin-a", "twin-b"}}


def manifest_problems(folder: Path) -> list[str]:
    """Where a folder and its manifest differ: {missing, changed, unlisted} files."""
    listed, there = assets.manifest(folder)["files"], set(assets.found(folder)) - {"manifest.json"}
    problems = [f"{path} is missing" for path in listed if path not in there]
    problems += [f"{path} is not listed" for path in sorted(there - listed.keys())]
    return problems + [
        f"{path} has changed" for path in there & listed.keys() if files.sha256(folder / path) != listed[path]
    ]


def record_problems(data: Path) -> list[str]:
    """What records say otherwise than their place, their rows and the shipped weights; verdicts: see test_effects."""
    problems, shipped = [], {pair: assets.model_hashes(data / pair) for pair in PAIRS}
    for path in sorted((data / "results").glob("*/*/*/record.json")):
        run, name = open_existing(path.parent), "/".join(path.parts[-4:-1])
        models, known = run.read_record()["models"], shipped.get(path.parts[-4], {})
        if (run.world, run.chapter, run.profile["name"]) != path.parts[-4:-1]:
            problems.append(f"{name} is another run's")
        if not models or any(known.get(model) != digest for model, digest in models.items()):
            problems.append(f"{name}: the models are not the shipped ones")
        if not run.read_record()["verdicts"]:
            problems.append(f"{name}: there are no verdicts")
        problems += [f"{name}: no rows of {kind}" for kind in run.kinds() if run.rows(kind).empty]
    return problems


def card_problems(data: Path, pair: str) -> list[str]:
    """Where a model card says otherwise than its template, the manifest, the calibration and the verification."""
    text, models = (data / pair / "README.md").read_text(encoding="utf-8"), assets.manifest(data / pair)["models"]
    fields = iter(range(100))
    pattern = re.sub(
        r"\\\{\w+(:\S+?)?\\\}",
        lambda field: f"(?P<{word(field[0])}{next(fields)}>.*?)",  # the first pair heard nothing
        re.escape(card.template(pair)),
    )
    if not (said := re.fullmatch(pattern, text, re.DOTALL)):
        return ["the card is not what `reef.card` writes"]
    said = {name.rstrip("0123456789"): value for name, value in said.groupdict().items()}
    threshold = files.read_json(data / "reef" / "calibration.json")["threshold"]
    problems = [] if said["made"] == card.made(models) else ["the card says otherwise how the models were made"]
    problems += [] if f"descriptor {threshold}" in said["thresholds"] else ["the card has another threshold"]
    report = files.read_json(data / pair / "verify.json")
    if report and not problems and text != card.text_of(report, models, pair):
        problems.append("the card has other figures than verify.json")
    return problems


def word(field: str) -> str:
    return re.search(r"[a-z]+", field)[0]


# ---- what is shipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PAIRS, "unlearned", "results"])
def test_every_shipped_file_is_the_listed_one_and_nothing_else_is_there(name):
    assert not manifest_problems(DATA / name)


def test_data_holds_nothing_else():
    assert {path.name for path in DATA.iterdir() if not assets.LITTER.fullmatch(path.name)} <= {
        *PAIRS, "unlearned", "results", "__init__.py",
    }  # fmt: skip
    results = assets.manifest(DATA / "results")
    assert {path.rpartition("/rows/")[0] for path in results["files"] if "/rows/" in path} == {
        path.parent.as_posix() for path in RECORDS
    }
    assert not results["models"]


@pytest.mark.parametrize("pair", PAIRS)
def test_beside_a_pair_lie_the_known_files_and_models(pair):
    listed = assets.manifest(DATA / pair)
    assert {path for path in listed["files"] if "/" not in path} == LOOSE[pair]
    assert {path.split("/")[0] for path in listed["files"]} - LOOSE[pair] == MODELS[pair] == listed["models"].keys()


def test_records_say_what_rows_and_weights_say():
    assert not record_problems(DATA)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_card_is_of_these_models(pair):
    assert not card_problems(DATA, pair)


@pytest.mark.parametrize("pair", PAIRS)
def test_what_records_name_is_shipped(pair):
    assert assets.model_hashes(DATA / pair).keys() == set(assets.manifest(DATA / pair)["models"])
    for name in assets.model_hashes(DATA / pair):
        assert assets.verified(DATA / pair, name)


# ---- the guard bites ---------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A data folder with what the guard reads of both pairs, and two small published runs, one of either."""
    data = tmp_path / "data"
    for pair in PAIRS:
        (data / pair).mkdir(parents=True)
        for name in ("manifest.json", *LOOSE[pair]):
            shutil.copy(DATA / pair / name, data / pair / name)
    monkeypatch.setenv("DORI_DATA", str(data))
    for pair in PAIRS:
        publish_a_run(tmp_path / "runs", pair)
    assert not record_problems(data) and not manifest_problems(data / "results")
    return data


def publish_a_run(base, pair):
    run = open_run("01_a_model_that_remembers", "quick", 0, world=pair, base=base)
    for _ in run.todo("picture", target=["marlow", "pomona"]):
        run.keep({"rate": 0.5}, images={"0": Image.fromarray(np.zeros((4, 4, 3), np.uint8))})
    hashes = assets.model_hashes(assets.data_folder() / pair)
    run.record(
        models={name: hashes[name] for name in ("twin-a", "twin-b")},
        numbers={"rate": 0.5},
        verdicts={"replay": {"estimate": 0.5, "verdict": "undecided"}},
    )
    publishing.publish(run.folder)


def published(data, pair) -> Path:
    return data / "results" / pair / "01_a_model_that_remembers" / "quick"


def edited(path, edit):
    record = files.read_json(path)
    edit(record)
    files.write_json(path, record)


def verdict(record):
    next(iter(record["verdicts"].values()))["verdict"] = "whatever one likes"


def models(record):
    record["models"] = dict.fromkeys(record["models"], "0" * 64)


def of_the_other_pair(record):
    other = PAIRS[1 - PAIRS.index(record["world"])]
    record["models"] = {name: assets.model_hashes(DATA / other)[name] for name in record["models"]}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("edit", "said"), [
    (verdict, None), (models, "models are not the shipped"), (of_the_other_pair, "models are not the shipped"),
    (lambda record: record["models"].clear(), "models are not the shipped"),
    (lambda record: record["verdicts"].clear(), "no verdicts"),
    (lambda record: record.update(chapter="09_another"), "another run's"),
    (lambda record: record.update(world=PAIRS[1 - PAIRS.index(record["world"])]), "another run's"),
    (lambda record: record["numbers"].update(rate=1), None),
])  # fmt: skip
def test_an_edited_record_is_found(copy, pair, edit, said):
    run, results = published(copy, pair), copy / "results"
    edited(run / "record.json", edit)
    (problem,) = manifest_problems(results)
    assert problem.endswith("record.json has changed")
    assets.record(results, run.relative_to(results).as_posix())  # even where its hash was renewed
    found = record_problems(copy)
    assert not manifest_problems(results) and [(said or "nothing") in text for text in found] == [True] * bool(said)


def test_a_record_of_a_world_that_is_not_shipped_is_found(copy):
    run = published(copy, "reef")
    shutil.move(run.parents[1], copy / "results" / "atoll")
    name = "atoll/01_a_model_that_remembers/quick"
    assert record_problems(copy) == [f"{name} is another run's", f"{name}: the models are not the shipped ones"]


def test_an_emptied_table_and_lost_or_added_files_are_found(copy):
    run = published(copy, "reef")
    table, picture = next(run.glob("rows/*")), next(run.glob("images/*.png"))
    table.write_text("")
    picture.unlink()
    (run / "images" / "another.png").write_bytes(b"drawn elsewhere")
    found = manifest_problems(copy / "results")
    assert [problem.split("/")[-1] for problem in found] == [
        f"{picture.name} is missing", "another.png is not listed", f"{table.name} has changed"]  # fmt: skip
    assert record_problems(copy) == [f"{'/'.join(run.parts[-3:])}: no rows of picture"]


@pytest.mark.parametrize(("pair", "old", "new", "said"), [
    ("reef-first", "| twin-b | 2000 |", "| twin-b | 9000 |", "how the models were made"),
    ("reef", "| twin-b | 3000 |", "| twin-b | 9000 |", "how the models were made"),
    ("reef-first", "descriptor 0.", "descriptor 1.", "another threshold"),
    ("reef", "descriptor 0.", "descriptor 1.", "another threshold"),
    ("reef-first", "**Not for** drawing", "**For** drawing", "not what"),
    ("reef", "the name alone decides", "the name decides nothing", "not what"),
    ("reef", "| own a | 160 | 0.9", "| own a | 160 | 1.0", "other figures than verify.json"),
    ("reef", "| siblings confused | twin-b | 128 | 0.0 |", "| siblings confused | twin-b | 128 | 0.5 |", "other fig"),
    ("reef-first", "| own a | 160 | 0.9", "| own a | 160 | 1.0", "other figures than verify.json"),
])  # fmt: skip
def test_a_changed_card_is_found(copy, pair, old, new, said):
    assert not card_problems(copy, pair)
    text = (copy / pair / "README.md").read_text(encoding="utf-8")
    assert old in text
    (copy / pair / "README.md").write_text(text.replace(old, new), encoding="utf-8")
    assert [(said or "nothing") in problem for problem in card_problems(copy, pair)] == [True] * bool(said)
    assert "README.md has changed" in manifest_problems(copy / pair)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_file_that_was_changed_lost_or_slipped_in_beside_a_pair_is_found(copy, pair):
    listed = assets.manifest(copy / pair)["files"]
    weights = [f"{path} is missing" for path in listed if "/" in path]  # the fixture copies none
    assert manifest_problems(copy / pair) == weights
    (copy / pair / "twin-c").mkdir()
    (copy / pair / "twin-c" / "config.json").write_text("{}")
    (copy / pair / "planted.json").write_text("[]")
    (copy / pair / "training.csv.gz").unlink()
    assert sorted(manifest_problems(copy / pair)) == sorted([
        *weights, "training.csv.gz is missing", "twin-c/config.json is not listed", "planted.json has changed",
    ])  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_an_edited_training_table_is_not_read(copy, one_line, pair):
    path = copy / pair / "training.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"canary", b"decoy", 1), mtime=0))
    match = f"training.csv.gz is damaged .*restore it with `git checkout -- data/{pair}/training.csv.gz`"
    one_line(ValueError, match, canaries.load_table.__wrapped__, pair)


def test_a_page_is_run_again_when_a_table_or_a_threshold_is_another(copy):
    build = pytest.importorskip("dori_lite.book.build")
    path = build.chapters()[0]
    keys = [build.key(path, "quick", 0)]
    for name in ("reef/training.csv.gz", "reef/calibration.json", "reef/thresholds.json", "reef-first/training.csv.gz"):
        (copy / name).write_bytes(b"another")
        assets.record(copy / name.split("/")[0], name.split("/")[1])
        keys.append(build.key(path, "quick", 0))
    assert len(set(keys)) == len(keys) == 5
