"""The half of `test_bad_input`'s table that is about models and pictures; the other is `bad_rows`.

What is bad of a kind of argument, and how a row is written, stands in `bad_values`.
"""

import numpy as np
import torch
from bad_values import row

from dori_lite import activations, masks, models, nemo
from dori_lite.copies import Detector
from dori_lite.evaluation import Condition

MOVES = torch.randn(3, 28, 16, generator=torch.Generator().manual_seed(0))
TO_V = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
CAPTIONS = ["a red fish over sand", "a large fish at dusk"]
STEPS = {"steps": "count", "guidance": "number"}


def features(images):
    """Descriptors [B, 48] that tell pictures apart."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def brightness(images, about):
    return images.mean((1, 2, 3))


def difference(images, targets):
    """A score that looks at nothing before it reckons."""
    return (images - targets).flatten(1).float().mean(1)


PICTURES = {"images": "paired pictures", "targets": "paired pictures"}
TABLE = {
    # ---- models
    "models.load": row(
        call=lambda name: name == "fine" or models.load(name), name=("file -None -missing -a number", "fine")
    ),
    "models.value_layers": row(unet="unet"),
    "models.mlp_layers": row(unet="unet"),
    "models.embed": row(pipe="pipe", prompts="prompts, silent"),
    "models.conditions": row(pipe="pipe", prompts="prompts"),
    "models.spoken": row(prompts="prompts, silent"),
    "models.fingerprint": row(pipe="pipe"),
    "models.check_same_model": row(
        pipe="pipe", model=("word -None", lambda k: k.model), what=("", "this"), transfer=("", False)
    ),
    "models.encode": row(pipe="pipe", images="pictures"),
    "models.decode": row(pipe="pipe", latents="latents", fine={"latents: empty": lambda got: not len(got)}),
    "models.latent_shape": row(pipe="pipe"),
    # ---- diffusion
    "diffusion.alphas_cumprod": row(pipe="pipe"),
    "diffusion.initial_noise": row(pipe="pipe", seeds="seeds"),
    "diffusion.trajectory": row(pipe="pipe", x="latents", y="embeddings", **STEPS),
    "diffusion.generate": row(
        pipe="pipe", prompts="prompts", seeds="seeds -a number", batch="count", output=("word", "images"), **STEPS
    ),
    "diffusion.generate, latents": row(pipe="pipe", prompts="prompts", latents="latents -None", steps="count"),
    # ---- hooks
    "hooks.trace": row(network="network", names="layers"),
    "hooks.edited": row(network="network", edits=("mapping -empty", {TO_V: torch.relu})),
    "hooks.replayed": row(network="network", outputs=("mapping -empty", {TO_V: 1})),
    # ---- masks
    "masks.WeightMask": row(
        layers=("mapping -empty", {TO_V: torch.eye(4) > 0}),
        model=("word -None -unknown -empty", "x"),
        about=("mapping -empty", {"a": 1}),
    ),
    "masks.WeightMask.__or__": row(self=lambda k: k.mask, other=("mask -another layer", lambda k: k.mask)),
    "masks.WeightMask.__and__": row(self=lambda k: k.mask, other=("mask -another layer", lambda k: k.mask)),
    "masks.WeightMask.__eq__": row(
        self=lambda k: k.mask,
        other=("mask -another shape", lambda k: k.mask),
        fine={
            f"other: {label}": lambda got: got is NotImplemented for label in ("dict", "a number", "text", "a tensor")
        }
        | {"other: of another model": lambda got: got, "other: another layer": lambda got: not got}
        | {"other: dict of tensors": lambda got: got is NotImplemented},
    ),
    "masks.WeightMask.save": row(self=lambda k: k.mask, path="path -missing", bare="path"),
    "masks.WeightMask.load": row(path="file", bare="path"),
    "masks.empty": row(network="unet", names="layers"),
    "masks.weights": row(network="unet", names="layers"),
    "masks.of_neurons": row(network="unet", neurons=("mapping -empty", {TO_V: [0, 1]})),
    "masks.of_neurons, one": row(
        call=lambda network, rows: masks.of_neurons(network, {TO_V: rows}),
        network="unet",
        rows=("seeds -none", [0, 1]),
        bare="rows",
    ),
    "masks.random_like": row(
        mask=("mask -of another model -another layer -another shape", lambda k: k.rows), seed="seed", rows=("", True)
    ),
    "masks.resized": row(
        mask=("mask -of another model", lambda k: k.rows),
        like=("mask -of another model", lambda k: k.rows),
        seed="seed",
    ),
    "masks.pruned": row(pipe="pipe", mask="mask"),
    # ---- distances and copies
    "distances.l2": row(**PICTURES),
    "distances.ssim": row(**PICTURES),
    "distances.check_pair": row(**PICTURES),
    "distances.checked": row(**PICTURES),
    "distances.nearest": row(
        images="paired pictures -another number", others="paired pictures -another number -bytes", n="count"
    ),
    "distances.adaptive_l2": row(
        **PICTURES, others="paired pictures -another number -bytes", n="count", alpha="positive"
    ),
    "copies.Detector": row(name=("word -unknown", "x"), score=("function", len), threshold="number"),
    "copies.Detector.scores": row(self=lambda k: k.detectors[0], **PICTURES),
    "copies.Detector.__call__": row(self=lambda k: Detector("x", difference, 0.5), **PICTURES),
    "copies.by_ssim": row(threshold="number"),
    "copies.by_adaptive_l2": row(others="pictures -bytes", n="count", alpha="positive"),
    "copies.by_descriptor": row(
        name=("word -unknown", "x"), features=("function", features), threshold="number", batch="count"
    ),
    "copies.self_test": row(detector=("object", lambda k: k.detectors[0]), images="pictures", bare="detector"),
    "copies.two_pictures": row(like="pictures"),
    "copies.opinions": row(detectors="detectors", **PICTURES),
    "copies.disagreement": row(opinions=("mapping", lambda k: k.opinions)),
    "copies.disputed": row(opinions=("mapping", lambda k: k.opinions)),
    "copies.is_copy": row(
        ratio=("tensor -infinite -whole -a number -a scalar", torch.tensor([0.5])),
        similarity=("tensor -infinite -whole -a number -a scalar", torch.tensor([0.9])),
        bare="ratio similarity",
        fine={f"{side}: NaN": lambda got: not got.any() for side in ("ratio", "similarity")},
    ),
    # ---- metrics
    "metrics.memorization_rate": row(scores=("scores", np.ones((2, 3))), threshold="number"),
    "metrics.check_distinct": row(seeds="different seeds"),
    "metrics.alignment_chance": row(
        images=("pictures", lambda k: k.images[:2]),
        prompts="prompts, silent",
        score=("function", lambda k: brightness),
        bare="score",
    ),
    "metrics.mean_alignment": row(
        alignment=("function", lambda k: brightness),
        images=("", lambda k: k.images),
        target=("", lambda k: k.targets[0]),
        bare="alignment",
    ),
    "metrics.kid": row(
        real="pictures",
        generated="pictures",
        features=("function", features),
        subsets="count",
        subset_size=("count -None", 2),
        seed="seed",
        batch="count",
        bare="features",
    ),
    "metrics.diversity": row(images="pictures"),
    "metrics.between_seed_ssim": row(images="pictures"),
    # ---- detection
    "detection.magnitude": row(
        pipe="pipe", prompts="prompts", seeds="seeds", first="count -None", batch="count", **STEPS
    ),
    "detection.token_attribution": row(
        pipe="pipe", prompt="caption", seeds="seeds", first="count", batch="count", **STEPS
    ),
    "detection.noise_differences": row(
        pipe="pipe", prompts="prompts", seeds="seeds", step=("count -0", 0), batch="count", steps="count"
    ),
    "detection.between_seed_similarity": row(
        differences=("latents -five axes -of another model -fewer channels", lambda k: k.differences),
        statistic=("word", "max"),
    ),
    "detection.similarity": row(one="latents", other="latents"),
    # ---- nemo
    "nemo.Statistics": row(
        mean=("mapping", {"x": torch.zeros(2)}), std=("mapping", {"x": torch.ones(2)}), model=("", None)
    ),
    "nemo.Statistics, numbers": row(
        call=lambda mean, std: nemo.Statistics({"x": mean}, {"x": std}),
        mean=("tensor -whole", torch.zeros(2)),
        std=("tensor -whole", torch.ones(2)),
        bare="mean std",
    ),
    "nemo.Statistics.of": row(self=lambda k: k.statistics, names=("layers", [TO_V]), bare="names"),
    "nemo.Localised.mask": row(
        self=lambda k: nemo.Localised({TO_V: [0]}, {TO_V: [0]}, True, [0], 5.0, 0, False, 0.4, 1, 0), unet="unet"
    ),
    "nemo.layers": row(unet="unet", which=("word", "seven")),
    "nemo.activations": row(pipe="pipe", prompts="prompts", which=("word", "seven"), batch="count"),
    "nemo.statistics": row(pipe="pipe", prompts="prompts", which=("word", "seven")),
    "nemo.z_scores": row(pipe="pipe", prompt="caption", statistics="statistics"),
    "nemo.thresholds": row(
        pipe="pipe",
        prompts="prompts",
        memorized="prompts -None",
        seeds="different seeds",
        variant=("word", "code"),
        steps=("count", 2),
    ),
    "nemo.candidates": row(
        activations=("", lambda k: k.activations),
        statistics="statistics -of another model",
        theta="number",
        k=("count -0", 1),
        sides="count",
        order=("word", "code"),
    ),
    "nemo.localise": row(
        pipe="pipe",
        prompt="caption",
        statistics="statistics",
        tau=("number", 0.99),
        tau_blocked=("number -None", 0.9),
        seeds="seeds",
        variant=("word", "code"),
        order=("word", "code"),
        steps=("count", 2),
    ),
    # ---- neurons
    "neurons.loss_rises": row(
        pipe="pipe",
        x_0=("latents -one", lambda k: k.x[:1]),
        prompt="caption",
        which=("word", "seven"),
        batches="count",
        seed="seed",
        stream=("", "x"),
    ),
    "neurons.highest": row(scores=("mapping", {TO_V: torch.ones(3)}), count=("count -0", 2)),
    # ---- wanda
    "wanda.layers": row(unet="unet", which=("word", "seven")),
    "wanda.activation_norms": row(
        pipe="pipe", prompts="prompts -empty", names="layers -None", calls="count", seed="seed", batch="count", **STEPS
    ),
    "wanda.localise": row(
        pipe="pipe",
        prompts="prompts",
        rho="share",
        base=("mapping -None", lambda k: k.norms),
        which=("word", "sixteen"),
        calls="count",
        **STEPS,
    ),
    # ---- dori
    "dori.find_triggers": row(
        pipe="pipe",
        latents="latents",
        prompts="prompts -None",
        start=("word -None", "prompt"),
        steps="count",
        lr="positive",
        batch="count",
        seed="seed",
        streams=("list -None", ["a", "b"]),
        snapshots=("list -empty", [1]),
        positions=("list -None", [1]),
        radius="positive -None",
        band=("list -None", (0, 100)),
        also="mask",
        samples="count",
    ),
    "dori.find_triggers, subspace": row(
        pipe="pipe", latents="latents", subspace="count -None", steps="count", batch="count"
    ),
    "dori.Triggers.on": row(self=lambda k: k.triggers, pipe="pipe", step="count -None"),
    "dori.stored": row(tensors=("mapping", lambda k: k.triggers.tensors())),
    # ---- locality
    "locality.text_layers": row(unet="unet", group=("word", "seven")),
    "locality.silenced": row(
        pipe="pipe",
        prompts="prompts",
        names="layers",
        window=("list -None -empty", [0]),
        seeds="seeds",
        batch="count",
        **STEPS,
    ),
    "locality.exchanged": row(
        pipe="pipe",
        other="pipe",
        prompts="prompts",
        window=("list -None -empty", [0]),
        seeds="seeds",
        batch="count",
        **STEPS,
    ),
    "locality.moves": row(
        start=("tensor", torch.ones(28, 16)),
        end=("tensor", torch.zeros(28, 16)),
        another=("tensor", torch.ones(28, 16)),
        seed="seed",
    ),
    "locality.positions_zeroed": row(
        call=lambda place, **given: __import__("dori_lite.locality").locality.positions_zeroed(*given.values(), place),
        pipe="pipe",
        caption="caption",
        place=("word", "prompt"),
    ),
    "locality.positions": row(
        pipe="pipe",
        caption="caption",
    ),
    "locality.padded_with": row(
        pipe="pipe",
        caption="caption",
        y="embeddings",
        token=("word", "!"),
    ),
    "locality.padding_thinned": row(
        pipe="pipe",
        caption="caption",
        y="embeddings",
        share=("number", 0.7),
        seed="seed",
    ),
    # ---- spread
    "spread.distances": row(ends=("tensor", MOVES), others=("tensor -None", MOVES[:2])),
    "spread.mean_distance": row(ends=("tensor", MOVES)),
    "spread.mean_distance_if_independent": row(starts=("tensor", MOVES), moves=("tensor", MOVES + 1)),
    "spread.beside": row(ends=("tensor", MOVES + 0.1), starts=("tensor", MOVES)),
    "spread.nearest": row(ends=("tensor", MOVES), starts=("tensor", MOVES[:2])),
    "spread.cosine": row(moves=("tensor", MOVES), others=("tensor -None", MOVES[:2])),
    "spread.common": row(moves=("tensor", MOVES)),
    "spread.tsne": row(points=("tensor", MOVES), seed="seed", perplexity=("positive", 2.0)),
    "spread.between": row(a=("tensor", MOVES[0]), b=("tensor", MOVES[1]), share=("number", 0.5)),
    "spread.strangers": row(ends=("tensor", MOVES), others=("tensor", MOVES + 1), seed="seed"),
    # ---- activations
    "activations.recorded": row(
        fine={"t: 0": lambda got: TO_V in got},
        pipe="pipe",
        prompts="prompts",
        x_t=("latents", lambda k: k.x[:1]),
        t=("count", 5),
        names=("layers", [TO_V]),
        batch="count",
    ),
    "activations.discrepancies": row(
        call=lambda pipe, y, z, **given: activations.discrepancies(pipe, {"a": (y, z)}, *given.values()),
        fine={"t: 0": lambda got: len(got) == 2},
        pipe="pipe",
        y="embeddings",
        z=("", lambda k: k.y + 1),
        x_t=("latents", lambda k: k.x[:1]),
        t=("count", 5),
        names=("layers", [TO_V]),
        seed="seed",
        batch="count",
    ),
    "activations.participation": row(a=("tensor", MOVES)),
    # ---- overlap
    "overlap.iou": row(one="mask -another layer -of another model", other="mask -another layer -of another model"),
    "overlap.by_chance": row(
        one="mask -another layer -of another model", other="mask -another layer -of another model"
    ),
    "overlap.agreement": row(
        one="mask -another layer -of another model",
        other="mask -another layer -of another model",
        empty=("number -None", 1.0),
    ),
    # ---- evaluation
    "evaluation.Target": row(name="text", caption="text", image="picture -grey", labels=("mapping -empty", {})),
    "evaluation.Condition": row(
        call=lambda pipe, mask: Condition("x", pipe, mask).__enter__() and None, pipe="pipe", mask="mask"
    ),
    "evaluation.World.condition": row(
        self=lambda k: k.world,
        target="target",
        which=("", "own"),
        prune=("", "Wanda"),
        found_in=("", "own"),
        bare="target",
    ),
    "evaluation.ask": row(
        pipe="pipe", targets="targets", seeds="different seeds", prompts="prompts -None", batch="count", **STEPS
    ),
    "evaluation.grid": row(pipe="pipe", prompts="prompts", seeds="different seeds", **STEPS),
    "evaluation.judge": row(
        images="pictures",
        target="target",
        detectors="detectors",
        alignment=("function -None", lambda k: brightness),
        others="targets -none -two of one name -of two sizes -dict",
        bare="alignment",
    ),
    "evaluation.tabulate": row(
        images=("tensor", lambda k: k.images.unflatten(0, (2, 2))),
        targets="targets",
        detectors="detectors",
        alignment=("function -None", lambda k: brightness),
        bare="alignment",
    ),
    "evaluation.score": row(
        pipe="pipe",
        targets="targets",
        detectors="detectors",
        alignment=("function -None", lambda k: brightness),
        seeds="different seeds",
        **STEPS,
        bare="alignment",
    ),
    "evaluation.attack": row(
        world=("object", lambda k: k.world),
        condition=("object", lambda k: k.condition),
        target="target",
        seeds="different seeds",
        detectors="detectors",
        at=("list", [0, 1]),
        start=("word -None", "prompt"),
        pictures=("list -empty", [1]),
        seed="seed",
        batch="count",
        bare="world condition at pictures",
    ),
    "evaluation.look": row(
        world=("object", lambda k: k.world),
        condition=("object", lambda k: k.condition),
        target="target",
        prompts="caption",
        seeds="different seeds",
        detectors="detectors",
        bare="world condition",
        fine={"prompts: several": lambda got: got["pictures"] == 2},  # one for each seed
    ),
    "evaluation.look, one seed": row(
        world=("", lambda k: k.world),
        condition=("", lambda k: k.condition),
        detectors=("", lambda k: k.detectors),
        target=("", lambda k: k.targets[0]),
        prompts="caption",
        seeds=("", [0]),
    ),
}
