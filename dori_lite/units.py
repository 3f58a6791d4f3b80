"""Units of work, every combination of some axes, and the rows they give.

    found = combinations("attack", target=targets, condition={"unpruned": None, "Wanda": 0.02})
    values, plan = found[("marlow", "Wanda")]  # (the target, "Wanda"), and a digest of 0.02

`runs` hands them out and keeps their rows; processes that share a run divide its units (`shared`).
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path

from . import files, locks

PAUSE = 0.5  # seconds between two looks, where all that is left is in work elsewhere


def combinations(kind: str, /, **axes) -> dict[tuple, tuple]:
    """Every unit, the last axis running fastest: {names: (values, plan)}.

    An axis is a list, or a dict, whose keys count and whose values make the plan. Raises ValueError without an axis,
    for text in place of a list, and for two things of one name on an axis.
    """
    if not axes:
        raise ValueError(f"units of {kind} need an axis: todo({kind!r}, target=targets), for example")
    if text := [axis for axis, values in axes.items() if isinstance(values, str | bytes)]:
        raise ValueError(f"the axis {text[0]} is one text; put it into a list")
    axes = {axis: values if isinstance(values, Mapping) else list(values) for axis, values in axes.items()}
    for axis, values in axes.items():
        if len({named(value) for value in values}) < len(values):
            raise ValueError(f"two things on the axis {axis} have one name; rows need to tell them apart")
    found = {}
    for values in product(*map(list, axes.values())):
        about = [axis[k] for axis, k in zip(axes.values(), values, strict=True) if isinstance(axis, Mapping)]
        plan = files.digest([part for part in about if is_plain(part)])[:12]
        found[tuple(named(value) for value in values)] = values, plan
    return found


def shared(units: Iterable[tuple], undone: Callable[[], set], folder: Path) -> Iterator[tuple]:
    """Those of `units` that this process is to do, until `undone()`, which says what is left, is empty.

    Alone, it is what is left. Of several processes (`locks.ranks`) each begins at a part of its own and takes the next
    unit that nobody works on; locks in `folder` see to that. All end together, so that what comes after may build on
    every unit; what a process leaves that is stopped, the others do.
    """
    left = undone()
    if locks.ranks() == 1:
        yield from (unit for unit in units if unit in left)
        return
    numbered = [*enumerate(units)]
    own = len(numbered) * locks.rank() // locks.ranks()
    while left:
        idle = True
        for n, unit in numbered[own:] + numbered[:own]:
            claim = folder / f"{n}.lock"
            if unit not in left or not locks.taken(claim):
                continue
            try:
                left = undone()  # another process may have done it since the last look
                if unit in left:
                    idle = False
                    yield unit
                    left = undone()
            finally:
                locks.release(claim)
        if idle:
            time.sleep(PAUSE)
            left = undone()


def rows_of(kind: str, axes: dict, rows) -> list[dict]:
    """What was found of the unit `axes` {axis: name}, as rows in JSON's own types: the axes first, then the values.

    `rows` is a dict of values, a list of such, or a DataFrame. Raises ValueError for something else, and when a row
    says otherwise of an axis than its unit.
    """
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    rows = [rows] if isinstance(rows, Mapping) else list(rows) if isinstance(rows, Iterable) else [rows]
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"rows of {kind} are no dicts; keep one, or a list of them, such as {{'rate': 0.5}}")
    rows = [files.plain({**axes, **row}) for row in rows]
    if clash := [name for name, value in files.plain(axes).items() if any(row[name] != value for row in rows)]:
        raise ValueError(f"a row's {', '.join(clash)} come from the unit; give these values other names")
    return rows


def key(unit) -> str:
    """A unit's parts as one text that no other unit has."""
    return json.dumps([str(part) for part in unit])


def named(value) -> str:
    """What stands for a value in a table and in file names: a target's name, or the value."""
    return getattr(value, "name", value)


def is_plain(value) -> bool:
    try:
        files.plain(value)
    except TypeError:
        return False
    return True
