"""One writer at a time: locks on files, held by the operating system, so that a killed process leaves none.

    with held(root / "_build" / "lock", "the book is being built"):
        build()

    lock(folder / "quick-0.lock", "the run is being written")  # until `release`, or the end of this process

A process may take a lock that it holds already. The files stay and say nothing: only the lock on them counts.
"""

import os
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

HELD = {}  # (process, path) → lock; a forked child holds nothing


def lock(path, busy: str) -> None:
    """Take the lock on `path`, or keep it. Raises RuntimeError, beginning with `busy`, while another process has it.

    Folders are made. Where a file system knows no locks, `filelock` marks the file instead, or else nothing is locked.
    """
    path = Path(path)
    if (os.getpid(), path.resolve()) in HELD:
        return
    owner = path.with_name(f"{path.name}.owner")
    if not taken(path):
        known = owner.read_text(encoding="utf-8", errors="replace").strip() if owner.exists() else ""
        who = f"process {known}" if known.isdigit() else "another process"
        raise RuntimeError(f"{busy} by {who}; wait until it has ended, or end it, and try again ({path})")
    owner.write_text(f"{os.getpid()}\n", encoding="utf-8")  # for the message to others


def taken(path) -> bool:
    """Take the lock on `path`, whose folder is made, or say that another process has it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    one = FileLock(path)
    try:
        one.acquire(timeout=0)
    except Timeout:
        return False
    except NotImplementedError:  # no locks here, as on some network drives: better unlocked than not at all
        pass
    HELD[os.getpid(), path.resolve()] = one
    return True


def release(path) -> None:
    """Give the lock on `path` back, if this process has it."""
    if one := HELD.pop((os.getpid(), Path(path).resolve()), None):
        one.release(force=True)


@contextmanager
def held(path, busy: str):
    """The lock on `path` for the length of the body, as `lock`; inside a body that has it already, nothing happens."""
    ours = (os.getpid(), Path(path).resolve()) not in HELD
    lock(path, busy)
    try:
        yield
    finally:
        if ours:
            release(path)


def rank() -> int:
    """This process's number among those that share a run, RANK as `accelerate launch` sets it; 0 without it."""
    return whole("RANK", 0, "is no process's number")


def ranks() -> int:
    """How many processes share a run, WORLD_SIZE as `accelerate launch` sets it; 1 without it."""
    return whole("WORLD_SIZE", 1, "is no count of processes")


@contextmanager
def alone():
    """For the length of the body this process is one of one: what begins there does not look for the others."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def whole(name: str, least: int, wrong: str) -> int:
    """An environment variable as a whole number; `least` where it is not set."""
    text = os.environ.get(name, str(least))
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{name}={text!r} {wrong}; unset it, or start with `accelerate launch`")
    return int(text)
