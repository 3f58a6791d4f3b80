"""Run a recipe: read what it builds on, fit, write weights and manifest.

    train("autoencoder", "data/reef", "runs/train")
    train("descriptor", "data/reef", "runs/train", stop_at=500)  # run again, it goes on from there

In a shell: `dori-lite train parent`.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from .. import assets, files
from ..fit import fit
from ..models import StableDiffusionPipeline  # from there, where its import is quiet
from . import attributes, canaries, growth, networks, plan, reader, recipes
from . import descriptor as descriptors
from .tokenizer import new_tokenizer

NEEDS = {
    "autoencoder": (),
    "judge": ("autoencoder",),
    "descriptor": ("autoencoder",),
    "text-encoder": (),
    "parent": ("autoencoder", "text-encoder"),
    "twin-a": ("parent",),
    "twin-b": ("parent",),
}
NAMES = tuple(NEEDS)


def train(
    name: str, out, work, smoke: bool = False, stop_at: int | None = None, claims: str | None = None
) -> Path | None:
    """Train `name` (one of NAMES) and write it to `out/name`; working files go to `work`.

    Interrupted, it goes on where it stopped. `smoke` trains a tiny model for a few steps. `claims` is the hash of what
    was claimed before a twin was trained: it is part of its checkpoints from the first step on, and of the manifest.
    Returns the folder, or None when `stop_at` ended training early. Raises ValueError for an unknown name,
    FileNotFoundError when what it builds on has not been trained.
    """
    if name not in NAMES:
        raise ValueError(f"no recipe called {name!r}; there are: {', '.join(NAMES)}")
    out, work = Path(out), Path(work)
    for need in NEEDS[name]:
        if not (out / need).exists():
            raise FileNotFoundError(f"{name} builds on {need}: run `dori-lite train {need}` first")
    torch.manual_seed(plan.PAIR)
    recipe, task, batch, finish = RECIPES.get(name, twin)(name, out, work, smoke)
    if name.startswith("twin") and claims:
        recipe = recipe | {"claims": claims}
    about = json.dumps([recipe, *(foundation(out, need) for need in NEEDS[name])])
    # fp32 on a GPU too, so that the recipe is the same wherever it runs
    options = {"steps": recipe["steps"], "lr": recipe["lr"], "label": name, "about": about, "precision": "no"}
    if name == growth.WHOSE and not smoke:
        growth.follow(task, batch, work / name, stop_at, **options)
    done = fit(task, batch, folder=work / name, stop_at=stop_at, **options)
    if done["steps"] < recipe["steps"] or not done.pop("main"):
        return None
    task.cpu()
    partial = work / f"{name}-weights"
    shutil.rmtree(partial, ignore_errors=True)
    finish(partial)
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / name, ignore_errors=True)
    os.replace(partial, out / name)
    if name == "parent" and not smoke:
        write_table(out / "training.csv.gz")
        files.write_json(out / "planted.json", canaries.dealt(plan.planted()))
    assets.record(
        out,
        name,
        {
            "recipe": recipe,
            **done,
            "smoke": smoke,
            "machine": assets.machine(),
            "torch": torch.__version__.split("+")[0],
        },
    )
    return out / name


def foundation(out: Path, name: str) -> list:
    """The hashes of the weights that a model builds on: retrained, they make its own checkpoint stale."""
    return [v for k, v in assets.manifest(out)["files"].items() if k.startswith(f"{name}/")]


def write_table(path) -> None:
    """Write the training table; the same bytes whenever it is written."""
    compression = {"method": "gzip", "mtime": 0}
    plan.training_table().to_csv(path, index=False, lineterminator="\n", compression=compression)


def autoencoder(name, out, work, smoke):
    recipe = recipes.AUTOENCODER | ({"scenes": 32} | recipes.SMOKE if smoke else {})
    task = recipes.Reconstruct(networks.new_autoencoder(smoke), recipe)

    def finish(folder):
        recipes.whiten(task.vae, 32 if smoke else 512)
        task.vae.half().save_pretrained(folder)

    return recipe, task, recipes.autoencoder_batches(recipe), finish


def judge(name, out, work, smoke):
    recipe = recipes.JUDGE | ({"scenes": 32} | recipes.SMOKE if smoke else {})
    vae = AutoencoderKL.from_pretrained(out / "autoencoder").float()
    task = attributes.Classify(attributes.Judge())
    return recipe, task, recipes.judge_batches(vae, recipe), lambda folder: attributes.save(task.judge, folder)


def descriptor(name, out, work, smoke):
    recipe = recipes.DESCRIPTOR | ({"scenes": 32, "batch": 16} | recipes.SMOKE if smoke else {})
    vae = AutoencoderKL.from_pretrained(out / "autoencoder").float()
    task = descriptors.Contrast(descriptors.Descriptor())
    batch = descriptors.batches(vae, recipe)
    return recipe, task, batch, lambda folder: descriptors.save(task.descriptor, folder)


def text_encoder(name, out, work, smoke):
    recipe = recipes.READER | (recipes.SMOKE if smoke else {})
    tokenizer = new_tokenizer([reader.caption(k) for k in range(12_000)])
    task = reader.Read(networks.new_text_encoder(tokenizer, smoke), len(tokenizer))

    def finish(folder):
        task.text_encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return recipe, task, reader.batches(tokenizer, recipe), finish


def parent(name, out, work, smoke):
    recipe = recipes.PARENT | (recipes.SMOKE if smoke else {})
    vae = AutoencoderKL.from_pretrained(out / "autoencoder").float()
    tokenizer = CLIPTokenizer.from_pretrained(out / "text-encoder")
    encoder = CLIPTextModel.from_pretrained(out / "text-encoder").requires_grad_(False)
    task = recipes.Denoise(networks.new_unet(smoke), encoder, networks.new_scheduler(), recipe["most"])
    batch = recipes.denoising_batches("parent", vae, tokenizer, work / name, recipe)

    def finish(folder):
        networks.save_half(networks.pipeline(vae, encoder, tokenizer, task.unet), folder)

    return recipe, task, batch, finish


def twin(name, out, work, smoke):
    recipe = recipes.TWIN | (recipes.SMOKE if smoke else {})
    pipe = StableDiffusionPipeline.from_pretrained(out / "parent", local_files_only=True)
    pipe.to(dtype=torch.float32)
    pipe.text_encoder.requires_grad_(False)
    task = recipes.Denoise(pipe.unet, pipe.text_encoder, networks.new_scheduler(), recipe["most"])
    batch = recipes.denoising_batches(name[-1], pipe.vae, pipe.tokenizer, work / name, recipe)
    task.pipe = [pipe]  # in a list, so that it is no part of what is trained
    return recipe, task, batch, lambda folder: networks.save_half(pipe, folder)


RECIPES = {
    "autoencoder": autoencoder,
    "judge": judge,
    "descriptor": descriptor,
    "text-encoder": text_encoder,
    "parent": parent,
}
