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
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from . import files
from .files import sha256

PACKAGE = Path(__file__).parent
LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.directory")  # of systems; no loader reads it
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
    """`manifest.json` of a folder of weights: {"files": {path: sha256}, "models": {name: how it was made}}.

    Raises FileNotFoundError or ValueError, in one line, for one that is missing or holds something else.
    """
    path, cure = Path(folder) / "manifest.json", "restore it with `git checkout -- data`"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {cure}")
    content = files.read_json(path)
    for part in ("files", "models"):
        if not isinstance(content, dict) or not isinstance(content.get(part), dict):
            raise ValueError(f"{path} is damaged (it has no {part!r}); {cure}")
    for name in content["files"]:
        if {"", ".", ".."} & {*name.split("/")} or "\\" in name:
            raise ValueError(f"{path} is damaged (it lists {name!r}, which is no place below it); {cure}")
    return content


def verified(folder, name: str) -> Path:
    """The folder `name` of weights below `folder`, or the file of that name, once all hashes have been checked.

    What is loaded is what was verified and nothing else: a file that the manifest does not list is refused, and so is
    a link to a folder; what operating systems leave about (`LITTER`) is not. Nothing is remembered: every call reads
    every file, so that a change after an earlier one is found.

    Raises FileNotFoundError or ValueError, in one line that names the file and what to run.
    """
    folder, listed = Path(folder), manifest(folder)["files"]
    hashes = {path: digest for path, digest in listed.items() if path == name or path.startswith(f"{name}/")}
    if not hashes or ("/" in name and name not in listed):
        known = sorted({path.split("/")[0] for path in listed if "/" in path})
        raise FileNotFoundError(f"no weights called {name!r} in {folder}; there are: {', '.join(known)}")
    for path, digest in hashes.items():
        file, cure = folder / path, f"restore it with `git checkout -- data/{folder.name}/{path}`"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; {cure}")
        if sha256(file) != digest:
            raise ValueError(f"{file} is damaged (its SHA-256 is not the manifest's); {cure}")
    if strange := [path for path in found(folder, name) if path not in hashes]:
        raise ValueError(f"{folder / strange[0]} is not in {folder / 'manifest.json'}; remove it, then load again")
    return folder / name


def found(folder: Path, name: str = "") -> list[str]:
    """The files below `folder/name`, links to folders among them, as paths below `folder`; litter does not count."""
    paths = [folder / name] if (folder / name).is_file() else (folder / name).rglob("*")
    some = [path for path in paths if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in some if not LITTER.fullmatch(path.name))


def record(folder, name: str, how: dict | None = None) -> None:
    """Write the hashes of `folder/name`, a folder or one file, into the manifest, and how a model was made."""
    folder = Path(folder)
    path = folder / "manifest.json"
    content = manifest(folder) if path.exists() else {"files": {}, "models": {}}
    hashes = {k: v for k, v in content["files"].items() if k != name and not k.startswith(name + "/")}
    hashes |= {file: sha256(folder / file) for file in found(folder, name)}
    models = content["models"] | ({} if how is None else {name: how})
    files.write_json(path, {"files": dict(sorted(hashes.items())), "models": models})


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
    try:
        return Path(os.environ.get("DORI_CACHE") or "~/.cache/dori_lite").expanduser()
    except RuntimeError:
        raise RuntimeError("there is no home folder to keep downloads in; set DORI_CACHE to a folder") from None


def fetch(url: str, name: str, trust: bool = False, folder=None, *, digest: str | None = None) -> Path:
    """The file `name` in `folder` [default: `cache_folder()`], downloaded from `url` if it is not there.

    With a known SHA-256, `digest`, a file that has another one is refused, whoever put it there. Without, trust on
    first use: with `trust`, the SHA-256 of what came is recorded in `name.sha256` beside the file and printed as
    unverified; from then on, with or without `trust`, a file that has another one is refused, and so is one that lies
    there without a record: only what was downloaded here is trusted.
    Raises RuntimeError without `trust` where nothing is known or recorded, or when the download fails, and ValueError
    for a changed or unknown file; each in one line that says what to do. A download that breaks off leaves no file.
    """
    parts = urlsplit(str(url))
    near = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if not re.fullmatch(r"\w[\w.-]*", str(name)) or not (near or parts.scheme in ("https", "file")):
        raise ValueError(f"fetch takes an https address and a plain file name; got {url!r}, {name!r}")
    file = Path(folder or cache_folder()) / name
    note = file.with_name(name + ".sha256")
    recorded = digest
    if digest is None and note.exists():
        recorded = (note.read_text(encoding="utf-8").split() or ["nothing"])[0]
    if recorded is None and file.exists():
        raise ValueError(f"{file} was not downloaded by fetch: nobody knows what it is; remove it and fetch it again")
    if recorded is None and not trust:
        ours = next((key for key, (_, local) in DOWNLOADS.items() if local == name), name)
        raise RuntimeError(f"{name} is not verified by anybody; if you trust {url}, `dori-lite fetch {ours} --trust`")
    known = digest is not None
    if file.exists():
        settle(note, recorded, sha256(file), f"{file} has changed: remove it to download it again", known)
        return file
    with files.whole(file) as partial:
        download(url, partial)
        # The record comes first: a file is never in place without the hash of what was downloaded.
        settle(note, recorded, sha256(partial), f"{url} is no longer what was first downloaded", known)
    return file


def settle(note: Path, recorded: str | None, digest: str, problem: str, known: bool = False) -> None:
    """Record the digest if none is `recorded`; raise ValueError if another one is, or another one is `known`."""
    if recorded is None:
        files.write_text(note, digest + "\n")
        print(f"{note.stem}: unverified (trust on first use), SHA-256 {digest} recorded in {note}")
    elif digest != recorded:
        if known:
            raise ValueError(
                f"{note.stem} is not the published file (SHA-256 {digest[:12]}…); remove it, or use a path"
            )
        cure = f"remove {note.with_suffix('')} and {note}, and fetch it again with --trust"
        raise ValueError(f"{problem} (its SHA-256 is not the recorded one); if the change is expected, {cure}")


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
