"""`make verify-models`: do the weights do what the book says they do?

Every figure goes to `_build/verify.json`. The bars are instrument bars: they were set before the models
were trained, and a shortfall is printed, not hidden.
"""

import json
import os
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import assets, copies, metrics
from ..intervals import upper_limit
from ..models import decode, encode, load
from ..sampling import GUIDANCE, STEPS, generate
from . import judges, plant
from .captions import write
from .paint import paint_all
from .scenes import complete

BARS = {"autoencoder_ssim": 0.90, "own_replay": 0.90, "counterfactual_replay": 0.01}


def main(quick: bool = False, out="_build/verify.json") -> bool:
    """Measure everything, print each line as it is known, write `out`; True if every bar is passed.

    `quick` takes a few canaries, seeds and training pictures: a test that it runs, not a result.
    """
    began, names = time.monotonic(), [name for name in ("parent", "twin-a", "twin-b")]
    pipes = {name: load(f"reef/{name}", device="cpu") for name in names}
    judge = judges.load()
    report = {"sampling": {"steps": STEPS, "guidance": GUIDANCE}, "quick": quick, "bars": BARS}
    report["autoencoder"] = show("autoencoder", autoencoder(pipes["parent"], 32 if quick else 512))
    report["judge"] = show("judge", judge_accuracy(judge, pipes["parent"], 64 if quick else 512))
    report["replay"] = show("replay", replay(pipes, quick))
    report["captions"] = {
        name: show(f"captions, {name}", captions_followed(pipe, judge, 32 if quick else 96))
        for name, pipe in pipes.items()
    }
    report["variety"] = {
        name: show(f"variety, {name}", variety(pipe, 4 if quick else 10)) for name, pipe in pipes.items()
    }
    report["models"] = assets.manifest(assets.data_folder() / "reef")["models"]
    report["passed"] = passed = judge_bars(report)
    report["seconds"] = round(time.monotonic() - began)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".partial").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(path.with_suffix(".partial"), path)
    for name, (figure, bar, fine) in passed.items():
        print(f"{'passed' if fine else 'SHORT '}  {name}: {figure} (bar {bar})")
    print(f"written to {out}")
    return all(fine for _, _, fine in passed.values())


def show(name: str, figures: dict) -> dict:
    print(f"{name}: {json.dumps(figures)}", flush=True)
    return figures


