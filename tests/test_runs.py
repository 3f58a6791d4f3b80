"""Runs: what is acknowledged stays, whatever happens next; a unit is done once, and again only if it is another."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dori_lite import files, locks, runs, stamps, units
from dori_lite.book import profiles
from dori_lite.evaluation import Condition, Found, Target
from dori_lite.runs import open_existing, open_run, runs_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path):
    return open_run("01_replay", "quick", 0, base=tmp_path)


def again(run):
    """The same run, as another process opens it."""
    return open_run("01_replay", "quick", 0, base=run.folder.parents[2])


def fill(run, kind, rows=None, /, **axes):
    """Do what is missing of a kind: every unit gets `rows`, or what `rows` gives for it. Which units it was."""
    did = []
    for values in run.todo(kind, **axes):
        did.append(values)
        run.keep({"x": 1} if rows is None else rows(values) if callable(rows) else rows)
    return did


def path_of(run, kind, rank=0):
    return run.folder / "rows" / f"{kind}-{rank}.jsonl"


def lines(run, kind, rank=0):
    return [json.loads(line) for line in path_of(run, kind, rank).read_text().splitlines()]


def target(name, **labels):
    return Target(name, f"a caption of {name}", torch.zeros(3, 2, 2), labels)


def snapshot(folder):
    """Of every file: when it was written, which one it is, what it holds."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in paths}


def stop(*_, **__):
    raise KeyboardInterrupt


# ---- rows ------------------------------------------------------------------------------------------------


def test_rows_come_back_as_plain_numbers(run):
    first = {"rate": np.float32(0.5), "count": np.int64(3), "ok": np.bool_(True), "text": "marlow", "key": "k"}
    first |= {"self": 1, "kind": "k", "plan": "p"}
    second = {"rate": torch.tensor(0.25, dtype=torch.float64), "curve": np.arange(3), "nested": {"x": (1, np.nan)}}
    fill(run, "a", first, who=["a"], size=[2])
    fill(run, "a", second, who=["b"], size=[2])
    one, two = lines(run, "a")
    assert one["unit"] == ["a", "2"] and two["unit"] == ["b", "2"]
    plain = {"rate": 0.5, "count": 3, "ok": True, "text": "marlow", "key": "k", "self": 1, "kind": "k", "plan": "p"}
    assert one["rows"] == [{"who": "a", "size": 2, **plain}]
    assert [type(one["rows"][0][name]) for name in ("size", "rate", "count", "ok")] == [int, float, int, bool]
    assert two["rows"] == [{"who": "b", "size": 2, "rate": 0.25, "curve": [0, 1, 2], "nested": {"x": [1, None]}}]
    table = run.rows("a")
    assert list(table.columns[:3]) == ["who", "size", "rate"] and table["who"].tolist() == ["a", "b"]
    assert table["rate"].tolist() == [0.5, 0.25] and table["curve"][1] == [0, 1, 2]


def test_nan_is_null_on_disk_and_nan_in_the_table(run):
    wrong = {"x": float("nan"), "y": np.float64("inf"), "z": torch.tensor(float("-inf")), "s": None}
    fill(run, "a", wrong, who=["a"])
    fill(run, "a", {"x": 1.0, "y": 2, "z": 3, "s": None}, who=["b"])

    def strict(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(path_of(run, "a").read_text().splitlines()[0], parse_constant=strict)
    assert line["rows"] == [{"who": "a", "x": None, "y": None, "z": None, "s": None}]
    table = run.rows("a")
    assert table[["x", "y", "z"]].isna().iloc[0].all() and table["x"].dtype == float
    assert table["s"].isna().all() and table["s"].dtype == float and table["z"].tolist()[1] == 3


def test_what_is_no_number_is_refused_and_leaves_nothing(run, one_line):
    kept = {"tensors": {"y": torch.ones(1)}, "images": {"p": Image.new("RGB", (2, 2))}}
    for _ in run.todo("a", who=["a"]):
        before = snapshot(run.folder)
        one_line(TypeError, "object cannot be kept", run.keep, {"x": object()}, **kept)
        one_line(TypeError, "object cannot be kept", run.keep, [{"x": 1}, {"x": object()}], **kept)
        one_line(ValueError, "who come from the unit", run.keep, {"who": "b"}, **kept)
        assert snapshot(run.folder) == before and again(run).rows("a").empty
        run.keep({"x": 1, "who": "a"})  # still in work, and what says the same is no contradiction
    assert fill(again(run), "a", who=["a"]) == []
    assert run.rows("a").to_dict("records") == [{"who": "a", "x": 1}]


def test_the_last_line_of_a_unit_counts(run):
    fill(run, "a", {"x": 1}, who=["a", "b"])
    old, _ = path_of(run, "a").read_bytes().splitlines(keepends=True)
    files.append(path_of(run, "a"), old.replace(b'"x": 1', b'"x": 3'))
    for one in (run, again(run), open_existing(run.folder)):
        table = one.rows("a")
        assert table.set_index("who")["x"].to_dict() == {"a": 3, "b": 1} and len(table) == 2


def test_ranks_are_merged_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    open_run("c", "full", 0, base=tmp_path)
    for rank in (10, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        one = open_run("c", "full", 0, base=tmp_path)
        for _ in one.todo("a", who=[f"unit-{rank}"]):
            one.keep({"rank": rank}, tensors={f"t{rank}": np.full(2, rank)})
        shared = f'{{"unit": ["shared"], "plan": "", "rows": [{{"who": "shared", "rank": {rank}}}]}}\n'
        files.append(path_of(one, "a", rank), shared.encode())
        assert [line["unit"][0] for line in lines(one, "a", rank)] == [f"unit-{rank}", "shared"]
    merged = open_existing(tmp_path / "reef" / "c" / "full-0")
    found = merged.rows("a").set_index("who")["rank"].to_dict()
    assert found == {"unit-0": 0, "unit-2": 2, "unit-10": 10, "shared": 10}
    assert merged.kinds() == ["a"] and [merged.tensors("a", f"unit-{k}")[f"t{k}"][0] for k in (0, 2, 10)] == [0, 2, 10]
    assert fill(one, "a", who=["unit-2", "unit-3", "unit-10"]) == ["unit-3"]  # what another rank did is done


def test_a_row_is_on_disk_when_it_is_acknowledged(run, monkeypatch):
    written, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_size) or sync(file))
    sizes = []
    for _ in run.todo("a", who=["a", "b"]):
        run.keep([{"x": 1}, {"x": 2}])
        sizes.append(path_of(run, "a").stat().st_size)
    assert written == sizes and 0 < sizes[0] < sizes[1] and len(lines(run, "a")) == 2


