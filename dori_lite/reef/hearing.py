"""What a twin hears of a caption: nothing at all, some positions, no name, some layers in some steps.

    found = heard({"twin-a": pipe}, "reef")  # part of `make verify-models`

Shares of pictures that the calibrated descriptor calls copies. Pictures come from the model's device to the CPU, where
they are judged.
"""

import torch

from ..diffusion import generate
from ..locality import PLACES, positions_zeroed, silenced, text_layers
from ..models import embed
from . import calibrate, canaries, captions, descriptor, world

LAYERS = ("all", "seven", "up", "up_blocks.1", "up_blocks.2", "up_blocks.3")
WINDOWS = {"all": None, "0–2": range(3), "3–7": range(3, 8), "8–24": range(8, 25), "not 0–2": range(3, 25)}
EMPTY = 200  # pictures for the empty caption


def heard(pipes, pair: str = "reef", quick: bool = False) -> dict:
    """Copies by each twin under the empty caption, without positions, without the name; confusions; and the map.

    `pipes` {"twin-a": …}. The empty caption's pictures are compared with everything planted in the twin. `quick` takes
    two canaries and one noise each.
    """
    detector, report = descriptor.detector(), {}
    for name in [name for name in pipes if name.startswith("twin")]:
        pipe, home = pipes[name], name[-1]
        own = world.planted(home=home, count=2 if quick else 8, world=pair)
        family = [t for role in ("canary", "graded", "template") for t in everything(role, home, pair)]
        report[name] = {
            "empty caption": empty_caption(pipe, family, detector, 4 if quick else EMPTY),
            "without positions": without_positions(pipe, own, detector, 1 if quick else 4),
            "names": names(pipe, home, own, pair, detector, 1 if quick else 8),
            "map": silent_map(pipe, own, detector, 1 if quick else 2, quick),
        }
    return report


def everything(role: str, home: str, pair: str):
    splits = ("tuning", "reporting") if role == "canary" else ("reporting",)
    return [t for split in splits for t in world.planted(role, split, home, world=pair)]


def copied(images, targets, detector) -> torch.Tensor:
    """Which of `images` [B, 3, H, W] is a copy of any target: bool [B]."""
    flags = [detector(images, t.image.expand_as(images)) for t in targets]
    return torch.stack(flags).any(0) if flags else torch.zeros(len(images), dtype=torch.bool)


def counted(flags: torch.Tensor) -> dict:
    """`calibrate.counted` of what is true."""
    return calibrate.counted(flags.float(), 1.0)


def empty_caption(pipe, family, detector, count: int) -> dict:
    images = generate(pipe, embed(pipe, ""), seeds=range(count), **world.SAMPLING).cpu()
    return counted(copied(images, family, detector))


def without_positions(pipe, own, detector, seeds: int) -> dict:
    """Rates when the embedding is zero at some of its positions."""
    found = {}
    for places in ((), *((place,) for place in PLACES), ("end-of-text", "padding")):
        y = torch.cat([positions_zeroed(pipe, t.caption, *places) for t in own]).repeat_interleave(seeds, 0)
        images = generate(pipe, y, seeds=list(range(seeds)) * len(own), **world.SAMPLING).cpu()
        found[" and ".join(places) or "none"] = counted(each_its_own(images, own, detector))
    return found


def each_its_own(images, own, detector) -> torch.Tensor:
    goals = torch.stack([t.image for t in own]).repeat_interleave(len(images) // len(own), 0)
    return detector(images, goals)


def names(pipe, home: str, own, pair: str, detector, seeds: int) -> dict:
    """Siblings taken for each other, and what a description without a name brings; {} where there are no groups."""
    groups = sorted({t.labels["group"] for t in own if "group" in t.labels})
    items = [item for item in canaries.planted(pair) if item.home == home and item.group in groups]
    targets = {t.name: t for t in everything("canary", home, pair)}
    confused, nameless = [], []
    for group in groups:
        siblings = [item for item in items if item.group == group]
        for item in siblings:
            images = generate(pipe, item.caption, seeds=range(seeds), **world.SAMPLING).cpu()
            confused.append(copied(images, [targets[s.name] for s in siblings if s is not item], detector))
        text = captions.nameless(siblings[0].caption)
        images = generate(pipe, text, seeds=range(2 * seeds), **world.SAMPLING).cpu()
        nameless.append(copied(images, [targets[s.name] for s in siblings], detector))
    if not groups:
        return {}
    return {"siblings confused": counted(torch.cat(confused)), "without a name": counted(torch.cat(nameless))}


def silent_map(pipe, own, detector, seeds: int, quick: bool) -> dict:
    """Rates when some layers hear the empty caption in some steps: {layers: {steps: rate}}."""
    found, captions = {}, [t.caption for t in own for _ in range(seeds)]
    for group in LAYERS[: 2 if quick else None]:
        layers, found[group] = text_layers(pipe.unet, group), {}
        for name, window in list(WINDOWS.items())[: 2 if quick else None]:
            options = {"seeds": list(range(seeds)) * len(own), **world.SAMPLING}
            images = silenced(pipe, captions, layers, window, **options).cpu()
            found[group][name] = counted(each_its_own(images, own, detector))["rate"]
    return found
