"""Finding data, and weights that are checked before they are used."""

import json

import pytest

from dori_lite import assets


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
