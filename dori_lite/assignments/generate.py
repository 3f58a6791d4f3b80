"""Student notebooks from solution notebooks, and the graded variant of an assignment from a private seed.

    text = student_notebook(SOLUTIONS / "a1_catch_the_copy.ipynb")  # the practice variant, as the book ships it
    graded("a1", "seed.txt", "course")  # course/a1_catch_the_copy.ipynb for students, course/a1.key.json for you

A solution stands in a cell tagged `solution`; what a student gets in its place is in that cell's metadata, `stub`.
"""

import hashlib
import hmac
import json
from importlib import import_module
from pathlib import Path

from .. import files
from ..book.pages import checkout
from .parts import NOBODY, Key, drawn

NAMES = ("a1", "a2", "a3")


def solutions() -> Path:
    """The folder of solution notebooks, of the practice variant alone."""
    return checkout() / "book" / "assignments" / "solutions"


def solution(name: str) -> Path:
    """The solution notebook of an assignment. Raises ValueError for another name than `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"no assignment {name!r}; there are: {', '.join(NAMES)}")
    [path] = solutions().glob(f"{name}_*.ipynb")
    return path


def student_notebook(path: Path, ask: dict | None = None, salt: str = "practice") -> str:
    """The text of the notebook that a student gets: stubs for solutions, no outputs.

    With `ask` and `salt` it is the graded variant: its cell of the variant holds them, and its student has no name yet.
    Raises ValueError for a solution without a stub.
    """
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    cells = [as_given(cell, Path(path).name, ask, salt) for cell in notebook["cells"]]
    return json.dumps({**notebook, "cells": cells}, indent=1, ensure_ascii=False) + "\n"


def as_given(cell: dict, name: str, ask, salt) -> dict:
    """A cell as a student gets it."""
    if cell["cell_type"] != "code":
        return cell
    tags, metadata = cell["metadata"].get("tags", []), dict(cell["metadata"])
    cell = {**cell, "outputs": [], "execution_count": None}
    if "solution" in tags:
        if "stub" not in metadata:
            raise ValueError(f"{name}: the solution {cell['id']!r} has no stub; give it one in its metadata")
        text, tags = metadata.pop("stub"), ["answer"]
    elif "parameters" in tags and ask is not None:
        text = f'student = "{NOBODY}"'
    elif "variant" in tags and ask is not None:
        text = "\n".join([*literal(ask), f'salt = "{salt}"'])
    else:
        return cell
    return {**cell, "metadata": {**metadata, "tags": tags}, "source": text.splitlines(keepends=True)}


def literal(ask: dict) -> list[str]:
    """The lines that say what is asked, as a dict."""
    return ["ask = {", *(f"    {json.dumps(key)}: {json.dumps(value)}," for key, value in ask.items()), "}"]


def key_of(name: str, seed: str) -> Key:
    """The key of a graded variant: everything in it follows from the private `seed`, a text of your own."""
    module = import_module(f"dori_lite.assignments.{name}")
    secret = hashlib.sha256(seed.strip().encode()).hexdigest()
    salt = hmac.digest(secret.encode(), f"salt of {name}".encode(), "sha256").hex()[:12]
    asked = drawn(module.CHOICES, secret + name, module.PRACTICE, getattr(module, "WITHOUT", ()))
    return Key(name, {**module.PRACTICE, **asked}, salt, secret)


def graded(name: str, seed_file, out) -> tuple[Path, Path]:
    """Write the students' notebook and the private key of a graded variant to the folder `out`.

    `seed_file` is a file with a text that nobody else knows: the same text gives the same variant. Raises ValueError
    for an empty one or an unknown assignment, FileNotFoundError for none, FileExistsError where `out` has another key.
    """
    path, text = solution(name), Path(seed_file).read_text(encoding="utf-8")
    if len(text.strip()) < 8:
        raise ValueError(f"{seed_file} holds {len(text.strip())} letters; write a private text of eight or more to it")
    key, out = key_of(name, text), files.check_writable(out)
    about = {"assignment": name, "ask": dict(key.ask), "salt": key.salt, "secret": key.secret}
    place = out / f"{name}.key.json"
    if place.exists() and files.read_json(place) != about:
        raise FileExistsError(f"{place} is the key of another variant, which its submissions need; name another folder")
    files.write_json(place, about)
    with files.whole(out / path.name) as unfinished:
        unfinished.write_text(student_notebook(path, dict(key.ask), key.salt), encoding="utf-8")
    return out / path.name, place


def update() -> list[Path]:
    """Write the practice variant's student notebooks anew; those that changed."""
    changed = []
    for path in sorted(solutions().glob("a?_*.ipynb")):
        place, text = path.parents[1] / path.name, student_notebook(path)
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            with files.whole(place) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
            changed.append(place)
    return changed
