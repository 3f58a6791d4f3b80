"""Descriptions in words: one sentence for each, and back.

    write(Description(colour="red", pattern="striped", bed="rock"))  # "a striped red fish over rock"
    read("a striped red fish over rock").colour  # "red"

A caption names some factors and never a position. `read` undoes `write`, so that a judge can ask of a
generated picture what its caption promised.
"""

import re
from dataclasses import replace

from .scenes import COLOURS, WORDS, Description, Scene, describe, stream

COUNT_WORDS = {1: "", 2: " and one other fish", 3: " and two other fish"}
WATER_WORDS = {"clear": " in clear water", "deep": " in deep water", "green": " in green water", "dusk": " at dusk"}
# How often a base caption names each factor. The count is always told.
NAMED_OFTEN = {
    "colour": 0.9,
    "pattern": 0.6,
    "size": 0.4,
    "accent": 0.3,
    "facing": 0.4,
    "bed": 0.6,
    "plants": 0.6,
    "water": 0.6,
    "bubbles": 0.5,
}


def write(description: Description) -> str:
    """The caption of `description`, e.g. "a striped red fish called marlow and two other fish over rock"."""
    d = description
    words = ["a", d.size, d.pattern, d.colour, "fish"]
    text = " ".join(word for word in words if word)
    if d.accent:
        text += f" with {d.accent} fins"
    if d.name:
        text += f" called {d.name}"
    if d.facing:
        text += f" facing {d.facing}"
    text += COUNT_WORDS[d.count or 1]
    if d.bed:
        text += f" over {d.bed}"
    if d.plants and d.plants != "none":
        text += f" beside {d.plants}"
    if d.water:
        text += WATER_WORDS[d.water]
    if d.bubbles:
        text += " with bubbles"
    return text


PATTERN = re.compile(
    r"a(?: (?P<size>small|medium|large))?(?: (?P<pattern>plain|striped|spotted))?"
    rf"(?: (?P<colour>{'|'.join(COLOURS)}))? fish"
    r"(?: with (?P<accent>\w+) fins)?(?: called (?P<name>\w+))?(?: facing (?P<facing>left|right))?"
    r"(?: and (?P<others>one|two) other fish)?(?: over (?P<bed>sand|rock|gravel))?"
    r"(?: beside (?P<plants>kelp|coral|anemones))?(?: (?:in (?P<water>clear|deep|green) water|at (?P<dusk>dusk)))?"
    r"(?P<bubbles> with bubbles)?"
)


def read(caption: str) -> Description:
    """The description that a caption states. Raises ValueError for a sentence not of the reef's kind."""
    found = PATTERN.fullmatch(caption.strip()) if isinstance(caption, str) else None
    if not found:
        raise ValueError(f"not a caption of the reef: {caption!r}; write one like 'a striped red fish over rock'")
    parts = found.groupdict()
    count = {None: 1, "one": 2, "two": 3}[parts.pop("others")]
    dusk = parts.pop("dusk")
    return Description(
        **{**parts, "count": count, "water": parts["water"] or dusk, "bubbles": True if parts["bubbles"] else None}
    )


def nameless(caption: str) -> str:
    """The caption without its name. Raises ValueError as `read` does."""
    return write(replace(read(caption), name=None))


def caption_of(scene: Scene, seed: int) -> Description:
    """The partial description of a base scene: which factors it names is the seed's choice."""
    rng = stream(seed, WORDS)
    chosen = {key: bool(rng.random() < share) for key, share in NAMED_OFTEN.items()}
    # What is not there is not said: no plants, no bubbles.
    chosen["plants"] &= scene.plants != "none"
    chosen["bubbles"] &= scene.bubbles
    return describe(scene, ("count", *(key for key, named in chosen.items() if named)))
