"""Every public function, asked with what it cannot take: one line each, and never a wrong number in silence.

The functions stand in `bad_models` and `bad_rows`; what is bad of a kind of argument, and what counts as one line, in
`bad_values`. `pytest -s` prints the totals. Which pipelines are refused is in `test_checks`.
"""

import ast
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import bad_models
import bad_rows
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from bad_models import CAPTIONS, TO_V, features
from bad_values import PACKAGE, cases, verdict

from dori_lite import copies, dori, files, masks, models, nemo, wanda
from dori_lite.evaluation import Condition, Target, World
from dori_lite.reef import attributes, descriptor
from dori_lite.runs import open_run


def table():
    """Rows as chapters have them: two targets, two conditions, two numbers of steps."""
    found = [
        {"target": target, "condition": condition, "steps": steps, "descriptor rate": 0.5, "start": "prompt"}
        for target in ("x", "y")
        for condition in ("remembers", "pruned by Wanda")
        for steps in (0, 10)
    ]
    more = {"model": "own twin", "exposures": 10, "score": 0.5, "rho": 0.1, "descriptor": [[0.9, 0.2]] * 8}
    more |= {"adaptive l2": [[1.5, 0.5]] * 8, "mask": ["Wanda", "random"] * 4, "role": "canary", "home": "a"}
    more |= {"n": 24, "ranking": "loss"}
    return pd.DataFrame(found).assign(**more)


