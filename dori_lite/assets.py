"""Find, check and record files: weights with their hashes, lists, published tables."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def data_folder() -> Path:
    """The `data/` folder: `DORI_DATA`, else the checkout's beside the package, else the packaged copy."""
    if named := os.environ.get("DORI_DATA"):
        if not Path(named).is_dir():
            raise FileNotFoundError(f"DORI_DATA names {named}, which is not a folder; correct it or unset it")
        return Path(named)
    for folder in (PACKAGE.parent / "data", PACKAGE / "data"):
        if (folder / "reef").is_dir():
            return folder
    raise FileNotFoundError("the folder data/ was not found; clone the repository and set DORI_DATA to its data folder")


def sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder) -> dict:
    """`manifest.json` of a folder of weights: {"files": {path: sha256}, "models": {name: how it was made}}."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; restore it with `git checkout -- data`")
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def verified(folder: Path, name: str) -> Path:
    """The folder `name` of weights below `folder`, once every file has been checked against its hash.

    Raises FileNotFoundError or ValueError, in one line that names the file and what to run.
    """
    hashes = {path: digest for path, digest in manifest(folder)["files"].items() if path.startswith(name + "/")}
    if not hashes:
        known = sorted({path.split("/")[0] for path in manifest(folder)["files"] if "/" in path})
        raise FileNotFoundError(f"no weights called {name!r} in {folder}; there are: {', '.join(known)}")
    for path, digest in hashes.items():
        file, cure = Path(folder) / path, f"restore it with `git checkout -- data/reef/{path}`"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing; {cure}")
        if sha256(file) != digest:
            raise ValueError(f"{file} is damaged (its SHA-256 is not the manifest's); {cure}")
    return Path(folder) / name


def record(folder, name: str, how: dict) -> None:
    """Write the hashes of `folder/name` and how it was made into the manifest."""
    folder = Path(folder)
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"files": {}, "models": {}}
    files = {k: v for k, v in content["files"].items() if not k.startswith(name + "/")}
    for file in sorted((folder / name).rglob("*")):
        if file.is_file():
            files[file.relative_to(folder).as_posix()] = sha256(file)
    content = {"files": dict(sorted(files.items())), "models": {**content["models"], name: how}}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    verified.cache_clear()
