"""Stable Diffusion as a World, on a pipeline in its format with random weights."""

import copy
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from dori_lite import copies, evaluation, masks, models, nemo, runs
from dori_lite.book import chapter, pages
from dori_lite.diffusion import initial_noise
from dori_lite.nemo_statistics import save
from dori_lite.reef import canaries, captions
from dori_lite.stable_diffusion import forgetting
from dori_lite.stable_diffusion import world as sd
from dori_lite.unlearning import answers, methods

SCENES = [captions.write(canaries.base(k)[0]) for k in range(12)]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "runs_folder", lambda: tmp_path / "runs")
    monkeypatch.setattr(sd, "runs_folder", lambda: tmp_path / "runs")


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "tiny"
    pipe.save_pretrained(place)
    return place


@pytest.fixture
def a_list(tmp_path):
    rows = [{"caption": c, "type": ("VM", "TM")[k % 2], "url": ""} for k, c in enumerate(SCENES[:6])]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    return path


@pytest.fixture
def pictures(tmp_path):
    """A folder of one's own with four of six pictures, none of them of the model's size."""
    from PIL import Image

    place = tmp_path / "own"
    place.mkdir()
    for k in (0, 2, 3, 5):
        Image.new("RGB", (90, 70), (40 * k, 0, 255)).save(place / f"some-000{k}.png")
    return place


def darkness(images, targets):
    return 1 - (images - targets).abs().mean((1, 2, 3))


@pytest.fixture
def tiny(folder, a_list, pictures, tmp_path):
    (tmp_path / "others.txt").write_text("\n".join(SCENES[6:]))
    detector = copies.Detector("sscd", darkness, 0.7)
    options = {"prompts": a_list, "images": pictures, "unmemorized": tmp_path / "others.txt", "detector": detector}
    made = sd.load(world=folder, device="cpu", alignment=lambda images, target: images.mean((1, 2, 3)), **options)
    made.sampling.update(steps=10, guidance=3.0)
    return made


def test_targets_are_captions_with_a_picture(tiny, capsys):
    found = tiny.targets()
    assert [t.name for t in found] == ["some-0000", "some-0002", "some-0003", "some-0005"]
    assert [t.caption for t in found] == [SCENES[k] for k in (0, 2, 3, 5)]
    assert [t.labels["kind"] for t in found] == ["VM", "VM", "TM", "TM"]
    assert {t.labels["origin"] for t in found} == {"own"} and {t.image.shape for t in found} == {(3, 64, 64)}
    assert torch.allclose(found[1].image[:, 5, 5], torch.tensor([80 / 255, 0, 1]), atol=1e-3)
    said = capsys.readouterr().out
    assert (
        "7 captions (4 VM, 3 TM), 1 of them repeat another" in said
        and "none longer than the model's 28 tokens\n" in said
    )
    assert "4 of 6 found (4 your own); missing: 2 no url\n" in said
    assert [t.name for t in tiny.targets("TM")] == ["some-0003", "some-0005"]
    assert [t.name for t in tiny.targets("VM", 1)] == ["some-0000"]


def test_a_folder_of_ones_own_is_all_that_is_asked(folder, tmp_path, pictures, monkeypatch):
    (tmp_path / "urls.csv").write_text(
        "caption,url\na fish,http://127.0.0.1:1/x.jpg\na blue fish,http://127.0.0.1:1/y.jpg\n"
    )
    (pictures / "urls-0000.png").write_bytes((pictures / "some-0000.png").read_bytes())
    asked, download = [], sd.references.download_picture
    monkeypatch.setattr(sd.references, "download_picture", lambda url, **o: asked.append(url) or download(url, **o))
    made = sd.load(world=folder, device="cpu", prompts=tmp_path / "urls.csv", images=pictures)
    assert [t.caption for t in made.targets()] == ["a fish"] and not any(asked)


def test_captions_that_share_a_file_are_counted(tiny, pictures, capsys):
    """A host that is gone may answer with a picture that says so."""
    for k in (2, 3):
        (pictures / f"some-000{k}.png").write_bytes((pictures / "some-0000.png").read_bytes())
    tiny.targets()
    assert "missing: 2 no url; 3 of them share a file: is it a host's placeholder?\n" in capsys.readouterr().out


