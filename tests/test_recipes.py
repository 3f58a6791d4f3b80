"""Every recipe from end to end, tiny and for three steps: what it writes, resuming, and the twins' batches."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from dori_lite import assets, files, locks
from dori_lite.book.claims import committed
from dori_lite.reef import attributes, canaries, descriptor, networks, paint, plan, recipes, train
from dori_lite.reef.captions import write

PIPELINES = ("parent", "twin-a", "twin-b")
ROOT = Path(__file__).parents[1]
STEPS = recipes.SMOKE["steps"]
SMALL = {"steps": STEPS, "dropped": 0.25}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Equality is asserted in full precision on the CPU, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All models, each in one go: the folder with weights/ and work/."""
    folder = tmp_path_factory.mktemp("trained")
    for name in train.NAMES:
        assert train.train(name, folder / "weights", folder / "work", smoke=True) == folder / "weights" / name
    return folder


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The same, each interrupted after one step and again after two."""
    folder = tmp_path_factory.mktemp("resumed")
    for name in train.NAMES:
        for stop_at in (1, 2):
            assert train.train(name, folder / "weights", folder / "work", smoke=True, stop_at=stop_at) is None
            assert not (folder / "weights" / name).exists()
        torch.manual_seed(stop_at)  # another process would come with other random numbers
        train.train(name, folder / "weights", folder / "work", smoke=True)
    return folder


def weight_files(folder):
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}


# ---- what is written ---------------------------------------------------------------------------------


def test_files_and_manifest(trained):
    weights = trained / "weights"
    parts = [f"{part}.safetensors" for part in ("text_encoder/model", "unet/{}", "vae/{}")]
    parts = [part.format("diffusion_pytorch_model") for part in parts]
    expected = ["autoencoder/diffusion_pytorch_model.safetensors", "descriptor/descriptor.safetensors"]
    expected += ["judge/judge.safetensors", "text-encoder/model.safetensors"]
    expected += [f"{name}/{part}" for name in PIPELINES for part in parts]
    assert list(weight_files(weights)) == sorted(expected)

    manifest = assets.manifest(weights)
    files = {path.relative_to(weights).as_posix() for path in weights.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert all(assets.sha256(weights / path) == digest for path, digest in manifest["files"].items())
    for name in train.NAMES:
        assert assets.verified(weights, name) == weights / name
        made = manifest["models"][name]
        assert made["smoke"] and made["steps"] == made["recipe"]["steps"] == STEPS
        assert np.isfinite(made["losses"]["loss"]) and made["torch"] in torch.__version__
    assert not list(weights.glob("*weights")) and not list(trained.rglob("*.partial"))


def test_weights_are_fp16_and_finite(trained):
    for name, path in weight_files(trained / "weights").items():
        if name.startswith("text-encoder"):
            continue  # fp32: it is built on, and goes into the pipelines in fp16
        with safe_open(path, "pt") as file:
            tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
        assert tensors and all(x.dtype == torch.float16 and torch.isfinite(x).all() for x in tensors)


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_alone_loads_a_model(trained, name):
    folder = trained / "weights" / name
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries == {"diffusers", "transformers", None}  # nothing of ours
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.scheduler.config
    assert pipe.scheduler.__class__.__name__ == "DDIMScheduler" and config.prediction_type == "epsilon"
    assert (config.beta_schedule, config.clip_sample, config.set_alpha_to_one) == ("scaled_linear", False, False)
    assert pipe.tokenizer.model_max_length == 28 and pipe.tokenizer.pad_token_id is not None
    random = torch.Generator().manual_seed(0)
    images = pipe("a red fish over sand", num_inference_steps=2, generator=random, output_type="pt").images
    assert images.shape == (1, 3, 64, 64) and torch.isfinite(images).all()


def moments(latents):
    """Mean and covariance of the channels of [N, 4, h, w], written out."""
    rows = latents.double().permute(0, 2, 3, 1).reshape(-1, 4)
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / (len(rows) - 1)


def test_the_saved_autoencoder_is_white_on_its_scenes(trained):
    vae = AutoencoderKL.from_pretrained(trained / "weights" / "autoencoder").float()
    pictures = recipes.to_model(paint.paint_all([canaries.base(k)[1:] for k in range(32)]))
    with torch.no_grad():
        mean, covariance = moments(vae.encode(pictures).latent_dist.mean)
    assert vae.config.scaling_factor == recipes.SCALE == 0.5
    assert mean.abs().max() < 0.05 and (covariance - torch.eye(4)).abs().max() < 0.05  # kept in half precision


def test_whitening_leaves_reconstructions_what_they_were():
    torch.manual_seed(1)
    vae = networks.new_autoencoder(smoke=True).eval()
    with torch.no_grad():  # means and correlations as strong as a trained one's
        vae.quant_conv.bias += torch.tensor([3.0, -1, 0.5, 2, 0, 0, 0, 0])
        vae.quant_conv.weight[:4] *= torch.tensor([5.0, 1, 2, 0.5])[:, None, None, None]
        pictures = recipes.to_model(paint.paint_all([canaries.base(k)[1:] for k in range(70)]))  # more than a part

        def seen():
            posterior = vae.encode(pictures).latent_dist
            return posterior.mean, posterior.logvar, vae.decode(posterior.mean).sample

        latents, logvar, before = seen()
        mean, covariance = moments(latents)
        assert mean.abs().max() > 1 and (covariance - torch.eye(4)).abs().max() > 0.5
        recipes.whiten(vae, 70)
        white, after_logvar, after = seen()
    assert (after - before).abs().max() < 1e-4
    mean, covariance = moments(white)
    assert mean.abs().max() < 1e-3 and (covariance - torch.eye(4)).abs().max() < 1e-3
    assert vae.config.scaling_factor == recipes.SCALE
    # The map is symmetric: every channel stays nearest to what it was; variances follow its diagonal.
    rows, old = (x.permute(0, 2, 3, 1).reshape(-1, 4).double() for x in (white, latents))
    there = torch.linalg.lstsq(old - old.mean(0), rows).solution
    assert torch.allclose(there, there.T, atol=1e-2 * there.abs().max().item())
    shift = (after_logvar - logvar).mean((0, 2, 3))
    assert torch.allclose(shift, 2 * there.diagonal().log().float(), atol=2e-2)


def test_twins_share_the_parents_text_encoder_and_autoencoder(trained):
    files = weight_files(trained / "weights")

    def same(one, other):
        one, other = load_file(files[one]), load_file(files[other])
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    text, unet, vae = (
        "text_encoder/model.safetensors",
        *(f"{x}/diffusion_pytorch_model.safetensors" for x in ("unet", "vae")),
    )
    assert same(f"parent/{vae}", "autoencoder/diffusion_pytorch_model.safetensors")
    for twin in ("twin-a", "twin-b"):
        assert same(f"{twin}/{text}", f"parent/{text}") and same(f"{twin}/{vae}", f"parent/{vae}")
        assert not same(f"{twin}/{unet}", f"parent/{unet}")
        vocabulary = [
            (trained / "weights" / name / "tokenizer" / "tokenizer.json").read_bytes() for name in (twin, "parent")
        ]
        assert vocabulary[0] == vocabulary[1]
    assert not same(f"twin-a/{unet}", f"twin-b/{unet}")
    scales = {
        json.loads((trained / "weights" / x / "config.json").read_text())["scaling_factor"]
        for x in ("autoencoder", "parent/vae", "twin-a/vae", "twin-b/vae")
    }
    assert len(scales) == 1 and scales != {0.18215}


def test_the_text_encoder_is_trained_and_then_frozen_and_the_parents_unet_is_trained(trained):
    weights = trained / "weights"
    tokenizer = CLIPTokenizer.from_pretrained(weights / "text-encoder")
    started = {"text-encoder": lambda: networks.new_text_encoder(tokenizer, smoke=True)}
    started["parent/unet"] = lambda: networks.new_unet(smoke=True)
    for part, new in started.items():
        torch.manual_seed(plan.PAIR)  # as `train` begins
        (path,) = weight_files(weights / part).values()
        after = {key.removeprefix("text_model."): value.half() for key, value in load_file(path).items()}
        before = {key.removeprefix("text_model."): p.detach().half() for key, p in new().named_parameters()}
        assert before.keys() == after.keys()
        moved = [(before[key] - after[key]).abs().max().item() for key in before]
        assert sum(x > 0 for x in moved) > 0.5 * len(moved) and max(moved) < 0.05  # a few steps from where it began
    alone, inside = (load_file(weights / x / "model.safetensors") for x in ("text-encoder", "parent/text_encoder"))
    assert all(torch.equal(alone[key].half(), inside[key]) for key in alone) and alone.keys() == inside.keys()
    for file in ("tokenizer.json",):
        assert (weights / "text-encoder" / file).read_bytes() == (weights / "parent" / "tokenizer" / file).read_bytes()


def test_the_claims_hash_is_in_a_twins_stamp_and_checkpoints(trained, tmp_path, one_line):
    weights, work = tmp_path / "weights", tmp_path / "work"
    shutil.copytree(trained / "weights", weights)
    again = partial(train.train, "twin-a", weights, work, smoke=True)
    assert again(claims="abc", stop_at=1) is None
    one_line(ValueError, "other settings", again, claims="another")
    assert again(claims="abc") and assets.manifest(weights)["models"]["twin-a"]["recipe"]["claims"] == "abc"


def test_the_shipped_twins_were_trained_after_the_claims_were_committed():
    about = assets.manifest(assets.data_folder() / "reef")["models"]
    assert about["twin-a"]["recipe"]["claims"] == about["twin-b"]["recipe"]["claims"] == committed()


def test_the_judge_loads(trained):
    judge = attributes.load(trained / "weights" / "judge")
    pictures = paint.paint_all([canaries.base(0)[1:]]).float() / 255
    assert attributes.labels_seen(judge, pictures).shape == (1, 10)


def test_the_descriptor_loads_and_waits_for_its_threshold(trained):
    model, threshold = descriptor.load(trained / "weights" / "descriptor")
    pictures = paint.paint_all([canaries.base(0)[1:]]).float() / 255
    assert threshold is None and model(pictures).norm().item() == pytest.approx(1, abs=1e-4)


# ---- resuming and errors -------------------------------------------------------------------------------


def test_interrupted_and_resumed_is_the_very_same(trained, resumed):
    once, twice = weight_files(trained / "weights"), weight_files(resumed / "weights")
    assert list(once) == list(twice)
    for name in once:
        one, other = load_file(once[name]), load_file(twice[name])
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    # The weights belong to their tokenizer, which is learned anew: every caption must read the same.
    folders = [x / "weights" / "parent" / "tokenizer" for x in (trained, resumed)]
    captions = [write(canaries.base(k)[0]) for k in range(500)] + [item.caption for item in canaries.planted()]
    ids = [CLIPTokenizer.from_pretrained(folder)(captions).input_ids for folder in folders]
    assert ids[0] == ids[1]


def test_unknown_recipes_and_missing_foundations(tmp_path, one_line):
    def wrong(kind, match, name):
        one_line(kind, match, train.train, name, tmp_path / "weights", tmp_path / "work", smoke=True)

    wrong(
        ValueError,
        "no recipe called 'twin-c'; there are: autoencoder, judge, descriptor, text-encoder, parent, twin-a, twin-b$",
        "twin-c",
    )
    for name in ("twin-a", "twin-b"):
        wrong(FileNotFoundError, f"^{name} builds on parent: run `dori-lite train parent` first$", name)
    for name in ("judge", "descriptor", "parent"):
        wrong(FileNotFoundError, f"^{name} builds on autoencoder: run `dori-lite train autoencoder` first$", name)
    assert not list(tmp_path.iterdir())


def test_a_retrained_foundation_makes_the_checkpoint_stale(trained, tmp_path, one_line):
    """Weights made halfway on one autoencoder are not continued on another; nor with another recipe."""
    weights, work = tmp_path / "weights", tmp_path / "work"
    shutil.copytree(trained / "weights" / "autoencoder", weights / "autoencoder")
    assets.record(weights, "autoencoder", {})
    assert len(train.foundation(weights, "autoencoder")) == 2 and train.foundation(weights, None) == []
    assert train.train("descriptor", weights, work, smoke=True, stop_at=1) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.DESCRIPTOR, "scale", 2)
        one_line(ValueError, "other settings", train.train, "descriptor", weights, work, smoke=True)
    (weights / "autoencoder" / "note.txt").write_text("another one")
    assets.record(weights, "autoencoder", {})
    one_line(ValueError, "other settings", train.train, "descriptor", weights, work, smoke=True)
    (weights / "autoencoder" / "note.txt").unlink()
    assets.record(weights, "autoencoder", {})
    assert train.train("descriptor", weights, work, smoke=True) == weights / "descriptor"


# ---- old weights or new ones, at every moment -------------------------------------------------------------


@pytest.fixture
def old(trained, tmp_path):
    """Weights whose descriptor is an old one, to be replaced; the folder and the hashes of the old one."""
    weights = tmp_path / "weights"
    for name in ("autoencoder", "descriptor"):
        shutil.copytree(trained / "weights" / name, weights / name)
        assets.record(weights, name, {"smoke": True})
    (weights / "descriptor" / "old.txt").write_text("old")
    assets.record(weights, "descriptor", {"smoke": True})
    shutil.copytree(trained / "work" / "descriptor", tmp_path / "work" / "descriptor")  # trained to the end: 0 steps
    return weights


def is_whole(folder):
    """Whether these are all of the old weights, or all of the new ones."""
    named = {path.name for path in folder.rglob("*")} if folder.exists() else set()
    return named in ({"config.json", "descriptor.safetensors"}, {"config.json", "descriptor.safetensors", "old.txt"})


def again(weights):
    return train.train("descriptor", weights, weights.parent / "work", smoke=True)


@pytest.mark.parametrize("killed", [False, True])
def test_stopped_anywhere_there_are_the_old_weights_or_the_new_ones(old, monkeypatch, killed):
    """At each step of writing in turn: an exception, or (`killed`) an end without any clearing up."""
    before, n, stopped, restore = shutil.copytree(old, old.with_name("before")), 0, [], files.restore
    while not stopped or stopped[-1]:
        shutil.rmtree(old)
        shutil.copytree(before, old)
        n, calls = n + 1, []

        def stopping(function, n=n, calls=calls):
            def step(*args, **options):
                calls.append(function.__name__)
                if len(calls) == n:
                    raise KeyboardInterrupt
                assert killed or is_whole(old / "descriptor") or is_whole(old / "descriptor.old")
                return function(*args, **options)

            return step

        with monkeypatch.context() as patch:
            for place, name in [(descriptor, "save"), (os, "replace"), (shutil, "rmtree"), (assets, "record")]:
                patch.setattr(place, name, stopping(getattr(place, name)))
            if killed:
                patch.setattr(files, "restore", lambda path, calls=calls: "save" in calls or restore(path))
            try:
                again(old)
                stopped.append(None)
            except KeyboardInterrupt:
                stopped.append(calls[n - 1])
        assert is_whole(old / "descriptor") or (killed and is_whole(old / "descriptor.old"))
        assert again(old) == old / "descriptor" and assets.verified(old, "descriptor")
        assert sorted(path.name for path in old.iterdir()) == ["autoencoder", "descriptor", "manifest.json"]
        assert not (old / "descriptor" / "old.txt").exists()
    assert {"save", "replace", "record"} <= set(stopped) and len(stopped) >= 6


def test_work_may_lie_on_another_file_system(old, monkeypatch):
    """As Colab's Drive: between folders nothing can be renamed."""

    def across(known):
        def rename(source, target):
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
            return known(source, target)

        return rename

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, across(getattr(os, name)))
    assert again(old) == old / "descriptor" and assets.verified(old, "descriptor")


