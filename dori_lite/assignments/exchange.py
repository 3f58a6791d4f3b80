"""What passes between the grader and a child process, in a folder: a task and arrays in, arrays and reasons back.

    write_task(folder, {"module": "dori_lite.assignments.a1", "parts": ["magnitude"], …}, given)
    begun, done = collect(folder, ["magnitude"], megabytes=200, outcome=Outcome())

The grader trusts nothing of what comes back: sizes are looked at first, nothing is unpickled, links are not followed.
"""

import io
import json
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

KINDS = "fiub"  # floats, whole numbers with and without sign, truth values
TEXT = 10**6  # bytes of JSON that are read at most
MANY = 1000  # arrays of one part
READY = "ready.begun"  # a file that says that the child is about to run the student's code
NOTES = 3  # forbidden acts that are told of a part


class Unfit(ValueError):
    """Raised where something else came back than was asked for; its text is a reason."""


def write_task(folder: Path, task: Mapping, given: Mapping) -> None:
    """Write what the child is to know, and nothing more; `given` is {part: {name: array}}."""
    for each in ("work", "answers"):
        (folder / each).mkdir()
    (folder / "task.json").write_text(json.dumps({**task, "parts": list(given)}), encoding="utf-8")
    arrays = {f"{k}/{name}": array for k, part in enumerate(given) for name, array in given[part].items()}
    np.savez(folder / "given.npz", **arrays)


def read_task(folder: Path) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """In the child: the task, and what is given."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    given = {part: {} for part in task["parts"]}
    with np.load(folder / "given.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            place, _, name = key.partition("/")
            given[task["parts"][int(place)]][name] = arrays[key]
    return task, given


def write_answer(folder: Path, place: int, arrays: Mapping, reason: str) -> None:
    """In the child: what the part at this place gave. The file with the reason, written last, says that it is done."""
    if arrays:
        np.savez(folder / f"{place}.npz", **arrays)
    (folder / f"{place}.json").write_text(json.dumps({"reason": reason}), encoding="utf-8")


def checked(returned, megabytes: float) -> dict[str, np.ndarray]:
    """In the child: a part's arrays, as they may go back. Raises Unfit, in one line, for any others."""
    if not isinstance(returned, Mapping):
        raise Unfit(f"a {type(returned).__name__} came back instead of arrays")
    arrays = {}
    for name, value in returned.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
        try:
            array = np.asarray(value)
        except Exception as error:
            raise Unfit(f"{name} is no array ({type(error).__name__})") from None
        if array.dtype == object and array.shape == () and array.item() is None:
            raise Unfit(f"{name} is None; does the function return what it found?")
        if array.dtype.kind not in KINDS:
            raise Unfit(f"{name} holds {array.dtype.name} values; numbers or truth values are asked for")
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    if sum(array.nbytes for array in arrays.values()) > megabytes * 1e6:
        raise Unfit(f"more than {megabytes:g} MB came back")
    return arrays


def collect(folder: Path, parts: list[str], megabytes: float, outcome) -> tuple[int, int]:
    """Put into `outcome` what a child left in its folder. How many of its parts were begun, and how many are done.

    Whatever is malformed becomes a reason.
    """
    answers, left = folder / "answers", megabytes * 1e6
    for place, note in notes(answers):
        if 0 <= place < len(parts):
            outcome.reasons[parts[place]] = joined(outcome.reasons.get(parts[place], ""), note)
        else:
            outcome.reason = joined(outcome.reason, note)
    done = 0
    for place, part in enumerate(parts):
        try:
            told = json.loads(content(answers / f"{place}.json", TEXT))
            reason = short(told["reason"])
        except FileNotFoundError:
            break
        except Exception:  # whatever the student's code may have put there
            reason = "its answer cannot be read"
        done += 1
        if not reason:
            try:
                arrays = load(content(answers / f"{place}.npz", left + 10**6), left)
                left -= sum(array.nbytes for array in arrays.values())
                outcome.returned[part] = arrays
            except ValueError as error:
                reason = str(error)
            except Exception:
                reason = "its answer cannot be read"
        if reason:
            outcome.reasons[part] = joined(outcome.reasons.get(part, ""), reason)
    begun = sum((answers / f"{place}.begun").exists() for place in range(len(parts)))
    return max(begun, done), done


def notes(answers: Path) -> list[tuple[int, str]]:
    """Forbidden acts as the child wrote them down: (place of the part, or -1; what it was), each once."""
    found, counts = [], {}
    with suppress(OSError, ValueError):
        for line in content(answers / "forbidden", TEXT).decode(errors="replace").split("\n"):
            place, tab, text = line.partition("\t")
            note = (int(place) if place.isdecimal() else -1, short(text))
            if tab and note not in found and counts.get(note[0], 0) < NOTES:
                counts[note[0]] = counts.get(note[0], 0) + 1
                found.append(note)
    return found


def content(path: Path, most: float) -> bytes:
    """What a file holds: no link, no pipe, not more than `most` bytes; ValueError otherwise."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError:
        raise ValueError("its answer cannot be read") from None
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("its answer cannot be read")
        if about.st_size > most:
            raise ValueError("more came back than may")
        return file.read(int(most))


def load(data: bytes, most: float) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, at most `most` bytes in all. Raises ValueError for what is none, or too much."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MANY or sum(entry.file_size for entry in entries) > most + 10**6:
                raise ValueError("more came back than may")
            if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
                raise ValueError("its answer cannot be read")
            arrays = {entry.filename.removesuffix(".npy"): array_in(archive.read(entry)) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, KeyError):
        raise ValueError("its answer cannot be read") from None
    return arrays


def array_in(data: bytes) -> np.ndarray:
    """The array of an .npy file, whose header is looked at first. Raises ValueError for anything but plain numbers."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(file)
    except Exception:
        raise ValueError("its answer cannot be read") from None
    if dtype.kind not in KINDS:
        raise ValueError(f"{dtype.name} values came back; numbers or truth values are asked for")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError("its answer cannot be read")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C").copy()


def size(folder: Path) -> int:
    """The bytes of all files below a folder, links not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def joined(*texts: str) -> str:
    """Reasons in a row; one that another says already is left out."""
    kept = []
    for text in texts:
        if text and not any(text in other for other in kept):
            kept = [other for other in kept if other not in text] + [text]
    return "; ".join(kept)


def short(text, most: int = 200) -> str:
    """A text from a student's process, on one line, printable and not too long."""
    line = " ".join(str(text)[: 4 * most].split())
    line = "".join(letter for letter in line if letter.isprintable())
    return line if len(line) <= most else line[: most - 1] + "…"
