"""Is there a setting in which NeMo hides a picture of the reef? Asked of tuning canaries, step by step, go or no-go.

    python tools/nemo_act.py             # steps a, b and c: about twenty minutes on one core
    python tools/nemo_act.py FOLDER      # step d: both twins of tools/nemo_fork.py, in FOLDER
    python tools/nemo_act.py loss        # how many neurons by the loss, for `localisers.NEURONS`

a. Does |z| tell memories from decoys? Go from an area under the ROC curve of 0.8 on.
b. The search over all sixteen layers instead of seven. Go if it lowers the score by 0.3 (*nemo-hides*' threshold).
c. The criterion at the first step that matters: the earliest at which silence in all steps up to it halves the score.
   x_t is the caption's own at that step; the bar is unrelated captions' similarity there. Go as in b.
d. A fork whose up blocks hear nothing: the world in which NeMo's premise is given. Go as in b, over the seven layers.

Results go to data/results/nemo_act.json; each step's decision stands in it.
"""

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import sys
from itertools import islice
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from dori_lite import assets, detection, diffusion, evaluation, files, locality, masks, models, nemo, nemo_search
from dori_lite import neurons, stats
from dori_lite.reef import localisers, world

AREA, FALL, NOISES, WHICH = 0.8, 0.3, range(4), {"seven": "seven layers", "sixteen": "sixteen layers"}
reef = world.load("twin-a", "twin-b", device="cpu")
tuning = reef.targets("canary", "tuning")
detectors = reef.detectors(tuning)[:1]


def own(target):
    return reef.models[reef.relation(target, "own")]


def known(target, which: str) -> dict:
    return localisers.nemo_settings(own(target), target.labels["home"], which)


def score(target, pipe, mask=None, images=None) -> tuple[float, float]:
    """Mean score and rate of copies under the caption."""
    if images is None:
        with masks.pruned(pipe, mask):
            [images] = evaluation.ask(pipe, [target], seeds=NOISES, **reef.sampling)
    row = evaluation.judge(images, target, detectors)
    return row["descriptor mean"], row["descriptor rate"]


def mean(values) -> float:
    return sum(values) / len(values)


def premise(which: str) -> dict:
    """Step a: the highest |z| of each caption, in the twin that memorized it and in the other."""
    memories, decoys = [], []
    for model, pipe in reef.models.items():
        statistics = localisers.nemo_settings(pipe, model[-1], which)["statistics"]
        for target in tuning:
            z = max(part.abs().max().item() for part in nemo.z_scores(pipe, target.caption, statistics).values())
            (memories if reef.relation(target, "own") == model else decoys).append(z)
    area, low, high = stats.auc_interval(memories, decoys)
    return {"area": area, "interval": [low, high], "memories": memories, "decoys": decoys, "go": area >= AREA}


def searched(find, pipes=own, targets=tuning) -> dict:
    """What `find(target)` → (mask, whether the criterion was met) leaves of the pictures."""
    rows = []
    for target in targets:
        mask, met = find(target)
        before, (after, rate) = score(target, pipes(target))[0], score(target, pipes(target), mask)
        count = mask.about["neurons"]
        rows.append(
            {"target": target.name, "before": before, "after": after, "rate": rate, "met": met, "neurons": count}
        )
        print(rows[-1], flush=True)
    fall = mean([row["before"] - row["after"] for row in rows])
    found = {key: mean([row[key] for row in rows]) for key in ("before", "after", "rate", "met", "neurons")}
    return found | {"fall": fall, "go": fall >= FALL, "rows": rows}


def over_sixteen(target):
    found = nemo.localise(own(target), target.caption, **known(target, "sixteen"))
    return found.mask(own(target).unet), not found.reached_floor


def first_step() -> int:
    """By bisection: more silence never helps."""
    unpruned, low, high = mean([score(t, own(t))[0] for t in tuning]), 0, localisers.STEPS - 1
    while low < high:
        middle, left = (low + high) // 2, []
        for target in tuning:
            pipe, options = own(target), {"seeds": NOISES, **reef.sampling}
            names = locality.text_layers(pipe.unet, "all")
            shots = locality.silenced(pipe, target.caption, names, range(middle + 1), **options)
            left.append(score(target, pipe, images=shots)[0])
        print(f"silence in steps 0 to {middle} leaves {mean(left):.2f} of {unpruned:.2f}", flush=True)
        low, high = (low, middle) if mean(left) <= unpruned / 2 else (middle + 1, high)
    return low


