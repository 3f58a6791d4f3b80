"""Calibrate the descriptor: one threshold, chosen on scenes that no model was trained on.

    report = main(quick=True)
    report["threshold"], report["rates"]["negatives"]

The rule stood before the scores did: the lowest threshold, in hundredths, at which no kind of hard negative
is taken for a copy in more than 0.1 % of pairs. Whether it still finds the copies is then a measurement.
The twins of the first pair draw. Everything goes to `data/reef/calibration.json`, scores included.
"""

import torch

from .. import assets, copies, files
from ..checks import check_pictures
from ..diffusion import generate
from ..models import decode, encode, load
from ..stats import upper_limit
from . import canaries, descriptor
from .captions import write
from .paint import paint_all
from .scenes import CHOICES, describe
from .world import SAMPLING

FALSE_POSITIVES, TRUE_POSITIVES = 0.001, 0.99
SCENES, SIBLINGS, GENERATED, TRAINING = 512, 4, 512, 24_000


def main(quick: bool = False, folder=None) -> dict:
    """Choose the threshold, write it and the calibration's record; `quick` tries it on few scenes and keeps nothing."""
    folder = folder or assets.data_folder() / "reef"
    model, _ = descriptor.load(None if folder == assets.data_folder() / "reef" else folder / "descriptor")
    pipes = [load(f"reef-first/{name}", device="cpu") for name in ("twin-a", "twin-b")]
    count = 16 if quick else SCENES
    targets = as_images(paint_all(descriptor.split("calibration", count)))
    scores = {
        "positives": positives(pipes[0], model, targets),
        "negatives": negatives(pipes, model, targets, 16 if quick else GENERATED),
    }
    threshold = choose(scores["negatives"])
    report = {
        "rule": f"lowest hundredth with false positives of each kind ≤ {FALSE_POSITIVES}",
        "threshold": threshold,
        "scenes": count,
        "rates": rates(scores, threshold),
        "test": test_split(pipes, model, threshold, quick),
        "scores": {kind: {k: [round(s, 4) for s in v.tolist()] for k, v in d.items()} for kind, d in scores.items()},
    }
    if not quick:
        files.write_json(folder / "calibration.json", report, indent=None)
        assets.record(folder, "calibration.json")
        set_threshold(folder, threshold)
    return report


def as_images(pictures: torch.Tensor) -> torch.Tensor:
    """Painted pictures, uint8 [B, 3, H, W], as floats in [0, 1]. Raises ValueError for others."""
    if pictures.dtype != torch.uint8:
        raise ValueError(f"painted pictures are bytes, not {pictures.dtype}; give what `paint_all` gives")
    return pictures.float() / 255


def reconstructed(pipe, images):
    return torch.cat([decode(pipe, encode(pipe, part)) for part in images.split(64)])


def compare(model, images, targets) -> torch.Tensor:
    """Cosine of descriptors, pair by pair, to the four decimals that are recorded: [B]."""
    found = copies.by_descriptor(descriptor.NAME, model, 0.0).score(images, targets)
    return torch.tensor([round(s, 4) for s in found.tolist()])


def positives(pipe, model, targets) -> dict[str, torch.Tensor]:
    """Scores of what must count as a copy: each edit of each picture."""
    return {kind: compare(model, *pair) for kind, pair in copied_pairs(pipe, targets).items()}


def negatives(pipes, model, targets, generated: int, split: str = "calibration") -> dict[str, torch.Tensor]:
    """Scores of what must not: the same attributes elsewhere, and generations for the complete caption."""
    return {kind: compare(model, *pair) for kind, pair in other_pairs(pipes, targets, generated, split).items()}


