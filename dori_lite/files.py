"""Files that are whole or not there, hashes, and values in JSON's own types. What writes goes through `whole`.

with files.whole(folder / "mask.safetensors") as partial:
    save_file(tensors, partial)
"""

import gzip
import hashlib
import json
import math
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


@contextmanager
def whole(path):
    """A place to write beside `path`; what was written there takes its place when the body ends without an exception.

    Whoever reads `path` finds the old content or all of the new one. Folders are made. Processes that write the same
    file at once do not meet: each has a place of its own, and the last one counts.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target):
    """A place to write beside the folder `target`, which takes its place when the body ends without an exception.

    The old folder is moved aside, and removed only when the new one stands: stopped anywhere, one of the two is there,
    and the next call, or `restore`, puts the old one back.
    """
    target = Path(target)
    partial, old = beside(target)
    restore(target)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
    finally:
        restore(target)


def restore(target: Path) -> None:
    """Undo a `whole_folder` that was killed: the old folder goes back where it was, what was half written goes away."""
    partial, old = beside(target)
    if old.exists() and not target.exists():  # killed between the two renamings
        os.replace(old, target)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def beside(target: Path) -> tuple[Path, Path]:
    return target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.old")


def check_writable(folder) -> Path:
    """`folder`, which is made if need be; OSError in one line, before hours are spent, where nothing can be written."""
    folder = Path(folder)
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = "a file is in the way" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise type(error)(f"nothing can be written to the folder {folder} ({reason}); name another one") from None
    return folder


def check_name(what: str, name) -> str:
    """`name` if it can be a file's or a folder's; ValueError otherwise."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{what} {name!r} does not fit; give letters, digits, and _ . - after the first")
    return name


def sha256(path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content) -> str:
    """The SHA-256 of a value that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()


def read_json(path, missing=None):
    """What a JSON file holds; `missing` when it is not there. Raises ValueError, naming the file, for a damaged one."""
    path = Path(path)
    if not path.exists():
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is damaged (it is no JSON); remove or restore it") from None


def write_json(path, content, indent: int | None = 1) -> None:
    """Write `content`; `indent=None` packs it tightly. Raises ValueError for NaN or infinities (see `plain`)."""
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(content, indent=indent, separators=separators, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"{path} cannot be written as JSON ({error}); store files.plain of it") from None
    write_text(path, text)


def write_text(path, text: str) -> None:
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def append(path: Path, line: bytes) -> None:
    """Add one line, on disk before this returns. A line torn by an earlier kill is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        end = file.tell()
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict]:
    """The JSON lines of one file, compressed if it ends in .gz.

    What follows the last line break was torn in writing and does not count. Raises ValueError for a damaged file.
    """
    try:
        content = path.read_bytes()
        *lines, _ = (gzip.decompress(content) if path.suffix == ".gz" else content).split(b"\n")
        return [json.loads(line) for line in lines]
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError(f"{path} is damaged; remove it, and the run does its units again") from None


def plain(value):
    """`value` in JSON's own types: numpy and torch to numbers and lists, NaN and infinities to None."""
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"a {type(value).__name__} cannot be kept; turn it into numbers or text")


def to_numpy(value):
    """A tensor or array as a contiguous numpy array; bfloat16, which numpy has not, as float32."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    return np.asarray(value, order="C")


def as_pil(picture):
    """A picture as a PIL image: PIL itself, uint8 [H, W, 3], or a tensor [3, H, W] with values in [0, 1] (clipped).

    Raises ValueError for a tensor of bytes, and for what is of another shape or not finite.
    """
    import numpy as np
    from PIL import Image

    if hasattr(picture, "convert"):
        return picture
    if hasattr(picture, "is_floating_point") and not picture.is_floating_point():
        raise ValueError("a picture's tensor must be floats in [0, 1]; divide bytes by 255")
    array = to_numpy(picture.float() if hasattr(picture, "detach") else picture)
    floats = array.dtype.kind == "f"
    fits = array.ndim == 3 and array.size and array.shape[0 if floats else 2] == 3
    if not fits or not (np.isfinite(array).all() if floats else array.dtype == "uint8"):
        got = f"{array.dtype} {[*array.shape]}{', not all finite' if fits and floats else ''}"
        raise ValueError(f"a picture is a PIL image, finite floats [3, H, W] or bytes [H, W, 3], not {got}; convert it")
    if floats:
        array = (array.clip(0, 1).transpose(1, 2, 0) * 255).round().astype("uint8")
    return Image.fromarray(array)


def slug(*parts) -> str:
    """A file's name for several texts, another one for any others: `slug("a b", 0.5)` is "a_b+0.5"."""
    name = "+".join(quote(str(part), safe=" ,=").replace("_", "%5F").replace(" ", "_") for part in parts)
    return name.replace(".", "%2E", 1) if name.startswith(".") else name  # neither ".." nor a hidden file