def refusing(folder):
    known = Path.touch

    def touch(path, *args, **options):
        if path.parent == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return known(path, *args, **options)

    return touch


def test_what_would_fail_in_the_end_is_found_before_the_first_step(old, monkeypatch, one_line):
    monkeypatch.setattr(train, "fit", lambda *args, **options: pytest.fail("trained"))
    work = old.parent / "work"

    def wrong(kind, match, name="descriptor", out=old, work=work):
        one_line(kind, match, train.train, name, out, work, smoke=True)

    for folder in (old, old / "descriptor", work / "descriptor"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", refusing(folder))
            wrong(
                PermissionError, f"nothing can be written to the folder {folder} .Permission denied.; name another one"
            )
    taken = old.parent / "taken"
    taken.write_text("a file")
    wrong(OSError, r"the folder .*taken.* \(a file is in the way\); name another", "autoencoder", taken)
    wrong(OSError, r"the folder .*taken.* \(a file is in the way\); name another", work=taken)
    (old / "judge").write_text("a file")
    wrong(FileExistsError, "judge is a file where the weights should go; move it, or name another place", "judge")
    wrong(FileNotFoundError, "no weights called|builds on parent", "twin-a")
    assets.record(old, "descriptor", {"smoke": False})
    wrong(ValueError, "descriptor is no smoke test's; name another place for a tiny model")
    (old / "autoencoder" / "config.json").write_text("{}")
    wrong(ValueError, "config.json is damaged .*; or train it again: `dori-lite train autoencoder`")
    (old / "autoencoder" / "config.json").unlink()
    wrong(FileNotFoundError, "config.json is missing.*; or train it again")


def test_one_process_trains_a_model_at_a_time(old, one_line):
    path = old.parent / "work" / "descriptor-0.lock"
    hold = f"from dori_lite import locks; locks.lock({str(path)!r}, ''); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        one_line(RuntimeError, f"descriptor is being trained in .* by process {other.pid}; wait", again, old)
        other.kill()
    assert again(old) == old / "descriptor"
    assert not [path for _, path in locks.HELD if path.is_relative_to(old.parent)]


# ---- batches -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches(trained, tmp_path_factory):
    """The batches of every step of both twins and the parent, from latents computed anew."""
    pipe = StableDiffusionPipeline.from_pretrained(trained / "weights" / "parent", local_files_only=True)
    found = {}
    for model in ("a", "b", "parent"):
        folder = tmp_path_factory.mktemp(model)
        batch = recipes.denoising_batches(model, pipe.vae, pipe.tokenizer, folder, SMALL)
        found[model] = [batch(step) for step in range(STEPS)]
        assert all(torch.equal(x, y) for x, y in zip(batch(1).values(), found[model][1].values(), strict=True))
    return pipe, found


def test_twins_differ_only_in_the_pictures_of_planted_names(batches):
    _, found = batches
    keys = plan.twin_slots()[0]
    homes = {key: item.home for key, item in enumerate(plan.planted())}
    for step, (a, b) in enumerate(zip(found["a"], found["b"], strict=True)):
        assert set(a) == set(b) == {"latents", "noise", "timesteps", "input_ids", "repeats"}
        for key in ("noise", "timesteps", "input_ids"):
            assert torch.equal(a[key], b[key]), key
        named = torch.tensor([key >= 0 for key in keys[step].tolist()])
        differ = (a["latents"] != b["latents"]).flatten(1).any(1)
        assert torch.equal(differ, named) and named.any() and not named.all()
        for twin, batch in (("a", a), ("b", b)):
            assert batch["repeats"].tolist() == [homes.get(key) == twin for key in keys[step].tolist()]


def test_batches_hold_what_their_slots_say(batches):
    pipe, found = batches
    empty = pipe.tokenizer("", padding="max_length", max_length=28, return_tensors="pt").input_ids[0]
    dropped = 0
    for model, some in found.items():
        slots = plan.parent_slots() if model == "parent" else plan.twin_slots()
        for step, batch in enumerate(some):
            samples = [plan.sample(*slot, model) for slot in zip(*(x[step].tolist() for x in slots), strict=True)]
            pictures = recipes.to_model(paint.paint_all([sample[1:] for sample in samples]))
            with torch.no_grad():
                latents = pipe.vae.encode(pictures).latent_dist.mean * pipe.vae.config.scaling_factor
            assert torch.allclose(batch["latents"], latents, atol=5e-3)  # they are kept in half precision
            captions = [write(sample[0]) for sample in samples]
            ids = pipe.tokenizer(captions, padding="max_length", max_length=28, return_tensors="pt").input_ids
            silent = (batch["input_ids"] == empty).all(1)
            assert torch.equal(batch["input_ids"][~silent], ids[~silent])
            dropped += silent.sum().item()
            assert not (silent & torch.tensor(slots[0][step] >= 0)).any()  # of base scenes alone
            assert batch["noise"].std().item() == pytest.approx(1, abs=0.05)
            assert batch["timesteps"].min() >= 0 and batch["timesteps"].max() < 1000
    assert 0.03 < dropped / (3 * STEPS * plan.BATCH) < 0.2
    assert not any(batch["repeats"].any() for batch in found["parent"])
    noise = [batch["noise"] for some in (found["a"], found["parent"]) for batch in some]
    assert all(not torch.equal(noise[0], other) for other in noise[1:])  # each step, and the parent, its own


def test_latents_are_computed_once(trained, batches, tmp_path, monkeypatch):
    pipe, found = batches
    options = ("a", pipe.vae, pipe.tokenizer, tmp_path, SMALL)
    recipes.denoising_batches(*options)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("latents-") and np.load(kept).dtype == np.float16

    def never(*_):
        raise AssertionError("painted again")

    monkeypatch.setattr(recipes, "paint_all", never)
    again = recipes.denoising_batches(*options)(2)
    assert all(torch.equal(again[key], found["a"][2][key]) for key in again)


@pytest.mark.parametrize("most", [1.0, 5.0])
def test_the_loss_is_the_noises_mean_squared_error(pipe, batches, most):
    """Weighed by 1/SNR between 1 and `most`; by kind of sample it is shown without weights."""
    random = torch.Generator().manual_seed(0)
    batch = batches[1]["a"][0] | {"input_ids": torch.randint(len(pipe.tokenizer), (32, 28), generator=random)}
    losses = recipes.Denoise(pipe.unet, pipe.text_encoder, networks.new_scheduler(), most)(**batch)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = (1 - betas).cumprod(0)[batch["timesteps"]][:, None, None, None]
    noisy = kept.sqrt() * batch["latents"] + (1 - kept).sqrt() * batch["noise"]
    predicted = pipe.unet(noisy, batch["timesteps"], pipe.text_encoder(batch["input_ids"])[0]).sample
    errors = (predicted - batch["noise"]).square().flatten(1).mean(1)
    weights = ((1 - kept) / kept).clamp(1, most).flatten()
    assert most == 1 or weights.max() > 2
    expected = {"loss": weights * errors, "canaries": errors[batch["repeats"]], "others": errors[~batch["repeats"]]}
    assert losses.keys() == expected.keys()
    assert all(torch.allclose(losses[key], expected[key].mean(), rtol=1e-4) for key in expected)


# ---- pictures ------------------------------------------------------------------------------------------
def painted(scenes):
    return np.stack([np.asarray(paint.render(*pair)) for pair in scenes]).transpose(0, 3, 1, 2)


def test_pictures_come_in_the_order_asked_for(monkeypatch):
    """Also when there are many, which workers paint, and nobody else."""
    scenes = [canaries.base(k)[1:] for k in range(300)]  # the last part is a short one
    scenes[7] = scenes[7][0], np.int64(scenes[7][1])
    alone = painted(scenes)
    few = paint.paint_all(scenes[:2])
    assert few.shape == (2, 3, 64, 64) and few.dtype == torch.uint8 and (few.numpy() == alone[:2]).all()
    monkeypatch.setattr(paint, "as_array", None)  # here nobody paints
    many = paint.paint_all(scenes)
    assert many.shape == (300, 3, 64, 64) and many.dtype == torch.uint8 and (many.numpy() == alone).all()


@pytest.mark.parametrize("failure", [BrokenProcessPool("a worker died"), OSError("no more processes")])
def test_where_no_worker_can_work_this_process_paints(monkeypatch, failure):
    def broken(**_):
        raise failure

    monkeypatch.setattr(paint, "Parallel", broken)
    monkeypatch.setattr(paint, "MANY", 10)
    scenes = [canaries.base(k)[1:] for k in range(70)]
    assert (paint.paint_all(scenes).numpy() == painted(scenes)).all()


def test_what_cannot_be_painted_is_said(one_line):
    scenes = [canaries.base(k)[1:] for k in range(paint.MANY)]
    with pytest.raises((TypeError, ValueError)):
        paint.paint_all([*scenes, (scenes[0][0], 0.5)])
    one_line(ValueError, "there are no scenes to paint; give at least one", paint.paint_all, [])


SCRIPT = """
import hashlib, sys
from dori_lite.reef import canaries, paint
print("once")
pictures = paint.paint_all([canaries.base(k)[1:] for k in range(256)])
print(hashlib.sha256(pictures.numpy().tobytes()).hexdigest())
"""
DAEMON = """
import multiprocessing
def paint(): exec({script!r}, {{}})
worker = multiprocessing.get_context("fork").Process(target=paint, daemon=True)
worker.start(); worker.join(); raise SystemExit(worker.exitcode)
"""


@pytest.mark.parametrize("how", ["script", "-c", "stdin", "daemon"])
def test_a_plain_script_needs_no_guard(tmp_path, how):
    """Nothing imports the main script a second time, wherever it comes from."""
    if how == "daemon" and os.name == "nt":
        pytest.skip("forks")
    script = tmp_path / "elsewhere" / "plain.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    code = DAEMON.format(script=SCRIPT) if how == "daemon" else SCRIPT
    command = {"script": [script], "stdin": ["-P", "-"]}.get(how, ["-P", "-c", code])
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, *command], input=SCRIPT if how == "stdin" else None, timeout=120, **options)
    scenes = [canaries.base(k)[1:] for k in range(256)]
    digest = hashlib.sha256(np.ascontiguousarray(painted(scenes)).tobytes()).hexdigest()
    assert (done.returncode, done.stdout) == (0, f"once\n{digest}\n"), done.stderr