def as_images(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float() / 255


def autoencoder(pipe, count: int) -> dict:
    """Reconstruction of held-out scenes."""
    images = as_images(paint_all([plant.held_out("calibration", k)[1:] for k in range(count)]))
    again = torch.cat([decode(pipe, encode(pipe, part)) for part in images.split(64)])
    similarity = copies.ssim(again, images)
    return {
        "scenes": count,
        "ssim": round(similarity.mean().item(), 4),
        "ssim_lowest_decile": round(similarity.quantile(0.1).item(), 4),
        "rms": round(copies.l2(again, images).mean().item(), 4),
    }


def judge_accuracy(judge, pipe, count: int) -> dict:
    """Accuracy by factor on held-out scenes, painted and reconstructed."""
    held = [plant.held_out("calibration", k)[1:] for k in range(count)]
    images, truth = as_images(paint_all(held)), judges.labels([scene for scene, _ in held])
    again = torch.cat([decode(pipe, encode(pipe, part)) for part in images.split(64)])
    found = {}
    for kind, pictures in (("painted", images), ("reconstructed", again)):
        right = judges.labels_seen(judge, pictures) == truth
        found[kind] = {
            key: round(share, 3) for key, share in zip(judges.CHOICES, right.float().mean(0).tolist(), strict=True)
        }
    return found


def replay(pipes, quick: bool) -> dict:
    """Replay of reporting canaries by each model, and of held-out targets by the twins."""
    seeds = list(range(2 if quick else 10))
    canaries = [item for item in plant.planted() if item.role == "canary" and item.split == "reporting"]
    canaries = canaries[:4] if quick else canaries
    held = [plant.held_out("test", k) for k in range(4 if quick else 32)]
    asked = [(item.caption, *plant.picture(item)[1:], item.home) for item in canaries]
    asked += [(write(description), scene, seed, "held-out") for description, scene, seed in held]
    targets = as_images(paint_all([(scene, seed) for _, scene, seed, _ in asked]))
    others = training_pictures({seed for _, _, seed, _ in asked}, 2000 if quick else 24_000)
    rows = []
    for name, pipe in pipes.items():
        for k, (caption, _, _, home) in enumerate(tqdm(asked, f"asking {name}", mininterval=10)):
            if home == "held-out" and name == "parent":  # the twins are what may have gone wrong
                continue
            few = seeds[:4] if home == "held-out" else seeds
            images = generate(pipe, caption, seeds=few, guidance=GUIDANCE, steps=STEPS)
            rows.append((name, home, images, targets[k].expand_as(images)))
    images, goals = torch.cat([row[2] for row in rows]), torch.cat([row[3] for row in rows])
    ratio, similarity = copies.adaptive_l2(images, goals, others.split(2048)), copies.ssim(images, goals)
    kinds = {("twin-a", "a"): "own_a", ("twin-b", "b"): "own_b", ("twin-a", "b"): "other_a", ("twin-b", "a"): "other_b"}
    groups, counts = {}, [len(row[2]) for row in rows]
    parts = zip(rows, ratio.split(counts), similarity.split(counts), strict=True)
    for (name, home, _, _), r, s in parts:
        kind = kinds.get((name, home), f"held_out_{name}" if home == "held-out" else "parent")
        groups.setdefault(kind, []).append((r, s))
    calibration = {
        "canary_reconstructions": counted(*scores(pipes["parent"], targets, others)),
        "other_scenes_of_the_caption": counted(*impostors(canaries, targets, others, 2 if quick else 10)),
    }
    return {
        "seeds": len(seeds),
        "training_pictures_compared": len(others),
        "ssim_copy": copies.SSIM_COPY,
        **{kind: counted(torch.cat([r for r, _ in g]), torch.cat([s for _, s in g])) for kind, g in groups.items()},
        "calibration": calibration,
    }


def scores(pipe, targets, others):
    again = torch.cat([decode(pipe, encode(pipe, part)) for part in targets.split(64)])
    return copies.adaptive_l2(again, targets, others.split(2048)), copies.ssim(again, targets)


def impostors(canaries, targets, others, each: int):
    """True scenes that fit a canary's caption and are not its picture: none should count as a copy."""
    scenes = [
        (complete(item.description, seed), seed) for item in canaries for seed in range(9_000_000, 9_000_000 + each)
    ]
    images = as_images(paint_all(scenes))
    goals = targets[: len(canaries)].repeat_interleave(each, 0)
    return copies.adaptive_l2(images, goals, others.split(2048)), copies.ssim(images, goals)


def counted(ratio, similarity) -> dict:
    """Copies among n pictures by either detector and by both, with the exact 95 % upper limit."""
    found, n = {"n": len(ratio)}, len(ratio)
    verdicts = {
        "adaptive_l2": ratio < 1,
        "ssim": similarity >= copies.SSIM_COPY,
        "both": copies.is_copy(ratio, similarity),
    }
    for name, flags in verdicts.items():
        count = int(flags.sum())
        found[name] = {"count": count, "rate": round(count / n, 4), "upper95": round(upper_limit(count, n), 4)}
    return found | {
        "median_ssim": round(similarity.median().item(), 3),
        "median_ratio": round(ratio.median().item(), 3),
    }


def training_pictures(without: set, most: int) -> torch.Tensor:
    """`most` pictures that some model was trained on, at random, but none of `without`: uint8 [M, 3, 64, 64]."""
    table = plant.load_table()
    rows = table[~table["seed"].isin(without)].sample(most, random_state=0)
    scenes = [(plant.scene_of(*row), row[1]) for row in zip(rows["caption"], rows["seed"], strict=True)]
    return paint_all(scenes, "painting training pictures")


def captions_followed(pipe, judge, count: int) -> dict:
    """How often base captions never trained on are followed, by factor; chance level by shuffled captions."""
    asked = [plant.base(500_000 + k) for k in range(count)]
    captions = [write(description) for description, _, _ in asked]
    images = generate(pipe, captions, seeds=list(range(count)), guidance=GUIDANCE, steps=STEPS)
    sights = judges.seen(judge, images)
    wanted = [description for description, _, _ in asked]
    single = [k for k, description in enumerate(wanted) if description.count == 1]

    def share(chosen, shift=0):
        pairs = judges.agreement(
            [sights[k] for k in chosen], [wanted[chosen[(j + shift) % len(chosen)]] for j in range(len(chosen))]
        )
        return {key: round(right / named, 3) for key, (right, named) in pairs.items() if named}

    everyone = list(range(count))
    return {
        "captions": count,
        "all": share(everyone),
        "single_fish": share(single),
        "chance": share(everyone, count // 2),
    }


def variety(pipe, count: int, seeds: int = 6) -> dict:
    """Diversity between seeds under base captions, beside true scenes of the same captions."""
    generated, true = [], []
    for k in range(count):
        description, _, _ = plant.base(600_000 + k)
        generated.append(
            metrics.diversity(
                generate(pipe, write(description), seeds=list(range(seeds)), guidance=GUIDANCE, steps=STEPS)
            )
        )
        scenes = [(complete(description, seed), seed) for seed in range(9_100_000, 9_100_000 + seeds)]
        true.append(metrics.diversity(as_images(paint_all(scenes))))
    generated, true = sum(generated) / count, sum(true) / count
    return {
        "captions": count,
        "generated": round(generated, 4),
        "true_scenes": round(true, 4),
        "ratio": round(generated / true, 3),
    }


def judge_bars(report) -> dict:
    """Each bar: (figure, bar, passed)."""
    found = {"autoencoder SSIM": (report["autoencoder"]["ssim"], BARS["autoencoder_ssim"])}
    found = {key: (figure, bar, figure >= bar) for key, (figure, bar) in found.items()}
    for kind, group in report["replay"].items():
        if not isinstance(group, dict) or "both" not in group:
            continue
        for detector in ("adaptive_l2", "ssim"):
            rate, own = group[detector]["rate"], kind.startswith("own")
            bar = BARS["own_replay" if own else "counterfactual_replay"]
            found[f"{kind}, {detector}"] = (rate, bar, rate >= bar if own else rate <= bar)
    return found
