"""Find, download, check and record files: weights with their hashes, lists, published tables.

    folder = verified(data_folder() / "reef", "twin-a")  # every file checked against its hash

What is downloaded is kept in `cache_folder()`, outside the checkout.
"""

import hashlib
import json
import os
import platform
import re
import sys
from functools import cache
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from . import files
from .files import sha256

PACKAGE = Path(__file__).parent
VERSIONS_OF = ("torch", "diffusers", "transformers", "numpy", "dori_lite")
# What `dori-lite fetch` knows: name → address and the file's name in the cache. No digest stands here, because
# the authors publish none and one that we have not computed from the file would be worth nothing.
DOWNLOADS = {
    "sscd": (
        "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt",
        "sscd_disc_mixup.torchscript.pt",
    ),
}


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


def manifest(folder) -> dict:
    """`manifest.json` of a folder of weights: {"files": {path: sha256}, "models": {name: how it was made}}."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; restore it with `git checkout -- data`")
    return files.read_json(path)


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
    content = files.read_json(path, {"files": {}, "models": {}})
    hashes = {k: v for k, v in content["files"].items() if not k.startswith(name + "/")}
    for file in sorted((folder / name).rglob("*")):
        if file.is_file():
            hashes[file.relative_to(folder).as_posix()] = sha256(file)
    files.write_json(path, {"files": dict(sorted(hashes.items())), "models": {**content["models"], name: how}})
    verified.cache_clear()


def model_hashes(folder) -> dict[str, str]:
    """One SHA-256 for each model in a folder of weights, over its files' hashes in the manifest: {name: digest}."""
    shipped, hashes = manifest(folder), {}
    for name in shipped["models"]:
        own = sorted((path, digest) for path, digest in shipped["files"].items() if path.startswith(name + "/"))
        hashes[name] = hashlib.sha256(json.dumps(own).encode()).hexdigest()
    return hashes


def versions() -> dict:
    """Versions of Python and of what decides about numbers; None for what is not installed."""

    def version(name):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:  # a clone without install
            return None

    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}}


def machine() -> str:
    """The kind of machine: a GPU's name if torch is in use and sees one, else the number of cores."""
    torch = sys.modules.get("torch")
    device = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return f"{device}, {platform.system()} {platform.machine()}"


def cache_folder() -> Path:
    """Where downloads are kept: `DORI_CACHE`, else `~/.cache/dori_lite`. It need not exist yet."""
    return Path(os.environ.get("DORI_CACHE") or "~/.cache/dori_lite").expanduser()


def fetch(url: str, name: str, trust: bool = False, folder=None) -> Path:
    """The file `name` in `folder` [default: `cache_folder()`], downloaded from `url` if it is not there.

    Trust on first use: with `trust`, the SHA-256 of what came is recorded in `name.sha256` beside the file and
    printed as unverified; from then on, with or without `trust`, a file that has another one is refused.
    Raises RuntimeError without `trust` where nothing is recorded, or when the download fails, and ValueError
    for a changed file; each in one line that says what to do. A download that breaks off leaves no file.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or urlsplit(url).scheme not in ("https", "file"):
        raise ValueError(f"fetch takes an https address and a plain file name; got {url!r}, {name!r}")
    file = Path(folder or cache_folder()) / name
    note = file.with_name(name + ".sha256")
    recorded = (note.read_text(encoding="utf-8").split() or ["nothing"])[0] if note.exists() else None
    if recorded is None and not trust:
        known = next((key for key, (_, local) in DOWNLOADS.items() if local == name), name)
        raise RuntimeError(f"{name} is not verified by anybody; if you trust {url}, `dori-lite fetch {known} --trust`")
    if file.exists():
        settle(note, recorded, sha256(file), f"{file} has changed: remove it to download it again")
        return file
    with files.whole(file) as partial:
        download(url, partial)
        # The record comes first: a file is never in place without the hash of what was downloaded.
        settle(note, recorded, sha256(partial), f"{url} is no longer what was first downloaded")
    return file


def settle(note: Path, recorded: str | None, digest: str, problem: str) -> None:
    """Record the digest if none is `recorded`; raise ValueError if another one is."""
    if recorded is None:
        files.write_text(note, digest + "\n")
        print(f"{note.stem}: unverified (trust on first use), SHA-256 {digest} recorded in {note}")
    elif digest != recorded:
        raise ValueError(
            f"{problem} (its SHA-256 is not the recorded one); if the change is expected, remove {note} and fetch it "
            "again with --trust"
        )


def download(url: str, path: Path) -> None:
    """Write what is at `url` to `path`, with a progress bar. Raises RuntimeError unless all of it came."""
    from tqdm import tqdm

    try:
        request = Request(url, headers={"User-Agent": "dori_lite"})
        with urlopen(request, timeout=60) as source, open(path, "wb") as out:
            size = int(source.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1]) as bar:
                while block := source.read(1 << 20):
                    bar.update(out.write(block))
            if size and out.tell() != size:  # urllib takes a connection that ends early for the end of the file
                raise HTTPException(f"{out.tell()} of {size} bytes came")
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RuntimeError(f"could not download {url} ({reason}); check the network and run it again") from error
