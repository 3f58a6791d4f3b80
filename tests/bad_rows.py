"""The half of `test_bad_input`'s table that is about numbers, files, training, the reef, figures and the book.

What is bad of a kind of argument, and how a row is written, stands in `bad_values`.
"""

import math
import tempfile

import numpy as np
import pandas as pd
import torch
from bad_models import CAPTIONS, features
from bad_values import row

from dori_lite import assets, fit, units
from dori_lite.book import build, claims, contrasts, profiles, publish, tables
from dori_lite.copies import Detector
from dori_lite.evaluation import Target
from dori_lite.figures import graded
from dori_lite.reef import calibrate, descriptor, localisers, scenes, world
from dori_lite.runs import open_run


def undecided(*arguments, labels=("NaN", "infinite"), right=lambda got: math.isnan(got[1]) and math.isnan(got[2])):
    """What `fine` says of numbers that leave a question open: the documented NaN."""
    return {f"{argument}: {label}": right for argument in arguments for label in labels}


def not_finite(got):
    return not np.isfinite(got).all()


def columns(*names):
    return "rows", lambda k, names=names: k.table[[*names]]


class Task(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return {"loss": self.layer(x).square().mean()}


def train(k, task, batch, **options):
    with tempfile.TemporaryDirectory(dir=k.folder) as folder:
        return fit.fit(Task(task) if isinstance(task, torch.nn.Module) else task, batch, folder=folder, **options)


def keep(k, **given):
    run = open_run("02_x", "quick", 0, base=k.folder / "runs", anew=True)
    for _ in run.todo("kind", target=["x"]):
        run.keep(**given)


def build_fine(**given):
    """`build`, as far as it looks at what it is given."""
    return given == {"profile": "quick", "seed": 0, "only": "01"} or build.build(**given)


GIVEN = ("rows", "threshold", "one")
TWINS = pd.DataFrame(  # rows of two canaries in two models
    {
        "target": ["x", "y"] * 2,
        "model": ["own twin"] * 2 + ["other twin"] * 2,
        "descriptor mean": [0.9, 0.8, 0.1, 0.2],
        "descriptor rate": [1.0, 0.5, 0.0, 0.0],
        "adaptive l2": [[2.0, 1.5]] * 4,
        "adaptive l2 rate": [1.0, 1.0, 0.0, 0.5],
    }
)


class Played:
    """A run of these rows."""

    folder = "played"

    def rows(self, kind):
        return TWINS


TABLE = {
    # ---- stats and planning
    "stats.mean_interval": row(
        values="scores",
        bounds=("list -None", (0, 1)),
        reach="positive -None",
        level="level",
        fine=undecided("values", labels=("NaN", "empty")),
    ),
    "stats.mean_interval, clusters": row(
        values="scores -empty", clusters=("list -None", [0, 0, 1, 1]), fine=undecided("values")
    ),
    "stats.paired_interval": row(
        own="scores", other="scores", bounds=("list -None", None), level="level", fine=undecided("own", "other")
    ),
    "stats.slope_interval": row(x="scores", y="scores", level="level", fine=undecided("x", "y")),
    "stats.auc_interval": row(
        positives="scores", negatives="scores", clusters=("list -None", [[0, 0, 1, 1], [2, 2, 3, 4]]), level="level"
    ),
    "stats.paired": row(own="scores", other="scores", fine=undecided("own", "other", right=not_finite)),
    "stats.ratios": row(own="scores", other="scores", fine=undecided("own", "other", right=lambda got: got[1] == 1)),
    "stats.upper_limit": row(count=("count -0", 2), n=("count", 8), level="level"),
    "stats.roc": row(positives="scores", negatives="scores"),
    "planning.equivalence": row(
        values="scores",
        delta="positive",
        bounds=("list -None", (-1, 1)),
        reach="positive -None",
        sd="not negative -None",
        level="level",
        fine=undecided("values", labels=("NaN", "empty"), right=lambda got: got["verdict"] == "undecided"),
    ),
    "planning.power": row(units=("count", 8), sd="not negative", gap="positive", reach="not negative", level="level"),
    "planning.planned_units": row(sd="not negative", gap="positive", wanted="level"),
    # ---- files, units, runs
    "files.check_writable": row(folder=("path -missing", lambda k: k.folder / "new"), bare="folder"),
    "files.check_name": row(what=("", "name"), name=("name", "x")),
    "files.sha256": row(path="file -damaged -a number", bare="path"),
    "files.digest": row(content=("object -None -dict -a number -text", [1])),
    "files.read_json": row(path=("file -missing", lambda k: k.folder / "json"), bare="path"),
    "files.read_lines": row(path=("file", lambda k: k.run.folder / "rows/kind-0.jsonl"), bare="path"),
    "files.write_json": row(
        path="path -missing",
        content=("number -None -text -truth -a list -complex", 1),
        indent=("", 1),
        bare="path content",
    ),
    "files.as_pil": row(picture="picture -negative -0 to 255 -a list -array -grey"),
    "files.plain": row(value=("function -None -dict -a number -text", 1)),
    "units.combinations": row(
        call=lambda kind, axis: units.combinations(kind, target=axis),
        kind=("", "kind"),
        axis=("list -empty", ["x"]),
        bare="axis",
    ),
    "units.rows_of": row(kind=("", "kind"), axes=("", {"target": "x"}), rows=("list -empty", [{"rate": 1}])),
    "runs.open_run": row(
        call=lambda base, **given: open_run(**given, base=base / "other"),
        chapter=("name", "01_x"),
        profile=("name", "quick"),
        seed="seed",
        world=("name", "reef"),
        base=("", lambda k: k.folder),
    ),
    "runs.open_existing": row(folder=("file", lambda k: k.run.folder), bare="folder"),
    "runs.Run.todo": row(
        call=lambda run, axis: [*run.todo("kind", target=axis)],
        run=("", lambda k: k.run),
        axis=("list -empty", ["x"]),
        bare="axis",
    ),
    "runs.Run.keep": row(
        call=keep,
        k=("", lambda k: k),
        rows=("list -empty", {"rate": 1.0}),
        images=("mapping -None -empty", {}),
        tensors=("mapping -None -empty", {}),
        bare="images tensors",
    ),
    "runs.Run.tensors": row(
        call=lambda run, unit: run.tensors("kind", unit), run=("", lambda k: k.run), unit=("word", "x")
    ),
    "runs.Run.image": row(
        call=lambda run, unit: run.image("kind", unit, "p"), run=("", lambda k: k.run), unit=("word", "x")
    ),
    # ---- training
    "fit.fit": row(
        call=train,
        k=("", lambda k: k),
        steps="count",
        lr="positive",
        weight_decay="not negative",
        clip="not negative",
        warmup="share -0",
        ema_decay="level -None -truth",
        stop_at=("count -0 -None", 1),
        schedule=("word", "constant"),
        precision=("word -None -empty", "no"),
        checkpoint_every="not negative -infinite",
        betas=("list", (0.9, 0.99)),
        state=("mapping -None -empty", {"x": torch.zeros(1)}),
        batch=("function", lambda step: {"x": torch.ones(2, 2)}),
        task=("network -a pipeline", torch.nn.Linear(2, 1)),
        bare="batch task state",
    ),
    # ---- assets
    "assets.manifest": row(folder=("file", lambda k: assets.data_folder() / "reef"), bare="folder"),
    "assets.verified": row(
        folder=("file", lambda k: assets.data_folder() / "reef"), name=("word", "judge"), bare="folder name"
    ),
    "assets.model_hashes": row(folder=("file", lambda k: assets.data_folder() / "reef"), bare="folder"),
    "assets.fetch": row(
        call=lambda url, name: url == "fine" or assets.fetch(url, name), url=("word", "fine"), name=("", "x")
    ),
    # ---- the reef
    "reef.captions.read": row(caption=("text", CAPTIONS[0])),
    "reef.captions.nameless": row(caption=("text", CAPTIONS[0])),
    "reef.captions.write": row(description=("object", scenes.Description(colour="red")), bare="description"),
    "reef.scenes.complete": row(description=("object", scenes.Description()), seed="seed", bare="description"),
    "reef.scenes.draw": row(seed="seed"),
    "reef.scenes.stream": row(seed="seed", purpose=("", 1)),
    "reef.scenes.facts": row(scene=("object", scenes.draw(0)), bare="scene"),
    "reef.scenes.fits": row(
        description=("object", scenes.Description()), scene=("object", scenes.draw(0)), bare="description scene"
    ),
    "reef.scenes.describe": row(
        scene=("object", scenes.draw(0)), factors=("list -empty", ("colour",)), bare="scene factors"
    ),
    "reef.paint.render": row(scene=("object", scenes.draw(0)), seed="seed", bare="scene"),
    "reef.paint.paint_all": row(scenes=("list", [(scenes.draw(0), 0)]), bare="scenes"),
    "reef.attributes.check_scenes": row(images="pictures"),
    "reef.attributes.labels": row(scenes=("list", [scenes.draw(0)]), bare="scenes"),
    "reef.attributes.labels_seen": row(judge=("object", lambda k: k.judge), images="pictures", bare="judge"),
    "reef.attributes.seen": row(judge=("object", lambda k: k.judge), images="pictures", bare="judge"),
    "reef.attributes.agreement": row(
        sights=("list", [{"colour": "red"}]),
        descriptions=("list", [scenes.Description(colour="red")]),
        bare="sights descriptions",
    ),
    "reef.descriptor.siblings": row(scene=("object", scenes.draw(0)), seed="seed", count="count", bare="scene"),
    "reef.descriptor.split": row(name=("word", "test"), count="count"),
    "reef.descriptor.numbers": row(name=("word", "test"), count="count", start=("count -0", 0)),
    "reef.descriptor.blur": row(images="pictures"),
    "reef.descriptor.edit": row(
        call=lambda painted, other: descriptor.edit(painted, other, torch.Generator()),
        painted=("tensor -a list", lambda k: (k.images * 255).byte()),
        other=("tensor -a list", lambda k: (k.images * 255).byte()),
        bare="painted other",
    ),
    "reef.descriptor.shift": row(
        image=("object", lambda k: k.images[0]), dy=("count -0 --1", 1), dx=("count -0 --1", 1), bare="image"
    ),
    "reef.calibrate.as_images": row(pictures=("tensor", lambda k: (k.images * 255).byte()), bare="pictures"),
    "reef.calibrate.compare": row(model=("function", features), images="paired pictures", targets="paired pictures"),
    "reef.calibrate.choose": row(scores=("mapping", {"a": torch.tensor([0.1])})),
    "reef.world.relation": row(
        target=("target -several", lambda k: Target("x", "a fish", k.images[0], {"home": "a"})),
        which=("word", "own"),
        bare="target",
    ),
    "reef.world.siblings": row(target="target", targets="targets -none -two of one name -of two sizes -dict"),
    "reef.world.planted": row(
        role=("word", "canary"), split=("word", "reporting"), home=("word -None", "a"), count="count -None"
    ),
    "reef.world.held_out": row(split=("word", "test"), count="count", start=("count -0", 0)),
    "reef.world.of": row(found=("list -text", [("x", "a fish", scenes.draw(0), 0)]), bare="found"),
    "reef.world.rivals": row(
        targets=(
            "targets -two of one name -of two sizes -a single one -captions",
            lambda k: [Target("x", "a fish", k.images[0], {"seed": 1})],
        ),
        count="count",
        seed="seed",
        bare="targets",
    ),
    "reef.world.load": row(call=lambda name: name == "fine" or world.load(name), name=("word", "fine")),
    "reef.world.load, pair": row(call=lambda pair: pair == "fine" or world.load(world=pair), pair=("word", "fine")),
    "reef.calibrate.nearest_score": row(
        call=lambda images: images == "fine" or calibrate.nearest_score(features, images, 1),
        images=("object -text", "fine"),
    ),
    "reef.localisers.unmemorized": row(count="count"),
    "reef.localisers.by_loss": row(
        call=lambda pipe, caption: caption == "fine" or localisers.by_loss(pipe, caption),
        pipe=("", lambda k: k.pipe),
        caption=("text", "fine"),
    ),
    # ---- figures
    "figures.style.literal": row(text=("", "x")),
    "figures.style.styles": row(names=("list -empty -text", ["a"]), bare="names"),
    "figures.style.known_only": row(names=("list -empty", ["a"]), known=("", ["a"]), bare="names"),
    "figures.pictures.as_array": row(image="picture -negative -0 to 255 -grey"),
    "figures.pictures.as_tensor": row(image="picture -negative -0 to 255 -grey"),
    "figures.pictures.open_image": row(path=("file", lambda k: k.run.images()[0]), bare="path"),
    "figures.pictures.grid": row(rows=("mapping", lambda k: {"x": k.images}), columns=("", ["a"])),
    "figures.pictures.maps": row(values=("mapping", {"x": torch.zeros(2, 2)})),
    "figures.pictures.poster": row(
        rows=("mapping", lambda k: {"x": [(k.images[0], 0.5)]}),
        steps=("list", [0]),
        bare="steps",
        target="picture -negative -0 to 255 -grey",
        threshold="number",
    ),
    "figures.explorer.png": row(image="picture -negative -0 to 255 -grey"),
    "figures.explorer.explore": row(frames=("mapping", lambda k: {("x",): k.images[0]}), names=("list", ("a",))),
    "figures.charts.replay_rates": row(
        rows=columns("target", "model", "descriptor rate"), rate=("word", "descriptor rate")
    ),
    "figures.charts.exposure_curve": row(
        rows=columns("exposures", "model", "score"), score=("word", "score"), threshold="number"
    ),
    "figures.charts.by_condition": row(
        rows=columns("condition", "descriptor rate"), value=("word", "descriptor rate"), by=("word", "condition")
    ),
    "figures.charts.dose_response": row(
        rows=columns("rho", "mask", "model", "descriptor rate"), value=("word", "descriptor rate")
    ),
    "figures.charts.rate_curves": row(
        rows=columns("condition", "steps", "start", "descriptor rate"),
        value=("word", "descriptor rate"),
        panels=("word", "start"),
        threshold="number -None",
    ),
    "figures.charts.scatter_detectors": row(rows=columns("model", "descriptor", "adaptive l2"), threshold="number"),
    "figures.charts.strips": row(
        rows=columns("score", "condition", "start"),
        value=("word", "score"),
        group=("word", "condition"),
        hue=("word -None", "start"),
    ),
    "figures.charts.roc_curves": row(curves=("mapping", {"x": ([0, 1], [0, 1])})),
    "figures.charts.score_distributions": row(scores=("mapping", {"x": [0.1, 0.2]}), threshold="number"),
    "figures.charts.token_bars": row(weights=("mapping", {"x": (["a", "b"], [0.1, 0.2])})),
    "figures.charts.curves": row(
        x=("list", [0, 1]), heights=("mapping", {"a": [0, 1]}), across=("", "x"), up=("", "y")
    ),
    "figures.doses.neurons": row(
        rows=columns("n", "ranking", "model", "descriptor rate"),
        value=("word", "descriptor rate"),
        total=("count -None", 1088),
    ),
    "figures.doses.heard": row(
        rows=columns("condition", "start", "descriptor rate"),
        down=("word", "condition"),
        across=("word", "start"),
        value=("word", "descriptor rate"),
    ),
    "figures.graded.over_thresholds": row(
        call=lambda other, **given: graded.over_thresholds(*[given.pop(k) for k in GIVEN], other, **given),
        rows=("rows", lambda k: k.table.loc[k.table["steps"] == 0, ["target", "condition", "descriptor"]]),
        threshold="number",
        one=("word", "remembers"),
        other=("word", "pruned by Wanda"),
        scores=("word", "descriptor"),
    ),
    # ---- the book
    "book.tables.counts": row(
        rows=columns("condition", "descriptor"),
        threshold="number",
        by=("word", "condition"),
        detector=("word", "descriptor"),
    ),
    "book.tables.areas": row(sides=("mapping", {"x": ([0.5, 0.6], [0.1, 0.2])}), bare="sides"),
    "book.tables.by_accident": row(
        table=("rows", pd.DataFrame({tables.ITSELF: ["x"], tables.AMONG: ["x"]}, index=["replay"])), bare="table"
    ),
    "book.tables.multiplicity": row(world=("word", "reef")),
    "book.tables.agreement": row(
        rows=columns("condition", "descriptor"),
        detectors=("detectors", [Detector("descriptor", len, 0.5)]),
        by=("word", "condition"),
    ),
    "book.tables.before_and_after": row(
        rows=columns("condition", "steps", "descriptor rate"),
        cells=("mapping", {"x": {"a": "remembers"}}),
        few=("count -0", 10),
        value=("word", "descriptor rate"),
    ),
    "book.tables.first_hits": row(
        rows=columns("target", "condition", "steps", "descriptor rate"),
        rate="number",
        value=("word", "descriptor rate"),
    ),
    "book.contrasts.only": row(
        rows=("", TWINS), name=("word -a list -dict", "own twin"), column=("word", "model"), bare="column"
    ),
    "book.contrasts.contrast": row(
        call=lambda one, other, column: contrasts.contrast(TWINS, one, other, column=column),
        one=("word -a list -dict", "own twin"),
        other=("word -a list -dict", "other twin"),
        column=("word", "model"),
        bare="column",
    ),
    "book.effects.effect": row(key=("word", "replay"), run=("", Played())),
    "book.chapter.check_world": row(world=("word", "reef")),
    "book.chapter.published_verdicts": row(chapter=("name", "01_x"), world=("name", "reef")),
    "book.claims.claim": row(key=("word", "replay"), bare="key"),
    "book.claims.verdict": row(
        claim=("", claims.claim("replay")),
        estimate="number -infinite -truth --infinite -complex",
        low=("number -truth --infinite -complex", 1),
        high="number -truth -infinite -complex",
        bare="estimate low high",
        fine=undecided("estimate", "low", "high", labels=["NaN"], right=lambda got: got == claims.UNDECIDED),
    ),
    "book.reported.beside": row(ours=("mapping -empty", {"caption, NeMo": 0.5}), bare="ours"),
    "book.publish.publish": row(
        call=lambda folder: folder == "fine" or publish.publish(folder),
        folder=("file -a folder", "fine"),
        bare="folder",
    ),
    "book.build.build": row(call=build_fine, profile=("word", "quick"), seed="seed", only=("word -None", "01")),
    "book.profiles.load": row(
        call=lambda name, **counts: profiles.load(name, **counts), name=("word", "quick"), canaries="count"
    ),
    "book.profiles.Profile.noises": row(
        self=lambda k: profiles.load("quick"), seed="seed", name=("", "x"), count=("", None)
    ),
    "book.publish.all_published": row(world=("name", "reef")),
    "book.publish.published": row(chapter=("name", "01_x"), profile=("name", "standard"), world=("name", "reef")),
    "book.reproduce.entry": row(name=("word", "replay")),
    "book.reproduce.status": row(name=("word", "replay")),
    "book.reproduce.reproduce": row(
        name=("word", "is-memory-local"),
        profile=("word -None", None),
        model=("word -None", "reef"),
        out=("file -None -a folder -missing", lambda k: k.folder / "reproduced"),
        processes="count",
        bare="out",
    ),
    "book.pages.find": row(slug=("word", "01")),
    "book.pages.pages": row(root=("file -None", lambda k: build.checkout()), bare="root"),
    "book.pages.chapters": row(root=("file -None", lambda k: build.checkout()), bare="root"),
}
