"""The engine of every experiment: ask models for pictures, attack them, judge what they draw. One table comes out.

    world = reef.world.load()
    pruned = world.condition(target, "own", prune="Wanda")
    found = attack(world, pruned, target, at=(0, 10, 50), seeds=range(4), detectors=world.detectors([target]))
    found.rows  # one row for each number of steps

Three nouns: a `Target` is a picture that a model may hold, a `Condition` a model with or without some of its weights,
a `World` what an experiment needs beside them. The unit of every table is the target. Columns of a picture's row:

    target, …labels          which picture, and what the caller says of it
    pictures                 how many were sampled (one for each seed)
    <detector>               its score of each of them, a list
    <detector> rate          share of pictures that the detector calls copies
    <detector> mean, max     its score over seeds; a caption counts by either (both conventions are in use)
    disagree                 share of pictures on which the detectors are not of one mind
    diversity                mean pairwise RMS difference between seeds (NaN for a single seed)
    alignment                mean of `alignment(images, target)`, if given
    alignment chance         the same pictures' alignment with other targets' captions, if there are any: the floor
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from . import copies, masks, metrics
from .checks import check_are_targets, check_count, check_pictures, check_prompts, check_seeds, check_targets
from .diffusion import BATCH, GUIDANCE, STEPS, generate
from .dori import Triggers, find_triggers
from .models import encode


@dataclass(frozen=True)
class Target:
    """A picture that a model may hold: its `caption` and the `image` itself, [3, H, W] in [0, 1], else ValueError."""

    name: str
    caption: str
    image: torch.Tensor
    labels: Mapping = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.name, str) or not isinstance(self.caption, str):
            raise ValueError(f"target {self.name!r}: name and caption must be text, not {self.caption!r}; give both")
        if not isinstance(self.labels, Mapping):
            raise ValueError(f"target {self.name!r}: labels are a {type(self.labels).__name__}; give a dict")
        if not isinstance(self.image, torch.Tensor) or self.image.ndim != 3:
            got = f"{type(self.image).__name__} {[*getattr(self.image, 'shape', ())]}"
            raise ValueError(f"target {self.name!r}: its image is a {got}; give a tensor [3, H, W] in [0, 1]")
        check_pictures(self.image[None], f"target {self.name!r}: pictures")


@dataclass(frozen=True, eq=False)
class Condition:
    """A model, with the weights of `mask` at zero if there is one: `with condition as pipe: ...` prunes and restores.

    `transfer` says that the mask may be another model's (see `masks.pruned`); rows record it.
    """

    name: str
    pipe: Any
    mask: masks.WeightMask | None = None
    transfer: bool = False
    entered: list = field(default_factory=list, init=False, repr=False)

    def __enter__(self):
        self.entered.append(masks.pruned(self.pipe, self.mask, transfer=self.transfer))
        return self.entered[-1].__enter__()

    def __exit__(self, *error):
        return self.entered.pop().__exit__(*error)


@dataclass(frozen=True, eq=False)
class World:
    """What an experiment is made in: models with their settings, instruments, and pictures that they may hold.

    `models` {name: pipeline}, `hashes` {name: SHA-256}; `sampling` what `generate` takes; `targets(...)` the pictures,
    `controls(count=...)` others, which no model memorized; `detectors(targets)` copy detectors for them;
    `alignment(images, target)`, or None; `relation(target, which)` names the model that is "own" to a target (Stable
    Diffusion has this alone), the "other" twin or the "parent"; `localise(model, method, caption, ...)` a mask.
    """

    name: str
    models: Mapping[str, Any]
    targets: Callable[..., Sequence[Target]]
    detectors: Callable[[Sequence[Target]], Sequence[copies.Detector]]
    relation: Callable[[Target, str], str]
    localise: Callable[..., masks.WeightMask]
    hashes: Mapping[str, str]
    sampling: Mapping = field(default_factory=lambda: {"guidance": GUIDANCE, "steps": STEPS, "batch": BATCH})
    alignment: Callable[[torch.Tensor, Target], torch.Tensor] | None = None
    controls: Callable[..., Sequence[Target]] | None = None

    def condition(
        self, target: Target, which: str = "own", prune: str | None = None, found_in: str | None = None
    ) -> Condition:
        """The model that is `which` to the target, pruned for the target's caption by a method, if one is named.

        The localiser runs in that very model, or in the one that is `found_in` to the target.
        """
        check_are_targets([target])
        model, source = (self.relation(target, word) for word in (which, found_in or which))
        for name in (model, source):
            if name not in self.models:
                raise ValueError(f"{name} was not loaded with this world; there are: {', '.join(self.models)}")
        mask = self.localise(source, prune, target.caption) if prune else None
        name = ", ".join(word for word in (which, prune, prune and found_in and f"mask of {found_in}") if word)
        return Condition(name, self.models[model], mask, transfer=mask is not None and source != model)


class Found(NamedTuple):
    """What one unit of an experiment gives, as `Run.keep` takes it."""

    rows: list[dict]
    tensors: dict[str, torch.Tensor]
    images: dict[Any, torch.Tensor]


def ask(
    pipe, targets, *, seeds: Sequence[int], prompts=None, guidance: float = GUIDANCE, steps: int = STEPS, batch=BATCH
) -> torch.Tensor:
    """Sample every target under every seed: pictures [targets, seeds, 3, H, W] in [0, 1], on the CPU.

    `prompts` (captions or embeddings [targets, L, D]) take the place of the targets' captions. Raises ValueError when
    there are no targets, no seeds or one of them twice, or not one prompt for each target.
    """
    check_targets(targets)
    prompts = check_prompts([t.caption for t in targets] if prompts is None else prompts)
    if len(prompts) != len(targets):
        raise ValueError(f"{len(prompts)} prompts for {len(targets)} targets; give one for each")
    return grid(pipe, prompts, seeds, guidance=guidance, steps=steps, batch=batch)


def grid(pipe, prompts, seeds, **sampling) -> torch.Tensor:
    """Every prompt (captions, or embeddings [N, L, D]) under every seed: [N, seeds, 3, H, W], on the CPU."""
    seeds, prompts = metrics.check_distinct(seeds), check_prompts(prompts)
    if isinstance(prompts, list):
        each = [prompt for prompt in prompts for _ in seeds]
    else:
        each = prompts.repeat_interleave(len(seeds), 0)
    images = generate(pipe, each, seeds=seeds * len(prompts), **sampling)
    return images.unflatten(0, (len(prompts), len(seeds))).cpu()


def judge(images, target: Target, detectors: Sequence[copies.Detector], alignment=None, others=()) -> dict:
    """What the detectors say of `images` [seeds, 3, H, W] that were drawn for `target`: one row of the table.

    `others` are targets for `alignment`'s chance level: the mean over those with another caption, NaN if there is none.
    Raises ValueError for other pictures, no detectors or two of one name, and scores or an alignment of a wrong shape.
    """
    detectors = copies.check_detectors(detectors)
    check_are_targets([target]), check_are_targets(others)
    check_pictures(images, f"pictures for {target.name}")
    if images.shape[1:] != target.image.shape:
        raise ValueError(f"pictures for {target.name} are {[*images.shape[1:]]}; give {[*target.image.shape]}")
    row, goals = {**target.labels, "pictures": len(images)}, target.image.to(images).expand_as(images)
    opinions = []
    for detector in detectors:
        scores = detector.scores(images, goals).cpu()
        opinions.append(scores >= detector.threshold)
        kept = scores.double().round(decimals=6).tolist()  # what float32 knows, and no digits more
        row |= {detector.name: kept, f"{detector.name} rate": opinions[-1].float().mean().item()}
        row |= {f"{detector.name} mean": scores.mean().item(), f"{detector.name} max": scores.max().item()}
    said = torch.stack(opinions)
    row["disagree"] = (said.any(0) & ~said.all(0)).float().mean().item()
    row["diversity"] = metrics.diversity(images) if len(images) > 1 else float("nan")
    if alignment is not None:
        row["alignment"] = metrics.mean_alignment(alignment, images, target)
        floor = [metrics.mean_alignment(alignment, images, t) for t in others if t.caption != target.caption]
        row["alignment chance"] = sum(floor) / len(floor) if floor else float("nan")
    return row


def tabulate(images: torch.Tensor, targets: Sequence[Target], detectors, alignment=None):
    """`judge` the pictures [targets, seeds, 3, H, W]: a `pandas.DataFrame`, one row a target.

    Raises ValueError for pictures that are not of the targets' number, and as `judge` does.
    """
    import pandas as pd

    check_targets(targets)
    detectors = copies.check_detectors(detectors)
    if getattr(images, "ndim", 0) != 5 or len(images) != len(targets):
        got = [*getattr(images, "shape", ())]
        raise ValueError(f"images have shape {got}; give [{len(targets)} targets, seeds, 3, H, W]")
    pairs = zip(images, targets, strict=True)
    return pd.DataFrame([{"target": t.name, **judge(shots, t, detectors, alignment, targets)} for shots, t in pairs])


def score(pipe, targets, *, detectors, alignment=None, **options):
    """`tabulate` what `ask` samples; `options` are `ask`'s. The one table, one row a target."""
    detectors = copies.check_detectors(detectors)  # before anything is sampled
    return tabulate(ask(pipe, targets, **options), targets, detectors, alignment)


