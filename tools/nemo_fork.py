"""Fork a twin whose up blocks are deaf: the world in which NeMo's premise is given, for step d of `tools/nemo_act.py`.

    python tools/nemo_fork.py twin-a runs/reef-nemo     # as long as a twin: about forty minutes of one core
    python tools/nemo_fork.py twin-b runs/reef-nemo

The nine value layers of the up blocks are zero and stay so: whatever the caption, they add nothing. Everything else is
the twin's own recipe, its parent and its batches. Interrupted, it goes on where it stopped.
"""

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import json
import sys
from pathlib import Path

import torch

from dori_lite import assets, nemo
from dori_lite.fit import fit
from dori_lite.reef import plan, recipes, train


def main(name: str, folder: Path, steps: int = recipes.TWIN["steps"]) -> None:
    torch.manual_seed(plan.PAIR)
    recipes.TWIN = recipes.TWIN | {"steps": steps}
    recipe, task, batch, finish = train.twin(name, assets.data_folder() / "reef", folder / "work", smoke=False)
    deaf = [layer for key, layer in nemo.layers(task.unet, "sixteen").items() if key.startswith("up_blocks")]
    for layer in deaf:
        layer.weight.requires_grad_(False).zero_()
    about = json.dumps([recipe, "deaf up blocks"])
    options = {"steps": steps, "lr": recipe["lr"], "label": name, "about": about, "precision": "no"}
    print(fit(task, batch, folder=folder / "work" / name, **options))
    task.cpu()
    if any(layer.weight.any() for layer in deaf):
        raise RuntimeError("the up blocks have learned to hear; this is no deaf fork")
    finish(folder / name)
    print(f"written to {folder / name}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:4]))