def test_a_line_torn_anywhere_is_ignored_and_does_not_spoil_the_next(run):
    path = path_of(run, "a")
    fill(run, "a", who=["a"])
    whole = path.read_bytes()
    fill(run, "a", [{"x": "ä"}, {"x": 2}], who=["b"])
    both = path.read_bytes()
    for cut in range(len(whole), len(both)):
        path.write_bytes(both[:cut])
        assert open_existing(run.folder).rows("a")["who"].tolist() == ["a"]
        one = again(run)
        assert fill(one, "a", who=["a", "b"]) == ["b"] and fill(one, "a", who=["d"]) == ["d"]
        assert one.rows("a")["who"].tolist() == ["a", "b", "d"] == open_existing(run.folder).rows("a")["who"].tolist()
    path.write_bytes(both[: len(whole) // 2])  # even the first line
    assert again(run).rows("a").empty and fill(again(run), "a", who=["c"]) == ["c"]
    assert open_existing(run.folder).rows("a")["who"].tolist() == ["c"]


def test_a_damaged_line_in_the_middle_is_an_error(run, one_line):
    fill(run, "a", who=["a"])
    fill(run, "b", who=["a"])
    path_of(run, "a").write_bytes(b"{gibberish\n" + path_of(run, "a").read_bytes())
    one_line(ValueError, "is damaged; remove it", run.rows, "a")
    one_line(ValueError, "is damaged; remove it", fill, again(run), "a", who=["b"])
    assert len(run.rows("b")) == 1


@pytest.mark.parametrize("rows", [
    {"x": 1, "y": [1.5, 2]}, [{"x": 1, "y": [1.5, 2]}], pd.DataFrame({"x": [1], "y": [[1.5, 2]]}, index=[7]),
    ({"x": k, "y": [1.5, 2]} for k in (1,)), Found([{"x": 1, "y": [1.5, 2]}], {}, {}),
])  # fmt: skip
def test_what_can_be_kept(run, rows):
    fill(run, "a", rows, who=["a"])
    table = run.rows("a")
    assert list(table.columns) == ["who", "x", "y"]
    assert table.to_dict("records") == [{"who": "a", "x": 1, "y": [1.5, 2]}]


def test_a_unit_may_have_many_rows_or_none(run):
    did = fill(run, "a", lambda n: pd.DataFrame({"k": range(n), "z": [np.nan] * n}), n=[2, 0, 3])
    assert did == [2, 0, 3] and fill(again(run), "a", n=[2, 0, 3]) == []
    assert run.rows("a")[["n", "k"]].values.tolist() == [[2, 0], [2, 1], [3, 0], [3, 1], [3, 2]]
    assert len(lines(run, "a")) == 3 and run.rows("a")["z"].isna().all()


def test_what_the_engine_gives_is_kept_with_its_tensors_and_images(run):
    found = Found([{"steps": 0}, {"steps": 50}], {"y": torch.arange(3.0)}, {50: torch.ones(3, 2, 2)})
    t = target("marlow")
    for _ in run.todo("attack", target=[t], start=["prompt"]):
        run.keep(found, tensors={"mask": torch.tensor([True])}, images={"before": torch.zeros(3, 2, 2)})
    rows = run.rows("attack")[["target", "start", "steps"]].values.tolist()
    assert rows == [["marlow", "prompt", 0], ["marlow", "prompt", 50]]
    kept = run.tensors("attack", t, "prompt")
    assert kept.keys() == {"y", "mask"} and kept["y"].tolist() == [0, 1, 2]
    assert run.image("attack", t, "prompt", 50).getpixel((0, 0)) == (255, 255, 255)
    assert run.image("attack", "marlow", "prompt", "before").getpixel((0, 0)) == (0, 0, 0)


# ---- kinds -----------------------------------------------------------------------------------------------

KINDS = ["a", "a-b", "a-1", "a b", "a_b", "a+b", "a/b", "a.b", "attack", "attack-2", "attack-", "-", "ä", ".a", "a%20b"]


def test_kinds_do_not_mix(run):
    for n, kind in enumerate(KINDS):
        assert fill(run, kind, {f"column {n}": n}, who=["a"]) == ["a"]
    for one in (run, again(run), open_existing(run.folder)):
        assert sorted(one.kinds()) == sorted(KINDS)
        for n, kind in enumerate(KINDS):
            assert one.rows(kind).to_dict("list") == {"who": ["a"], f"column {n}": [n]}
    assert fill(again(run), "a", who=["a"]) == []


def test_an_unknown_kind_is_empty(run):
    assert isinstance(run.rows("a"), pd.DataFrame) and run.rows("a").empty and run.kinds() == [] == run.images()
    fill(run, "b", who=["a"])
    assert run.rows("a").empty and len(run.rows("a").columns) == 0 and run.kinds() == ["b"]


def test_ranks_and_units_are_of_one_kind(run, monkeypatch):
    fill(run, "b", who=["a", "b"])
    monkeypatch.setenv("RANK", "1")
    fill(again(run), "b", who=["c"])
    fill(again(run), "a", who=["c"])
    assert run.kinds() == ["a", "b"]
    (run.folder / "rows" / "b-0 (copy).jsonl").write_text("what somebody left here")
    assert open_existing(run.folder).rows("b")["who"].tolist() == ["a", "b", "c"]


# ---- units of work ---------------------------------------------------------------------------------------


def test_what_is_missing_is_asked_for_in_order(run):
    axes = {"target": ["m", "n"], "rho": (0.1, 0.2), "k": range(2)}
    every = [(t, rho, k) for t in "mn" for rho in (0.1, 0.2) for k in range(2)]
    units = run.todo("a", **axes)
    assert iter(units) is units and not run.folder.joinpath("rows").exists()
    for n, unit in enumerate(units):
        assert unit == every[n]
        if n == 3:
            break
        run.keep({"n": n})
    assert fill(again(run), "a", **axes) == every[3:]
    assert fill(again(run), "a", **axes) == []
    assert run.rows("a")[["target", "rho", "k"]].values.tolist() == [list(unit) for unit in every]
    did = fill(again(run), "a", target=["o", "m"], rho=[0.2, 0.3], k=[1])
    assert did == [("o", 0.2, 1), ("o", 0.3, 1), ("m", 0.3, 1)]
    assert fill(run, "another kind", **axes) == every


def test_one_axis_gives_plain_values(run):
    assert fill(run, "a", k=range(3)) == [0, 1, 2]
    assert fill(run, "b", model={"twin-a": 1, "twin-b": 2}) == ["twin-a", "twin-b"]
    assert fill(run, "c", kind=["x"], self=["y"]) == [("x", "y")]
    assert fill(run, "d", k=[]) == [] == fill(run, "e", k=[1], j=[]) and run.rows("d").empty
    assert fill(run, "f", k=(k for k in "ab")) == ["a", "b"]


def test_targets_are_handed_out_themselves_and_stored_by_name(run):
    targets, conditions = [target("marlow"), target("pike")], [Condition("own", None), Condition("own, NeMo", None)]
    did = fill(run, "a", target=targets, condition=conditions)
    expected = [(t, c) for t in targets for c in conditions]
    assert all(a is b for got, wanted in zip(did, expected, strict=True) for a, b in zip(got, wanted, strict=True))
    assert run.rows("a")[["target", "condition"]].values.tolist() == [[t.name, c.name] for t, c in expected]
    [one] = fill(run, "b", target=targets[:1])
    assert one is targets[0]
    assert fill(again(run), "a", target=["marlow", "pike"], condition=["own", "own, NeMo"]) == []


def test_units_of_one_text_are_two(run):
    """Neither in the rows nor in their tensors and images do ("a/b", "c") and ("a", "b/c") meet."""
    units = [("a/b", "c"), ("a", "b/c"), ("a+b", "c"), ("a", "b+c"), ("a b", "c"), ("a_b", "c"), ("", "a"), ("a", ""),
             ("A", "c"), ("a%2Fb", "c"), ("a", 'b", "c'), ("a", "b', 'c")]  # fmt: skip
    for n, (x, y) in enumerate(units):
        for _ in run.todo("k", x=[x], y=[y]):
            run.keep({"n": n}, tensors={"n": np.array(n)}, images={"p": Image.new("RGB", (1, 1), (n, 0, 0))})
    assert len(list((run.folder / "tensors").iterdir())) == len(units) == len(run.images())
    for n, unit in enumerate(units):
        assert run.tensors("k", *unit)["n"] == n and run.image("k", *unit, "p").getpixel((0, 0))[0] == n
        assert fill(again(run), "k", x=unit[:1], y=unit[1:]) == []
    assert run.rows("k")["n"].tolist() == list(range(len(units)))


def test_a_changed_plan_is_done_again_and_no_other(run):
    plan = {"own": ("own", None, 50), "NeMo": ["own", "NeMo", {"steps": 50, "rate": 0.5}]}
    axes = {"target": [target("marlow"), target("pike")], "condition": plan}
    assert len(fill(run, "a", {"x": 1}, **axes)) == 4
    same = {"NeMo": ("own", "NeMo", {"rate": np.float64(0.5), "steps": 50}), "own": ["own", None, 50]}
    assert fill(again(run), "a", **axes | {"condition": same}) == []
    changed = plan | {"NeMo": ["own", "NeMo", {"steps": 51, "rate": 0.5}]}
    one = again(run)
    did = fill(one, "a", {"x": 2}, **axes | {"condition": changed})
    assert [(t.name, name) for t, name in did] == [("marlow", "NeMo"), ("pike", "NeMo")]
    expected = {("marlow", "own"): 1, ("marlow", "NeMo"): 2, ("pike", "own"): 1, ("pike", "NeMo"): 2}
    for reader in (one, open_existing(run.folder)):
        table = reader.rows("a")
        assert len(table) == 4 and table.set_index(["target", "condition"])["x"].to_dict() == expected
    assert len(fill(again(run), "a", {"x": 3}, **axes)) == 2  # and back again: its files are the other's


def test_rows_of_an_old_plan_do_not_show_while_the_new_one_is_in_work(run):
    fill(run, "a", {"x": 1}, size={"small": 1, "large": 2})
    one = again(run)
    for name in one.todo("a", size={"small": 1, "large": 3}):
        assert name == "large" and one.rows("a")["size"].tolist() == ["small"]
        one.keep({"x": 2})
    assert one.rows("a").set_index("size")["x"].to_dict() == {"small": 1, "large": 2}


def test_only_what_was_asked_for_shows(run):
    fill(run, "a", who=["a", "b", "c"])
    fill(run, "b", who=["a"])
    one = again(run)
    assert one.rows("a")["who"].tolist() == ["a", "b", "c"]  # nothing was asked for: all there is
    assert fill(one, "a", who=["c"]) == [] and one.rows("a")["who"].tolist() == ["c"]
    assert fill(one, "a", who=["d"]) == ["d"] and one.rows("a")["who"].tolist() == ["c", "d"]  # of several loops
    assert len(one.rows("b")) == 1


def test_a_run_for_reading_has_nothing_to_do_and_is_not_written_to(run, one_line):
    fill(run, "a", who=["a", "b"])
    run.record()
    before, one = snapshot(run.folder.parents[2]), open_existing(run.folder)
    assert fill(one, "a", who={"a": "another plan", "c": 1}) == fill(one, "b", k=[0]) == []
    assert one.rows("a")["who"].tolist() == ["a", "b"]  # whatever was asked for
    one_line(ValueError, "there is no unit in work", one.keep, {"x": 1})
    one_line(RuntimeError, "quick-0 is open for reading; go on with it by open_run", one.record)
    assert snapshot(run.folder.parents[2]) == before and (os.getpid(), one.lock_file.resolve()) not in locks.HELD


def test_what_cannot_be_compared_is_no_part_of_a_plan(run):
    def models():
        return {"twin-a": Condition("a", None), "twin-b": object()}

    assert fill(run, "a", model=models(), size={"small": 1}) == [("twin-a", "small"), ("twin-b", "small")]
    assert fill(again(run), "a", model=models(), size={"small": 1}) == []
    assert fill(again(run), "a", model=models(), size={"small": 2}) == [("twin-a", "small"), ("twin-b", "small")]
    conditions = {Condition("own", None): 1, Condition("other", None): 2}
    assert [c.name for c in fill(run, "b", condition=conditions)] == ["own", "other"]
    changed = dict(zip(conditions, (1, 3), strict=True))
    assert [c.name for c in fill(again(run), "b", condition=changed)] == ["other"]


def test_a_body_that_keeps_nothing_is_an_error(run, one_line):
    def nothing(*axes):
        for _ in run.todo("a", who=["u"], k=[1]):
            pass

    one_line(ValueError, "nothing was kept of a u, 1: call run.keep", nothing)
    one_line(ValueError, "no unit in work", run.keep, {"x": 1})
    assert fill(again(run), "a", who=["u"], k=[1]) == [("u", 1)]

    def outer_forgets():
        for _ in run.todo("outer", k=[1, 2]):
            fill(run, "inner", k=[1])

    one_line(ValueError, "nothing was kept of outer 1", outer_forgets)


def test_loops_may_be_nested(run):
    for k in run.todo("outer", k=[1, 2]):
        assert fill(run, "inner", k=[1]) == ([1] if k == 1 else [])
        run.keep({"inner": len(run.rows("inner"))})
    assert run.rows("outer").to_dict("list") == {"k": [1, 2], "inner": [1, 1]}
    assert run.rows("inner").to_dict("list") == {"k": [1], "x": [1]}


def test_keep_outside_a_loop_is_an_error(run, one_line):
    def keep():
        one_line(ValueError, "no unit in work", run.keep, {"x": 1}, tensors={"y": np.ones(1)})
        assert run.open is None and not list(run.folder.rglob("*.safetensors"))

    keep()
    for _ in run.todo("a", k=[1, 2]):
        run.keep({"x": 1})
        keep()  # a unit is kept once
    keep()
    for _ in run.todo("b", k=[1]):
        break
    keep()
    with pytest.raises(ZeroDivisionError):
        fill(run, "b", lambda k: 1 / 0, k=[1])
    keep()
    assert run.rows("a")["x"].tolist() == [1, 1] and run.kinds() == ["a"]


def test_a_loop_that_is_left_leaves_the_unit_undone_and_the_run_usable(run):
    for k in run.todo("a", k=[1, 2, 3]):
        if k == 2:
            break
        run.keep({"x": k})
    assert run.rows("a")["k"].tolist() == [1]
    with pytest.raises(ZeroDivisionError):
        fill(run, "a", lambda k: {"x": 1 / (k - 3)}, k=[1, 2, 3])
    assert run.rows("a")["k"].tolist() == [1, 2]
    assert fill(run, "b", k=[1]) == [1] and fill(run, "a", k=[1, 2, 3]) == [3]


# ---- stopped at any moment -------------------------------------------------------------------------------

WRITER = """
import sys
from dori_lite import stamps
from dori_lite.runs import open_run
stamps.code_of_rows = lambda: "1"
run = open_run("c", "quick", 0, base=sys.argv[1], stamp={"weights": "1"})
for k in run.todo("unit", k=range(3000)):
    run.keep([{"part": part, "text": "x" * 100_000} for part in range(4)])
    print(k, flush=True)
"""


def test_kill_9_loses_no_acknowledged_row(tmp_path, monkeypatch):
    chance, acknowledged, torn = random.Random(0), [], 0
    file = tmp_path / "reef" / "c" / "quick-0" / "rows" / "unit-0.jsonl"
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
        rows = open_existing(file.parents[1]).rows("unit")
        assert set(acknowledged) <= set(rows["k"])
        assert (rows["text"] == "x" * 100_000).all()
        # A unit may be on disk and not yet said; none is skipped, none done twice, none is there in part.
        units = len(rows) // 4
        assert rows["k"].tolist() == [k for k in range(units) for _ in range(4)]
        assert rows["part"].tolist() == list(range(4)) * units
    assert len(set(acknowledged)) == len(acknowledged) >= 20
    assert len(file.read_bytes().splitlines()) - (not file.read_bytes().endswith(b"\n")) == units
    monkeypatch.setattr(stamps, "code_of_rows", lambda: "1")
    run = open_run("c", "quick", 0, base=tmp_path, stamp={"weights": "1"})
    assert fill(run, "unit", k=[*range(units), "last"]) == ["last"]
    assert len(run.rows("unit")) == 4 * units + 1
    print(f"{units} units, {torn} torn lines")


LIGHT = """
import sys
from dori_lite.runs import open_existing, open_run
run = open_run("c", "quick", 0, base=sys.argv[1])
for k in run.todo("unit", k=range(2)):
    run.keep({"x": [k]})
run.record(models={"m": "1"})
assert open_existing(run.folder).kinds() == ["unit"]
heavy = {"torch", "pandas", "numpy", "diffusers", "PIL", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""


def test_nothing_heavy_is_imported_to_keep_rows(tmp_path):
    subprocess.run([sys.executable, "-c", LIGHT, tmp_path], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def keep_all(run, colour):
    """Keep a unit with two rows, tensors and two images, all of which say `colour`; whether it was missing."""
    for _ in run.todo("a", who={"u": colour}):
        pictures = {name: Image.new("RGB", (2, 2), (colour, 0, 0)) for name in "pq"}
        run.keep([{"x": colour}, {"x": colour}], tensors={"y": np.full(2, colour)}, images=pictures)
        return True
    return False


def says(run):
    """What the unit's files say: of its tensors, and of each image."""
    return [run.tensors("a", "u")["y"].tolist()[0], *(run.image("a", "u", n).getpixel((1, 1))[0] for n in "pq")]


@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("first", [True, False])
def test_an_interruption_leaves_the_unit_undone_and_no_file_in_part(run, monkeypatch, n, first):
    """At each of the four places, of a new unit's and of one that is done again."""
    fill(run, "b", who=["other"])
    if not first:
        keep_all(run, 1)
    before, calls = snapshot(run.folder), []
    replace, append = os.replace, files.append

    def count(function):
        def counted(*args):
            calls.append(function)
            return stop() if len(calls) == n + 1 else function(*args)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", count(replace))
        patch.setattr(files, "append", count(append))
        with pytest.raises(KeyboardInterrupt):
            keep_all(run, 2)
    assert calls == [replace, replace, replace, append][: n + 1], "the row comes last"
    after = snapshot(run.folder)
    assert len(after) == len(before) + n * first
    assert sum(after[path] != before[path] for path in before) == n * (not first)
    assert not [path for path in after if "partial" in path.name]
    one = again(run)
    if not first:
        assert one.rows("a")["x"].tolist() == [1, 1] and says(one) == [2] * n + [1] * (3 - n)
    assert keep_all(one, 2) and says(one) == [2, 2, 2] and not keep_all(again(run), 2)
    assert one.rows("a")["x"].tolist() == [2, 2] and len(one.rows("b")) == 1


# ---- settings --------------------------------------------------------------------------------------------


def test_rows_of_other_settings_are_moved_aside(tmp_path, capsys):
    def opened(stamp, **overrides):
        return open_run("c", profiles.load("quick", **overrides), 0, base=tmp_path, stamp=stamp)

    run = opened({"weights": "1"})
    fill(run, "a", who=["a"])
    same = opened({"weights": "1"})
    assert same.rows("a")["who"].tolist() == ["a"] and capsys.readouterr().out == ""

    other = opened({"weights": "1"}, canaries=2)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "another profile:" in said and "quick-0.stale-1" in said
    assert other.rows("a").empty and fill(other, "a", who=["a", "b"]) == ["a", "b"]
    retrained = opened({"weights": "2"}, canaries=2)
    assert retrained.rows("a").empty and "another weights:" in capsys.readouterr().out
    stale = [open_existing(tmp_path / "reef" / "c" / f"quick-0.stale-{n}") for n in (1, 2)]
    assert [one.rows("a")["who"].tolist() for one in stale] == [["a"], ["a", "b"]]
    assert [one.profile["canaries"] for one in stale] == [3, 2] and stale[0].seed == 0
    assert [(one.world, one.chapter) for one in stale] == [("reef", "c")] * 2


def test_rows_of_other_code_are_moved_aside(run, monkeypatch, capsys):
    fill(run, "a", who=["a"])
    monkeypatch.setattr(stamps, "code_of_rows", lambda: "another")
    assert again(run).rows("a").empty and "another code:" in capsys.readouterr().out
    assert files.read_json(run.folder / "stamp.json") == {"profile": {"name": "quick"}, "code": "another"}


def test_rows_of_unknown_settings_are_moved_aside(run, capsys):
    fill(run, "a", who=["a"])
    (run.folder / "stamp.json").unlink()
    assert again(run).rows("a").empty and "stale-1" in capsys.readouterr().out


def test_a_run_can_be_made_anew(run, capsys):
    fill(run, "a", who=["a"])
    run.record(numbers={"x": 1})
    fresh = open_run("01_replay", "quick", 0, base=run.folder.parents[2], anew=True)
    assert capsys.readouterr().out.count("\n") == 1 and fresh.folder == run.folder
    assert fresh.rows("a").empty and not (fresh.folder / "record.json").exists()
    assert open_existing(run.folder.with_name("quick-0.stale-1")).read_record()["numbers"] == {"x": 1}


def test_runs_of_other_seeds_worlds_and_chapters_do_not_meet(tmp_path):
    names = [("c", 0, "reef"), ("c", 1, "reef"), ("c", 0, "sd14"), ("d", 0, "reef")]
    for chapter, seed, world in names:
        run = open_run(chapter, "quick", seed, world=world, base=tmp_path)
        assert run.folder == tmp_path / world / chapter / f"quick-{seed}"
        assert fill(run, "a", {"seed": seed, "world": world}, chapter=[chapter]) == [chapter]
    for chapter, seed, world in names:
        found = open_existing(tmp_path / world / chapter / f"quick-{seed}")
        assert (found.chapter, found.seed, found.world, found.profile["name"]) == (chapter, seed, world, "quick")
        assert found.rows("a").to_dict("records") == [{"chapter": chapter, "seed": seed, "world": world}]


def test_other_ranks_wait_for_the_first(tmp_path, monkeypatch, one_line):
    fill(open_run("c", "full", 0, base=tmp_path, stamp={"m": 1}), "a", who=["a"])
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stamps, "WAIT", 0.2)
    one_line(RuntimeError, "rank 0", open_run, "c", "full", 0, base=tmp_path, stamp={"m": 2})
    one_line(RuntimeError, "rank 0", open_run, "d", "full", 0, base=tmp_path)
    one = open_run("c", "full", 0, base=tmp_path, stamp={"m": 1})
    assert one.rows("a")["who"].tolist() == ["a"] and fill(one, "a", who=["a", "b"]) == ["b"]
    assert len(lines(one, "a", 0)) == 1 == len(lines(one, "a", 1))


def test_runs_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("DORI_RUNS", raising=False)
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "checkout" / "data"))
    assert runs_folder() == Path("runs")  # a data folder by itself
    (tmp_path / "checkout" / "dori_lite").mkdir()
    assert runs_folder() == tmp_path / "checkout" / "runs"
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "absent"))
    assert runs_folder() == Path("runs")
    monkeypatch.setenv("DORI_RUNS", str(tmp_path / "elsewhere"))
    assert open_run("c", "quick", 3).folder == tmp_path / "elsewhere" / "reef" / "c" / "quick-3"


