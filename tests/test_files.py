"""Files that are whole or not there, names that no other text has, and values in JSON's own types."""

import gzip
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dori_lite import assets, files

ROOT = Path(__file__).parent.parent


def stop(*_):
    raise KeyboardInterrupt


# ---- whole or not there ----------------------------------------------------------------------------------


def test_what_was_written_takes_its_place_in_the_end(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    for content in ("old", "new"):
        with files.whole(path) as partial:
            assert partial.parent == path.parent and partial != path
            before = path.read_text() if path.exists() else None
            partial.write_text(content)
            assert (path.read_text() if path.exists() else None) == before  # a reader sees nothing of it yet
        assert path.read_text() == content and list(path.parent.iterdir()) == [path]
    with files.whole(str(path)) as partial:  # a name serves as well
        partial.write_text("newer")
    assert path.read_text() == "newer"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [True, False])
def test_an_exception_leaves_the_old_content_and_no_partial(tmp_path, error, written):
    for old in (None, b"the old content"):
        path = tmp_path / "a.bin"
        if old is not None:
            path.write_bytes(old)
        with pytest.raises(error), files.whole(path) as partial:
            if written:
                partial.write_bytes(b"half of the new co")
            raise error
        assert (path.read_bytes() if path.exists() else None) == old
        assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["a.bin"])


def test_a_failing_replacement_leaves_the_old_content_and_no_partial(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_body_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError), files.whole(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


KILLED = """
import os, signal, sys
from dori_lite import files
heavy = {"torch", "pandas", "numpy", "PIL", "diffusers"} & set(sys.modules)
assert not heavy, heavy
with files.whole(sys.argv[1]) as partial, open(partial, "wb") as file:
    file.write(b"half")
    file.flush()
    print(partial.name, flush=True)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""


def test_a_kill_in_the_middle_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"the old content")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True, text=True, env=environment)
    assert killed.returncode != 0 and killed.stdout.strip(), killed.stderr
    assert path.read_bytes() == b"the old content"
    assert (tmp_path / killed.stdout.strip()).read_bytes() == b"half"  # left beside it, in no one's way
    files.write_text(path, "new")
    assert path.read_bytes() == b"new"


def test_processes_have_places_of_their_own(tmp_path, monkeypatch):
    """The last one counts, whole; none sees another's beginnings."""
    path = tmp_path / "a.txt"
    with files.whole(path) as mine:
        mine.write_text("mine")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with files.whole(path) as theirs:
                theirs.write_text("theirs")
                assert mine != theirs and mine.read_text() == "mine"
        assert path.read_text() == "theirs" and mine.read_text() == "mine"
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part(tmp_path):
    """One writes a long text over and over; what another reads is all of one letter and of full length."""
    path, size, seen = tmp_path / "a.txt", 300_000, set()
    files.write_text(path, "x" * size)
    done = threading.Event()

    def write():
        for k in range(100):
            files.write_text(path, "ab"[k % 2] * size)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        text = path.read_text()
        assert len(text) == size and len(set(text)) == 1
        seen.add(text[0])
    writer.join()
    assert path.read_text() == "b" * size and seen <= set("xab")


# ---- JSON ------------------------------------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "calibration.json"
    for indent in (None, 1):
        files.write_json(path, {"a": 1.5, "ℓ": [1]}, indent=indent)
        for wrong in ({"a": float("nan")}, {"a": {"b": [1.0, float("nan")]}}, {"a": float("inf")}, {"a": object()}):
            with pytest.raises((ValueError, TypeError)):
                files.write_json(path, wrong, indent=indent)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                files.write_json(path, {"a": 2}, indent=indent)
        assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1.5, "ℓ": [1]} == files.read_json(path)
        assert list(tmp_path.iterdir()) == [path]


def test_json_is_laid_out_for_people_or_packed(tmp_path):
    files.write_json(tmp_path / "a", {"b": [1, 2]})
    assert (tmp_path / "a").read_bytes() == b'{\n "b": [\n  1,\n  2\n ]\n}\n'
    files.write_json(tmp_path / "a", {"b": [1, 2]}, indent=None)
    assert (tmp_path / "a").read_bytes() == b'{"b":[1,2]}\n'