@pytest.fixture(scope="module")
def k(pipe, tmp_path_factory):
    """What valid calls are made of."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images, x = torch.rand(4, 3, 64, 64), torch.randn(2, *models.latent_shape(pipe))
        judge, describer = attributes.Judge(4).eval(), descriptor.Descriptor(4, 8).eval()
    folder = tmp_path_factory.mktemp("bad")
    (folder / "damaged").write_bytes(b"\x00{\xff\n")
    y, model = models.embed(pipe, CAPTIONS), models.fingerprint(pipe)
    k = SimpleNamespace(pipe=pipe, folder=folder, damaged=folder / "damaged", captions=CAPTIONS, to_v=TO_V, x=x, y=y)
    k.images, k.judge, k.describer, k.table, k.model = images, judge, describer, table(), model
    k.mask = masks.WeightMask({TO_V: torch.eye(16, dtype=torch.bool)}, model)
    k.rows = masks.of_neurons(pipe.unet, {TO_V: [0, 3]})
    k.statistics, k.activations = nemo.statistics(pipe, y), nemo.activations(pipe, y[:1])
    k.detectors = [copies.by_ssim(0.9), copies.by_descriptor("mean", features, 0.9)]
    k.targets = [Target(f"t{n}", text, image) for n, (text, image) in enumerate(zip(CAPTIONS, images, strict=False))]
    k.condition, k.opinions = Condition("own", pipe, k.mask), copies.opinions(k.detectors, images, images)
    k.triggers = dori.find_triggers(pipe, x, steps=1, batch=1, snapshots=[1], lr=0.1)
    k.norms = wanda.activation_norms(pipe, "", calls=1, steps=1)
    given = {"models": {"own": pipe}, "targets": list, "detectors": list, "localise": lambda *_: k.mask, "hashes": {}}
    sampling = {"steps": 1, "guidance": 3.0, "batch": 4}
    k.world = World("tiny", relation=lambda *_: "own", sampling=sampling, **given)
    k.differences = torch.stack([x, x.flip(0)])
    k.mask.save(folder / "kept")
    files.write_json(folder / "json", {"a": 1})
    k.run = open_run("01_x", "quick", 0, base=folder / "runs")
    for _ in k.run.todo("kind", target=["x", "y"]):
        k.run.keep({"rate": 0.5}, tensors={"t": x}, images={"p": images[0]})
    k.run.record()
    return k


# What is not in the table, and why.
LEFT_OUT = {
    "what others call with what they have checked, often in a loop": """
        models.check_folder models.whole models.ddim_scheduler models.check_latents models.check_images diffusion.noised
        diffusion.denoising_loss diffusion.generator diffusion.draw diffusion.check_sampling diffusion.timed_scheduler
        hooks.shape hooks.modules hooks.listed masks.check_mask distances.parts_of copies.check_detectors
        copies.check_given metrics.captions_of metrics.clip detection.difference detection.scaled detection.noises
        detection.every_pair detection.readable nemo.different nemo.chosen wanda.reduce wanda.wide wanda.score wanda.top
        wanda.pndm wanda.union dori.check_step dori.starts dori.free_positions dori.directions dori.place dori.project
        locality.paired locality.steps_of
        spread.flat spread.pairs_of activations.as_tensor activations.pair stats.quantile stats.checked stats.numbers
        stats.by_cluster fit.check_options fit.check_batch fit.check_losses fit.new_schedule
        reef.paint.paint_part reef.paint.arrange reef.paint.hills
        reef.attributes.convolutions reef.descriptor.batches reef.calibrate.positives reef.calibrate.negatives
        reef.calibrate.copied_pairs reef.calibrate.other_pairs
        reef.calibrate.complete_captions reef.calibrate.test_split reef.calibrate.set_threshold
        figures.style.characters figures.style.means figures.style.interval figures.style.frame figures.style.chart
        figures.style.name_rows figures.style.legend_above figures.style.shared_legend figures.style.heat
        figures.charts.bars
        figures.graded.differences figures.returns.arrow figures.returns.name_ends
        figures.explorer.as_widgets figures.explorer.as_html assets.found assets.record
        locality.given assets.settle assets.download files.restore files.append files.to_numpy files.slug units.key
        units.named
        units.shared locks.taken
        stamps.code_of_rows stamps.code_only stamps.move_if_stale book.effects.ratio_of
        book.contrasts.in_each book.everywhere.on_the_way book.everywhere.scatter
        book.everywhere.of_positions
        book.effects.half_memory book.effects.transfers
        book.effects.attacked book.effects.lift book.effects.evaluations book.effects.work book.effects.injection
        book.effects.dimensions book.effects.final_losses book.contrasts.units_of book.contrasts.beyond
        book.contrasts.extreme book.contrasts.by_target book.contrasts.values book.contrasts.column
        book.contrasts.clusters_of
        book.contrasts.in_turn book.contrasts.first_reach book.verdicts.interval book.verdicts.rates_judged
        book.verdicts.lowest book.verdicts.level_of book.verdicts.together
        book.chapter.first_said book.chapter.in_clusters book.chapter.in_brackets book.chapter.experiment_cells
        book.pages.alone book.pages.key book.pages.stage book.pages.last_run book.pages.code_cells book.pages.asks_where
        book.site.with_outputs book.site.fold book.site.side_by_side book.site.contents book.site.tabs book.site.block
        book.site.fenced book.site.configured book.site.mathjax_folder
        book.publish.standard book.claims.read book.reproduce.figures book.reproduce.expected book.reproduce.quantities
        book.reproduce.beside book.reproduce.quoted book.reproduce.made_by book.reproduce.as_csv
        book.reproduce.replace""",
    "they take nothing that could be wrong": """
        masks.WeightMask.count masks.WeightMask.density masks.WeightMask.densities dori.Triggers.tensors
        dori.Triggers.displacement runs.runs_folder runs.Run.rows runs.Run.kinds runs.Run.images runs.Run.record
        runs.Run.read_record runs.Run.minutes locks.rank locks.ranks assets.data_folder assets.versions assets.machine
        assets.cache_folder fit.autocast_precision reef.scenes.Description.named book.profiles.Profile.device
        book.profiles.Profile.after book.profiles.Profile.direction_only book.profiles.cuda_available
        book.pages.checkout book.build.times book.claims.committed book.tables.all_claims book.tables.minutes
        book.tables.where_nemo_could_act book.tables.neurons_on_tuning book.reproduce.listed""",
    "tests/test_told.py, test_returns.py, test_choices.py and test_triggers.py call them oddly": """
        book.told.verdict_of book.told.value book.told.matching book.told.table book.told.record_hash book.told.fill
        book.told.problems book.told.pages book.told.texts book.told.update book.told.runs
        figures.returns.came_back figures.returns.transfers figures.triggers.maps figures.triggers.ways""",
    "their own tests have the tables, with what a valid call needs": """
        copies.sscd metrics.alignment_text_image masks.kept files.whole files.whole_folder fit.training
        reef.world.detectors
        reef.world.alignment reef.captions.caption_of reef.attributes.Judge.features reef.attributes.load
        reef.localisers.nemo_settings reef.localisers.localiser reef.localisers.evidence
        reef.descriptor.load reef.descriptor.detector reef.calibrate.main figures.pictures.poster_of
        figures.pictures.poster_rows
        book.claims.in_words book.claims.power book.verdicts.judged book.verdicts.same_sign book.chapter.begin
        book.chapter.conclude book.chapter.verdicts book.chapter.verdict_table book.tables.reported_and_ours
        book.build.execute book.build.show book.site.site book.reproduce.chapter_of book.reproduce.run_of""",
}
MODULES = """models diffusion hooks masks distances copies metrics detection nemo neurons wanda dori locality spread
activations overlap evaluation stats planning files units runs stamps assets fit reef.world reef.captions
reef.scenes reef.paint reef.attributes reef.descriptor reef.calibrate reef.localisers figures.style
figures.pictures figures.charts figures.doses figures.graded figures.returns figures.explorer book.claims
book.contrasts book.effects book.verdicts book.chapter book.tables book.told book.profiles book.publish
book.pages book.site book.build book.reported book.reproduce""".split()


TABLE = bad_models.TABLE | bad_rows.TABLE


@pytest.fixture(scope="module")
def totals():
    """How many calls came to what; printed at the end."""
    found = Counter()
    yield found
    print(f"\n{found.total()} odd calls: {', '.join(f'{n} {kind}' for kind, n in found.most_common())}")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TABLE)
def test_a_function_takes_what_is_right_and_says_what_is_wrong(k, totals, monkeypatch, name):
    monkeypatch.chdir(k.folder)  # where what is a path by mistake does no harm
    wrong = {}
    (_, valid), *odd = cases(TABLE[name], name, k)
    assert valid.kind == "value", valid.said
    for case, found in odd:
        came_to = verdict(TABLE[name], case, found)
        totals[came_to.partition(",")[0]] += 1
        if came_to not in ("line", "fine", "bare"):
            wrong[case] = came_to
    assert not wrong
    assert not {*TABLE[name].fine} - {case for case, _ in odd}
    plt.close("all")


def documented(module: str) -> set[str]:
    """The functions and methods of a module that have a docstring."""
    path, found = Path(PACKAGE, *module.split(".")).with_suffix(".py"), set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = {f"{node.name}.": node.body} if isinstance(node, ast.ClassDef) else {"": [node]}
        for start, nodes in inside.items():
            functions = [n for n in nodes if isinstance(n, ast.FunctionDef) and ast.get_docstring(n)]
            found |= {f"{module}.{start}{n.name}" for n in functions if not n.name.startswith("_")}
    return found


def test_no_public_function_is_forgotten():
    tried, left_out = {name.partition(",")[0] for name in TABLE}, " ".join(LEFT_OUT.values()).split()
    public = set().union(*map(documented, MODULES))
    assert not public - tried - {*left_out}
    assert len(left_out) == len({*left_out} - tried)  # each once, and not in the table as well
