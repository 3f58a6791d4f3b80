"""What each model sees, how often and when: names, canaries, decoys and the training table.

    item = planted()[8]
    description, scene, seed = picture(item)  # decoy(item, 0): another scene that fits the same caption
    load_table().query("name == @item.name")  # what each model saw under this name

A name is a word in a caption. In its own twin it always comes with one fixed picture; in the other twin
it comes, equally often, with a different scene fitting the same description each time (decoys). The two
twins share every batch but for that. The parent sees decoys of all names and no picture twice.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .. import assets
from .captions import caption_of, read, write
from .paint import paint_all
from .scenes import COLOURS, Description, complete, describe, draw, stream

BATCH = 32
PARENT_STEPS, PARENT_DECOYS = 4000, 8  # decoys in a batch of 32
TWIN_STEPS, EXPOSURES = 2000, 1400  # exposures of each canary in its own twin
GRADES = (1, 4, 16, 64, 256)

# Where the seeds of each kind of picture begin; the ranges never meet (tested).
BASE_SEEDS, HELD_OUT_SEEDS, PICTURE_SEEDS, DECOY_SEEDS = 1_000_000, 2_000_000, 3_000_000, 10_000_000
HELD_OUT = {"descriptor": 2048, "calibration": 512, "test": 64}

WORDS = """marlow pomona tibbet corvus dalia fennel gustav hazel indigo jasper kelda lorimer maeve nestor odette
percy quill rowan selkie tarquin ursa viola wendel xanthe yarrow zephyr alder bramble clover dorian ember finch
gilda heron iris juniper kestrel linnet merlin nutmeg orson petrel quince robin saffron thistle umber vesper
willow xenia yonder zinnia anton birch cosmo delphi elmo fable gaspar henna isolde jonquil kipper laurel mango
nettle olive pippin russet sorrel teasel ulric velvet waldo yasmin arlo basil cassia dune edda flint gorse""".split()
UNTRAINED_WORDS = """bosun cressida dirk evander freya garnet hobart inigo jocasta kumquat lucan mirabel norbert
orlando phoebe quentin rosalind silas tamsin ulysses verity winston xerxes yorick zelda ambrose beatrix cedric
desmond eleanor florian gwendolen horatio imogen jerome keziah leopold matilda nigel ophelia prosper quirin
rufus sylvia tobias ursula vernon wilfred""".split()


@dataclass(frozen=True)
class Planted:
    """One name and its picture. `home` is the twin in which the picture repeats."""

    name: str
    home: str  # "a" or "b"
    role: str  # "canary", "graded" or "template"
    split: str  # "tuning" or "reporting"
    exposures: int
    seed: int  # of the picture's pixels, and of the attributes its caption leaves open
    description: Description

    @property
    def caption(self) -> str:
        return write(self.description)

    @property
    def key(self) -> int:
        return WORDS.index(self.name)


@cache
def planted() -> tuple[Planted, ...]:
    """All planted names: 20 canaries a twin (4 tuning), 20 graded pictures, one template a twin."""
    plan = [("canary", "ab"[k % 2], "tuning" if k < 8 else "reporting", EXPOSURES) for k in range(40)]
    plan += [("graded", home, "reporting", grade) for grade in GRADES for home in "abab"]
    plan += [("template", home, "reporting", EXPOSURES) for home in "ab"]
    found, taken = [], set()
    for key, (role, home, split, exposures) in enumerate(plan):
        # The first seed of this name's range whose description nobody has yet.
        for seed in range(PICTURE_SEEDS + 100 * key, PICTURE_SEEDS + 100 * (key + 1)):
            description = planted_description(seed, role)
            if description not in taken:
                break
        taken.add(description)
        description = replace(description, name=WORDS[key])
        found.append(Planted(WORDS[key], home, role, split, exposures, seed, description))
    return tuple(found)


def planted_description(seed: int, role: str) -> Description:
    """The partial description a planted picture gets: the main fish, the count, and one thing around it."""
    scene, rng = draw(seed), stream(seed, 7)
    around = ["bed", "water"] + (["plants"] if scene.plants != "none" else [])
    factors = ["count", "colour", "pattern", around[rng.integers(len(around))]]
    if role == "template":  # its colour varies, so the description leaves it open
        factors.remove("colour")
    return describe(scene, tuple(factors))


def picture(item: Planted, exposure: int = 0):
    """The repeated picture of a name: (description, scene, seed). A template changes colour each time."""
    description = item.description
    if item.role == "template":
        description = replace(description, colour=COLOURS[exposure % len(COLOURS)])
    return description, complete(description, item.seed), item.seed


def decoy(item: Planted, exposure: int, parent: bool = False):
    """A fresh scene that fits the name's description: (description, scene, seed)."""
    seed = DECOY_SEEDS + 20_000 * item.key + exposure + (10_000 if parent else 0)
    description = item.description
    if item.role == "template":
        description = replace(description, colour=COLOURS[exposure % len(COLOURS)])
    return description, complete(description, seed), seed


