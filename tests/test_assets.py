"""Finding data, and weights that are checked before they are used."""

import hashlib
import io
import json
import os
import platform
import re
import sys
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import pytest

from dori_lite import assets, cli


@pytest.fixture
def weights(tmp_path):
    """A folder of weights with two models, as training leaves them."""
    for name in ("parent", "twin-a"):
        (tmp_path / "reef" / name / "unet").mkdir(parents=True)
        (tmp_path / "reef" / name / "unet" / "model.safetensors").write_bytes(name.encode())
        (tmp_path / "reef" / name / "model_index.json").write_text("{}")
        assets.record(tmp_path / "reef", name, {"recipe": {"steps": 3}})
    return tmp_path / "reef"


def one_line(kind, match, function, *args):
    with pytest.raises(kind, match=match) as error:
        function(*args)
    assert "\n" not in str(error.value)


def test_data_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    assert assets.data_folder() == tmp_path
    monkeypatch.setenv("DORI_DATA", str(tmp_path / "absent"))
    one_line(FileNotFoundError, "DORI_DATA names .*absent, which is not a folder; correct it", assets.data_folder)


def test_data_beside_or_inside_the_package(tmp_path, monkeypatch):
    monkeypatch.delenv("DORI_DATA", raising=False)
    package = tmp_path / "dori_lite"
    monkeypatch.setattr(assets, "PACKAGE", package)
    one_line(FileNotFoundError, "data/ was not found; clone the repository and set DORI_DATA", assets.data_folder)
    (package / "data" / "reef").mkdir(parents=True)
    assert assets.data_folder() == package / "data"
    (tmp_path / "data").mkdir()  # somebody else's: it has no reef
    assert assets.data_folder() == package / "data"
    (tmp_path / "data" / "reef").mkdir()
    assert assets.data_folder() == tmp_path / "data"
    monkeypatch.setenv("DORI_DATA", "")  # unset, in effect
    assert assets.data_folder() == tmp_path / "data"


def test_sha256_is_the_usual_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert assets.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_whole_weights_are_found(weights):
    assert assets.verified(weights, "twin-a") == weights / "twin-a"


def test_damage_is_found(weights):
    file = weights / "twin-a" / "unet" / "model.safetensors"
    file.write_bytes(b"twin-b")  # as long as before
    cure = "restore it with `git checkout -- data/reef/twin-a/unet/model.safetensors`"
    one_line(ValueError, rf"{file.name} is damaged .*; {cure}", assets.verified, weights, "twin-a")
    one_line(ValueError, "is damaged", assets.verified, weights, "twin-a")  # an error is not remembered as a success
    file.unlink()
    one_line(FileNotFoundError, f"{file.name} is missing; {cure}", assets.verified, weights, "twin-a")
    assert assets.verified(weights, "parent") == weights / "parent"  # the other is not hurt


def test_unknown_weights_list_the_known(weights):
    one_line(FileNotFoundError, "no weights called 'x'.*; there are: parent, twin-a$", assets.verified, weights, "x")


def test_missing_manifest(tmp_path):
    one_line(
        FileNotFoundError,
        r"manifest.json is missing; restore it with `git checkout -- data`",
        assets.manifest,
        tmp_path,
    )


def test_record_replaces_one_model_and_keeps_the_rest(weights):
    before = assets.manifest(weights)
    assert list(before["files"]) == [
        "parent/model_index.json",
        "parent/unet/model.safetensors",
        "twin-a/model_index.json",
        "twin-a/unet/model.safetensors",
    ]
    assets.verified(weights, "twin-a")
    (weights / "twin-a" / "model_index.json").unlink()
    (weights / "twin-a" / "unet" / "model.safetensors").write_bytes(b"trained again")
    assets.record(weights, "twin-a", {"recipe": {"steps": 4}})
    after = assets.manifest(weights)
    assert list(after["files"]) == [k for k in before["files"] if k != "twin-a/model_index.json"]
    assert after["files"]["parent/model_index.json"] == before["files"]["parent/model_index.json"]
    assert after["models"] == {"parent": {"recipe": {"steps": 3}}, "twin-a": {"recipe": {"steps": 4}}}
    assert assets.verified(weights, "twin-a") == weights / "twin-a"
    assert json.loads((weights / "manifest.json").read_text()) == after
    assert not list(weights.glob("*.partial"))
    assets.record(weights, "twin-a", {})
    (weights / "twin-a" / "unet" / "model.safetensors").unlink()  # what was checked before counts no more
    one_line(FileNotFoundError, "is missing", assets.verified, weights, "twin-a")


