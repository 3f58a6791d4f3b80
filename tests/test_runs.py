"""Runs: what is acknowledged stays, whatever happens next."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dori_lite import assets
from dori_lite.lab import profiles, runs
from dori_lite.lab.runs import open_existing, open_run

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path):
    return open_run("01_replay", "quick", 0, base=tmp_path)


# ---- rows --------------------------------------------------------------------------------------------


def test_rows_come_back_as_plain_numbers(run):
    import torch

    run.row("a", rate=np.float32(0.5), count=np.int64(3), ok=np.bool_(True), text="marlow", key="k", self=1)
    run.row(("b", 2), rate=torch.tensor(0.25, dtype=torch.float64), curve=np.arange(3), nested={"x": (1, np.nan)})
    first, second = map(json.loads, (run.folder / "rows-0.jsonl").read_text().splitlines())
    assert first == {"unit": "a", "rate": 0.5, "count": 3, "ok": True, "text": "marlow", "key": "k", "self": 1}
    assert second == {"unit": "b/2", "rate": 0.25, "curve": [0, 1, 2], "nested": {"x": [1, None]}}
    table = run.rows()
    assert table.columns[0] == "unit" and table["unit"].tolist() == ["a", "b/2"]
    assert table["rate"].tolist() == [0.5, 0.25]


def test_nan_is_null_on_disk_and_nan_in_the_table(run):
    import torch

    run.row("a", x=float("nan"), y=np.float64("inf"), z=torch.tensor(float("-inf")), s=None)
    run.row("b", x=1.0, y=2, z=3, s=None)

    def strict(name):
        raise AssertionError(f"{name} is not JSON")

    line = (run.folder / "rows-0.jsonl").read_text().splitlines()[0]
    assert json.loads(line, parse_constant=strict) == {"unit": "a", "x": None, "y": None, "z": None, "s": None}
    table = run.rows()
    assert table[["x", "y", "z"]].isna().iloc[0].all() and table["x"].dtype == float
    assert table["s"].isna().all()


def test_what_is_no_number_is_refused_and_leaves_nothing(run):
    with pytest.raises(TypeError, match="object cannot be kept"):
        run.row("a", x=object())
    with pytest.raises(ValueError, match="its key"):
        run.row("a", unit="b")
    assert not (run.folder / "rows-0.jsonl").exists() and not run.done("a")
    assert run.rows().empty and list(run.rows().columns) == ["unit"]


def test_the_last_row_of_a_key_counts(run):
    run.row("a", x=1)
    run.row("b", x=2)
    run.row("a", x=3)
    assert run.rows().set_index("unit")["x"].to_dict() == {"a": 3, "b": 2} and len(run.rows()) == 2


def test_done_knows_earlier_rows_and_new_ones(run, tmp_path):
    run.row(("own", 1), x=1)
    again = open_run("01_replay", "quick", 0, base=tmp_path)
    assert again.done(("own", 1)) and again.done("own/1") and not again.done("b")
    again.row("b", x=2)
    assert again.done("b") and not open_run("01_replay", "quick", 1, base=tmp_path).done("b")


def test_ranks_are_merged_in_their_order(tmp_path, monkeypatch):
    for rank in (10, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        one = open_run("c", "full", 0, base=tmp_path)
        one.row(f"unit-{rank}", rank=rank)
        one.row("shared", rank=rank)
        one.save_tensors({f"t{rank}": np.full(2, rank)})
        assert (one.folder / f"rows-{rank}.jsonl").exists()
    merged = open_existing(tmp_path / "c" / "full-0")
    assert merged.rows().set_index("unit")["rank"].to_dict() == {"unit-0": 0, "unit-2": 2, "unit-10": 10, "shared": 10}
    assert merged.done("unit-2") and merged.tensors().keys() == {"t0", "t2", "t10"}


def test_a_row_is_on_disk_when_it_is_acknowledged(run, monkeypatch):
    written, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_size) or sync(file))
    run.row("a", x=1)
    run.row("b", x=2)
    assert written == [22, 44] and (run.folder / "rows-0.jsonl").stat().st_size == 44


def test_a_line_torn_anywhere_is_ignored_and_does_not_spoil_the_next(tmp_path):
    run = open_run("c", "quick", 0, base=tmp_path)
    run.row("a", x=1)
    whole = (run.folder / "rows-0.jsonl").read_bytes()
    run.row("b", x="ä")
    both = (run.folder / "rows-0.jsonl").read_bytes()
    for cut in range(len(whole), len(both)):
        (run.folder / "rows-0.jsonl").write_bytes(both[:cut])
        again = open_run("c", "quick", 0, base=tmp_path)
        assert again.done("a") and not again.done("b")
        again.row("c", x=3)
        again.row("d", x=4)
        assert again.rows()["unit"].tolist() == ["a", "c", "d"]
    (run.folder / "rows-0.jsonl").write_bytes(both[: len(whole) // 2])  # even the first line
    run.row("c", x=3)
    assert run.rows()["unit"].tolist() == ["c"]


def test_a_damaged_line_in_the_middle_is_an_error(run):
    run.row("a", x=1)
    path = run.folder / "rows-0.jsonl"
    path.write_bytes(b"{gibberish\n" + path.read_bytes())
    with pytest.raises(ValueError, match="is damaged; remove it") as error:
        run.rows()
    assert "\n" not in str(error.value)


WRITER = """
import sys
from dori_lite.lab.runs import open_run
run = open_run("c", "quick", 0, base=sys.argv[1], stamp={"models": {"twin-a": "1"}})
heavy = {"torch", "pandas", "numpy", "diffusers"} & set(sys.modules)
assert not heavy, heavy
for k in range(10**6):
    if not run.done(f"u{k}"):
        run.row(f"u{k}", k=k, text="x" * 400_000)
        print(k, flush=True)