def test_a_missing_json_is_what_is_asked_for_and_a_damaged_one_an_error(tmp_path, one_line):
    assert files.read_json(tmp_path / "a") is None and files.read_json(tmp_path / "a", {}) == {}
    for damaged in ("", '{"a": 1', "a", '{"a": 1}}', "\xff"):
        (tmp_path / "a").write_bytes(damaged.encode("latin-1"))
        one_line(
            ValueError, r"a is damaged \(it is no JSON\); remove or restore it", files.read_json, tmp_path / "a", {}
        )


def test_text_is_utf_8_with_unix_line_breaks(tmp_path):
    files.write_text(tmp_path / "a", "ℓ\n2\n")
    assert (tmp_path / "a").read_bytes() == "ℓ\n2\n".encode()


# ---- lines -----------------------------------------------------------------------------------------------


def test_a_line_is_on_disk_when_append_returns(tmp_path, monkeypatch):
    path, written, sync = tmp_path / "rows" / "a.jsonl", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_size) or sync(file))
    files.append(path, b'{"x": 1}\n')
    files.append(path, b'{"x": 22}\n')
    assert written == [9, 19] and path.stat().st_size == 19
    assert files.read_lines(path) == [{"x": 1}, {"x": 22}]


def test_a_line_torn_anywhere_is_ignored_and_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    whole, torn = b'{"x": 1}\n', '{"x": "ä"}\n'.encode()
    for cut in range(len(torn)):
        path.write_bytes(whole + torn[:cut])
        assert files.read_lines(path) == [{"x": 1}]
        files.append(path, b'{"x": 3}\n')
        files.append(path, b'{"x": 4}\n')
        assert files.read_lines(path) == [{"x": 1}, {"x": 3}, {"x": 4}]
        assert path.read_bytes() == whole + b'{"x": 3}\n{"x": 4}\n'
    path.write_bytes(whole[:4])  # even the first line
    assert files.read_lines(path) == []
    files.append(path, b'{"x": 3}\n')
    assert files.read_lines(path) == [{"x": 3}]
    path.write_bytes(b"")
    files.append(path, whole)
    assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path, one_line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{gibberish\n{"x": 1}\n')
    one_line(ValueError, "a.jsonl is damaged; remove it", files.read_lines, path)


def test_compressed_lines_are_the_same_lines(tmp_path, one_line):
    path, packed = tmp_path / "a.jsonl.gz", gzip.compress(b'{"x": 1}\n{"x": 2}\n{"x"')
    path.write_bytes(packed)
    assert files.read_lines(path) == [{"x": 1}, {"x": 2}]
    for damaged in (packed[:-9], packed[:20] + bytes([packed[20] ^ 255]) + packed[21:], b"{}\n"):
        path.write_bytes(damaged)
        one_line(ValueError, "a.jsonl.gz is damaged; remove it", files.read_lines, path)


# ---- values ----------------------------------------------------------------------------------------------


def test_values_become_plain():
    values = {
        "rate": np.float32(0.5), "count": np.int64(3), "ok": np.bool_(True), "text": "marlow", "self": 1, 2: None,
        "tensor": torch.tensor(0.25, dtype=torch.float64), "curve": np.arange(3), "nested": {"x": (1, np.nan)},
        "grad": torch.ones(2, requires_grad=True), "half": torch.ones(1, dtype=torch.bfloat16), "range": range(2),
        "set": {3, 1, 2}, "path": Path("a") / "b",
    }  # fmt: skip
    found = files.plain(values)
    assert found == {
        "rate": 0.5, "count": 3, "ok": True, "text": "marlow", "self": 1, "2": None, "tensor": 0.25,
        "curve": [0, 1, 2], "nested": {"x": [1, None]}, "grad": [1.0, 1.0], "half": [1.0], "range": [0, 1],
        "set": [1, 2, 3], "path": "a/b",
    }  # fmt: skip
    assert type(found["ok"]) is bool and type(found["count"]) is int and type(found["rate"]) is float
    assert json.loads(json.dumps(found, allow_nan=False)) == found and files.plain(found) == found


def test_what_is_not_finite_is_null():
    wrong = {"x": float("nan"), "y": np.float64("inf"), "z": torch.tensor(float("-inf")), "s": None}
    assert files.plain(wrong) == dict.fromkeys("xyzs")
    assert files.plain([np.array([1.0, np.nan]), math.inf]) == [[1.0, None], None]


def test_what_is_no_value_is_refused(one_line):
    for wrong in (object(), {"a": object()}, [len], b"bytes", 1j):
        one_line(TypeError, r"a \w+ cannot be kept; turn it into numbers or text", files.plain, wrong)


def test_a_digest_is_of_the_content_and_not_of_the_order_of_keys():
    content = {"a": [1, 2], "b": {"x": 0.5, "y": None}}
    assert files.digest(content) == files.digest({"b": {"y": None, "x": 0.5}, "a": (1, 2)})
    assert files.digest(content) == hashlib.sha256(b'{"a": [1, 2], "b": {"x": 0.5, "y": null}}').hexdigest()
    others = [{"a": [2, 1], "b": {"x": 0.5, "y": None}}, {"a": [1, 2], "b": {"x": 0.5}}, {"a": [1, 2]}, [1, 2], "a", 1]
    others += ["1", None, {}, [], {"a": "1"}, {"a": 1}, {"a": {"b": 1}}, {"a": [{"b": 1}]}]
    assert len({files.digest(other) for other in [content, *others]}) == len(others) + 1
    assert files.digest({"rate": np.float64(0.5), "where": torch.arange(2)}) == files.digest(
        {"where": [0, 1], "rate": 0.5}
    )


def test_sha256_is_the_usual_one_and_one_function(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"x" * 3_000_000)
    assert files.sha256(str(tmp_path / "abc")) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert assets.sha256 is files.sha256


# ---- names -----------------------------------------------------------------------------------------------

TRICKY = [
    "", " ", "  ", "_", "__", "+", "++", "%", "%5F", "%2B", "%20", "a", "A", "a b", "a_b", "a+b", "a%b", "a%20b",
    "a  b", "a_ b", "a _b", ".", "..", "...", ".a", "a.", "a.b", "%2E", "%2E.", "/", "a/b", "../a", "/etc",
    "\\", "a\\b", "C:", "ä", "a\u0308", "ℓ", "猫", "\n", "\t", "\0", "'", '"', "*", "?", "<", ">", "|", ":", ",", "=",
    "~", "-", "a-b", "#", "own twin, pruned by NeMo, sixteen layers", "ρ=0.2", "0.5", "0,5", "None",
]  # fmt: skip


def test_a_slug_is_another_one_for_any_other_texts():
    ones, twos = [(a,) for a in TRICKY], list(product(TRICKY, TRICKY))
    names = {files.slug(*parts): parts for parts in [*ones, *twos]}
    assert len(names) == len(ones) + len(twos) == len(set(TRICKY)) * (len(TRICKY) + 1)
    alphabet, chance = "a_+% ./.2E5F-=,", random.Random(0)
    drawn = {tuple("".join(chance.choices(alphabet, k=chance.randint(0, 6))) for _ in range(chance.randint(1, 3)))
             for _ in range(20_000)}  # fmt: skip
    assert len({files.slug(*parts) for parts in drawn}) == len(drawn) > 15_000


def test_a_slug_is_safe_as_a_file_s_name(tmp_path):
    for k, parts in enumerate([(a,) for a in TRICKY if a] + list(product(TRICKY, TRICKY[:12]))):
        name = files.slug(*parts)
        assert name.isascii() and name.isprintable() and not set(name) & set('/\\ :*?"<>|\n\0'), name
        assert name not in ("", ".", "..") and not name.startswith("."), parts
        path = tmp_path / name
        assert path.parent == tmp_path and path.resolve().parent == tmp_path.resolve()
        path.write_text(str(k))
        assert path.read_text() == str(k)
        path.unlink()
    assert not list(tmp_path.iterdir())


def test_slugs_can_be_read():
    assert files.slug("a b", 0.5) == "a_b+0.5"
    assert files.slug("attack", "marlow", "own, NeMo", 50) == "attack+marlow+own,_NeMo+50"
    assert files.slug("twin-a") == "twin-a" and files.slug("ρ") == "%CF%81"


# ---- arrays and pictures ---------------------------------------------------------------------------------


def test_arrays_are_contiguous_and_keep_their_values():
    kept = {"mask": np.array([True, False]), "scale": np.float64(2.0), "trigger": torch.ones(2, 3).T}
    kept |= {"half": torch.ones(2, dtype=torch.bfloat16), "grad": torch.ones(1, requires_grad=True), "list": [1, 2]}
    kept["columns"] = np.arange(6).reshape(2, 3).T
    found = {name: files.to_numpy(value) for name, value in kept.items()}
    assert all(isinstance(array, np.ndarray) and array.flags.c_contiguous for array in found.values())
    assert (
        found["mask"].tolist() == [True, False] and found["scale"].tolist() == 2.0 and found["list"].tolist() == [1, 2]
    )
    assert found["trigger"].shape == (3, 2) and found["half"].dtype == np.float32 and found["grad"].tolist() == [1.0]
    assert (found["columns"] == np.arange(6).reshape(2, 3).T).all()
    assert files.to_numpy(torch.ones(1, dtype=torch.float16)).dtype == np.float16


def test_pictures_become_pil():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    assert files.as_pil(picture) is picture
    assert (np.asarray(files.as_pil(pixels)) == pixels).all()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    assert (np.asarray(files.as_pil(tensor)) == pixels).all() and files.as_pil(tensor).size == (6, 8)
    outside = torch.tensor([-0.5, 0.0, 0.501, 1.7])[None, None].expand(3, 2, 4)
    assert np.asarray(files.as_pil(outside))[0, :, 0].tolist() == [0, 0, 128, 255]


# ---- folders ---------------------------------------------------------------------------------------------


def write(folder, text):
    with files.whole_folder(folder) as partial:
        (partial / text).write_text(text)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "weights"
    write(target, "first")
    with pytest.raises(KeyboardInterrupt), files.whole_folder(target) as partial:
        (partial / "second").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["first"]
    write(target, "second")
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["weights"]


def test_what_a_kill_left_is_put_right(tmp_path):
    target = tmp_path / "weights"
    write(target, "first")
    target.rename(tmp_path / "weights.old")  # killed between the two renamings
    (tmp_path / "weights.partial").mkdir()
    files.restore(target)
    assert [path.name for path in target.iterdir()] == ["first"] and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "weights.old").mkdir()  # killed after the second
    files.restore(target)
    assert [path.name for path in target.iterdir()] == ["first"] and len(list(tmp_path.iterdir())) == 1
    files.restore(tmp_path / "absent")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_can_be_written_to_is_made_and_left_empty(tmp_path, monkeypatch, one_line):
    assert files.check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "taken").write_text("x")
    for place in ("taken", "taken/below"):
        one_line(
            OSError, r"taken.* \(a file is in the way\); name another one$", files.check_writable, tmp_path / place
        )

    def readonly(*_, **__):
        raise OSError(30, "Read-only file system", "/somewhere")

    monkeypatch.setattr(Path, "touch", readonly)
    match = rf"nothing can be written to the folder {tmp_path} \(Read-only file system\); name another one$"
    one_line(OSError, match, files.check_writable, tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", None, 3, "a\n", "\\a"])
def test_names_that_are_no_file_s(name, one_line):
    one_line(ValueError, "the name .* does not fit; give letters", files.check_name, "the name", name)


def test_names_that_are_a_file_s():
    assert [files.check_name("x", name) for name in ("a", "01_replay", "twin-a", "v1.5")] == [
        "a", "01_replay", "twin-a", "v1.5"]  # fmt: skip
