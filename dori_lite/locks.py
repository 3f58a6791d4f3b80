"""One writer at a time: locks on files, held by the operating system, so that a killed process leaves none.

    with held(root / "_build" / "lock", "the book is being built"):
        build()

    lock(folder / "quick-0.lock", "the run is being written")  # until `release`, or the end of this process

A process may take a lock that it holds already. The file itself stays and says nothing: only the lock on it counts.
"""

import os
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

FAR = 1 << 30  # Windows locks bytes: one that nobody reads
HELD = {}  # (process, path) → descriptor; a forked child holds nothing


def lock(path, busy: str) -> None:
    """Take the lock on `path`, or keep it. Raises RuntimeError, beginning with `busy`, while another process has it.

    Folders are made. Where a file system knows no locks, nothing is locked.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.getpid(), path.resolve()
    if key in HELD:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        if not take(descriptor):
            who = f"process {owner}" if owner.isdigit() else "another process"
            raise RuntimeError(f"{busy} by {who}; wait until it has ended, or end it, and try again ({path})")
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()}\n".encode())  # for the message to others
    except BaseException:
        os.close(descriptor)
        raise
    HELD[key] = descriptor


def take(descriptor: int) -> bool:
    """Lock an open file without waiting; False while another process has it."""
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # no locks here, as on some network drives: better unlocked than not at all
        return True
    return True


def release(path) -> None:
    """Give the lock on `path` back, if this process has it."""
    if (descriptor := HELD.pop((os.getpid(), Path(path).resolve()), None)) is not None:
        os.close(descriptor)


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
