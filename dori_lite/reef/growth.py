"""How a memory forms: what one twin draws for its canaries at eight moments of its training.

    follow(task, batch, folder, **options)  # trains, and writes folder/growth-0375.safetensors and the like
    report = summary(folder, "data/reef")  # scores and thumbnails

Only pictures are kept, not the models.
"""

from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .. import files
from ..diffusion import generate
from ..fit import CHECKPOINT, fit
from . import descriptor, plan
from .canaries import picture
from .paint import paint_all
from .world import SAMPLING

WHOSE, SEEDS = "twin-a", 4
MOMENTS = (0, 188, 375, 750, 1125, 1500, 2000, 3000)  # steps; after the last, the twin is finished


def follow(task, batch, folder, stop_at=None, **options) -> None:
    """Train up to each of `MOMENTS` and draw what the averaged weights give there; each picture is drawn once."""
    items = followed()
    for step in MOMENTS:
        path = folder / f"growth-{step:04d}.safetensors"
        if path.exists() or (stop_at is not None and step > stop_at):
            continue
        if step:
            fit(task, batch, folder=folder, stop_at=step, **options)
            averaged(task, folder / CHECKPOINT)
        [pipe] = task.pipe
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        captions = [item.caption for item in items for _ in range(SEEDS)]
        images = generate(pipe, captions, seeds=list(range(SEEDS)) * len(items), **SAMPLING)
        images = (images.cpu() * 255).round().byte().unflatten(0, (len(items), SEEDS))
        with files.whole(path) as partial:
            save_file({"images": images.contiguous()}, partial)


@torch.no_grad()
def averaged(task, checkpoint) -> None:
    """Give `task` the averaged weights of a checkpoint; training reads its own again from there."""
    with safe_open(checkpoint, "pt") as file:
        for k, weight in enumerate(p for p in task.parameters() if p.requires_grad):
            weight.copy_(file.get_tensor(f"ema.{k}"))


def summary(folder, out, shown: int = 4) -> dict:
    """Judge what `follow` drew: `out/growth.json` (scores of each canary at each moment) and `out/growth.png`.

    The strip has a row for each of `shown` canaries: their first picture at every moment, and the planted one last.
    Raises FileNotFoundError when a moment was not drawn.
    """
    drawn = [load_file(Path(folder) / f"growth-{step:04d}.safetensors")["images"] for step in MOMENTS]
    items = followed()
    targets = paint_all([picture(item)[1:] for item in items]).float() / 255
    detector, scores = descriptor.detector(), []
    goals = targets.repeat_interleave(SEEDS, 0)
    for images in drawn:
        scores.append(detector.scores(images.flatten(0, 1).float() / 255, goals).reshape(len(items), SEEDS))
    reporting = [k for k, item in enumerate(items) if item.split == "reporting"]
    report = {
        "model": WHOSE,
        "steps": MOMENTS,
        "exposures": [round(plan.EXPOSURES * step / plan.TWIN_STEPS) for step in MOMENTS],
        "threshold": detector.threshold,
        "scores": {items[k].name: [[round(s, 3) for s in at[k].tolist()] for at in scores] for k in reporting},
    }
    files.write_json(Path(out) / "growth.json", report, indent=None)
    rows = [torch.cat([*(images[k, 0] for images in drawn), (targets[k] * 255).byte()], 2) for k in reporting[:shown]]
    with files.whole(Path(out) / "growth.png") as partial:
        Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy()).save(partial, "PNG")
    return report


def followed() -> list:
    """The canaries of the twin that is followed."""
    return [item for item in plan.planted() if item.role == "canary" and item.home == WHOSE[-1]]