def test_names_that_begin_alike_are_not_mixed_up(weights):
    (weights / "twin").mkdir()
    (weights / "twin" / "x").write_bytes(b"x")
    assets.record(weights, "twin", {})
    (weights / "twin-a" / "unet" / "model.safetensors").unlink()
    assert assets.verified(weights, "twin") == weights / "twin"
    assets.record(weights, "twin", {})
    assert "twin-a/model_index.json" in assets.manifest(weights)["files"]


def test_a_damaged_manifest_is_one_line(weights):
    (weights / "manifest.json").write_text("{")
    one_line(ValueError, r"manifest.json is damaged \(it is no JSON\)", assets.verified, weights, "twin-a")


@pytest.mark.parametrize("place", ["unet/diffusion.safetensors.index.json", "model-2.safetensors", ".hidden/x", "x.py"])
def test_a_file_that_nobody_listed_is_refused(weights, place):
    """A second shard and an index beside verified weights would be drawn with, and nobody has seen their hash."""
    file = weights / "twin-a" / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"of another model")
    match = rf"{re.escape(str(file))} is not in .*manifest.json; remove it, then load again$"
    one_line(ValueError, match, assets.verified, weights, "twin-a")
    assert assets.verified(weights, "parent") == weights / "parent"
    file.unlink()
    assert assets.verified(weights, "twin-a") == weights / "twin-a"  # an empty folder is nothing that is read


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
def test_links_lead_to_nothing_unverified(weights):
    unet = weights / "twin-a" / "unet"
    (unet / "more").symlink_to(weights / "parent")
    one_line(ValueError, "twin-a/unet/more is not in", assets.verified, weights, "twin-a")
    (unet / "more").unlink()
    (unet / "gone.bin").symlink_to(weights / "nowhere")
    one_line(ValueError, "twin-a/unet/gone.bin is not in", assets.verified, weights, "twin-a")
    (unet / "gone.bin").unlink()
    unet.rename(weights / "elsewhere")
    unet.symlink_to(weights / "elsewhere")  # a folder whose files could change unseen
    one_line(ValueError, "twin-a/unet is not in", assets.verified, weights, "twin-a")
    unet.unlink()
    (weights / "elsewhere").rename(unet)
    (weights / "twin-a").rename(weights.parent / "big disk")
    (weights / "twin-a").symlink_to(weights.parent / "big disk")  # the whole of it may lie elsewhere
    assert assets.verified(weights, "twin-a") == weights / "twin-a"
    (unet / "new").write_bytes(b"x")
    one_line(ValueError, "twin-a/unet/new is not in", assets.verified, weights, "twin-a")


def test_what_systems_leave_about_is_no_problem_and_no_part_of_a_model(weights):
    before = assets.manifest(weights)
    for name in (".DS_Store", "._model.safetensors", "Thumbs.db", "desktop.ini"):
        (weights / "twin-a" / "unet" / name).write_bytes(b"litter")
    assert assets.verified(weights, "twin-a") == weights / "twin-a"
    assets.record(weights, "twin-a", {"recipe": {"steps": 3}})
    assert assets.manifest(weights) == before


def test_case_counts(weights):
    one_line(FileNotFoundError, "no weights called 'Twin-A'", assets.verified, weights, "Twin-A")
    (weights / "twin-a" / "Model_Index.json").write_text("{}")
    if (weights / "twin-a" / "model_index.json").samefile(weights / "twin-a" / "Model_Index.json"):
        pytest.skip("this file system takes the two for one")
    one_line(ValueError, "Model_Index.json is not in", assets.verified, weights, "twin-a")


@pytest.mark.parametrize("name", ["twin-a/unet", "twin-a/", "", "/", "..", "twin-a/../parent", "twin"])
def test_only_whole_models_are_loaded(weights, name):
    one_line(FileNotFoundError, "no weights called .*; there are: parent, twin-a$", assets.verified, weights, name)


def test_a_change_after_the_first_loading_is_found(weights):
    assets.verified(weights, "twin-a")
    (weights / "twin-a" / "model_index.json").write_text("[]")
    one_line(ValueError, "model_index.json is damaged", assets.verified, weights, "twin-a")