@torch.no_grad()
def at_step(target, step: int, which: str = "sixteen"):
    """NeMo's search with its criterion at a later step, all ten noises kept."""
    pipe, settings = own(target), known(target, which)
    y, seeds = models.embed(pipe, target.caption), list(nemo.SEEDS)
    x = diffusion.initial_noise(pipe, seeds).to(y)
    options = {key: reef.sampling[key] for key in ("guidance", "steps")}
    for taken in islice(diffusion.trajectory(pipe, x, y.expand(len(x), -1, -1), **options), step):
        x = taken.after
    ablation = nemo_search.Ablation(pipe, y, seeds, None, step, localisers.STEPS, multiscale=True)

    def differences(y):
        return pipe.unet(x, ablation.t, y.expand(len(x), -1, -1), return_dict=False)[0] - x

    ablation.x_T, ablation.clear = x, differences(y)
    others = [differences(models.embed(pipe, caption)) for caption in localisers.unmemorized(localisers.COMPARED)]
    bound = nemo_search.plus_deviation(
        torch.stack([detection.similarity(ablation.clear, other).max() for other in others])
    )
    a = nemo.activations(pipe, y, which=which)
    widest, statistics = max(part.shape[1] for part in a.values()), settings["statistics"]
    blocked, _, _, floor = nemo_search.schedule(
        ablation, lambda *at: nemo_search.candidates(a, statistics, *at), bound, widest
    )
    bound = ablation.highest(blocked) if floor else bound
    found = nemo_search.refine_neurons(ablation, nemo_search.refine_layers(ablation, blocked, bound), bound)
    mask = masks.of_neurons(pipe.unet, found)
    return masks.WeightMask(mask.layers, None, {"neurons": sum(map(len, found.values()))}), not floor


def forked(folder: Path) -> dict:
    """Step d: both twins with the forks' U-Nets; NeMo over seven layers, and all seven blocked."""
    for model, pipe in reef.models.items():
        pipe.unet = UNet2DConditionModel.from_pretrained(folder / model / "unet").float().eval()

    def seven(target):
        found = nemo.localise(own(target), target.caption, **known(target, "seven"))
        return found.mask(own(target).unet), not found.reached_floor

    def all_seven(target):
        layers = models.value_layers(own(target).unet).items()
        whole = {name: range(layer.out_features) for name, layer in layers}
        return score(target, own(target), masks.of_neurons(own(target).unet, whole))[0]

    return searched(seven) | {"all seven blocked": mean([all_seven(target) for target in tuning])}


def by_loss() -> dict:
    """Scores and rates by twin after blocking the highest n by the loss, for the rule that sets `NEURONS`."""
    rows = []
    for target in tuning:
        pipe = own(target)
        scores = neurons.loss_rises(pipe, models.encode(pipe, target.image[None]), target.caption, stream=target.name)
        for n in (24, 48, 96, 192, 384):
            after, rate = score(target, pipe, masks.of_neurons(pipe.unet, neurons.highest(scores, n)))
            rows.append({"twin": target.labels["home"], "n": n, "after": after, "rate": rate})
    keys = sorted({(row["twin"], row["n"]) for row in rows})
    of = {key: [row for row in rows if (row["twin"], row["n"]) == key] for key in keys}
    return {
        f"twin-{twin}, {n}": {name: mean([row[name] for row in of[twin, n]]) for name in ("after", "rate")}
        for twin, n in keys
    }


def main():
    path = assets.data_folder() / "results" / "nemo_act.json"
    report = files.read_json(path) or {}
    if sys.argv[1:] == ["loss"]:
        report["loss"] = by_loss()
    elif len(sys.argv) > 1:
        report["d"] = forked(Path(sys.argv[1]))
    else:
        report["a"] = {label: premise(which) for which, label in WHICH.items()}
        report["b"] = searched(over_sixteen)
        report["c"] = {"step": (step := first_step())} | searched(lambda target: at_step(target, step))
    files.write_json(path, report)
    assets.record(path.parent, path.name)
    for step, found in report.items():
        shown = found if step != "a" else {label: part["area"] for label, part in found.items()}
        print(step, {key: value for key, value in shown.items() if key != "rows"})


if __name__ == "__main__":
    main()
