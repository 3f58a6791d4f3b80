"""What `data/` ships is what its manifests say: nothing edited, nothing lost, nothing slipped in."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from dori_lite import assets, files
from dori_lite.reef import canaries, card
from dori_lite.runs import open_existing

DATA = assets.data_folder()
RECORDS = sorted(path.relative_to(DATA / "results") for path in (DATA / "results").glob("*/*/*/record.json"))
LOOSE = {"README.md", "calibration.json", "planted.json", "training.csv.gz"}


def manifest_problems(folder: Path) -> list[str]:
    """Where a folder and its manifest differ: {missing, changed, unlisted} files."""
    listed, there = assets.manifest(folder)["files"], set(assets.found(folder)) - {"manifest.json"}
    problems = [f"{path} is missing" for path in listed if path not in there]
    problems += [f"{path} is not listed" for path in sorted(there - listed.keys())]
    return problems + [
        f"{path} has changed" for path in there & listed.keys() if files.sha256(folder / path) != listed[path]
    ]


def record_problems(results: Path, reef: Path) -> list[str]:
    """What records say otherwise than their place, their rows and the shipped weights; verdicts: see test_effects."""
    problems, shipped = [], assets.model_hashes(reef)
    for path in sorted(results.glob("*/*/*/record.json")):
        run, name = open_existing(path.parent), "/".join(path.parts[-4:-1])
        models = run.read_record()["models"]
        if (run.world, run.chapter, run.profile["name"]) != path.parts[-4:-1]:
            problems.append(f"{name} is another run's")
        if not models or any(shipped.get(model) != digest for model, digest in models.items()):
            problems.append(f"{name}: the models are not the shipped ones")
        if not run.read_record()["verdicts"]:
            problems.append(f"{name}: there are no verdicts")
        problems += [f"{name}: no rows of {kind}" for kind in run.kinds() if run.rows(kind).empty]
    return problems


def card_problems(reef: Path) -> list[str]:
    """Where the model card says otherwise than its template, the manifest and the calibration."""
    text, models = (reef / "README.md").read_text(encoding="utf-8"), assets.manifest(reef)["models"]
    fields = iter(range(100))
    pattern = re.sub(
        r"\\\{\w+(:\S+?)?\\\}",
        lambda field: f"(?P<{word(field[0])}{next(fields)}>.+?)",
        re.escape(card.template(reef.name)),
    )
    if not (said := re.fullmatch(pattern, text, re.DOTALL)):
        return ["the card is not what `reef.card` writes"]
    said = {name.rstrip("0123456789"): value for name, value in said.groupdict().items()}
    threshold = json.loads((reef / "calibration.json").read_text(encoding="utf-8"))["threshold"]
    problems = [] if said["made"] == card.made(models) else ["the card says otherwise how the models were made"]
    return problems + ([] if f"descriptor {threshold}" in said["thresholds"] else ["the card has another threshold"])


def word(field: str) -> str:
    return re.search(r"[a-z]+", field)[0]


# ---- what is shipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reef", "reef-second", "results"])
def test_every_shipped_file_is_the_listed_one_and_nothing_else_is_there(name):
    assert not manifest_problems(DATA / name)


def test_data_holds_nothing_else():
    assert {path.name for path in DATA.iterdir() if not assets.LITTER.fullmatch(path.name)} <= {
        *("reef", "reef-second", "results", "__init__.py"),
    }
    assert {path for path in assets.manifest(DATA / "reef")["files"] if "/" not in path} == LOOSE
    runs = {path.rpartition("/rows/")[0] for path in assets.manifest(DATA / "results")["files"] if "/rows/" in path}
    assert runs == {path.parent.as_posix() for path in RECORDS} and len(runs) >= 4
    assert not assets.manifest(DATA / "results")["models"]


def test_records_say_what_rows_and_weights_say():
    assert not record_problems(DATA / "results", DATA / "reef")


def test_the_card_is_of_these_models():
    assert not card_problems(DATA / "reef")


def test_what_records_name_is_shipped():
    assert assets.model_hashes(DATA / "reef").keys() == set(assets.manifest(DATA / "reef")["models"])
    for name in assets.model_hashes(DATA / "reef"):
        assert assets.verified(DATA / "reef", name)


# ---- the guard bites ---------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """The smallest published run with a manifest of its own, and what the guard reads of the reef."""
    smallest = min(RECORDS, key=lambda path: len(list((DATA / "results" / path).parent.rglob("*"))))
    shutil.copytree((DATA / "results" / smallest).parent, tmp_path / "results" / smallest.parent)
    assets.record(tmp_path / "results", smallest.parent.as_posix())
    (tmp_path / "reef").mkdir()
    for name in ("manifest.json", *LOOSE):
        shutil.copy(DATA / "reef" / name, tmp_path / "reef" / name)
    assert not manifest_problems(tmp_path / "results") and not card_problems(tmp_path / "reef")
    return tmp_path, tmp_path / "results" / smallest.parent


def edited(path, edit):
    record = files.read_json(path)
    edit(record)
    files.write_json(path, record)


def verdict(record):
    next(iter(record["verdicts"].values()))["verdict"] = "whatever one likes"


def models(record):
    record["models"] = dict.fromkeys(record["models"], "0" * 64)


@pytest.mark.parametrize(("edit", "said"), [
    (verdict, None), (models, "models are not the shipped"),
    (lambda record: record["models"].clear(), "models are not the shipped"),
    (lambda record: record["verdicts"].clear(), "no verdicts"),
    (lambda record: record.update(chapter="09_another"), "another run's"),
    (lambda record: record["numbers"].update(rate=1), None),
])  # fmt: skip
def test_an_edited_record_is_found(copy, edit, said):
    data, run = copy
    edited(run / "record.json", edit)
    (problem,) = manifest_problems(data / "results")
    assert problem.endswith("record.json has changed")
    assets.record(data / "results", run.relative_to(data / "results").as_posix())  # even where its hash was renewed
    found = record_problems(data / "results", data / "reef")
    assert not manifest_problems(data / "results") and [(said or "nothing") in text for text in found] == [True] * bool(
        said
    )


def test_an_emptied_table_and_lost_or_added_files_are_found(copy):
    data, run = copy
    table, picture = next(run.glob("rows/*.jsonl")), next(run.glob("images/*.png"))
    table.write_text("")
    picture.unlink()
    (run / "images" / "another.png").write_bytes(b"drawn elsewhere")
    found = manifest_problems(data / "results")
    assert [problem.split("/")[-1] for problem in found] == [
        f"{picture.name} is missing", "another.png is not listed", f"{table.name} has changed"]  # fmt: skip
    kind = table.stem.rsplit("-", 1)[0]
    assert record_problems(data / "results", data / "reef") == [f"{'/'.join(run.parts[-3:])}: no rows of {kind}"]


@pytest.mark.parametrize(("old", "new", "said"), [
    ("| twin-b | 2000 |", "| twin-b | 9000 |", "how the models were made"),
    ("descriptor 0.", "descriptor 1.", "another threshold"),
    ("has not been made", "has been made", "not what"), ("**Not for** drawing", "**For** drawing", "not what"),
    ("| own a | 160 | 0.9", "| own a | 160 | 1.0", None),
])  # fmt: skip
def test_a_changed_card_is_found(copy, old, new, said):
    reef = copy[0] / "reef"
    text = (reef / "README.md").read_text(encoding="utf-8")
    assert old in text
    (reef / "README.md").write_text(text.replace(old, new), encoding="utf-8")
    assert [(said or "nothing") in problem for problem in card_problems(reef)] == [True] * bool(said)
    assert "README.md has changed" in manifest_problems(reef)


def test_an_edited_training_table_is_not_read(copy, monkeypatch, one_line):
    data, _ = copy
    table = gzip.decompress((data / "reef" / "training.csv.gz").read_bytes())
    (data / "reef" / "training.csv.gz").write_bytes(gzip.compress(table.replace(b"canary", b"decoy", 1), mtime=0))
    monkeypatch.setenv("DORI_DATA", str(data))
    match = "training.csv.gz is damaged .*restore it with `git checkout -- data/reef/training.csv.gz`"
    one_line(ValueError, match, canaries.load_table.__wrapped__)


def test_a_page_is_run_again_when_the_table_or_the_calibration_is_another(copy, monkeypatch, tmp_path):
    build = pytest.importorskip("dori_lite.book.build")
    path = build.chapters()[0]
    monkeypatch.setenv("DORI_DATA", str(copy[0]))
    keys = [build.key(path, "quick", 0)]
    for name in ("training.csv.gz", "calibration.json"):
        (copy[0] / "reef" / name).write_bytes(b"another")
        assets.record(copy[0] / "reef", name)
        keys.append(build.key(path, "quick", 0))
    assert len(set(keys)) == 3
