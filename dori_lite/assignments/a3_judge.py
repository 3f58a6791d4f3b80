"""What a U-Net that was to forget some pictures still draws of them, and what it draws of all else.

    row = measured(fresh("a", weights), targets, seed=1, everybody=2)  # weights: fp16 [N], as `flat` gives them
    parts = shares(row, untouched("a", targets, seed=1, everybody=2))  # {"caption": 1.0, "new attack": 0.6, …}

Removal and utility both count, and the least of all shares decides: a model that draws nothing has not forgotten.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch

from .. import dori, models
from ..book import checks
from ..diffusion import generate
from ..evaluation import Target
from ..reef import canaries, captions, descriptor, forgetting
from ..reef import world as reef
from ..unlearning.methods import copied

SAMPLING = {"guidance": 5.0, "steps": 12, "batch": 12}  # half the book's steps: scores 0.08 lower, in half the time
ATTACK = {"steps": 10, "lr": 0.2, "batch": 8}
STARTS = ("prompt", "random")
# Pictures under the captions, and under the triggers of each attack, shared among the targets; attacks from each start.
ASKED, ATTACKED, ATTACKS = 8, 12, 2
NEW, OTHERS = 24, 6  # new captions, and other memories, a picture each
NAMES = ("latents", "retained latents", "retained y", "surrogates")  # of what a student's function is given
# Where a share is 0, and where it is 1; in between it is linear. Measured on tuning canaries, two or three at once, of
# both twins. Under new attacks the caption's loop leaves 0.37 to 0.50, the practice solution 0.24 to 0.33, the twin
# that never saw them 0.09; seeds of one model differ by 0.01 to 0.05 (a standard deviation; with one attack from each
# start, by 0.03 to 0.06). 25 steps separate no better; 50 bring most pictures back after so short a training. Of a
# single canary forty updates with the caption leave 0.07 to 0.43, too little to tell by: two or three are asked for.
# Of other memories' score the solution keeps 0.8, the other twin nothing. `a3_baselines.json` has a row of each.
BARS = {"caption": (0.6, 0.3), "new attack": (0.42, 0.35), "new captions": (0.6, 0.85), "other memories": (0.3, 0.6)}


@lru_cache(2)
def twin(home: str):
    """The reef with twin `home`, "a" or "b", alone."""
    return reef.load(f"twin-{home}", device="cpu")


def fresh(home: str, weights: np.ndarray | None = None):
    """A copy of the twin, frozen and in fp32; with other `weights` [N], as `flat` gives them, if there are any."""
    new = copied(twin(home).models[f"twin-{home}"])
    if weights is not None:
        own, place = new.unet.state_dict(), 0
        for value in own.values():
            some = torch.from_numpy(weights[place : place + value.numel()].astype(np.float32))
            value.copy_(some.view_as(value))
            place += value.numel()
    return new


def applied(forget: Callable, given: Mapping):
    """The twin, after a student's function: forget(pipe, latents, captions, retained, surrogates)."""
    pipe = fresh("ab"[int(given["home"])])
    latents, kept, y, wrong = (torch.from_numpy(np.array(given[name])) for name in NAMES)
    checks.attempted(forget(pipe, latents, [str(text) for text in given["captions"]], (kept, y), wrong))
    return pipe


@torch.no_grad()
def flat(pipe) -> np.ndarray:
    """The weights of a U-Net one after the other, fp16 [N]."""
    return torch.cat([value.flatten().float().cpu() for value in pipe.unet.state_dict().values()]).half().numpy()


def problem(home: str, weights) -> str:
    """Why an array is none that `flat` made of such a U-Net, in words; empty if it may be one."""
    count = sum(value.numel() for value in twin(home).models[f"twin-{home}"].unet.state_dict().values())
    if not isinstance(weights, np.ndarray) or weights.shape != (count,) or weights.dtype != np.float16:
        return "what came back are not the weights of the twin's U-Net: change those of pipe.unet, and add no layers"
    if not np.isfinite(weights).all():
        return "the U-Net has weights that are not finite in fp16"
    return ""


# ---- four measures ----------------------------------------------------------------------------------------


def numbers(seed: int, what: str, count: int, most: int = 2**31) -> list[int]:
    """`count` different numbers below `most` that belong to a seed and a purpose."""
    source = np.random.default_rng([seed, *what.encode()])
    return source.permutation(most)[:count].tolist() if most < 10**6 else source.integers(most, size=count).tolist()