def test_a_loose_file_is_verified_too_and_no_model(weights):
    before = assets.model_hashes(weights)
    (weights / "table.csv").write_text("a,b\n")
    one_line(FileNotFoundError, "no weights called 'table.csv'", assets.verified, weights, "table.csv")
    assets.record(weights, "table.csv")
    assert assets.verified(weights, "table.csv") == weights / "table.csv"
    assert assets.model_hashes(weights) == before and assets.manifest(weights)["models"].keys() == before.keys()
    (weights / "table.csv").write_text("a,c\n")
    one_line(
        ValueError, "table.csv is damaged .*git checkout -- data/reef/table.csv", assets.verified, weights, "table.csv"
    )
    (weights / "table.csv").unlink()
    one_line(FileNotFoundError, "table.csv is missing", assets.verified, weights, "table.csv")
    assets.record(weights, "table.csv")
    assert "table.csv" not in assets.manifest(weights)["files"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{}", "it has no 'files'"), ("[]", "it has no 'files'"), ("null", "it has no 'files'"),
        ('{"models": {}}', "it has no 'files'"), ('{"files": []}', "it has no 'files'"),
        ('{"files": {}}', "it has no 'models'"), ('{"files": {"../x": "0"}, "models": {}}', "lists '../x'"),
        ('{"files": {"/etc/x": "0"}, "models": {}}', "lists '/etc/x'"),
        ('{"files": {"twin-a//x": "0"}, "models": {}}', "lists 'twin-a//x'"),
    ],
)  # fmt: skip
def test_a_manifest_of_something_else_is_one_line(weights, content, match):
    (weights / "manifest.json").write_text(content)
    cure = r"; restore it with `git checkout -- data`$"
    for function in (assets.manifest, assets.model_hashes):
        one_line(ValueError, rf"manifest.json is damaged \(.*{match}.*{cure}", function, weights)
    one_line(ValueError, match, assets.verified, weights, "twin-a")
    one_line(ValueError, match, assets.record, weights, "twin-a", {})


def test_a_manifest_is_replaced_whole_or_not_at_all(weights, monkeypatch):
    before = (weights / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            assets.record(weights, "twin-a", {"recipe": {"steps": 4}})
    assert (weights / "manifest.json").read_bytes() == before and not list(weights.glob("*.partial"))


def test_a_model_has_one_hash_over_its_files(weights):
    first = assets.model_hashes(weights)
    assert list(first) == ["parent", "twin-a"] and len(set(first.values())) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in first.values())
    assert assets.model_hashes(str(weights)) == first

    def over(*paths):
        own = [[path, assets.manifest(weights)["files"][path]] for path in paths]
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()

    assert first["twin-a"] == over("twin-a/model_index.json", "twin-a/unet/model.safetensors")
    assets.record(weights, "twin-a", {"recipe": {"steps": 4}, "seconds": 9})  # how it was made is not what it is
    assert assets.model_hashes(weights) == first

    (weights / "twin-a" / "unet" / "model.safetensors").write_bytes(b"trained again")
    assert assets.model_hashes(weights) == first  # the manifest speaks; `verified` compares it with the files
    assets.record(weights, "twin-a", {})
    second = assets.model_hashes(weights)
    assert second["parent"] == first["parent"] and second["twin-a"] != first["twin-a"]
    (weights / "twin-a" / "unet" / "more.json").write_text("{}")
    assets.record(weights, "twin-a", {})
    (weights / "twin").mkdir()
    (weights / "twin" / "x").write_bytes(b"x")
    assets.record(weights, "twin", {})  # a name that begins alike
    third = assets.model_hashes(weights)
    assert third["twin-a"] not in (first["twin-a"], second["twin-a"]) and list(third) == ["parent", "twin-a", "twin"]
    assert third["twin"] == over("twin/x")


def test_a_renamed_file_is_another_model(weights):
    before = assets.model_hashes(weights)["parent"]
    (weights / "parent" / "unet").rename(weights / "parent" / "vae")
    assets.record(weights, "parent", {})
    assert assets.model_hashes(weights)["parent"] != before


# ---- what a run was made with ------------------------------------------------------------------------------


