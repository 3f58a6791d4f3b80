"""The thresholds of both copy detectors for the second pair, by one rule, on the same pictures.

    report = main(quick=True)
    report["thresholds"]["adaptive l2"]

The rule is `calibrate`'s: the lowest threshold, in hundredths, at which no kind of hard negative is taken for a copy in
more than 0.1 % of pairs. To its pictures comes what pruned models draw: the first pair's tuning canaries, asked of the
twin that never saw them, under its own mask and under the other's. Nothing of the second pair is looked at.
"""

import torch

from .. import assets, copies, files, wanda
from ..diffusion import generate
from ..masks import pruned
from ..models import load
from . import canaries, descriptor, localisers, world
from .calibrate import FALSE_POSITIVES, GENERATED, SCENES, as_images, choose, copied_pairs, other_pairs, rates
from .paint import paint_all

RIVALS, SEEDS, HIGHEST = 2000, 64, 5.0  # training pictures, pictures a mask, the highest threshold that is tried


def main(quick: bool = False) -> dict:
    """Choose both thresholds and write them to `data/reef/thresholds.json`; `quick` tries few and keeps nothing."""
    pipes = {name: load(f"reef-first/{name}", device="cpu") for name in ("twin-a", "twin-b")}
    targets = as_images(paint_all(descriptor.split("calibration", 16 if quick else SCENES)))
    pairs = {
        "positives": copied_pairs(pipes["twin-a"], targets),
        "negatives": other_pairs(list(pipes.values()), targets, 16 if quick else GENERATED),
    }
    tuning = world.planted("canary", "tuning", count=1 if quick else None, world="reef-first")
    pairs["negatives"] |= pruned_pairs(pipes, tuning, 2 if quick else SEEDS)
    scores = {name: scored(detector, pairs) for name, detector in instruments().items()}
    thresholds = {name: lowest(found["negatives"]) for name, found in scores.items()}
    report = {
        "rule": f"lowest hundredth with false positives of each kind ≤ {FALSE_POSITIVES}",
        "thresholds": thresholds,
        "rates": {name: rates(found, thresholds[name]) for name, found in scores.items()},
        "scores": {
            name: {
                side: {k: [round(s, 4) for s in v.tolist()] for k, v in kinds.items()} for side, kinds in found.items()
            }
            for name, found in scores.items()
        },
    }
    if not quick:
        folder = assets.data_folder() / "reef"
        files.write_json(folder / "thresholds.json", report, indent=None)
        assets.record(folder, "thresholds.json")
    return report


def instruments() -> dict[str, copies.Detector]:
    """The detectors as they will be used; their thresholds do not matter here."""
    rivals = canaries.paint_rows(canaries.load_table("reef-first").sample(RIVALS, random_state=0))
    return {found.name: found for found in (descriptor.detector(), copies.by_adaptive_l2(rivals))}


def pruned_pairs(pipes, targets, seeds: int) -> dict[str, tuple]:
    """What the twin that never saw a target draws under its caption, pruned by Wanda: {kind: (images, goals)}."""
    found = {"drawn by a pruned model that never saw it": [], "the same under the other twin's mask": []}
    for t in targets:
        own, other = (pipes[world.relation(t, which)] for which in ("own", "other"))
        masks = [wanda.localise(pipe, t.caption, localisers.RHO, **world.SAMPLING) for pipe in (other, own)]
        for kind, mask in zip(found, masks, strict=True):
            with pruned(other, mask, transfer=True) as pipe:
                found[kind].append(generate(pipe, t.caption, seeds=range(seeds), **world.SAMPLING))
    goals = torch.stack([t.image for t in targets]).repeat_interleave(seeds, 0)
    return {kind: (torch.cat(images), goals) for kind, images in found.items()}


def scored(detector: copies.Detector, pairs: dict) -> dict:
    """A detector's scores of all pairs: {side: {kind: [B]}}."""
    return {
        side: {k: detector.scores(images, goals).clamp(max=1e4) for k, (images, goals) in kinds.items()}
        for side, kinds in pairs.items()
    }


def lowest(scores: dict[str, torch.Tensor]) -> float:
    """`calibrate.choose`, over thresholds up to `HIGHEST`: adaptive ℓ2's scores are no cosines."""
    return choose(scores, HIGHEST)
