"""Publishing: what everybody gets is what the run has, made with the models that are shipped, whole or not at all."""

import gzip
import json
import os
import secrets
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from dori_lite import assets, cli, files
from dori_lite.book import profiles
from dori_lite.book import publish as publishing
from dori_lite.book.publish import all_published, publish, published
from dori_lite.runs import open_existing, open_run

CHAPTER = "01_replay"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder that ships one model, "twin-a"."""
    ship(tmp_path / "data" / "reef", b"weights")
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def ship(weights, content):
    """The model "twin-a" with these weights, and its hashes."""
    (weights / "twin-a").mkdir(parents=True, exist_ok=True)
    (weights / "twin-a" / "unet.safetensors").write_bytes(content)
    assets.record(weights, "twin-a", {"smoke": True})
    return assets.model_hashes(weights)


@pytest.fixture
def run(tmp_path, data):
    return open_run(CHAPTER, "quick", 0, base=tmp_path / "runs")


def fill(run, version=0, kind="picture", units=("a", "b"), **record):
    """Rows, a tensor and a picture for each unit, and a record, which all say `version`."""
    for _ in run.todo(kind, who=dict.fromkeys(units, version)):
        rows = [{"x": version, "rate": 0.1 + 0.2, "low": None, "losses": [1.5, 2]}, {"x": version, "losses": []}]
        run.keep(rows, tensors={"y": np.ones(9)}, images={"p q": Image.new("RGB", (8, 8), (version, 0, 0))})
    about = {"models": assets.model_hashes(assets.data_folder() / "reef"), "numbers": {"x": version}}
    run.record(**about | record)


def named(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def says(run):
    """Which versions a published run's rows, record and pictures say: one, if it is whole."""
    found = {*run.rows("picture")["x"], run.read_record()["numbers"]["x"]}
    return found | {run.image("picture", k, "p q").getpixel((0, 0))[0] for k in run.rows("picture")["who"]}


def test_what_is_published_is_the_run_without_its_tensors(run, data):
    fill(run)
    target = publish(run.folder)
    assert target == data / "results" / "reef" / CHAPTER / "quick"
    assert named(target) == ["images/picture+a+p_q.png", "images/picture+b+p_q.png", "record.json",
                             "rows/picture-0.jsonl.gz"]  # fmt: skip
    assert list((run.folder / "tensors").iterdir()) and not (target / "stamp.json").exists()
    for path in run.images():
        assert (target / "images" / path.name).read_bytes() == path.read_bytes()
    assert (target / "record.json").read_bytes() == (run.folder / "record.json").read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["quick"]


KINDS = ["picture", "what it holds", "a_b", "a-b", "a", "a+b", "über/alles", ".a"]


def test_a_published_run_reads_as_the_run(run):
    for n, kind in enumerate(KINDS):
        fill(run, n, kind, units=("a", f"b{n}"))
    publish(run.folder)
    found = published(CHAPTER, "quick")
    assert sorted(found.kinds()) == sorted(run.kinds()) == sorted(KINDS)
    for kind in KINDS:
        table = found.rows(kind)
        assert table.to_json() == run.rows(kind).to_json() and list(table.columns) == list(run.rows(kind).columns)
        assert table["losses"].tolist() == [[1.5, 2], []] * 2 and len(table) == 4  # lists stay lists
        assert table["rate"][0] == 0.1 + 0.2 and table["low"].isna().all()
    assert (found.chapter, found.world, found.profile, found.seed) == (CHAPTER, "reef", {"name": "quick"}, 0)
    assert found.read_record() == run.read_record()
    assert [path.name for path in found.images()] == [path.name for path in run.images()]
    with pytest.raises(FileNotFoundError, match="no tensors of picture a"):
        found.tensors("picture", "a")


def test_profile_and_seed_are_the_record_s(tmp_path, data):
    run = open_run(CHAPTER, profiles.load("quick", canaries=2), 7, base=tmp_path / "runs")
    fill(run)
    publish(run.folder)
    found = published(CHAPTER, "quick")
    assert found.profile["canaries"] == 2 and found.seed == 7