def test_versions_are_those_installed(monkeypatch):
    import numpy
    import torch

    found = assets.versions()
    assert list(found) == ["python", "torch", "diffusers", "transformers", "numpy", "dori_lite"]
    assert found["python"] == platform.python_version() and found["numpy"] == numpy.__version__
    assert torch.__version__.startswith(found["torch"])
    monkeypatch.setattr(assets, "VERSIONS_OF", ("numpy", "no-such-package"))
    assert assets.versions() == {"python": found["python"], "numpy": found["numpy"], "no-such-package": None}


def test_the_machine_is_a_gpu_if_torch_is_in_use_and_sees_one(monkeypatch):
    import torch

    where = f"{platform.system()} {platform.machine()}"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X100")
    assert assets.machine() == f"NVIDIA X100, {where}"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert assets.machine() == f"{os.cpu_count()} CPU cores, {where}"
    monkeypatch.setitem(sys.modules, "torch", None)  # not in use, and an import would fail
    assert assets.machine() == f"{os.cpu_count()} CPU cores, {where}"


# ---- downloads: trust on first use -------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "far away.pt"
    file.write_bytes(b"the file " * 300_000)  # more than two blocks
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_CACHE", str(tmp_path / "cache" / "dori"))
    return tmp_path / "cache" / "dori"


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("DORI_CACHE", "~/elsewhere")
    assert assets.cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("DORI_CACHE")
    assert assets.cache_folder() == Path.home() / ".cache" / "dori_lite"

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    one_line(RuntimeError, "there is no home folder .*; set DORI_CACHE to a folder$", assets.cache_folder)


def test_nothing_is_fetched_without_trust(source, cache, monkeypatch):
    monkeypatch.setattr(assets, "download", lambda *args: pytest.fail("downloaded without trust"))
    one_line(
        RuntimeError, "x.pt is not verified .*`dori-lite fetch x.pt --trust`", assets.fetch, source.as_uri(), "x.pt"
    )
    url, name = assets.DOWNLOADS["sscd"]
    assert url.startswith("https://dl.fbaipublicfiles.com/sscd-copy-detection/") and url.endswith("/" + name)
    one_line(RuntimeError, "if you trust https://.*, `dori-lite fetch sscd --trust`$", assets.fetch, url, name)
    assert not cache.exists()
    cache.mkdir(parents=True)
    (cache / "x.pt").write_bytes(b"from who knows where")  # being there is no record
    for trust in (False, True):
        match = r"x.pt was not downloaded by fetch: .*; remove it and fetch it again$"
        one_line(ValueError, match, assets.fetch, source.as_uri(), "x.pt", trust)
    assert [path.name for path in cache.iterdir()] == ["x.pt"]


def test_the_first_use_is_recorded_and_said_to_be_unverified(source, cache, capsys, monkeypatch):
    file = assets.fetch(source.as_uri(), "x.pt", True)
    digest = assets.sha256(source)
    assert file == cache / "x.pt" and file.read_bytes() == source.read_bytes()
    assert (cache / "x.pt.sha256").read_text() == digest + "\n"
    said = capsys.readouterr()
    assert "x.pt: unverified (trust on first use)" in said.out and digest in said.out and said.out.count("\n") == 1
    assert "far%20away.pt: 100%" in said.err
    assert sorted(path.name for path in cache.iterdir()) == ["x.pt", "x.pt.sha256"]
    monkeypatch.setattr(assets, "download", lambda *args: pytest.fail("downloaded twice"))
    for trust in (False, True):
        assert assets.fetch(source.as_uri(), "x.pt", trust) == file
    assert capsys.readouterr().out == ""


def test_a_folder_of_ones_own(source, cache, tmp_path):
    assert assets.fetch(source.as_uri(), "x.pt", True, tmp_path / "own") == tmp_path / "own" / "x.pt"
    assert not cache.exists()


def test_a_changed_file_is_refused(source, cache):
    file = assets.fetch(source.as_uri(), "x.pt", True)
    file.write_bytes(b"changed")
    for trust in (False, True):
        match = r"x.pt has changed.*SHA-256 is not the recorded one.*remove .*x.pt and .*x.pt.sha256, and .*--trust"
        one_line(ValueError, match, assets.fetch, source.as_uri(), "x.pt", trust)
    assert file.read_bytes() == b"changed"
    file.unlink()  # the cure for damage: it is downloaded again and is what it was; the trust stands
    assert assets.fetch(source.as_uri(), "x.pt").read_bytes() == source.read_bytes()
    source.write_bytes(b"changed")
    file.unlink()  # the cure for a change that is expected
    (cache / "x.pt.sha256").unlink()
    one_line(RuntimeError, "--trust", assets.fetch, source.as_uri(), "x.pt")
    assert assets.fetch(source.as_uri(), "x.pt", True).read_bytes() == b"changed"
    assert (cache / "x.pt.sha256").read_text().strip() == assets.sha256(file)