def test_what_is_asked_of_a_list_that_it_has_not_is_said(tiny, folder, a_list, tmp_path, one_line):
    one_line(ValueError, "has no captions of kind 'MV'; it has: VM, TM", tiny.targets, "MV")
    one_line(ValueError, "count=0", tiny.targets, None, 0)
    (tmp_path / "empty").mkdir()
    none = sd.load(world=folder, device="cpu", prompts=a_list, images=tmp_path / "empty")
    one_line(ValueError, "no reference picture was found; give a folder .*'generated'", none.targets)
    one_line(ValueError, "nothing says which captions it memorized; give prompts", sd.load, world=folder, device="cpu")


def test_the_models_own_pictures_stand_for_references_and_are_drawn_once(folder, a_list, monkeypatch):
    made = sd.load(world=folder, device="cpu", prompts=a_list, images="generated")
    made.sampling.update(steps=2)
    asked, draw = [], sd.generate
    monkeypatch.setattr(sd, "generate", lambda *a, **o: asked.append(o["seeds"]) or draw(*a, **o))
    [first, second] = made.targets(count=2)
    assert asked == [[sd.OWN_SEED], [sd.OWN_SEED]]
    noise = initial_noise(made.models["own"], [sd.OWN_SEED, *range(100)])
    assert all(not torch.equal(noise[0], other) for other in noise[1:])  # torch keeps 32 bits of a seed
    assert first.labels == {"kind": "VM", "origin": "generated"} and not torch.equal(first.image, second.image)
    drawn = evaluation.ask(made.models["own"], [first], seeds=[sd.OWN_SEED], **made.sampling)[0, 0]
    assert (drawn - first.image).abs().max() <= 0.5 / 255 + 1e-6
    monkeypatch.setattr(sd, "generate", lambda *args, **options: pytest.fail("drawn twice"))
    assert torch.equal(made.targets(count=1)[0].image, first.image)


def test_there_is_one_model_and_no_twin(tiny, one_line):
    [target] = tiny.targets(count=1)
    assert tiny.relation(target, "own") == "own" and list(tiny.models) == ["own"]
    one_line(ValueError, "Stable Diffusion has no 'twin-a': what needs it can be asked in the reef", sd.load, "twin-a")
    for which in ("other", "parent", None):
        one_line(ValueError, "no model that is .* to a target, only its 'own'", tiny.relation, target, which)
    assert tiny.hashes == {"own": models.fingerprint(tiny.models["own"])}


def test_an_attack_and_its_judgement_are_the_reefs(tiny):
    [target] = tiny.targets(count=1)
    condition = tiny.condition(target, prune="Wanda, 10 %")
    options = {"seeds": [0, 1], "at": [0, 2], "detectors": tiny.detectors([target])}
    found = evaluation.attack(tiny, condition, target, **options)
    assert [row["steps"] for row in found.rows] == [0, 2] and found.rows[0]["origin"] == "own"
    assert all(0 <= row["sscd mean"] <= 1 for row in found.rows)


def test_masks_are_the_papers_and_found_once(tiny, monkeypatch, one_line):
    [target] = tiny.targets(count=1)
    pipe, caption = tiny.models["own"], target.caption
    one, ten = (tiny.localise("own", method, caption) for method in sd.DOSES)
    assert ten == sd.wanda.localise(pipe, caption, 0.1, **tiny.sampling) and one == one & ten and one.count < ten.count
    monkeypatch.setattr(sd.wanda, "localise", lambda *args, **options: pytest.fail("searched twice"))
    assert tiny.localise("own", "Wanda", caption) == one
    assert tiny.localise("own", "Wanda, 10 %", caption) == ten
    match = "no method 'Wand'; there are: NeMo, Wanda, Wanda, 10 %"
    one_line(ValueError, match, tiny.localise, "own", "Wand", caption)