def test_how_long_a_run_took_is_published(run):
    fill(run)
    path = run.folder / "rows" / "picture-0.jsonl"
    lines = [json.loads(line) | {"seconds": 90.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.record(models=assets.model_hashes(assets.data_folder() / "reef"))
    publish(run.folder)
    found = published(CHAPTER, "quick")
    assert found.minutes() == run.minutes() == 3.0 == found.read_record()["minutes"]


def test_only_the_last_line_of_a_unit_is_published(run, monkeypatch):
    fill(run, 1)
    monkeypatch.setenv("RANK", "1")
    other = open_run(CHAPTER, "quick", 0, base=run.folder.parents[2])
    for _ in other.todo("picture", who={"c": 1}):
        other.keep({"x": 1}, images={"p q": Image.new("RGB", (8, 8), (1, 0, 0))})
    monkeypatch.delenv("RANK")
    fill(run, 2, units=("b",))
    with open(run.folder / "rows" / "picture-0.jsonl", "ab") as file:
        file.write(b'{"unit": ["torn"], "ro')
    target = publish(run.folder)
    assert named(target / "rows") == ["picture-0.jsonl.gz"]  # of all ranks
    lines = gzip.decompress((target / "rows" / "picture-0.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(line)["unit"] for line in lines] == [["a"], ["b"], ["c"]]
    table = published(CHAPTER, "quick").rows("picture")
    assert table.groupby("who")["x"].agg(list).to_dict() == {"a": [1, 1], "b": [2, 2], "c": [1]}


def test_publishing_again_replaces(run):
    fill(run, 1)
    fill(run, 1, "more")
    assert says(open_existing(publish(run.folder))) == {1}
    fill(run, 2)
    run.images()[0].unlink()
    (run.folder / "rows" / "more-0.jsonl").unlink()
    target = publish(run.folder)
    assert named(target / "rows") == ["picture-0.jsonl.gz"] and len(named(target / "images")) == 3
    assert set(open_existing(target).rows("picture")["x"]) == {2}
    assert [path.name for path in target.parent.iterdir()] == ["quick"]
    fill(run, 3)
    assert says(open_existing(publish(run.folder))) == {3}
    assert says(open_existing(publish(target))) == {3}  # published from itself, it stays


def test_what_is_absent_is_none(run, data):
    assert published(CHAPTER) is None and published(CHAPTER, "quick") is None
    fill(run)
    publish(run.folder)
    assert published(CHAPTER) is None and published(CHAPTER, "quick", "sd14") is None
    assert published("02", "quick") is None
    assert published(CHAPTER, "quick").folder == data / "results" / "reef" / CHAPTER / "quick"
    fill(open_run(CHAPTER, "standard", 0, base=run.folder.parents[2]), 5)
    publish(run.folder.with_name("standard-0"))
    assert says(published(CHAPTER)) == {5}


def test_all_published_runs_come_by_chapter_and_profile(run, data, one_line):
    assert all_published() == []
    for chapter, profile in (("02_more", "standard"), (CHAPTER, "standard"), ("02_more", "quick"), (CHAPTER, "quick")):
        fill(open_run(chapter, profile, 0, base=run.folder.parents[2]), 1)
        publish(run.folder.parents[1] / chapter / f"{profile}-0")
    found = all_published()
    assert [(one.chapter, one.profile["name"]) for one in found] == [
        *((CHAPTER, "quick"), (CHAPTER, "standard"), ("02_more", "quick"), ("02_more", "standard"))
    ]
    assert all(one.world == "reef" and says(one) == {1} for one in found)
    assert all_published("sd14") == []
    fill(open_run(CHAPTER, "quick", 0, world="sd14", base=run.folder.parents[2]), 2)
    publish(run.folder.parents[2] / "sd14" / CHAPTER / "quick-0")
    [one] = all_published("sd14")
    assert says(one) == {2} and one.world == "sd14" and len(all_published()) == 4
    for wrong in ("../reef", "", ".x", None, 3):
        one_line(ValueError, "world", all_published, wrong)


def test_a_folder_without_a_record_is_no_published_run(run, data):
    fill(run)
    target = publish(run.folder)
    (target.with_name("standard") / "rows").mkdir(parents=True)
    assert [one.folder for one in all_published()] == [target]


def test_what_is_not_whole_or_of_other_models_is_refused(run, data, one_line):
    def refused(match, kind=ValueError, published=False):
        one_line(kind, match, publish, run.folder)
        assert (data / "results" / "reef" / CHAPTER / "quick").exists() == published
        assert not list(data.rglob("*.partial")) and not list(data.rglob("*.old"))

    one_line(FileNotFoundError, "no run in", publish, run.folder.with_name("quick-1"))
    for _ in run.todo("picture", who=["a"]):
        run.keep({"x": 1})
    refused("has no record", FileNotFoundError)
    run.record()
    refused("does not say which models made it")
    run.record(models={"twin-a": "0" * 64})
    refused("made with a twin-a that is not shipped; execute it again")
    run.record(models={"twin-c": "0" * 64})
    refused("twin-c that is not shipped")
    good = assets.model_hashes(data / "reef")
    run.record(models=good | {"twin-c": good["twin-a"]})
    refused("a twin-c that is not shipped")
    run.record(models={"twin-a/unet.safetensors": assets.manifest(data / "reef")["files"]["twin-a/unet.safetensors"]})
    refused("that is not shipped")  # models are named, not files
    run.record(models=good)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    for _ in run.todo("picture", who=["b"]):
        run.keep({"x": 1}, images={"noise": noise})
    refused(r"would publish 3\.0 MB; keep fewer or smaller pictures")
    run.images()[0].unlink()
    publish(run.folder)

    assert ship(data / "reef", b"trained anew") != good
    refused("not shipped", published=True)
    run.record(models=assets.model_hashes(data / "reef"))
    publish(run.folder)
    rows = run.folder / "rows" / "picture-0.jsonl"
    rows.write_bytes(rows.read_bytes()[:9])  # torn
    refused("has no rows; execute its chapter to the end", published=True)
    rows.unlink()
    refused("has no rows", published=True)
    assert len(published(CHAPTER, "quick").rows("picture")) == 2


def test_units_without_rows_are_no_rows(run, one_line):
    for _ in run.todo("picture", who=["a"]):
        run.keep([])
    run.record(models=assets.model_hashes(assets.data_folder() / "reef"))
    one_line(ValueError, "has no rows", publish, run.folder)


@pytest.mark.parametrize("too_much", [0, 1])
def test_the_limit_counts_everything(run, data, too_much, monkeypatch):
    fill(run)
    target = publish(run.folder)
    its_size = sum((target / name).stat().st_size for name in named(target))
    monkeypatch.setattr(publishing, "PUBLISHED_BYTES", its_size - too_much)
    shutil.rmtree(target)
    if not too_much:
        assert publish(run.folder) == target
    else:
        with pytest.raises(ValueError, match="limit 2.5 MB"):
            publish(run.folder)
        assert list(target.parent.iterdir()) == []


def test_the_limit_is_two_megabytes():
    assert publishing.PUBLISHED_BYTES == 2_500_000


def test_a_world_whose_weights_are_not_here_need_only_name_them(tmp_path, data, one_line):
    run = open_run(CHAPTER, "quick", 0, world="sd14", base=tmp_path / "runs")
    fill(run, models={})
    one_line(ValueError, "does not say which models made it", publish, run.folder)
    fill(run, models={"CompVis/stable-diffusion-v1-4": "a revision"})
    assert publish(run.folder) == data / "results" / "sd14" / CHAPTER / "quick"
    found = published(CHAPTER, "quick", "sd14")
    assert found.world == "sd14" and len(found.rows("picture")) == 4
    assert published(CHAPTER, "quick") is None
    ship(data / "sd14", b"weights")
    one_line(ValueError, "not shipped", publish, run.folder)  # once there is a manifest, it counts


def test_an_interrupted_publication_leaves_the_old_one(run, data, monkeypatch):
    """Stopped at each step in turn, what is published is one version, and whole; the last step gives the new one."""
    target = data / "results" / "reef" / CHAPTER / "quick"
    seen, n = [], 0
    while not seen or seen[-1] != "done":
        shutil.rmtree(target.parent, ignore_errors=True)
        fill(run, 1)
        publish(run.folder)
        fill(run, 2)
        n, calls = n + 1, []

        def stopping(function, n=n, calls=calls):
            def step(*args, **options):
                calls.append(function.__name__)
                if len(calls) == n:
                    raise KeyboardInterrupt
                return function(*args, **options)

            return step

        with monkeypatch.context() as patch:
            steps = [(os, "replace"), (shutil, "copyfile"), (shutil, "rmtree"), (files, "write_text")]
            for place, name in steps:
                patch.setattr(place, name, stopping(getattr(place, name)))
            try:
                publish(run.folder)
                seen.append("done")
            except KeyboardInterrupt:
                [version] = says(open_existing(target))
                seen.append(version)
        fill(run, 3)
        publish(run.folder)  # and the next one is not disturbed by what was left
        assert says(published(CHAPTER, "quick")) == {3} and [p.name for p in target.parent.iterdir()] == ["quick"]
    *versions, _ = seen
    assert versions == sorted(versions) and versions.count(1) >= 6, seen


def test_the_manifest_lists_what_is_published(run, data):
    fill(run, 1)
    target = publish(run.folder)
    listed = assets.manifest(data / "results")
    place = target.relative_to(data / "results").as_posix()
    assert listed["models"] == {} and list(listed["files"]) == [f"{place}/{name}" for name in named(target)]
    fill(open_run("02_more", "quick", 0, base=run.folder.parents[2]), 2)
    other = publish(run.folder.parents[1] / "02_more" / "quick-0")
    fill(run, 3, units=("a",))
    (run.folder / "images" / "picture+b+p_q.png").unlink()
    publish(run.folder)
    listed = assets.manifest(data / "results")["files"]
    assert len(listed) == len(named(target)) + len(named(other)) == 3 + 4
    assert all(files.sha256(data / "results" / path) == digest for path, digest in listed.items())


@pytest.mark.parametrize("part", ["world", "chapter"])
def test_a_record_that_names_another_place_is_refused(run, data, one_line, part):
    fill(run)
    files.write_json(run.folder / "record.json", run.read_record() | {part: "../../elsewhere"})
    one_line(ValueError, rf"{part} '../../elsewhere' does not fit", publish, run.folder)
    files.write_json(run.folder / "record.json", run.read_record() | {part: "x", "models": None})
    one_line(ValueError, "does not say which models made it", publish, run.folder)


def test_a_failing_publication_leaves_nothing_beside_the_old_one(run, data, monkeypatch):
    fill(run, 1)
    target = publish(run.folder)
    fill(run, 2)
    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        publish(run.folder)
    assert says(open_existing(target)) == {1} and [p.name for p in target.parent.iterdir()] == ["quick"]


def test_what_a_kill_left_is_no_part_of_the_next_one(run, data, one_line):
    fill(run, 1)
    target = publish(run.folder)
    partial, old = (target.with_name(f"quick.{end}") for end in ("partial", "old"))
    shutil.copytree(target, old)
    (partial / "rows").mkdir(parents=True)
    (partial / "rows" / "left-0.jsonl").write_text("half of a l")
    assert published(CHAPTER, "quick").kinds() == ["picture"]
    fill(run, 2)
    assert says(open_existing(publish(run.folder))) == {2}
    assert published(CHAPTER, "quick").kinds() == ["picture"]
    assert [path.name for path in target.parent.iterdir()] == ["quick"]

    target.rename(old)  # killed while the new one took its place: it comes back, whatever the next one does
    for _ in run.todo("noise", k=[0]):
        run.keep({"x": secrets.token_hex(2_500_000)})
    one_line(ValueError, "limit 2.5 MB", publish, run.folder)
    assert says(open_existing(target)) == {2} and [path.name for path in target.parent.iterdir()] == ["quick"]


def test_a_run_is_published_from_within(run, data, monkeypatch):
    fill(run)
    monkeypatch.chdir(run.folder.parent)
    assert publish("quick-0") == data / "results" / "reef" / CHAPTER / "quick"


def test_the_command(run, data, monkeypatch, capsys):
    fill(run)
    monkeypatch.setattr(sys, "argv", ["dori-lite", "publish", str(run.folder)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code and says(published(CHAPTER, "quick")) == {0}
    assert capsys.readouterr().out.endswith(f"published in {data / 'results' / 'reef' / CHAPTER / 'quick'}\n")
    (run.folder / "record.json").unlink()
    with pytest.raises(SystemExit, match="^dori-lite: [^\n]*has no record[^\n]*$"):
        cli.main()