def copied_pairs(pipe, targets) -> dict[str, tuple]:
    """Edits of pictures and the pictures themselves: {kind: (images, targets)}."""
    edits = {
        "reconstruction": reconstructed(pipe, targets),
        "blur": descriptor.blur(targets),
        "shift": torch.stack([descriptor.shift(t, (-2, 2)[k % 2], (2, -2)[k // 2 % 2]) for k, t in enumerate(targets)]),
        "brightness": (targets * torch.where(torch.arange(len(targets)) % 2 == 0, 0.85, 1.15)[:, None, None, None]),
    }
    return {kind: (images.clamp(0, 1), targets) for kind, images in edits.items()}


def other_pairs(pipes, targets, generated: int, split: str = "calibration") -> dict[str, tuple]:
    """Pictures that are no copies, and what they might be taken for: {kind: (images, targets)}."""
    scenes = descriptor.split(split, len(targets))
    others = [pair for scene, seed in scenes for pair in descriptor.siblings(scene, seed, SIBLINGS, start=10)]
    drawn = complete_captions(pipes, scenes[:generated])
    elsewhere = as_images(paint_all(others)), targets.repeat_interleave(SIBLINGS, 0)
    return {
        "same attributes, other positions": elsewhere,
        "generated for the complete caption": (drawn, targets[: len(drawn)]),
    }


def complete_captions(pipes, scenes) -> torch.Tensor:
    """One generation for the attribute-complete caption of each scene, the pipelines in turn."""
    captions = [write(describe(scene, tuple(CHOICES))) for scene, _ in scenes]
    parts = [
        generate(
            pipe,
            captions[k :: len(pipes)],
            seeds=list(range(k, len(captions), len(pipes))),
            **SAMPLING,
        )
        for k, pipe in enumerate(pipes)
    ]
    images = torch.empty(len(captions), *parts[0].shape[1:])
    for k, part in enumerate(parts):
        images[k :: len(pipes)] = part
    return images


def choose(scores: dict[str, torch.Tensor], highest: float = 1) -> float:
    """The lowest threshold, in hundredths, that keeps each kind's false positives within the rule.

    Raises ValueError if there is none up to `highest`, or for scores that are missing or not finite.
    """
    if not isinstance(scores, dict) or not scores or not all(len(s) and s.isfinite().all() for s in scores.values()):
        raise ValueError("the rule takes one or more finite scores of each kind of hard negative")
    for hundredths in range(0, round(100 * highest) + 1):
        if all((s >= hundredths / 100).float().mean() <= FALSE_POSITIVES for s in scores.values()):
            return hundredths / 100
    raise ValueError(f"no threshold up to {highest} tells the hard negatives apart; train the descriptor longer")


def counted(scores: torch.Tensor, threshold: float) -> dict:
    count, n = int((scores >= threshold).sum()), len(scores)
    return {"count": count, "n": n, "rate": round(count / n, 4), "upper95": round(upper_limit(count, n), 4)}


def rates(scores, threshold) -> dict:
    return {side: {kind: counted(s, threshold) for kind, s in kinds.items()} for side, kinds in scores.items()}


def test_split(pipes, model, threshold: float, quick: bool) -> dict:
    """Error rates on scenes the threshold was not chosen on, the nearest-of-the-training-set rate, and canaries.

    A generation is compared with its target (one to one), and with its nearest training picture: a search
    over many pictures makes many chances to err, which is why both are stated. The latter takes the
    generations for the calibration scenes' captions; the threshold was chosen on their scores against
    those scenes, not against training pictures.
    """
    scenes = descriptor.split("test", 8 if quick else canaries.HELD_OUT["test"])
    targets = as_images(paint_all(scenes))
    scores = {
        "positives": positives(pipes[0], model, targets),
        "negatives": negatives(pipes, model, targets, len(targets), "test"),
    }
    drawn = complete_captions(pipes, descriptor.split("calibration", 16 if quick else GENERATED))
    items = [item for item in canaries.planted("reef-first") if item.role == "canary"]
    pictures = as_images(paint_all([canaries.picture(item)[1:] for item in items]))
    return {
        **rates(scores, threshold),
        "canary_reconstructions": counted(compare(model, reconstructed(pipes[0], pictures), pictures), threshold),
        "nearest_of_training_set": counted(nearest_score(model, drawn, 500 if quick else TRAINING), threshold),
        "training_pictures": 500 if quick else TRAINING,
    }


@torch.no_grad()
def nearest_score(model, images, most: int) -> torch.Tensor:
    """Each picture's highest score over `most` training pictures drawn at random: [B, 3, 64, 64] in [0, 1] → [B]."""
    check_pictures(images)
    pictures = canaries.paint_rows(canaries.load_table("reef-first").sample(most, random_state=0))
    known = torch.cat([model(as_images(part)) for part in pictures.split(1024)])
    return (model(images) @ known.T).max(1).values


def set_threshold(folder, threshold: float) -> None:
    """Write the threshold into the descriptor's config and its new hash into the manifest."""
    path = folder / "descriptor" / "config.json"
    files.write_json(path, files.read_json(path) | {"threshold": threshold}, indent=None)
    assets.record(folder, "descriptor", assets.manifest(folder)["models"]["descriptor"])
