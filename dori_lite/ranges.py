"""Numbers that go in are looked at first: counts, seeds, rates. One line says what is wrong and what to do.

    check_count("steps", steps)  # a whole number from 1 on
    check_seeds(range(4))  # [0, 1, 2, 3]

What `checks` is for pictures and pipelines, without torch, so that runs and commands start at once. All raise
ValueError.
"""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real

HIGHEST_SEED = 2**64 - 1  # torch's generators take no more


def check_count(name: str, value, least: int = 1, most: int | None = None) -> int:
    """`value` if it is a whole number from `least` to `most`."""
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or value < least or (most is not None and value > most):
        to = "on" if most is None else f"to {most}"
        raise ValueError(f"{name}={value!r} is not a count that fits; give a whole number from {least} {to}")
    return int(value)


def check_number(name: str, value, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` if it is a finite number, low ≤ value ≤ high."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high:
        ends = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
        raise ValueError(f"{name}={value!r} does not fit; give a finite number{', '.join([''] + ends)}")
    return float(value)


def check_positive(name: str, value) -> float:
    """`value` if it is a finite number above 0."""
    if check_number(name, value) <= 0:
        raise ValueError(f"{name} must be above 0; got {name}={value!r}")
    return float(value)


def check_seed(seed, name: str = "seed") -> int:
    """`seed` if it is a whole number that torch and numpy both take."""
    return check_count(name, seed, 0, HIGHEST_SEED)


def check_seeds(seeds) -> list[int]:
    """`seeds`, a list or the like, as whole numbers; at least one."""
    # A lone number would be a seed to some readers and a count of seeds to others.
    if isinstance(seeds, Integral) and not isinstance(seeds, bool):
        raise ValueError(f"seeds must be a list; for the first {seeds} seeds give range({seeds})")
    if isinstance(seeds, str | bytes | Mapping) or not hasattr(seeds, "__iter__"):
        raise ValueError(f"seeds={seeds!r} must be a list; give whole numbers, such as range(4)")
    if not (seeds := [check_seed(seed) for seed in (seeds.tolist() if hasattr(seeds, "tolist") else seeds)]):
        raise ValueError("there are no seeds; give at least one")
    return seeds


def check_list(name: str, values, of: str) -> list:
    """`values` as a list. Raises ValueError for a single one, or text."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{name}={values!r:.40} must be a list of {of}; put it into one, or leave it out")
    return [*values]


def check_mapping(name: str, given) -> Mapping:
    """`given` if it is a dict or the like that holds something."""
    if not isinstance(given, Mapping) or not given:
        what = "empty" if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise ValueError(f"{name} is {what}; give a dict with one entry at least")
    return given


def check_rows(rows, *columns: str) -> None:
    """Raise ValueError unless `rows` is a table (`pandas.DataFrame`) that is not empty and has these columns."""
    if not hasattr(rows, "columns") or not hasattr(rows, "groupby"):
        raise ValueError(f"rows are a {type(rows).__name__}; give a DataFrame, such as run.rows(kind)")
    if missing := [column for column in columns if not isinstance(column, str) or column not in rows.columns]:
        known = ", ".join(map(str, rows.columns)) or "none"
        raise ValueError(f"rows have no column {missing[0]!r:.40}; there are: {known}")
    if not len(rows):
        raise ValueError("there are no rows; give at least one")