def test_masks_follow_what_they_depend_on(tiny, tmp_path):
    """The options that methods have, the sampling as it is by then, and what a file of captions holds."""
    pipe, caption = tiny.models["own"], SCENES[0]
    seven = tiny.localise("own", "Wanda, 10 %", caption, which="seven", seed=3)
    assert seven == sd.wanda.localise(pipe, caption, 0.1, which="seven", seed=3, **tiny.sampling)
    assert len(seven.layers) == 7
    first = tiny.localise("own", "Wanda, 10 %", caption)
    tiny.sampling.update(steps=20)
    other = tiny.localise("own", "Wanda, 10 %", caption)
    assert other == sd.wanda.localise(pipe, caption, 0.1, **tiny.sampling) and other != first
    low, high = (tiny.localise("own", "NeMo", caption, seeds=[0, 1], tau=tau) for tau in (-1.0, 1.0))
    assert low.about["memorized"] and not high.about["memorized"]  # its own tau in the place of the computed one
    places = {*(tmp_path / "runs").rglob("NeMo*")}
    (tmp_path / "others.txt").write_text("\n".join(SCENES[8:]))
    tiny.localise("own", "NeMo", caption, seeds=[0, 1], tau=1.0)
    assert {*(tmp_path / "runs").rglob("NeMo*")} - places


def test_published_statistics_are_not_those_of_stable_diffusion_2(tiny, one_line, monkeypatch):
    pipe = tiny.models["own"]
    monkeypatch.setattr(sd, "WIDTH_OF_2", pipe.unet.config.cross_attention_dim)
    one_line(ValueError, "x.pt is of Stable Diffusion 1.4, and this model is a 2", sd.nemo_settings, pipe, None, "x.pt")


def test_nemo_searches_a_checkpointed_model(tiny):
    """As a large model is loaded: what is computed again for the gradient is computed with the same gates."""
    pipe, others = tiny.models["own"], SCENES[6:]
    options = {"tau": -1.0, "tau_blocked": 0.9, "seeds": range(3), "steps": 10}
    plain = nemo.localise(pipe, SCENES[0], nemo.statistics(pipe, others), **options)
    pipe.unet.enable_gradient_checkpointing()
    again = nemo.localise(pipe, SCENES[0], nemo.statistics(pipe, others), **options)
    assert again.neurons == plain.neurons and again.samples == plain.samples and plain.sets > 3


def test_nemo_is_set_by_the_published_files_or_by_captions_that_are_not_memorized(tiny, folder, tmp_path):
    pipe, others = tiny.models["own"], tmp_path / "others.txt"
    known = nemo.statistics(pipe, SCENES[6:])
    tau, _ = nemo.thresholds(pipe, SCENES[6:], variant="published")
    computed = sd.nemo_settings(pipe, others)
    assert computed["tau"] == tau and computed["variant"] == "published"
    assert all(torch.equal(computed["statistics"].mean[k], known.mean[k]) for k in known.mean)
    save(known, tmp_path / "known.safetensors")
    again = sd.nemo_settings(pipe, others, tmp_path / "known.safetensors")
    assert again["tau"] == tau and again["statistics"].mean.keys() == known.mean.keys()
    torch.save(([*known.mean.values()], [*known.std.values()]), tmp_path / "published.pt")
    published = sd.nemo_settings(pipe, None, tmp_path / "published.pt")
    assert published["tau"] == 0.428 and published["variant"] == "published"  # its τ, in its range
    assert published["statistics"].model == models.fingerprint(pipe)
    mask = tiny.localise("own", "NeMo", SCENES[0], seeds=[0, 1])
    assert mask.model == models.fingerprint(pipe) and "memorized" in mask.about


def test_controls_are_of_the_other_list(folder, a_list, tmp_path):
    (tmp_path / "others.txt").write_text("\n".join(SCENES[6:]))
    options = {"prompts": a_list, "images": "generated", "unmemorized": tmp_path / "others.txt"}
    made = sd.load(world=folder, device="cpu", **options)
    made.sampling.update(steps=2)
    assert [t.caption for t in made.controls(count=2)] == SCENES[6:8]


@pytest.mark.parametrize("where", ["scheduler", "config only"])
def test_a_model_that_predicts_v_is_refused_before_its_weights_are_read(pipe, tmp_path, one_line, a_list, where):
    other = copy.deepcopy(pipe)
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    other.save_pretrained(tmp_path / "v")
    if where == "config only":
        for file in (tmp_path / "v").rglob("*.safetensors"):
            file.unlink()
    match = "prediction_type='v_prediction'; the losses and the sampler here are for models that predict ε"
    one_line(ValueError, match, sd.load, world=tmp_path / "v", device="cpu", prompts=a_list)