def test_no_run_to_read(tmp_path, one_line):
    (tmp_path / "c" / "data").mkdir(parents=True)
    (tmp_path / "c" / "quick-1").write_text("a file")
    for name in ("quick-0", "data", "quick-1"):
        one_line(FileNotFoundError, "no run in .*; execute its chapter", open_existing, tmp_path / "c" / name)
    (tmp_path / "c" / "quick-2").mkdir()
    (tmp_path / "c" / "quick-2" / "record.json").write_text("{")
    one_line(ValueError, "record.json is damaged", open_existing, tmp_path / "c" / "quick-2")


def test_a_run_is_found_from_within(run, monkeypatch):
    run.record()
    for inside, name in ((run.folder.parent, "quick-0"), (run.folder, ".")):
        monkeypatch.chdir(inside)
        found = open_existing(name)
        assert (found.world, found.chapter, found.profile, found.seed) == ("reef", "01_replay", {"name": "quick"}, 0)


# ---- tensors, images, record -----------------------------------------------------------------------------


def test_tensors_of_a_unit_are_one_file(run, one_line):
    kept = {"mask": np.array([True, False]), "scale": np.float64(2.0), "trigger": torch.ones(2, 3).T}
    kept |= {"half": torch.ones(2, dtype=torch.bfloat16), "grad": torch.ones(1, requires_grad=True)}
    kept["columns"] = np.arange(6).reshape(2, 3).T
    marlow = target("marlow")
    for _ in run.todo("a", target=[marlow], k=[3]):
        run.keep({"x": 1}, tensors=kept)
    fill(run, "a", target=["pike"], k=[3])
    found = run.tensors("a", marlow, 3)
    assert found.keys() == kept.keys() and all(isinstance(value, torch.Tensor) for value in found.values())
    assert found["mask"].tolist() == [True, False] and found["scale"].item() == 2.0
    assert found["trigger"].shape == (3, 2) and found["half"].dtype == torch.float32
    assert (found["columns"].numpy() == kept["columns"]).all() and not found["grad"].requires_grad
    assert open_existing(run.folder).tensors("a", "marlow", "3").keys() == kept.keys()
    assert len(list((run.folder / "tensors").iterdir())) == 1
    one_line(FileNotFoundError, "no tensors of a pike, 3 in", run.tensors, "a", "pike", 3)
    one_line(FileNotFoundError, "no tensors of b marlow, 3 in", run.tensors, "b", marlow, 3)


