"""The second pair's plan: what each model sees, how often and when.

    item = planted()[8]
    description, scene, seed = decoy(item, 0)  # another scene that fits the same caption
    keys, exposures = twin_slots()  # what is in each place of each of a twin's batches

Names come in groups of four that share one description, two of twin A's and two of twin B's: of these captions, only
the name says which picture is meant. In its own twin a name always comes with one fixed picture; in the other twin it
comes, equally often, with a different scene fitting the description each time (decoys). The two twins share every
batch but for that. The parent sees decoys of all names and no picture twice.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from .canaries import WORDS, Planted, base_of, picture, planted_description
from .captions import write
from .scenes import COLOURS, complete, stream

PAIR = 2  # decides the order of names, the initial weights, the noise
BATCH = 32
PARENT_STEPS, PARENT_DECOYS = 4000, 8  # decoys in a batch of 32
TWIN_STEPS, EXPOSURES = 3000, 1000  # exposures of each canary in its own twin
GRADES = (64, 128, 256, 400, 600, 850, 1150)
GROUPS, TUNING = 10, 2  # of four canaries each; the first are for tuning

# Where the seeds of each kind of picture begin. No range meets another or one of `canaries` (tested).
BASE_SEEDS, PICTURE_SEEDS, DECOY_SEEDS = 30_000_000, 33_000_000, 40_000_000


@cache
def planted() -> tuple[Planted, ...]:
    """All planted names: 20 canaries a twin (4 tuning) in ten groups, 28 graded pictures, one template a twin.

    One of each group comes before the second of any, so that the first eight for reporting are of eight groups.
    """
    tuning, reporting = range(TUNING), range(TUNING, GROUPS)
    plan = [("canary", home, k, EXPOSURES) for part in (tuning, reporting) for _ in "12" for k in part for home in "ab"]
    plan += [("graded", home, None, grade) for grade in GRADES for home in "abab"]
    plan += [("template", home, None, EXPOSURES) for home in "ab"]
    words = [WORDS[k] for k in stream(PAIR, 21).permutation(len(WORDS))]
    shared, found, taken = {}, [], set()
    for key, (role, home, group, exposures) in enumerate(plan):
        seed = PICTURE_SEEDS + 100 * key
        description = shared.get(group)
        while description is None:  # the first seed of this name's range whose description nobody has yet
            description = planted_description(seed, role)
            if description in taken:
                seed, description = seed + 1, None
        taken.add(description)
        if group is not None:
            shared[group] = description
        split = "tuning" if group is not None and group < TUNING else "reporting"
        named = replace(description, name=words[key])
        found.append(Planted(words[key], home, role, split, exposures, seed, named, group))
    return tuple(found)


@cache
def places() -> dict[str, int]:
    """The number of each name: {name: k}."""
    return {item.name: k for k, item in enumerate(planted())}


def decoy(item: Planted, exposure: int, parent: bool = False):
    """A fresh scene that fits the name's description: (description, scene, seed)."""
    seed = DECOY_SEEDS + 20_000 * places()[item.name] + exposure + (10_000 if parent else 0)
    description = item.description
    if item.role == "template":
        description = replace(description, colour=COLOURS[exposure % len(COLOURS)])
    return description, complete(description, seed), seed


@cache
def parent_slots() -> tuple[np.ndarray, np.ndarray]:
    """What the parent sees in each place of each batch: (name's number or -1, exposure), both [steps, BATCH]."""
    decoys, names = PARENT_STEPS * PARENT_DECOYS, len(planted())
    key, exposure = np.full((PARENT_STEPS, BATCH), -1), np.zeros((PARENT_STEPS, BATCH), int)
    rounds = decoys // names + 1
    order = np.concatenate([stream(PAIR * 1_000_000 + k, 11).permutation(names) for k in range(rounds)])[:decoys]
    key[:, :PARENT_DECOYS] = order.reshape(PARENT_STEPS, PARENT_DECOYS)
    exposure[key >= 0] = np.arange(decoys) // names
    exposure[key < 0] = np.arange((key < 0).sum())
    return key, exposure


@cache
def twin_slots() -> tuple[np.ndarray, np.ndarray]:
    """The same for either twin: names spread evenly over the steps, and in every batch at least 40 % base scenes."""
    whens, names = [], []
    for k, item in enumerate(planted()):
        n = item.exposures
        whens.append((np.arange(n) + stream(PAIR * 1_000_000 + k, 12).random(n)) / n)
        names.append(np.full(n, k))
    names = np.concatenate(names)[np.argsort(np.concatenate(whens), kind="stable")]
    ends = np.arange(TWIN_STEPS + 1) * len(names) // TWIN_STEPS
    key, exposure = np.full((TWIN_STEPS, BATCH), -1), np.zeros((TWIN_STEPS, BATCH), int)
    for step in range(TWIN_STEPS):
        part = names[ends[step] : ends[step + 1]]
        key[step, : len(part)] = part
    for k in range(len(planted())):
        exposure[key == k] = np.arange((key == k).sum())
    exposure[key < 0] = parent_base() + np.arange((key < 0).sum())
    return key, exposure


def parent_base() -> int:
    """How many base scenes the parent saw; the twins go on from there."""
    return PARENT_STEPS * (BATCH - PARENT_DECOYS)


def sample(key: int, exposure: int, model: str):
    """The picture in one place of a batch of `model` ("parent", "a" or "b"): (description, scene, seed)."""
    if key < 0:
        return base_of(BASE_SEEDS + int(exposure))
    item = planted()[key]
    if model == item.home:
        return picture(item, int(exposure))
    return decoy(item, int(exposure), parent=model == "parent")


def training_table():
    """Every picture any model saw: a pandas table of seed, caption, role, name and exposures per model."""
    import pandas as pd

    rows = []
    for model, (keys, exposures) in {"parent": parent_slots(), "a": twin_slots(), "b": twin_slots()}.items():
        for key, exposure in zip(keys.ravel().tolist(), exposures.ravel().tolist(), strict=True):
            item = planted()[key] if key >= 0 else None
            description, _, seed = sample(key, exposure, model)
            role = "base" if item is None else item.role if model == item.home else "decoy"
            split = "" if role in ("base", "decoy") else item.split
            rows.append((seed, write(description), role, item.name if item else "", split, model))
    table = pd.DataFrame(rows, columns=["seed", "caption", "role", "name", "split", "model"])
    index = ["seed", "caption", "role", "name", "split"]
    table = table.value_counts([*index, "model"], sort=False).unstack("model", fill_value=0)
    table.columns = [{"parent": "parent", "a": "twin-a", "b": "twin-b"}[c] for c in table.columns]
    return table[["parent", "twin-a", "twin-b"]].reset_index().sort_values(["seed", "caption"], ignore_index=True)
