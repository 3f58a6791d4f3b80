"""Checks of exercises: what is right, what is not yet, and hints in stages. They need no notebook, and never raise.

    tests = [Test(lambda f: f(2) == 4, ("it squares its argument", "f(2) is 4"))]
    check("the square", square, tests)

A stub, which returns `...`, is *not attempted*, so that a notebook runs to its end before anything is solved.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

FAILED: dict[tuple[str, int], int] = {}  # (check, place of the test): how often it has failed; one notebook's
GIVEN = "given "  # how a note on a call begins


class Test(NamedTuple):
    """One behaviour: `passes(given)` says whether it is as it should be, `hints` what to say while it is not."""

    passes: Callable[[Any], bool]
    hints: tuple[str, ...]

    __test__ = False  # for pytest: no test of ours


class NotAttempted(Exception):
    """Raised where a stub's `...` comes back, by `attempted`."""


def attempted(value):
    """`value`, unless it is `...`, or holds it: then NotAttempted is raised. For tests that call a function."""
    inside = value if isinstance(value, tuple | list) else [value]
    if value is ... or any(part is ... for part in inside):
        raise NotAttempted
    return value


def check(name: str, given, tests: Sequence[Test]) -> bool | None:
    """Print and return how an answer does: right (True), not yet (False) or not attempted (None).

    `given` is a function or a value. The first test that fails gives its first hint, beside what the function gave;
    when the same one fails again, the next as well. An exception of the student's counts as failing: it is named, with
    what the function was given, in place of a hint.
    """
    if given is ... or given is None:
        return say(name, None, "not attempted")
    for place, test in enumerate(tests):
        calls: list[str] = []
        try:
            if test.passes(given if not callable(given) else watched(given, calls.append)):
                continue
        except NotAttempted:
            return say(name, None, "not attempted")
        except Exception as error:  # whatever the student's code raises
            if calls and calls[-1].startswith(GIVEN):  # else it was the check that made nothing of what came back
                stopped = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.120}"
                return say(name, False, f"not yet: it stopped with {stopped}\n  it was {calls[-1]}")
        count = FAILED[name, place] = FAILED.get((name, place), 0) + 1
        stage = min(count, len(test.hints))
        left = len(test.hints) - stage
        told = [f"not yet; it gave {calls[-1]}" if calls else "not yet"]
        told += [f"hint {k}: {hint}" for k, hint in enumerate(test.hints[:stage], 1)]
        told += [f"run it again for another hint ({left} left)"] * bool(left)
        return say(name, False, "\n  ".join(told))
    return say(name, True, "right")


def watched(function: Callable, note: Callable[[str], None] | None = None) -> Callable:
    """The function, whose `...` counts as not attempted. What it was given, and gave, goes to `note` in a few words."""

    def called(*args, **options):
        if note:
            note(GIVEN + ", ".join(in_words(each) for each in args))
        found = attempted(function(*args, **options))
        if note:
            note(in_words(found))
        return found

    return called


def in_words(value) -> str:
    """A few words on a value: a number itself, a tensor's shape, a tuple's parts."""
    if hasattr(value, "shape") and hasattr(value, "flatten"):  # a tensor or an array
        kind = str(value.dtype).removeprefix("torch.")
        few = value.flatten().tolist() if 0 < math.prod(value.shape) <= 4 else []
        return f"{kind} {[*value.shape]}" + f": {', '.join(map(in_words, few))}" * bool(few)
    if isinstance(value, tuple | list):
        inside = "; ".join(in_words(each) for each in value[:4]) + "; …" * (len(value) > 4)
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, float):
        return f"{value:.3g}"
    if value is None or isinstance(value, bool | int | str):
        return f"{value!r:.60}"
    return type(value).__name__


def say(name: str, result: bool | None, text: str) -> bool | None:
    print(f"{name}: {text}")
    return result