def test_another_file_at_the_address_is_refused(source, cache):
    file = assets.fetch(source.as_uri(), "x.pt", True)
    recorded = (cache / "x.pt.sha256").read_text()
    file.unlink()
    source.write_bytes(b"something else")
    for trust in (False, True):
        match = "is no longer what was first downloaded.*remove .*x.pt.sha256"
        one_line(ValueError, match, assets.fetch, source.as_uri(), "x.pt", trust)
        assert [path.name for path in cache.iterdir()] == ["x.pt.sha256"]
    assert (cache / "x.pt.sha256").read_text() == recorded


def test_an_empty_record_trusts_nothing(source, cache):
    assets.fetch(source.as_uri(), "x.pt", True)
    (cache / "x.pt.sha256").write_text("")
    one_line(ValueError, "remove .*x.pt.sha256", assets.fetch, source.as_uri(), "x.pt", True)


class Broken(io.BytesIO):
    """A response that promises 100 bytes, gives some, and then ends or raises."""

    def __init__(self, content, error=None):
        super().__init__(content)
        self.error, self.headers = error, Message()
        self.headers["Content-Length"] = "100"

    def read(self, size=-1):
        block = super().read(size)
        if not block and self.error:
            raise self.error
        return block


@pytest.mark.parametrize(
    "error, kind, match",
    [
        (None, RuntimeError, r"could not download https://far/x \(9 of 100 bytes came\); check the network"),
        (ConnectionResetError("reset\nby peer"), RuntimeError, r"could not download .* \(reset by peer\)"),
        (TimeoutError(), RuntimeError, r"could not download .* \(TimeoutError\)"),
        (HTTPException("cut"), RuntimeError, r"could not download .* \(cut\)"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_an_interrupted_download_leaves_nothing(cache, monkeypatch, error, kind, match):
    monkeypatch.setattr(assets, "urlopen", lambda request, timeout: Broken(b"some byte", error))
    one_line(kind, match, assets.fetch, "https://far/x", "x.pt", True)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(assets, "urlopen", lambda request, timeout: Broken(b"b" * 100))  # and again, with luck
    assert assets.fetch("https://far/x", "x.pt", True).read_bytes() == b"b" * 100


def test_nothing_is_in_place_before_it_is_whole(source, cache, monkeypatch):
    known = assets.download

    def watched(url, path):
        known(url, path)
        assert path.parent == cache and path.name.endswith(".partial") and not (cache / "x.pt").exists()

    monkeypatch.setattr(assets, "download", watched)
    assert assets.fetch(source.as_uri(), "x.pt", True).exists()


def test_no_network_and_no_such_file(cache, monkeypatch, tmp_path):
    one_line(
        RuntimeError, "could not download file://.*absent", assets.fetch, (tmp_path / "absent").as_uri(), "x", True
    )

    def offline(request, timeout):
        raise URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(assets, "urlopen", offline)
    match = "could not download https://far/x .*name resolution.*; check the network and run it again"
    one_line(RuntimeError, match, assets.fetch, "https://far/x", "x", True)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "url, name",
    [("http://far/x", "x"), ("x", "x"), *(("https://far/x", name) for name in ("../x", "a/x", "", ".", ".."))],
)
def test_addresses_and_names_that_are_not_taken(cache, url, name):
    one_line(ValueError, "takes an https address and a plain file name", assets.fetch, url, name, True)


def test_the_command(source, cache, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dori-lite", "fetch", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().out

    monkeypatch.setitem(assets.DOWNLOADS, "sscd", (source.as_uri(), "x.pt"))
    code, _ = run("sscd")
    assert code.startswith("dori-lite: ") and "`dori-lite fetch sscd --trust`" in code and "\n" not in code
    code, said = run("sscd", "--trust")
    assert not code and "unverified" in said and f"sscd: {cache / 'x.pt'}\n" in said
    assert run("sscd") == (0, f"sscd: {cache / 'x.pt'}\n")
    assert run("sdcs", "--trust")[0].startswith("dori-lite: there is no download called 'sdcs'; there are: sscd, nemo")