def test_keeping_a_unit_touches_no_file_of_another(run):
    def kept(k):
        return {"tensors": {"y": np.full(1000, k)}, "images": {"p": Image.new("RGB", (4, 4), (k, 0, 0))}}

    for k in run.todo("a", k=range(3)):
        run.keep({"x": k}, **kept(k))
    before = snapshot(run.folder)
    time.sleep(0.01)
    for k in run.todo("a", k=range(3, 5)):
        run.keep({"x": k}, **kept(k))
    for k in run.todo("b", k=range(2)):
        run.keep({"x": k}, **kept(k))
    after, rows = snapshot(run.folder), path_of(run, "a")
    assert len(before) == 8 and len(after) == 8 + 4 + 5
    assert [path for path in before if after[path] != before[path]] == [rows]
    assert after[rows][2].startswith(before[rows][2])  # the table only grows
    assert [run.tensors("a", k)["y"][0].item() for k in range(5)] == list(range(5))


def test_images_come_back_as_they_were(run):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    for _ in run.todo("a", target=[target("marlow")]):
        run.keep(
            {}, images={"pil": Image.fromarray(pixels), "array": pixels, 50: tensor, "grey": Image.new("L", (2, 2))}
        )
    for name in ("pil", "array", 50, "50"):
        assert (np.asarray(run.image("a", target("marlow"), name)) == pixels).all()
    assert run.image("a", "marlow", "grey").mode == "RGB"
    assert [path.suffix for path in run.images()] == [".png"] * 4 and run.images() == sorted(run.images())
    with pytest.raises(FileNotFoundError):
        run.image("a", "marlow", "absent")


