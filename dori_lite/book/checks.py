"""Checks of exercises: what is right, what is not yet, and hints in stages. They need no notebook, and never raise.

    tests = [Test(lambda f: f(2) == 4, ("it squares its argument", "f(2) is 4"))]
    check("the square", square, tests)

A stub, which returns `...`, is *not attempted*, so that a notebook runs to its end before anything is solved.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

FAILED: dict[tuple[str, int], int] = {}  # (check, place of the test): how often it has failed; one notebook's


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

    `given` is a function or a value. The first test that fails gives its first hint; when the same one fails again, the
    next. An exception of the student's counts as failing, and is named.
    """
    if given is ... or given is None:
        return say(name, None, "not attempted")
    for place, test in enumerate(tests):
        problem = ""
        try:
            if test.passes(given if not callable(given) else watched(given)):
                continue
        except NotAttempted:
            return say(name, None, "not attempted")
        except Exception as error:  # whatever the student's code raises
            problem = f" ({type(error).__name__}: {str(error).partition(chr(10))[0]:.120})"
        count = FAILED[name, place] = FAILED.get((name, place), 0) + 1
        stage = min(count, len(test.hints))
        left = len(test.hints) - stage
        more = f"\n  run it again for another hint ({left} left)" if left else ""
        return say(name, False, f"not yet{problem}\n  hint {stage}: {test.hints[stage - 1]}{more}")
    return say(name, True, "right")


def watched(function: Callable) -> Callable:
    """The function, whose `...` counts as not attempted."""

    def called(*args, **options):
        return attempted(function(*args, **options))

    return called


def say(name: str, result: bool | None, text: str) -> bool | None:
    print(f"{name}: {text}")
    return result
