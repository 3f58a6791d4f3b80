"""What runs in the child process: a student's functions on given arrays, with a hook that refuses the rest.

    python -c "from dori_lite.assignments.child import main; main()" FOLDER

`sandbox` starts it, with limits and without network; `exchange` says what stands in the folder. Helpers of assignments
are imported before the student's code: afterwards their files are closed, and the modules show what a student may use.
"""

import __future__

import ast
import ctypes
import importlib
import os
import random
import signal
import sys
import threading
import types
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..book.checks import NotAttempted, watched
from .exchange import READY, Unfit, checked, read_task, short, write_answer
from .guard import guard, hide
from .submission import targets


def main() -> None:
    die_with_grader()
    folder = Path(sys.argv[1]).resolve()
    task, given = read_task(folder)
    confine(task["limits"])
    module = importlib.import_module(task["module"])
    parts = {part.name: part for part in module.PARTS}
    hide(task["module"])
    trusted, at = guard(folder)
    with trusted():
        (folder / "answers" / READY).touch()
    namespace, problems = execute(task["source"], task["names"])
    for place, name in enumerate(task["parts"]):
        at(place)
        with trusted():
            (folder / "answers" / f"{place}.begun").touch()
        seeds()
        arrays, reason = answer(parts[name], namespace, given[name], problems, task["limits"])
        with trusted():
            write_answer(folder / "answers", place, arrays, reason)
    os._exit(0)  # whatever threads a student's code has left behind


def die_with_grader() -> None:
    """End when the grader does, whose end of our standard input closes then; nothing else is read from it."""
    kept, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def wait():
        os.read(kept, 1)
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)  # the first process of a namespace cannot be killed from within

    threading.Thread(target=wait, daemon=True).start()


def confine(limits: dict) -> None:
    """The limits that the system keeps, and death with the grader; where there are none, the grader's watch is all."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for name, most in (
        ("RLIMIT_DATA", limits["memory"] * 1e9),
        ("RLIMIT_FSIZE", limits["disk"] * 1e6),
        ("RLIMIT_CORE", 0),
    ):
        with suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (int(most), int(most)))


def execute(source: str, names: dict) -> tuple[dict, dict[str, str]]:
    """Run what is graded, a statement at a time: (the names it defines, those that it failed to: {name: reason})."""
    sys.modules["__main__"] = notebook = types.ModuleType("__main__")  # dataclasses look their module up
    namespace, problems = notebook.__dict__, {}
    namespace.update(names)
    warnings.simplefilter("ignore")
    for node in ast.parse(source).body:
        bound = targets(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        try:
            flags = __future__.annotations.compiler_flag  # annotations need not be importable
            exec(compile(ast.Module([node], []), "<notebook>", "exec", flags, dont_inherit=True), namespace)
        except BaseException as error:  # whatever the student's code raises, SystemExit too
            problems |= dict.fromkeys(bound, described(error, problems, None))
        else:
            problems = {name: reason for name, reason in problems.items() if name not in bound}
    return namespace, problems


def answer(part, namespace: dict, given: dict, problems: dict, limits: dict) -> tuple[dict, str]:
    """What a part's `call` makes of the student's answer, as arrays, and "", or {} and a reason."""
    value = namespace.get(part.name)
    if value is None or value is ...:
        return {}, f"not defined ({problems[part.name]})" if part.name in problems else "not attempted"
    try:
        returned = part.call(watched(value) if callable(value) else value, given)
        if returned is ... or (isinstance(returned, dict) and any(value is ... for value in returned.values())):
            raise NotAttempted
        return checked(returned, limits["returned"]), ""
    except NotAttempted:
        return {}, "not attempted"
    except Unfit as error:
        return {}, str(error)
    except BaseException as error:  # whatever the student's code raises, SystemExit too
        return {}, described(error, problems, limits)


def described(error: BaseException, problems: dict, limits: dict | None) -> str:
    """An exception in one line."""
    try:
        text = short(error)
        if isinstance(error, PermissionError) and text.startswith("tried to"):
            return text
        if limits and (isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text):
            return f"took more than {limits['memory']:g} GB of memory"
        if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
            text += f" ({problems.get(error.name) or 'only imports, functions and values written out are graded'})"
        return f"{type(error).__name__}: {text}".removesuffix(": ")
    except BaseException:  # its text is the student's code as well
        return "an exception that cannot be told"


def seeds() -> None:
    """The same numbers for each part, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    with suppress(Exception):
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
            torch.manual_seed(0)