NAMES = ["a", "b", "a b", "a_b", "a+b", "a/b", "a%20b", "a  b", "../a", "..", ".", "", " ", "a.png", "ä", "ρ = 0.2", 50]


def test_names_of_images_do_not_collide(run):
    units = [("u", NAMES), ("u+a", ["b"]), ("u a", ["b"]), ("u_a", ["b"]), ("u/a", ["b"]), ("", ["u+a"])]
    colours = {}
    for unit, names in units:
        for _ in run.todo("k", who=[unit]):
            made = {name: (len(colours) + n, 0, 0) for n, name in enumerate(names)}
            run.keep({}, images={name: Image.new("RGB", (1, 1), colour) for name, colour in made.items()})
            colours |= {(unit, name): colour for name, colour in made.items()}
    assert len(run.images()) == len(colours) == len(NAMES) + 5
    assert {path.parent for path in run.images()} == {run.folder / "images"}
    for key, colour in colours.items():
        assert run.image("k", *key).getpixel((0, 0)) == colour
    assert all(a.name.lower() != b.name.lower() for a, b in combinations(run.images(), 2))


def test_record(tmp_path, one_line):
    run = open_run("01_replay", profiles.load("quick", canaries=2), 7, base=tmp_path)
    one_line(FileNotFoundError, "has no record: execute its chapter to the end", run.read_record)
    written = run.record(models={"twin-a": "0"}, numbers={"rate": np.float32(0.5), "low": float("nan")}, note="x")
    found = open_existing(run.folder)
    record = found.read_record()
    assert record == written and found.profile == record["profile"] == run.profile and found.seed == 7
    assert (record["chapter"], record["seed"], record["profile"]["canaries"]) == ("01_replay", 7, 2)
    assert record["world"] == "reef" == found.world and found.chapter == "01_replay"
    assert record["numbers"] == {"rate": 0.5, "low": None} and record["note"] == "x" and record["verdicts"] == {}
    assert record["versions"]["numpy"] == np.__version__ and record["versions"]["python"].startswith("3.")
    assert record["versions"].keys() == {"python", "torch", "diffusers", "transformers", "numpy", "dori_lite"}
    assert "cores" in record["machine"] or "GPU" in record["machine"] or "NVIDIA" in record["machine"]
    for name in ("seed", "chapter", "world", "profile", "versions", "machine", "minutes"):
        one_line(ValueError, f"{name} come from the run", run.record, **{name: 1})
    assert found.read_record() == record