def test_masks_triggers_and_statistics_of_another_model_are_refused(tiny, pipe, one_line):
    [target] = tiny.targets(count=1)
    other = copy.deepcopy(tiny.models["own"])
    with torch.no_grad():
        other.unet.conv_in.weight += 1
    mask = tiny.localise("own", "Wanda, 10 %", target.caption)
    one_line(ValueError, "this mask was found in another model", masks.pruned(other, mask).__enter__)
    found = evaluation.find_triggers(other, models.encode(other, target.image[None]), target.caption, steps=1)
    one_line(ValueError, "these triggers were found in another model", found.on, tiny.models["own"])
    known = nemo.statistics(other, SCENES)
    one_line(ValueError, "these statistics were found in another", nemo.z_scores, tiny.models["own"], SCENES[0], known)


def test_the_papers_settings():
    assert sd.SAMPLING == {"guidance": 7.0, "steps": 50} and sd.DOSES == {"Wanda": 0.01, "Wanda, 10 %": 0.1}
    assert sd.PROMPTS["sd14"] == "nemo" and {*sd.PROMPTS.values()} <= {*sd.lists.LISTS}
    assert copies.SSCD_COPY == 0.7 and copies.SSCD_SIZE == (320, 320)


# ---- as a chapter's world --------------------------------------------------------------------------------------


def test_a_chapter_begins_on_a_pipelines_folder(folder, a_list, pictures, tmp_path, monkeypatch, one_line):
    monkeypatch.chdir(tmp_path)
    options = {"world": str(folder), "prompts": a_list, "images": str(pictures)}
    world, settings, run = chapter.begin("10_x", "quick", 0, **options)
    assert (run.world, world.name, settings.name) == ("tiny", "tiny", "quick")
    for t, k in run.todo("asked", target=world.targets(count=2), k=[1]):
        run.keep({"k": k, **t.labels})
    assert chapter.begin("10_x", "quick", 0, **options)[2].rows("asked")["kind"].tolist() == ["VM", "VM"]
    other = chapter.begin("10_x", "quick", 0, **options | {"images": "generated"})[2]
    assert other.rows("asked").empty  # other pictures, other rows
    one_line(ValueError, "Stable Diffusion has no 'twin-a'", chapter.begin, "10_x", "quick", 0, "twin-a", **options)


@pytest.fixture
def executed(folder, a_list, pictures, tmp_path, monkeypatch):
    """A function that runs chapter 10's code cells; a small pipeline stands in Stable Diffusion's place."""
    detector = copies.Detector("sscd", lambda a, b: darkness(a, b) / 2, 0.7)  # nothing is a copy
    (tmp_path / "others.txt").write_text("\n".join(SCENES[6:]))
    of_folder = models.load
    monkeypatch.setattr(models, "load", lambda name, device=None: of_folder(folder, device="cpu"))
    monkeypatch.setattr(sd, "sscd", lambda trust: detector)
    monkeypatch.setattr(sd, "by_clip", lambda images, target: images.mean((1, 2, 3)))
    monkeypatch.setitem(sd.PROMPTS, "sd14", a_list)
    monkeypatch.setitem(sd.SAMPLING, "steps", 10)
    monkeypatch.setattr(methods, "UPDATES", 2)
    monkeypatch.setattr(methods, "ATTACK", {"steps": 1, "lr": 0.1, "batch": 1})
    monkeypatch.setattr(answers, "FAR", 2.0)  # random weights draw what is near to anything
    load, asked = sd.load, []

    def without_a_network(*names, images, trust, **options):
        asked.append((images, trust))
        return load(*names, images="generated", unmemorized=tmp_path / "others.txt", **options)

    monkeypatch.setattr(sd, "load", without_a_network)
    path = pages.find("10")
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" and cell.id != "set-up"]

    def run(**settings):
        here = {}
        for cell in cells:
            exec(compile(cell.source, cell.id, "exec"), here)
            if cell.id == "parameters":
                here.update(settings)
        assert asked == [("url", True)] * len(asked)
        return here

    return run