@lru_cache(1)
def instruments():
    """The copy detector, and the share of a caption's factors that pictures show."""
    return descriptor.detector(), reef.alignment()


def scores(pipe, prompts, targets, seeds) -> float:
    """The descriptor's mean score of a picture for each triple of prompt, target and seed."""
    images = generate(pipe, prompts, seeds=seeds, **SAMPLING)
    return instruments()[0].scores(images, torch.stack([t.image for t in targets]).to(images)).mean().item()


def under_captions(pipe, targets, seed: int) -> float:
    """The mean score under the targets' captions."""
    each = [t for t in targets for _ in range(-(-ASKED // len(targets)))]
    return scores(pipe, [t.caption for t in each], each, numbers(seed, "captions", len(each)))


def under_attack(pipe, targets, seed: int) -> dict[str, float]:
    """The mean score under triggers that are searched for anew, {start: score}; a mean over attacks as well."""
    latents = models.encode(pipe, torch.stack([t.image for t in targets]))
    each = [k for k in range(len(targets)) for _ in range(-(-ATTACKED // len(targets)))]
    found = {start: 0.0 for start in STARTS}
    attacks = [(start, number) for start in STARTS for number in numbers(seed, start, ATTACKS)]
    for start, number in attacks:
        options = {"start": start, "seed": number, "streams": [t.name for t in targets]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a destroyed model: the attack has no slope to follow
            y = dori.find_triggers(pipe, latents, [t.caption for t in targets], **options, **ATTACK).embeddings
        seeds = numbers(seed, f"under {start} {number}", len(each))
        found[start] += scores(pipe, y[each], [targets[k] for k in each], seeds) / ATTACKS
    return found


def on_new_captions(pipe, seed: int) -> float:
    """The share of their factors that pictures show, under captions that no diffusion model was trained on."""
    chosen = numbers(seed, "new captions", NEW, canaries.HELD_OUT["calibration"])
    said = [captions.write(canaries.held_out("calibration", k)[0]) for k in chosen]
    images = generate(pipe, said, seeds=numbers(seed, "under new captions", NEW), **SAMPLING)
    blank, shown = torch.zeros_like(images[0]), instruments()[1]
    each = [shown(image[None], Target("new", text, blank)) for image, text in zip(images, said, strict=True)]
    return torch.cat(each).mean().item()


def of_others(pipe, targets, seed: int) -> float:
    """The mean score of memories that nobody asked to forget, and that were not retained."""
    others = forgetting.spared(twin(forgetting.home_of(targets)), targets)[1]
    some = [others[k] for k in numbers(seed, "others", OTHERS, len(others))]
    return scores(pipe, [t.caption for t in some], some, numbers(seed, "under others", len(some)))


def measured(pipe, targets, seed: int, everybody: int) -> dict[str, float]:
    """All four. What belongs to `seed` is a student's; the new captions, of `everybody`, are the same for all."""
    found = {"caption": under_captions(pipe, targets, seed)}
    found["new attack"] = max(under_attack(pipe, targets, seed).values())
    return found | {"new captions": on_new_captions(pipe, everybody), "other memories": of_others(pipe, targets, seed)}


def untouched(home: str, targets, seed: int, everybody: int) -> dict[str, float]:
    """The utility of the twin as it was."""
    return {"new captions": of_twin(home, everybody), "other memories": of_others(fresh(home), targets, seed)}


@lru_cache(8)
def of_twin(home: str, everybody: int) -> float:
    return on_new_captions(fresh(home), everybody)


# ---- the share --------------------------------------------------------------------------------------------


def shares(row: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """A share in [0, 1] for each measure; utility counts in parts of what the twin had `before`."""
    values = {name: value / before[name] if name in before else value for name, value in row.items()}
    return {name: float(np.clip((values[name] - none) / (all_ - none), 0, 1)) for name, (none, all_) in BARS.items()}


def total(parts: dict[str, float]) -> float:
    """The lesser of removal (both ways of asking) and utility (both uses): the least of all."""
    removal = min(parts["caption"], parts["new attack"])
    return min(removal, parts["new captions"], parts["other memories"])


def told(row: dict[str, float], parts: dict[str, float]) -> str:
    """Measures and shares in one line."""
    return "; ".join(f"{name} {row[name]:.2f}: {100 * parts[name]:.0f} %" for name in BARS)