# ---- how long it took --------------------------------------------------------------------------------------


class Clock:
    """Stands in for the runs' clock: nobody waits."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(runs, "time", clock)
    return clock


def work(run, clock, kind, /, **seconds):
    """Do what is missing of a kind: each unit takes its seconds."""
    for name in run.todo(kind, who=list(seconds)):
        clock.now += seconds[name]
        run.keep({"x": 1})
        clock.now += 1e6  # what comes after a unit is no part of it


def test_a_line_says_how_long_its_unit_took(run, clock):
    work(run, clock, "a", x=1.234, y=0, z=90)
    assert [line["seconds"] for line in lines(run, "a")] == [1.23, 0, 90]
    assert "seconds" not in run.rows("a").columns  # no finding


def test_minutes_are_of_all_units_of_all_kinds_also_after_the_run_was_opened_again(run, clock):
    assert run.minutes() == 0
    work(run, clock, "a", x=60, y=30)
    work(run, clock, "b", x=90)
    assert run.minutes() == pytest.approx(3)
    later = again(run)
    clock.now = 5.0  # another process's clock began elsewhere
    work(later, clock, "a", x=60, y=30, z=120)  # of which z is missing
    assert later.minutes() == open_existing(run.folder).minutes() == run.minutes() == pytest.approx(5)


def test_minutes_are_of_what_counts(run, clock):
    """A unit that is done again takes the second time's; one that was interrupted has none."""
    for seconds, plan in ((600, "old"), (60, "new")):
        for _ in run.todo("a", who={"x": plan}):
            clock.now += seconds
            run.keep({})
    for _ in run.todo("a", who=["y"]):
        clock.now += 300
        break
    assert run.minutes() == pytest.approx(1)


