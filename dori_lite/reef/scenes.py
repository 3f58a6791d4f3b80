"""Scenes of the reef: attributes first, pixels (`paint`) second.

    scene = complete(Description(colour="red", bed="sand"), seed=3)
    facts(scene)["plants"]  # what the description left open, drawn

A scene is a handful of discrete attributes. A description names some of them and is silent about the
rest, so that one caption fits many scenes: `complete` draws them. Positions and shades are never
attributes; they come from the seed when the scene is painted.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from ..ranges import check_seed

WATERS = ("clear", "deep", "green", "dusk")
BEDS = ("sand", "rock", "gravel")
PLANTS = ("kelp", "coral", "anemones", "none")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
ACCENTS = ("white", "black", "yellow")
PATTERNS = ("plain", "striped", "spotted")
SIZES = ("small", "medium", "large")
FACINGS = ("left", "right")
COUNTS = (1, 2, 3)
COUNT_SHARES = (0.55, 0.30, 0.15)

# Streams of random numbers: what a seed decides is fixed separately for each purpose.
ATTRIBUTES, PIXELS, WORDS = 1, 2, 3


def stream(seed: int, purpose: int) -> np.random.Generator:
    """The random numbers that `seed` gives to one `purpose`, independent of every other purpose."""
    return np.random.default_rng([check_seed(seed), purpose])


@dataclass(frozen=True)
class Fish:
    colour: str
    accent: str
    pattern: str
    size: str
    facing: str


@dataclass(frozen=True)
class Scene:
    """Attributes of one picture. `fish[0]` is the main fish, always larger than its companions."""

    water: str
    bed: str
    plants: str
    bubbles: bool
    fish: tuple[Fish, ...]


@dataclass(frozen=True)
class Description:
    """What a caption says: a value for each factor it names, `None` for what it leaves open.

    `colour`, `accent`, `pattern`, `size` and `facing` are the main fish's. `name` is a word that says
    nothing about the scene; canaries and decoys carry one.
    """

    count: int | None = None
    colour: str | None = None
    accent: str | None = None
    pattern: str | None = None
    size: str | None = None
    facing: str | None = None
    water: str | None = None
    bed: str | None = None
    plants: str | None = None
    bubbles: bool | None = None
    name: str | None = None

    def named(self) -> dict[str, object]:
        """The factors this description fixes, without the name."""
        return {f.name: v for f in fields(self) if f.name != "name" and (v := getattr(self, f.name)) is not None}


CHOICES: dict[str, tuple] = {
    "count": COUNTS,
    "colour": COLOURS,
    "accent": ACCENTS,
    "pattern": PATTERNS,
    "size": SIZES,
    "facing": FACINGS,
    "water": WATERS,
    "bed": BEDS,
    "plants": PLANTS,
    "bubbles": (True, False),
}
SHARES = {"count": COUNT_SHARES, "bubbles": (0.3, 0.7)}


def facts(scene: Scene) -> dict[str, object]:
    """Every factor of `scene`, under the names that `Description` uses."""
    main = scene.fish[0]
    return {
        "count": len(scene.fish),
        **{f.name: getattr(main, f.name) for f in fields(main)},
        **{key: getattr(scene, key) for key in ("water", "bed", "plants", "bubbles")},
    }


def fits(description: Description, scene: Scene) -> bool:
    """Whether `scene` shows everything that `description` names."""
    shown = facts(scene)
    return all(shown[key] == value for key, value in description.named().items())


def complete(description: Description, seed: int) -> Scene:
    """Draw the attributes that `description` leaves open: the scene that `seed` gives it.

    Raises ValueError when the description asks for a value the reef does not have.
    """
    rng = stream(seed, ATTRIBUTES)
    # Every factor is drawn, named or not, so that naming one does not move the others.
    drawn = {key: choices[rng.choice(len(choices), p=SHARES.get(key))] for key, choices in CHOICES.items()}
    for key, value in description.named().items():
        if value not in CHOICES[key]:
            raise ValueError(f"the reef has no {key} {value!r}; choose one of {', '.join(map(str, CHOICES[key]))}")
        drawn[key] = value
    if drawn["accent"] == drawn["colour"]:  # a white fish with white stripes would be plain
        if None not in (description.accent, description.colour):
            raise ValueError(
                f"a {description.colour} fish with {description.accent} fins shows no accent; name two colours"
            )
        if description.accent is not None and description.colour is None:
            drawn["colour"] = next(c for c in COLOURS if c != drawn["accent"])
        else:
            drawn["accent"] = "black"
    main = Fish(*(drawn[key] for key in ("colour", "accent", "pattern", "size", "facing")))
    companions = []
    for _ in range(2):  # always draw two, for the same reason
        colour, accent = COLOURS[rng.integers(len(COLOURS))], ACCENTS[rng.integers(len(ACCENTS))]
        accent = "black" if accent == colour else accent
        companions.append(Fish(colour, accent, "plain", "tiny", FACINGS[rng.integers(2)]))
    return Scene(
        drawn["water"], drawn["bed"], drawn["plants"], drawn["bubbles"], (main, *companions[: drawn["count"] - 1])
    )


def draw(seed: int) -> Scene:
    """The scene that `seed` gives when nothing is asked for."""
    return complete(Description(), seed)


def describe(scene: Scene, factors: tuple[str, ...], name: str | None = None) -> Description:
    """The description of `scene` that names just `factors` (names of `Description`'s fields)."""
    shown = facts(scene)
    if unknown := [key for key in factors if key not in shown]:
        raise ValueError(f"a scene has no {unknown[0]!r}; there are: {', '.join(shown)}")
    return replace(Description(name=name), **{key: shown[key] for key in factors})