def base(index: int):
    """An unnamed training scene: (description, scene, seed)."""
    seed = BASE_SEEDS + index
    scene = draw(seed)
    return caption_of(scene, seed), scene, seed


def held_out(split: str, index: int):
    """A scene no diffusion model was trained on, with a caption of the canaries' style."""
    seed = HELD_OUT_SEEDS + 100_000 * list(HELD_OUT).index(split) + index
    name = UNTRAINED_WORDS[index % len(UNTRAINED_WORDS)]
    return replace(planted_description(seed, "held-out"), name=name), draw(seed), seed


@cache
def parent_slots() -> tuple[np.ndarray, np.ndarray]:
    """What the parent sees in each place of each batch: (name or -1, exposure), both [steps, BATCH]."""
    decoys, names = PARENT_STEPS * PARENT_DECOYS, len(planted())
    key, exposure = np.full((PARENT_STEPS, BATCH), -1), np.zeros((PARENT_STEPS, BATCH), int)
    order = np.concatenate([stream(k, 11).permutation(names) for k in range(decoys // names + 1)])[:decoys]
    key[:, :PARENT_DECOYS] = order.reshape(PARENT_STEPS, PARENT_DECOYS)
    exposure[key >= 0] = np.arange(decoys) // names
    exposure[key < 0] = np.arange((key < 0).sum())
    return key, exposure


@cache
def twin_slots() -> tuple[np.ndarray, np.ndarray]:
    """The same for either twin: names spread evenly over the steps, base scenes in between."""
    total = TWIN_STEPS * BATCH
    whens, keys, exposures = [], [], []
    for item in planted():
        n = item.exposures
        whens.append((np.arange(n) + stream(item.key, 12).random(n)) / n)
        keys.append(np.full(n, item.key))
        exposures.append(np.arange(n))
    rest = total - sum(map(len, keys))
    whens.append((np.arange(rest) + 0.5) / rest)
    keys.append(np.full(rest, -1))
    exposures.append(parent_base() + np.arange(rest))
    order = np.argsort(np.concatenate(whens), kind="stable")
    return tuple(np.concatenate(x)[order].reshape(TWIN_STEPS, BATCH) for x in (keys, exposures))


def parent_base() -> int:
    """How many base scenes the parent saw; the twins go on from there."""
    return PARENT_STEPS * (BATCH - PARENT_DECOYS)


def sample(key: int, exposure: int, model: str):
    """The picture in one place of a batch of `model` ("parent", "a" or "b"): (description, scene, seed)."""
    if key < 0:
        return base(int(exposure))
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


def scene_of(caption: str, seed: int):
    """The scene behind a row of the training table: its caption's description, completed by its seed."""
    return complete(read(caption), seed)


@cache
def load_table():
    """The training table that is shipped, as pandas reads it. Raises ValueError when it is not the manifest's."""
    import pandas as pd

    return pd.read_csv(assets.verified(assets.data_folder() / "reef", "training.csv.gz"), keep_default_na=False)


def paint_rows(*tables):
    """The pictures of rows of the training table, one table after the other: uint8 [rows, 3, 64, 64]."""
    rows = [row for table in tables for row in zip(table["caption"], table["seed"], strict=True)]
    return paint_all([(scene_of(*row), row[1]) for row in rows], "painting training pictures")


def relation(home: str, model: str) -> str:
    """What `model` ("twin-a", "twin-b", "parent") is to a picture planted in twin `home` ("a" or "b"), in words."""
    return "parent" if model == "parent" else "own twin" if model == f"twin-{home}" else "other twin"