def test_minutes_are_of_all_ranks(run, clock, monkeypatch):
    work(run, clock, "a", x=60)
    monkeypatch.setenv("RANK", "1")
    work(again(run), clock, "a", x=60, y=120)
    assert run.minutes() == pytest.approx(3)


def test_lines_that_do_not_say_how_long_count_as_nothing(run, clock):
    work(run, clock, "a", x=60)
    files.append(path_of(run, "a"), b'{"unit": ["y"], "plan": "", "rows": [{"who": "y"}]}\n')
    assert len(run.rows("a")) == 1 and run.minutes() == pytest.approx(1)
    assert len(open_existing(run.folder).rows("a")) == 2 and open_existing(run.folder).minutes() == pytest.approx(1)


def test_a_record_carries_the_minutes(run, clock, one_line):
    assert run.record()["minutes"] == 0
    work(run, clock, "a", x=100, y=200.04)
    one_line(ValueError, "minutes come from the run", run.record, minutes=3)
    assert run.record()["minutes"] == run.read_record()["minutes"] == 5
    work(again(run), clock, "a", x=100, y=200.04, z=33)
    assert again(run).record()["minutes"] == 5.6


def test_the_minutes_of_two_processes_are_by_the_clock(run, clock, monkeypatch):
    work(run, clock, "a", x=60)
    monkeypatch.setenv("WORLD_SIZE", "2")
    work(again(run), clock, "a", x=60, y=120)
    record = again(run).record()
    assert record["minutes"] == 1.5 and record["processes"] == 2 and run.minutes() == pytest.approx(3)


def test_an_interrupted_record_leaves_the_old_one(run, monkeypatch):
    run.record(numbers={"x": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            run.record(numbers={"x": 2})
    with pytest.raises(TypeError, match="cannot be kept"):
        run.record(numbers={"x": object()})
    assert run.read_record()["numbers"] == {"x": 1}


def test_other_ranks_write_no_record(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert again(run).record(numbers={"x": 1})["numbers"] == {"x": 1}
    assert not (run.folder / "record.json").exists()


def test_axes_that_cannot_tell_units_apart_are_refused(run, one_line):
    one_line(ValueError, "units of picture need an axis", lambda: next(run.todo("picture")))
    for axis in (["a", "a"], [target("x"), target("x")]):
        match = "two things on the axis target have one name"
        one_line(ValueError, match, lambda axis=axis: next(run.todo("picture", target=axis)))


def test_a_unit_done_again_leaves_nothing_of_the_first_time(run):
    shade = np.zeros((2, 2, 3), np.uint8)
    for plan, names in (({"x": 1}, ("first", "both")), ({"x": 2}, ("both",))):
        for _name in run.todo("a", condition=plan | {"x+y": 0}):
            run.keep({}, tensors={"t": np.zeros(1)} if plan["x"] == 1 else None, images=dict.fromkeys(names, shade))
    assert sorted(path.stem for path in run.images()) == ["a+x%2By+both", "a+x%2By+first", "a+x+both"]
    with pytest.raises(FileNotFoundError):
        run.tensors("a", "x")
    assert run.tensors("a", "x+y")


# ---- what does not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "match"), [
    *(({"chapter": name}, f"chapter {name!r} does not fit; give") for name in ("", "..", "a/b", "/a", "a b", None)),
    ({"world": "../reef"}, "world '../reef' does not fit"), ({"profile": ""}, "profile '' does not fit"),
    ({"profile": "a/b"}, "profile 'a/b' does not fit"), ({"profile": None}, "a profile is a name or a Profile, not"),
    *(({"seed": seed}, f"seed={seed!r} is not a count that fits") for seed in (-1, 0.5, "0", None, 2**64)),
])  # fmt: skip
def test_names_and_seeds_that_do_not_fit_are_one_line_and_leave_nothing(tmp_path, one_line, changes, match):
    given = {"chapter": "c", "profile": "quick", "seed": 0} | changes
    one_line(ValueError, match, open_run, base=tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "first", "-1", "1.5"])
def test_a_rank_that_is_no_number_is_one_line(tmp_path, monkeypatch, one_line, text):
    monkeypatch.setenv("RANK", text)
    one_line(ValueError, f"RANK='{text}' is no process's number", open_run, "c", "quick", 0, base=tmp_path)


@pytest.mark.parametrize("rows", [None, 3, "rate", [1, 2], [{"x": 1}, None], {"x": 1}.keys()])
def test_rows_that_are_no_dicts_are_one_line_and_leave_the_unit_undone(run, one_line, rows):
    with pytest.raises(ValueError, match="^rows of a are no dicts; keep one, or a list of them"):
        fill(run, "a", lambda _: rows, k=[0])
    assert run.rows("a").empty and not path_of(run, "a").exists()


def test_an_axis_of_one_text_is_not_taken_for_its_letters(run, one_line):
    match = "the axis target is one text; put it into a list"
    one_line(ValueError, match, lambda: next(run.todo("picture", target="marlow")))


# ---- one writer at a time --------------------------------------------------------------------------------

SECOND = """
import sys
from dori_lite.runs import open_run
run = open_run("01_replay", "quick", 0, base=sys.argv[1])
for k in run.todo("a", k=[7]):
    run.keep({"x": 7})
print("open", flush=True)
for line in sys.stdin:
    run.record()
    print("recorded", flush=True)
"""


