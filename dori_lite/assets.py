"""Find, download, check and record files: weights with their hashes, lists, published tables."""

import hashlib
import json
import os
import re
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

PACKAGE = Path(__file__).parent
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
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{name}.{os.getpid()}.partial")
    try:
        download(url, partial)
        # The record comes first: a file is never in place without the hash of what was downloaded.
        settle(note, recorded, sha256(partial), f"{url} is no longer what was first downloaded")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def settle(note: Path, recorded: str | None, digest: str, problem: str) -> None:
    """Record the digest if none is `recorded`; raise ValueError if another one is."""
    if recorded is None:
        partial = note.with_name(f"{note.name}.{os.getpid()}.partial")
        partial.write_text(digest + "\n", encoding="utf-8")
        os.replace(partial, note)
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
