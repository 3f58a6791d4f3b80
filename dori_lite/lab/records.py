"""What runs are written with: values in JSON's own types, files that are whole or not there, versions."""

import json
import math
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

VERSIONS_OF = ("torch", "diffusers", "transformers", "numpy", "dori_lite")


def plain(value):
    """`value` in JSON's own types: numpy and torch to numbers and lists, NaN and infinities to None."""
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"a {type(value).__name__} cannot be kept in a run; turn it into numbers or text")


def to_numpy(value):
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    return np.asarray(value, order="C")


def append(path: Path, line: bytes) -> None:
    """Add one line, on disk before this returns. A line torn by an earlier kill is cut off first."""
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
    """The rows of one file. What follows the last line break was torn in writing and does not count."""
    *lines, _ = path.read_bytes().split(b"\n")
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise ValueError(f"{path} is damaged; remove it, and the run does its units again") from None


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def versions() -> dict:
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
