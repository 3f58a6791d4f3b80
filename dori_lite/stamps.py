"""What rows depend on: the code that makes them, and a stamp beside them that says with what they were made.

    stamp = {"profile": "quick", "code": code_of_rows()}
    move_if_stale(folder, stamp)  # yesterday's rows, made by other code, make room

A page has a key of its own (`book.build.key`): an edit of a figure makes no row stale.
"""

import ast
import hashlib
import time
from functools import cache
from pathlib import Path

from . import assets, files

WAIT = 60.0  # seconds that ranks above 0 give rank 0 to prepare the folder
# Modules, or folders of them, whose code makes no row. An edit of any other module makes yesterday's rows stale.
NOT_ROWS = {"__init__", "assets", "audit", "book", "checkpoints", "cli", "figures", "files", "fit", "locks", "runs"}
NOT_ROWS |= {"planning", "stamps", "stats", "units"}
NOT_ROWS |= {
    f"reef/{name}" for name in ("calibrate", "card", "growth", "hearing", "plan", "reader", "recipes", "tokenizer")
}
NOT_ROWS |= {f"reef/{name}" for name in ("thresholds", "train", "verify")}


@cache
def code_of_rows() -> str:
    """A hash over the code of all modules but `NOT_ROWS`; docstrings and comments do not count."""
    known = hashlib.sha256()
    for path in sorted(path for path in assets.PACKAGE.rglob("*.py") if path.is_file()):  # editors leave dead links
        name = path.relative_to(assets.PACKAGE).as_posix().removesuffix(".py")
        if not {name, name.split("/")[0]} & NOT_ROWS:
            known.update(f"{name} {code_only(path.read_text(encoding='utf-8'))}".encode())
    return known.hexdigest()


def code_only(source: str) -> str:
    """A source without comments and docstrings, laid out as Python would."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        text = getattr(body[0], "value", None) if isinstance(body, list) and body else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and isinstance(body[0], ast.Expr):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def move_if_stale(folder: Path, stamp: dict, anew: bool = False) -> None:
    """Rename `folder` when it was stamped otherwise, holds rows and no stamp, or is to start `anew`."""
    stored = files.read_json(folder / "stamp.json")
    if not isinstance(stored, dict | None):
        raise ValueError(f"{folder / 'stamp.json'} is damaged (it is no stamp); remove it, and the run starts afresh")
    if not folder.exists() or (stored is None and not any(folder.glob("rows/*.jsonl"))):
        return
    if stored == stamp and not anew:
        return
    differ = [k for k in {**(stored or {}), **stamp} if stored is None or stored.get(k) != stamp.get(k)]
    n = 1
    while (aside := folder.with_name(f"{folder.name}.stale-{n}")).exists():
        n += 1
    folder.rename(aside)
    why = f"was made with another {', '.join(differ)}" if differ else "is made anew"
    print(f"{folder} {why}: moved to {aside.name}, starting afresh")


def await_stamp(folder: Path, stamp: dict) -> None:
    end = time.monotonic() + WAIT
    while files.read_json(folder / "stamp.json") != stamp:
        if time.monotonic() > end:
            raise RuntimeError(f"{folder} was not prepared by rank 0 in {WAIT:.0f} s; start all processes alike")
        time.sleep(0.1)