"""


def test_kill_9_loses_no_acknowledged_row(tmp_path):
    chance, acknowledged, torn = random.Random(0), [], 0
    file = tmp_path / "c" / "quick-0" / "rows-0.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        watch = threading.Timer(30, writer.kill)  # a writer that never writes ends the test, not the day
        watch.start()
        said = writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        rest, errors = writer.communicate()
        watch.cancel()
        assert said, errors
        acknowledged += [int(line) for line in (said + rest).split("\n") if line.isdigit()]
        torn += not file.read_bytes().endswith(b"\n")
        rows = open_existing(file.parent)._read_rows()
        assert {f"u{k}" for k in acknowledged} <= rows.keys()
        assert all(row["text"] == "x" * 400_000 and row["unit"] == f"u{row['k']}" for row in rows.values())
        # One row may be on disk and not yet said; nothing is skipped and nothing done twice.
        assert [row["k"] for row in rows.values()] == list(range(len(rows)))
    assert len(set(acknowledged)) == len(acknowledged) >= 20
    assert len(file.read_bytes().splitlines()) - (not file.read_bytes().endswith(b"\n")) == len(rows)
    run = open_run("c", "quick", 0, base=tmp_path, stamp={"models": {"twin-a": "1"}})
    run.row("last", k=-1)
    assert len(run.rows()) == len(rows) + 1
    print(f"{len(rows)} rows, {torn} torn lines")


# ---- settings ----------------------------------------------------------------------------------------


def test_rows_of_other_settings_are_moved_aside(tmp_path, capsys):
    quick = profiles.load("quick")
    run = open_run("c", quick, 0, base=tmp_path, stamp={"models": {"twin-a": "1"}})
    run.row("a", x=1)
    same = open_run("c", profiles.load("quick"), 0, base=tmp_path, stamp={"models": {"twin-a": "1"}})
    assert same.done("a") and capsys.readouterr().out == ""

    other = open_run("c", profiles.load("quick", canaries=2), 0, base=tmp_path, stamp={"models": {"twin-a": "1"}})
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "another profile:" in said and "quick-0.stale-1" in said
    assert not other.done("a") and other.rows().empty
    other.row("b", x=2)
    retrained = open_run("c", profiles.load("quick", canaries=2), 0, base=tmp_path, stamp={"models": {"twin-a": "2"}})
    assert retrained.rows().empty and "another models:" in capsys.readouterr().out
    stale = [open_existing(tmp_path / "c" / f"quick-0.stale-{n}") for n in (1, 2)]
    assert [one.rows()["unit"].tolist() for one in stale] == [["a"], ["b"]]
    assert [one.profile["canaries"] for one in stale] == [3, 2] and stale[0].seed == 0


def test_rows_of_unknown_settings_are_moved_aside(tmp_path, capsys):
    open_run("c", "quick", 0, base=tmp_path).row("a", x=1)
    assert open_run("c", "quick", 0, base=tmp_path, stamp={"models": 1}).rows().empty
    assert "stale-1" in capsys.readouterr().out


def test_other_ranks_wait_for_the_first(tmp_path, monkeypatch):
    open_run("c", "full", 0, base=tmp_path, stamp={"m": 1}).row("a", x=1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(runs, "WAIT", 0.2)
    with pytest.raises(RuntimeError, match="rank 0"):
        open_run("c", "full", 0, base=tmp_path, stamp={"m": 2})
    assert open_run("c", "full", 0, base=tmp_path, stamp={"m": 1}).done("a")


def test_runs_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("DORI_RUNS", raising=False)
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "checkout" / "data"))
    assert runs.runs_folder() == Path("runs")  # a data folder by itself
    (tmp_path / "checkout" / "dori_lite").mkdir()
    assert runs.runs_folder() == tmp_path / "checkout" / "runs"
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "absent"))
    assert runs.runs_folder() == Path("runs")
    monkeypatch.setenv("DORI_RUNS", str(tmp_path / "elsewhere"))
    assert open_run("c", "quick", 3).folder == tmp_path / "elsewhere" / "c" / "quick-3"


def test_no_run_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in .*; execute its chapter"):
        open_existing(tmp_path / "c" / "quick-0")


# ---- tensors, images, record -------------------------------------------------------------------------


def test_tensors_are_merged(run):
    import torch

    run.save_tensors({"mask": np.array([True, False]), "scale": np.float64(2.0)})
    run.save_tensors({"trigger": torch.ones(2, 3).T, "half": torch.ones(2, dtype=torch.bfloat16), "scale": np.ones(1)})
    run.save_tensors({"grad": torch.ones(1, requires_grad=True), "columns": np.arange(6).reshape(2, 3).T})
    kept = run.tensors()
    assert kept.keys() == {"mask", "scale", "trigger", "half", "grad", "columns"}
    assert kept["mask"].tolist() == [True, False] and kept["scale"].tolist() == [1.0]
    assert kept["trigger"].shape == (3, 2) and kept["half"].dtype == np.float32
    assert (kept["columns"] == np.arange(6).reshape(2, 3).T).all()


def test_an_interrupted_save_leaves_the_old_file(run, monkeypatch):
    run.save_tensors({"a": np.ones(2)})
    run.save_image("p", Image.new("RGB", (4, 4), "red"))
    run.record(numbers={"x": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for save in (
        lambda: run.save_tensors({"b": np.ones(2)}),
        lambda: run.save_image("p", Image.new("RGB", (4, 4), "blue")),
        lambda: run.record(numbers={"x": 2}),
    ):
        with pytest.raises(KeyboardInterrupt):
            save()
    assert run.tensors().keys() == {"a"} and run.read_record()["numbers"] == {"x": 1}
    assert Image.open(run.images()["p"]).getpixel((0, 0)) == (255, 0, 0) and len(run.images()) == 1


def test_images(run):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    run.save_image("grid_1.5", Image.fromarray(pixels))
    run.save_image("a", Image.fromarray(pixels[:4]))
    assert list(run.images()) == ["a", "grid_1.5"]
    assert (np.asarray(Image.open(run.images()["grid_1.5"])) == pixels).all()
    with pytest.raises(ValueError, match="cannot be a picture's name"):
        run.save_image("../a", Image.fromarray(pixels))


def test_record(tmp_path):
    run = open_run("01_replay", profiles.load("quick", canaries=2), 7, base=tmp_path)
    with pytest.raises(FileNotFoundError, match="has no record: execute its chapter to the end"):
        run.read_record()
    run.record(models={"twin-a": "0"}, numbers={"rate": np.float32(0.5), "low": float("nan")}, note="x")
    record = open_existing(run.folder).read_record()
    assert (record["chapter"], record["seed"], record["profile"]["canaries"]) == ("01_replay", 7, 2)
    assert record["numbers"] == {"rate": 0.5, "low": None} and record["note"] == "x" and record["verdicts"] == {}
    assert record["versions"]["numpy"] == np.__version__ and record["versions"]["python"].startswith("3.")
    assert record["versions"].keys() == {"python", "torch", "diffusers", "transformers", "numpy", "dori_lite"}
    assert "cores" in record["machine"] or "GPU" in record["machine"] or "NVIDIA" in record["machine"]
    with pytest.raises(ValueError, match="seed come from the run"):
        run.record(seed=1)


# ---- publishing --------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder that ships one model, "twin-a"."""
    weights = tmp_path / "data" / "reef" / "twin-a"
    weights.mkdir(parents=True)
    (weights / "unet.safetensors").write_bytes(b"weights")
    assets.record(weights.parent, "twin-a", {"smoke": True})
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_publish(run, data):
    run.row("a", rate=0.1 + 0.2, low=None)
    run.row("b", rate=1, low=2)
    run.save_image("grid", Image.new("RGB", (8, 8)))
    run.record(models=runs.model_hashes("twin-a"), verdicts={"replay": "holds here"})
    target = runs.publish(run.folder)
    assert target == data / "results" / "01_replay" / "quick"
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*")) == [
        "images",
        "images/grid.png",
        "record.json",
        "table.csv",
    ]
    assert (target / "table.csv").read_bytes() == b"unit,rate,low\na,0.30000000000000004,\nb,1.0,2.0\n"
    assert json.loads((target / "record.json").read_text())["verdicts"] == {"replay": "holds here"}
    (run.folder / "images" / "grid.png").unlink()
    assert not (runs.publish(run.folder) / "images" / "grid.png").exists()  # replaced, not added to
    assert [p.name for p in target.parent.iterdir()] == ["quick"]


