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
from pathlib import Path

from .. import assets, stamps
from ..files import digest, plain
from ..runs import open_run
from ..stats import FEWEST, TOO_FEW
from . import claims, profiles
from .effects import effect
from .publish import published
from .verdicts import judged, same_sign

# Modules with a function `load(*models, device, world, …)` → `evaluation.World`.
REEF, SD = "dori_lite.reef.world", "dori_lite.stable_diffusion.world"
WORLDS = {"reef": REEF, "reef-first": REEF, "sd14": SD, "sd2": SD}
FIRST, NOT_YET = "reef-first", "not yet run"
NAMES = (str, Path, int, type(None))  # options that a run's stamp holds as they are; of others, their kind
ANEW = "DORI_ANEW"  # set by `dori-lite book --force`: the rows are made anew as well
SHOW = "DORI_SHOW"  # set to "published" for the site: chapters show their published runs and compute no rows


def begin(chapter: str, profile: str, seed: int, *models: str, world: str = "reef", **options):
    """A world with some of its `models` [default: all], the profile's counts, and the run to go on with.

    `world` is the name of one of `WORLDS`, or the folder of a pipeline of Stable Diffusion's kind; `options` are its
    `load`'s. The rows of a run depend on profile, weights, options, the package's code and the chapter's cells tagged
    `experiment`; if one of them is another, the run starts afresh. With DORI_SHOW=published it is the published run, if
    there is one, for reading, and the counts are its own. Raises ValueError for an unknown profile, world or model.
    """
    check_world(world)
    known = world in WORLDS and os.environ.get(SHOW) == "published"
    shown = published(chapter, world=world) if known else None
    settings = profiles.load(shown.profile["name"] if shown else profile)
    loaded = import_module(WORLDS.get(world, SD)).load(*models, device=settings.device, world=world, **options)
    if shown:
        return loaded, settings, shown
    stamp = {"weights": digest(loaded.hashes), "cells": experiment_cells(chapter)}
    said = {key: str(value) if isinstance(value, NAMES) else type(value).__name__ for key, value in options.items()}
    stamp |= {"options": said} if options else {}
    anew = os.environ.get(ANEW) == "1"
    return loaded, settings, open_run(chapter, settings, seed, world=loaded.name, stamp=stamp, anew=anew)


def check_world(world: str) -> None:
    """Raise ValueError for a name that is no world's, and no folder's."""
    if world not in [*WORLDS] and not (isinstance(world, str | Path) and str(world) and Path(world).is_dir()):
        raise ValueError(f"no world called {world!r}; there are: {', '.join(WORLDS)}, or a pipeline's folder")


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
    """What a run says of the claims: {claim: what `verdicts.judged` finds}."""
    return {key: judged(claims.claim(key), effect(key, run)) for key in keys}


def conclude(run, world, settings, *keys: str, numbers: dict | None = None):
    """Write the run's record, with the verdicts of the claims `keys`, and return them as a table.

    Beside each verdict stand the published one, and the first pair's where this is the second. `numbers` are headline
    numbers, {name: value}. A run for reading keeps the record it has.
    """
    found = verdicts(run, *keys)
    if run.stamp is not None:
        run.record(models=dict(world.hashes), numbers=plain(numbers or {}), verdicts=found)
    beside = {name: published_verdicts(run.chapter, name) for name in dict.fromkeys((run.world, FIRST))}
    return verdict_table(found, settings, beside.pop(run.world), beside.get(FIRST))


def published_verdicts(chapter: str, world: str) -> dict:
    """The verdicts of a chapter's published `standard` run; {} where there is none yet."""
    run = published(chapter, world=world)
    return run.read_record()["verdicts"] if run else {}


def verdict_table(verdicts: dict, settings, published: dict, first: dict | None = None):
    """Verdicts as a table: effect with interval, threshold, units, verdict, the published one beside it.

    `first` are the verdicts of the first pair; it adds a column where it is given.
    """
    import pandas as pd

    rows = []
    for key, found in verdicts.items():
        row = {"claim": key, "effect [interval]": in_brackets(found, key), "threshold": found["threshold"]}
        row |= {"units": in_clusters(found), "evidence": found["rung"]}
        row["verdict"] = f"{found['verdict']} (direction only)" if settings.direction_only else found["verdict"]
        row["in rates"] = found["rates"]["verdict"] if "rates" in found else ""
        row["published (standard)"] = published[key]["verdict"] if key in published else NOT_YET
        if first is not None:
            row["first pair"] = first_said(key, published.get(key, found), first)
        rows.append(row)
    return pd.DataFrame(rows).set_index("claim")


def first_said(key: str, found: dict, first: dict) -> str:
    """The first pair's estimate of a claim, and whether it has the same sign; none of either is "not yet run"."""
    both = [said["estimate"] for said in (found, first.get(key, {"estimate": None}))]
    if any(estimate is None or math.isnan(estimate) for estimate in both):
        return NOT_YET
    same = same_sign(claims.claim(key), *both)
    return f"{first[key]['estimate']:.2f}, {'same' if same else 'other'} side"


def in_clusters(found: dict) -> str:
    """How many units, and in how many clusters where these are fewer."""
    return f"{found['units']}" + (f" in {found['clusters']}" if found["clusters"] < found["units"] else "")


def in_brackets(found: dict, key: str | None = None) -> str:
    """An estimate with its interval; fewer than six units or a single cluster have none, no units no estimate.

    Of an area under a curve (`key` says which claim it is) six are needed on either side.
    """
    numbers = [math.nan if found[name] is None else found[name] for name in ("estimate", "low", "high")]
    if not found["units"]:
        return "no units"
    sides = 2 if key and claims.claim(key).measure == "auc" else 1
    if found["units"] < FEWEST * sides:
        return f"{numbers[0]:.2f} (n = {found['units']}, {TOO_FEW.format('interval')}{' a side' * (sides - 1)})"
    if math.isnan(numbers[1]) or math.isnan(numbers[2]):
        return f"{numbers[0]:.2f} [{'one unit' if found['clusters'] == 1 else 'no interval'}]"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*numbers)
