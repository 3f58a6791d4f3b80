"""The one table: ask a pipeline for its targets and let every detector look. The unit is the target.

`ask` samples, `tabulate` judges, `score` does both. Chapters, audits and assignments share the columns:

    target, …labels          which picture, and what the caller says of it
    pictures                 how many were sampled (one for each seed)
    <detector> rate          share of pictures that the detector calls copies
    <detector> mean, max     its score over seeds; a caption counts by either (both conventions are in use)
    disagree                 share of pictures on which the detectors are not of one mind
    diversity                mean pairwise RMS difference between seeds (NaN for a single seed)
    alignment                mean of `alignment(images, target)`, if given
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from . import copies, metrics
from .sampling import GUIDANCE, STEPS, generate


@dataclass(frozen=True)
class Target:
    """A picture that a model may hold: its `caption` and the `image` itself, [3, H, W] in [0, 1]."""

    name: str
    caption: str
    image: torch.Tensor
    labels: Mapping = field(default_factory=dict)


def ask(
    pipe,
    targets: Sequence[Target],
    *,
    seeds: Sequence[int],
    embeddings: torch.Tensor | None = None,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = 32,
) -> torch.Tensor:
    """Sample every target under every seed: pictures [targets, seeds, 3, H, W] in [0, 1].

    `embeddings` [targets, L, D] take the place of the captions. Raises ValueError when there are no
    targets or no seeds, or not one embedding for each target.
    """
    check_targets(targets)
    seeds = list(seeds)
    if not seeds:
        raise ValueError("there are no seeds; give at least one")
    if embeddings is not None and len(embeddings) != len(targets):
        raise ValueError(f"{len(embeddings)} embeddings for {len(targets)} targets; give one for each")
    options = {"seeds": seeds * len(targets), "guidance": guidance, "steps": steps, "batch": batch}
    if embeddings is None:
        images = generate(pipe, [t.caption for t in targets for _ in seeds], **options)
    else:
        images = generate(pipe, embeddings=embeddings.repeat_interleave(len(seeds), 0), **options)
    return images.unflatten(0, (len(targets), len(seeds)))


def tabulate(
    images: torch.Tensor,
    targets: Sequence[Target],
    detectors: Sequence[copies.Detector],
    alignment: Callable[[torch.Tensor, Target], torch.Tensor] | None = None,
):
    """What the detectors say of pictures [targets, seeds, 3, H, W]: a `pandas.DataFrame`, one row a target.

    Raises ValueError for pictures that are not finite or not of the targets' number and size, for
    detectors of one name and for scores of a wrong shape.
    """
    import pandas as pd

    check_targets(targets)
    size = [*targets[0].image.shape]
    if images.ndim != 5 or not images.shape[1] or [len(images), *images.shape[2:]] != [len(targets), *size]:
        raise ValueError(
            f"images have shape {[*images.shape]}; give [{len(targets)} targets, seeds, {', '.join(map(str, size))}]"
        )
    if not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values: the model that drew them is broken")
    if not detectors or len({d.name for d in detectors}) < len(detectors):
        raise ValueError("give at least one detector, each with a name of its own")
    goals = torch.stack([t.image for t in targets]).to(images)
    goals = goals[:, None].expand_as(images).flatten(0, 1)
    flat, shape = images.flatten(0, 1), images.shape[:2]
    scores = {d.name: d.scores(flat, goals).reshape(shape) for d in detectors}
    found = {d.name: scores[d.name] >= d.threshold for d in detectors}
    opinions = torch.stack(list(found.values()))
    disagree = (opinions.any(0) & ~opinions.all(0)).float().mean(1)
    rows = []
    for k, target in enumerate(targets):
        row = {"target": target.name, **target.labels, "pictures": shape[1]}
        for name in scores:
            row[f"{name} rate"] = found[name][k].float().mean().item()
            row[f"{name} mean"], row[f"{name} max"] = scores[name][k].mean().item(), scores[name][k].max().item()
        row["disagree"] = disagree[k].item()
        row["diversity"] = metrics.diversity(images[k]) if shape[1] > 1 else float("nan")
        if alignment is not None:
            row["alignment"] = alignment(images[k], target).float().mean().item()
        rows.append(row)
    return pd.DataFrame(rows)


def score(pipe, targets, *, detectors, alignment=None, **options):
    """`tabulate` what `ask` samples; `options` are `ask`'s. The one table, one row a target."""
    return tabulate(ask(pipe, targets, **options), targets, detectors, alignment)


def check_targets(targets) -> None:
    if not targets:
        raise ValueError("there are no targets; give at least one")
    if len({t.name for t in targets}) < len(targets):
        raise ValueError("two targets have one name; a table needs to tell them apart")
    if len({tuple(t.image.shape) for t in targets}) > 1:
        raise ValueError("targets have pictures of different sizes; resize them to the model's")