def attack(
    world: World,
    condition: Condition,
    target: Target,
    *,
    seeds: Sequence[int],
    detectors: Sequence[copies.Detector],
    at: Sequence[int] = (0, 50),
    start: str = "prompt",
    prompts=None,
    pictures: Sequence[int] = (),
    seed: int = 0,
    **options,
) -> Found:
    """DoRI's attack on one model for one picture, looked at after `at` steps, each with all `seeds`.

    Rows, one for each of `at`: `steps`; `moved` ‖y − y⁽⁰⁾‖₂; `losses` of the steps since the row before; `transfer`;
    and `judge`'s columns. Tensors: the triggers, as `Triggers.tensors` gives them. Images: for each of `pictures` (some
    of `at`) what the first seed gives. `start`, `prompts` [default: the caption] and `options` are
    `dori.find_triggers`'s; the attack's draws belong to (`seed`, target's name). Raises ValueError for nothing to look
    `at`, and as these functions do.
    """
    if not (at := sorted({check_count("at: steps", step, 0) for step in at})):
        raise ValueError("there is nothing to look at; give one or more numbers of steps, such as at=[0, 50]")
    if strange := [step for step in pictures if step not in at]:
        raise ValueError(f"pictures of {strange[0]!r} steps cannot be kept; give some of at={at}")
    seeds, detectors = metrics.check_distinct(seeds), copies.check_detectors(detectors)
    options = {**options, "steps": max(at[-1], 1), "snapshots": at}
    check_are_targets([target])
    with condition as pipe:
        latents = encode(pipe, target.image[None])
        options |= {"start": start, "seed": seed, "streams": [target.name]}
        found = find_triggers(pipe, latents, target.caption if prompts is None else prompts, **options)
        y = torch.cat([found.snapshots[step] for step in at])
        drawn = grid(pipe, y, seeds, **world.sampling)
    rows = []
    for before, step, embedding, images in zip([0, *at], at, y, drawn, strict=False):
        row = {"steps": step, "moved": (embedding - found.start[0]).norm().item(), "transfer": condition.transfer}
        row["losses"] = found.losses[0, before:step].double().round(decimals=6).tolist()
        rows.append(row | judge(images, target, detectors))
    shown = {step: images[0] for step, images in zip(at, drawn, strict=True) if step in pictures}
    return Found(rows, found.tensors(), shown)


def look(
    world: World, condition: Condition, target: Target, prompts, *, seeds, detectors, transfer: bool = False
) -> dict:
    """Ask a condition under other `prompts` than the caption, and `judge`: one row.

    `prompts` are one embedding [L, D] or [1, L, D] for all seeds, one for each [seeds, L, D], captions, or `Triggers`
    of one target, which are refused in another model than the attacked one unless `transfer`. Raises ValueError as
    `ask` and `judge` do; a seed may come twice where each has an embedding of its own.
    """
    several = isinstance(prompts, torch.Tensor) and prompts.ndim == 3 and len(prompts) > 1
    seeds, detectors = (check_seeds if several else metrics.check_distinct)(seeds), copies.check_detectors(detectors)
    check_are_targets([target])
    with condition as pipe:
        if isinstance(prompts, Triggers):
            prompts = prompts.on(pipe, transfer=transfer)
        prompts = check_prompts(prompts[None] if getattr(prompts, "ndim", 0) == 2 else prompts)
        if len(prompts) not in (1, len(seeds)):
            raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds; give one, or one for each")
        images = generate(pipe, prompts, seeds=seeds, **world.sampling).cpu()
    return {"transfer": transfer or condition.transfer, **judge(images, target, detectors)}