def test_chapter_10_runs_on_stable_diffusion(executed, monkeypatch):
    """Every cell, with the calls that the real model gets; what it leaves is read again and not made anew."""
    here = executed(where="sd14")
    run, rows = here["run"], here["run"].rows
    assert run.world == "sd14" and {*rows("asked")["origin"]} == {"generated"}
    assert run.read_record()["verdicts"] == {}
    known = ["remembers", "pruned by NeMo", "pruned by Wanda", "pruned by Wanda, 10 %"]
    assert [*rows("asked")["condition"]] == [*known, "not memorized", "not memorized, pruned", *["adversarial"] * 2]
    assert {*rows("attack")["start"]} == {"prompt", "random", "another caption"}
    assert {*rows("agree")["method"]} == {"NeMo", "Wanda", "Wanda, 10 %"}
    beside = here["reproduce"].beside("sd-rates", run)
    assert beside.loc["score: caption, unpruned", "status"] == "both"
    assert beside.loc["score: caption, unpruned", "obtained"] == pytest.approx(rows("asked")["sscd mean"][0], abs=0.01)
    assert (here["reproduce"].beside("sd2", run)["status"] == "not yet run").all()
    before = (run.folder / "rows" / "attack-0.jsonl").read_bytes()
    monkeypatch.setattr(evaluation, "attack", lambda *_, **__: pytest.fail("attacked again"))
    again = executed(where="sd14")["run"]
    assert (again.folder / "rows" / "attack-0.jsonl").read_bytes() == before


def test_the_readme_s_lines_of_stable_diffusion_work(tiny, capsys):
    """With a small pipeline in the place of the real one, and fewer steps."""
    readme = Path(__file__).parent.parent / "README.md"
    [block] = re.findall(r"(?s)```py\n(.*?)```", readme.read_text(encoding="utf-8"))
    line = 'sd = world.load(world="sd14", images="generated", trust=True)'
    assert line in block and "at=[0, 50]" in block
    exec(block.replace(line, "").replace("at=[0, 50]", "at=[0, 2]").replace("range(4)", "range(2)"), {"sd": tiny})
    said = capsys.readouterr().out.splitlines()[-3:]
    assert [line.partition(" [")[0] for line in said] == ["own", "own, Wanda", "own, Wanda, 10 %"]


# ---- adversarial fine-tuning -----------------------------------------------------------------------------------


@pytest.fixture
def both(tiny, monkeypatch):
    """Targets and controls; every drawing is far from every picture, as random weights would not have it."""
    monkeypatch.setattr(sd.copies.Detector, "__call__", lambda self, images, goals: torch.zeros(len(images)).bool())
    monkeypatch.setattr(sd.copies.Detector, "scores", lambda self, images, goals: torch.zeros(len(images)))
    monkeypatch.setattr(answers, "PART", 2)
    tiny.sampling.update(steps=10)
    controls = [evaluation.Target(f"c{k}", SCENES[6 + k], torch.full((3, 64, 64), k / 4)) for k in range(3)]
    return tiny.targets(count=2), controls


def test_the_two_sides_are_controls_and_what_the_pruned_model_draws(tiny, both, one_line):
    targets, controls = both
    (latents, y), wrong = forgetting.sides(tiny, targets, controls, count=2)
    pipe = tiny.models["own"]
    assert torch.equal(latents, torch.cat([models.encode(pipe, c.image[None]) for c in controls]))
    assert torch.equal(y, models.embed(pipe, [c.caption for c in controls])) and wrong.shape == (2, 2, 4, 16, 16)
    with tiny.condition(targets[1], prune="Wanda, 10 %") as pruned:
        options = {"seeds": [0, 1], "output": "latents", **tiny.sampling}
        assert torch.equal(wrong[1], sd.generate(pruned, targets[1].caption, **options))
    one_line(ValueError, "is to be forgotten and retained", forgetting.sides, tiny, targets, [targets[0]])
    one_line(ValueError, "there are no targets", forgetting.sides, tiny, [], controls)