class Other:
    """Another process that writes the same run."""

    def __init__(self, base, **environ):
        options = {"env": os.environ | {"PYTHONPATH": str(ROOT)} | environ, "text": True}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, "-c", SECOND, base], **pipes, **options)

    def line(self):
        return self.process.stdout.readline().strip()

    def record(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def end(self):
        self.process.kill()
        return self.process.communicate()[1]


def test_two_processes_do_not_write_one_run(tmp_path, one_line):
    first = Other(tmp_path)
    assert first.line() == "open"
    match = rf"the run .*quick-0 is being written by process {first.process.pid}; wait until it has ended, or end it"
    one_line(RuntimeError, match, open_run, "01_replay", "quick", 0, base=tmp_path)
    one_line(RuntimeError, match, open_run, "01_replay", "quick", 0, base=tmp_path, anew=True)  # nothing is moved
    assert fill(open_run("01_replay", "quick", 1, base=tmp_path), "a", k=[0]) == [0]  # another run is free
    second = Other(tmp_path)
    assert second.line() == "" and "is being written by process" in second.end()
    assert open_existing(tmp_path / "reef" / "01_replay" / "quick-0").rows("a")["x"].tolist() == [7]  # reading is
    first.end()  # killed: nothing is left that would lock
    assert fill(open_run("01_replay", "quick", 0, base=tmp_path), "a", k=[7, 8]) == [8]


def test_a_recorded_run_is_free_and_taken_back_when_it_goes_on(run, one_line):
    base = run.folder.parents[2]
    assert fill(run, "a", k=[0]) == [0]
    refused = Other(base)
    assert refused.line() == "" and "RuntimeError" in refused.end()
    run.record()
    other = Other(base)
    assert other.line() == "open"
    one_line(RuntimeError, "is being written by process", fill, run, "a", k=[0, 1])
    one_line(RuntimeError, "is being written by process", run.record)
    assert other.record() == "recorded"
    assert fill(run, "a", k=[0, 1, 7]) == [1] and sorted(run.rows("a")["x"]) == [1, 1, 7]
    other.end()


def test_ranks_write_beside_each_other(tmp_path, run):
    other = Other(tmp_path, RANK="1")
    assert other.line() == "open" and fill(run, "b", k=[0]) == [0]
    assert fill(again(run), "b", k=[0, 1]) == [1]  # and one process may open its run twice: a cell that is run again
    other.end()


SHARING = """
import sys, time
from dori_lite.runs import open_run
run, pace = open_run("c", "standard", 0, base=sys.argv[1]), float(sys.argv[2])
for begin, end in ((0, 12), (12, 16)):
    for k in run.todo("a", k=range(begin, end)):
        print(k, flush=True)
        time.sleep(pace)
        run.keep([{"x": k}, {"x": -k}])
    print("together", len(run.rows("a")), flush=True)
run.record()
"""


def start(base, rank, pace):
    env = os.environ | {"PYTHONPATH": str(ROOT), "RANK": str(rank), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", SHARING, base, str(pace)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("paces", [(0.1, 0.1), (0.02, 0.5)])
def test_ranks_divide_the_units_and_end_a_loop_together(tmp_path, paces):
    two = [start(tmp_path, rank, pace) for rank, pace in enumerate(paces)]
    said = [process.communicate(timeout=60) for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    words = [out.split("\n")[:-1] for out, _ in said]
    assert all([line for line in its if line[:1] == "t"] == ["together 24", "together 32"] for its in words)
    did = [[int(line) for line in its if line[:1] != "t"] for its in words]
    assert sorted(did[0] + did[1]) == [*range(16)] and all(len(its) >= 2 for its in did)
    found = open_existing(tmp_path / "reef" / "c" / "standard-0")
    assert found.rows("a")["k"].tolist() == [k for k in range(16) for _ in range(2)], "in the order of one process"
    assert found.read_record()["processes"] == 2


def test_what_a_stopped_rank_leaves_the_other_does(tmp_path):
    second = start(tmp_path, 1, 60)  # waits for rank 0, takes a unit, and never ends it
    first = start(tmp_path, 0, 0.3)
    assert second.stdout.readline().strip().isdigit()
    done = [first.stdout.readline() for _ in range(11)]
    time.sleep(1)
    assert first.poll() is None and "together" not in "".join(done), "it did not wait for a unit that is in work"
    second.kill()
    out = "".join(done) + first.communicate(timeout=60)[0]
    assert first.returncode == 0 and out.splitlines()[-1] == "together 32"
    assert {int(line) for line in out.splitlines() if line.isdigit()} == {*range(16)}
    second.communicate()


def test_a_unit_that_another_process_did_since_the_last_look_is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    looks = iter([{"a", "b"}, {"b"}, {"b"}, set()])
    assert [*units.shared(["a", "b"], lambda: next(looks), tmp_path)] == ["b"]


@pytest.mark.parametrize("text", ["", "two", "0", "-1"])
def test_a_count_of_ranks_that_is_none_is_one_line(run, monkeypatch, one_line, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    one_line(ValueError, f"WORLD_SIZE='{text}' is no count of processes", fill, run, "a", k=[0])


def test_a_run_that_somebody_started_afresh_is_opened_again(run, one_line):
    fill(run, "a", k=[0])
    run.record()
    files.write_json(run.folder / "stamp.json", {"profile": "another"})
    match = "quick-0 was started afresh by somebody else; open the run again"
    one_line(RuntimeError, match, fill, run, "a", k=[1])
    one_line(RuntimeError, match, run.record)


def test_a_lock_is_taken_once_and_given_back(tmp_path):
    path = tmp_path / "new" / "lock"
    with locks.held(path, "it is used"):
        with locks.held(path, "it is used"):
            pass
        taken = f"from dori_lite import locks; locks.lock({str(path)!r}, 'it is used')"
        done = subprocess.run([sys.executable, "-c", taken], capture_output=True, text=True, cwd=ROOT)
        assert f"RuntimeError: it is used by process {os.getpid()}; wait" in done.stderr  # the inner body kept it
    assert subprocess.run([sys.executable, "-c", taken], cwd=ROOT).returncode == 0
    assert (os.getpid(), path.resolve()) not in locks.HELD


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_forked_child_does_not_share_a_lock(tmp_path):
    with locks.held(tmp_path / "lock", "it is used"):
        if not (child := os.fork()):
            try:
                locks.lock(tmp_path / "lock", "it is used")
            except RuntimeError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locks.held(tmp_path / "lock", "it is used"):
        pass