def test_publish_refuses(run, data):
    def refused(match, kind=ValueError):
        with pytest.raises(kind, match=match) as error:
            runs.publish(run.folder)
        assert "\n" not in str(error.value) and not (data / "results" / "01_replay" / "quick").exists()

    run.row("a", x=1)
    refused("has no record", FileNotFoundError)
    run.record()
    refused("which models made it")
    run.record(models={"twin-a": "0" * 64})
    refused("made with a twin-a that is not shipped; execute it again")
    run.record(models={"twin-c": "0" * 64})
    refused("twin-c that is not shipped")
    good = runs.model_hashes("twin-a")
    run.record(models=good)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    run.save_image("noise", Image.fromarray(noise))
    refused(r"would publish 3\.0 MB; keep fewer or smaller pictures")
    (run.folder / "images" / "noise.png").unlink()
    runs.publish(run.folder)

    (data / "reef" / "twin-a" / "unet.safetensors").write_bytes(b"other")  # trained anew
    assets.record(data / "reef", "twin-a", {})
    assert runs.model_hashes("twin-a") != good
    with pytest.raises(ValueError, match="not shipped"):
        runs.publish(run.folder)
    (run.folder / "rows-0.jsonl").unlink()
    run.record(models=runs.model_hashes("twin-a"))
    with pytest.raises(ValueError, match="has no rows"):
        runs.publish(run.folder)


def test_single_files_hashes_count_too(run, data):
    run.row("a", x=1)
    run.record(models={"twin-a/unet.safetensors": assets.manifest(data / "reef")["files"]["twin-a/unet.safetensors"]})
    assert runs.publish(run.folder).is_dir()


def test_weights_of_the_hub_need_only_be_named(tmp_path, data):
    run = open_run("01_replay", "sd14", 0, base=tmp_path)
    run.row("a", x=1)
    run.record(models={"CompVis/stable-diffusion-v1-4": "a revision"})
    assert runs.publish(run.folder).name == "sd14"


def test_unknown_model(data):
    with pytest.raises(ValueError, match="ships no model 'twin-z'; there are: twin-a"):
        runs.model_hashes("twin-z")