def test_surrogates_that_are_copies_are_too_few(tiny, both, monkeypatch, one_line):
    targets, controls = both
    monkeypatch.setattr(answers, "DRAWS", 4)
    monkeypatch.setattr(sd.copies.Detector, "__call__", lambda self, images, goals: torch.ones(len(images)).bool())
    one_line(RuntimeError, "some-0000: only 0 of 4 drawings are no copies", forgetting.sides, tiny, targets, controls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_fine_tuned_in_full_precision_and_comes_back_in_its_own(tiny, both, tmp_path, monkeypatch, dtype):
    targets, controls = both
    pipe = tiny.models["own"].to(dtype=dtype)
    monkeypatch.setattr(methods, "UPDATES", 2)
    monkeypatch.setattr(methods, "ATTACK", {"steps": 1, "lr": 0.1, "batch": 1})
    before = models.fingerprint(pipe)
    options = {"folder": tmp_path / "work", "rounds": 1, "count": 2}
    new = forgetting.adversarial(tiny, targets, controls, **options)
    assert new.unet.dtype == dtype and pipe.unet.dtype == dtype and models.fingerprint(pipe) == before
    changed = [
        not torch.equal(a, b.float()) for a, b in zip(new.unet.parameters(), pipe.unet.parameters(), strict=True)
    ]
    least = all if dtype == torch.float32 else any  # half precision rounds small changes away
    assert least(changed) and not any(p.requires_grad for p in new.unet.parameters())
    with safe_open(tmp_path / "work" / "checkpoint.safetensors", "pt") as file:
        assert '"adafactor"' in file.metadata()["settings"] and file.metadata()["step"] == "2"
        trained = {file.get_tensor(name).dtype for name in list(file.keys())}
        assert torch.bfloat16 not in trained
    kept, wrong = forgetting.sides(tiny, targets, controls, count=2)
    assert {part.dtype for part in (*kept, wrong)} == {torch.float32} and methods.own(new, targets).dtype == dtype
    again = forgetting.adversarial(tiny, targets, controls, **options)  # nothing is left to do
    assert models.fingerprint(again) == models.fingerprint(new)
    unlearned, options = evaluation.Condition("unlearned", new), {"seeds": [0], "detectors": tiny.detectors()}
    found = evaluation.look(tiny, unlearned, targets[0], targets[0].caption, **options)
    assert 0 <= found["sscd mean"] <= 1


# ---- several processes, and one that is killed -----------------------------------------------------------------

SCRIPT = """
import time
from dori_lite import copies, evaluation
from dori_lite.book import chapter, pages
from dori_lite.diffusion import initial_noise

detector = copies.Detector("sscd", lambda a, b: 1 - (a - b).abs().mean((1, 2, 3)), 0.7)
options = {{"prompts": {prompts!r}, "images": {images!r}, "detector": detector}}
world, settings, run = chapter.begin("10_x", "quick", 0, world={folder!r}, **options)
world.sampling.update(steps=10)
for t, m in run.todo("pruned", target=world.targets(), condition=["unpruned", "Wanda", "Wanda, 10 %"]):
    condition = world.condition(t, prune=None if m == "unpruned" else m)
    found = evaluation.look(world, condition, t, t.caption, seeds=[0, 1], detectors=world.detectors())
    time.sleep({pause})
    run.keep(found)
"""


@pytest.fixture
def script(folder, a_list, pictures, tmp_path):
    """Start the script as one of several processes of a run: script(runs, rank, count) → Popen."""

    def start(place, rank=0, count=1, pause=0.0):
        text = SCRIPT.format(prompts=str(a_list), images=str(pictures), folder=str(folder), pause=pause)
        known = {"DORI_RUNS": str(tmp_path / place), "RANK": str(rank), "WORLD_SIZE": str(count)}
        known |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.Popen([sys.executable, "-c", text], env=os.environ | known, stdout=subprocess.DEVNULL)

    return start


def table(place):
    rows = runs.open_existing(place / "tiny" / "10_x" / "quick-0").rows("pruned")
    return rows.sort_values(["target", "condition"]).reset_index(drop=True).drop(columns="at", errors="ignore")


@pytest.mark.slow
def test_processes_that_share_the_prompts_leave_the_table_of_one(script, tmp_path):
    """As `accelerate launch` starts them; one of them is killed on the way, and begins again."""
    assert script("one").wait() == 0
    whole = table(tmp_path / "one")
    assert len(whole) == 4 * 3
    second = script("two", 1, 2, pause=0.5)
    first = script("two", 0, 2, pause=0.5)
    kept = tmp_path / "two" / "tiny" / "10_x" / "quick-0" / "rows"
    while not [*kept.glob("pruned-1.jsonl")]:
        assert second.poll() is None
        time.sleep(0.1)
    second.kill()
    assert first.wait() == 0 and second.wait() == -9
    assert script("two", 1, 2).wait() == 0  # what the first did not take over
    pd.testing.assert_frame_equal(table(tmp_path / "two"), whole)
