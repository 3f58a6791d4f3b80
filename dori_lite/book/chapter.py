"""What every chapter does at its beginning and at its end.

    world, settings, run = begin("03_where_does_a_memory_live", profile, seed, "twin-a", "twin-b")
    ...
    conclude(run, world, settings, "wanda-hides", "nemo-hides")

In between it fills the run (`Run.todo`, `Run.keep`) and draws what is in it.
"""

import json
import math
import os
from importlib import import_module

from .. import assets, stamps
from ..files import digest, plain, read_json
from ..runs import open_run
from . import claims, profiles
from .effects import effect, recomputed_file
from .publish import published

# Modules with a function `load(*models, device, world)` → `evaluation.World`.
WORLDS = {"reef": "dori_lite.reef.world", "reef-second": "dori_lite.reef.world"}
ANEW = "DORI_ANEW"  # set by `dori-lite book --force`: the rows are made anew as well


def begin(chapter: str, profile: str, seed: int, *models: str, world: str = "reef"):
    """A world with some of its `models` [default: all], the profile's counts, and the run to go on with.

    The rows of a run depend on profile, weights, the package's code and the chapter's cells tagged `experiment`; if
    one of them is another, the run starts afresh. Raises ValueError for an unknown profile, world or model.
    """
    if world not in WORLDS:
        raise ValueError(f"no world called {world!r}; there are: {', '.join(WORLDS)}")
    settings = profiles.load(profile)
    loaded = import_module(WORLDS[world]).load(*models, device=settings.device, world=world)
    stamp = {"weights": digest(loaded.hashes), "cells": experiment_cells(chapter)}
    anew = os.environ.get(ANEW) == "1"
    return loaded, settings, open_run(chapter, settings, seed, world=world, stamp=stamp, anew=anew)


def experiment_cells(chapter: str) -> str | None:
    """A hash over the code of the chapter's cells tagged `experiment`; None where there is no book beside the package.

    Comments and layout do not count. A chapter without such tags counts with all its code cells.
    """
    path = assets.PACKAGE.parent / "book" / "chapters" / f"{chapter}.ipynb"
    if not path.exists():
        return None
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    tagged = [cell for cell in cells if "experiment" in cell["metadata"].get("tags", [])]
    return digest([stamps.code_only("".join(cell["source"])) for cell in tagged or cells])


def verdicts(run, *keys: str) -> dict:
    """What a run says of the claims: {claim: estimate, interval, units, threshold, rung, verdict}."""
    return {key: claims.summary(key, *effect(key, run)) for key in keys}


def conclude(run, world, settings, *keys: str, numbers: dict | None = None):
    """Write the run's record, with the verdicts of the claims `keys`, and return them as a table.

    Beside each verdict stands the published one, and what today's intervals say of its rows. `numbers` are headline
    numbers, {name: value}.
    """
    found = verdicts(run, *keys)
    run.record(models=dict(world.hashes), numbers=plain(numbers or {}), verdicts=found)
    beside = published(run.chapter, world=run.world)
    again = read_json(recomputed_file(run.world), {}).get(f"{run.chapter}/standard", {}) if beside else {}
    return verdict_table(found, settings, beside.read_record()["verdicts"] if beside else {}, again)


def verdict_table(verdicts: dict, settings, published: dict, recomputed: dict | None = None):
    """Verdicts as a table: effect with interval, threshold, units, verdict, the published one beside it.

    `recomputed` is one run's part of `effects.recompute`; it adds a column where it is given.
    """
    import pandas as pd

    rows = []
    for key, found in verdicts.items():
        row = {"claim": key, "effect [95 % interval]": in_brackets(found), "threshold": found["threshold"]}
        row |= {"canaries": found["units"], "evidence": found["rung"]}
        row["verdict"] = f"{found['verdict']} (direction only)" if settings.direction_only else found["verdict"]
        row["published (standard)"] = published[key]["verdict"] if key in published else "not yet run"
        if recomputed:
            again = recomputed.get(key, {}).get("recomputed", {})
            row["published rows, today's intervals"] = again.get("verdict", "not yet run")
        rows.append(row)
    return pd.DataFrame(rows).set_index("claim")


def in_brackets(found: dict) -> str:
    """An estimate with its interval; with one unit there is no interval, with none no estimate."""
    if not found["units"]:
        return "no units"
    if found["units"] == 1 or math.isnan(found["low"]) or math.isnan(found["high"]):
        return f"{found['estimate']:.2f} [{'one unit' if found['units'] == 1 else 'no interval'}]"
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
