"""Names, planted pictures, held-out scenes, and the training table of a pair of twins.

    item = planted("reef")[8]
    description, scene, seed = picture(item)
    load_table("reef").query("name == @item.name")  # what each model saw under this name

A name is a word in a caption. In its own twin it always comes with one fixed picture; in the other twin it comes,
equally often, with a different scene fitting the same description each time (decoys). `plan` says how the second pair
was dealt; here a pair is read as it was: `planted.json` and `training.csv.gz` beside its weights.
"""

from dataclasses import dataclass, replace
from functools import cache

from .. import assets, files
from .captions import caption_of, read, write
from .paint import paint_all
from .scenes import COLOURS, Description, complete, describe, draw, stream

# Where the seeds of scenes begin that instruments are made and tested with (and the first pair's base scenes).
BASE_SEEDS, HELD_OUT_SEEDS = 1_000_000, 2_000_000
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
    group: int | None = None  # names of one group share a description

    @property
    def caption(self) -> str:
        return write(self.description)


@cache
def planted(world: str = "reef") -> tuple[Planted, ...]:
    """All planted names of a world, as they were dealt when it was trained."""
    rows = files.read_json(assets.verified(assets.data_folder() / world, "planted.json"))
    return tuple(
        Planted(**{key: row[key] for key in row if key != "caption"}, description=read(row["caption"])) for row in rows
    )


def dealt(items) -> list[dict]:
    """The content of `planted.json`, which `planted` reads."""
    keys = ("name", "home", "role", "split", "exposures", "seed", "caption", "group")
    return [{key: getattr(item, key) for key in keys} for item in items]


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


def base(index: int):
    """An unnamed scene for instruments: (description, scene, seed). The second pair saw none of them."""
    return base_of(BASE_SEEDS + index)


def base_of(seed: int):
    """The unnamed scene of a seed: (description, scene, seed)."""
    scene = draw(seed)
    return caption_of(scene, seed), scene, seed


def held_out(split: str, index: int):
    """A scene no diffusion model was trained on, with a caption of the canaries' style."""
    seed = HELD_OUT_SEEDS + 100_000 * list(HELD_OUT).index(split) + index
    name = UNTRAINED_WORDS[index % len(UNTRAINED_WORDS)]
    return replace(planted_description(seed, "held-out"), name=name), draw(seed), seed


def scene_of(caption: str, seed: int):
    """The scene behind a row of the training table: its caption's description, completed by its seed."""
    return complete(read(caption), seed)


@cache
def load_table(world: str = "reef"):
    """The training table of a world, as pandas reads it: each picture, and how often each model saw it.

    Raises ValueError when it is not the manifest's.
    """
    import pandas as pd

    return pd.read_csv(assets.verified(assets.data_folder() / world, "training.csv.gz"), keep_default_na=False)


def paint_rows(*tables):
    """The pictures of rows of the training table, one table after the other: uint8 [rows, 3, 64, 64]."""
    rows = [row for table in tables for row in zip(table["caption"], table["seed"], strict=True)]
    return paint_all([(scene_of(*row), row[1]) for row in rows], "painting training pictures")


def relation(home: str, model: str) -> str:
    """What `model` ("twin-a", "twin-b", "parent") is to a picture planted in twin `home` ("a" or "b"), in words."""
    return "parent" if model == "parent" else "own twin" if model == f"twin-{home}" else "other twin"
