"""Run a recipe: read what it builds on, fit, write weights and manifest.

    train("autoencoder", "data/reef", "runs/train")
    train("descriptor", "data/reef", "runs/train", stop_at=500)  # run again, it goes on from there

In a shell: `dori-lite train parent`.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from .. import assets, files, locks
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
NAMES, INSTRUMENTS = tuple(NEEDS), ("autoencoder", "judge", "descriptor")


def train(
    name: str, out, work, smoke: bool = False, stop_at: int | None = None, claims: str | None = None
) -> Path | None:
    """Train `name` (one of NAMES) and write it to `out/name`; working files go to `work`.

    Interrupted, it goes on where it stopped. `smoke` trains a tiny model for a few steps. `claims` is the hash of what
    was claimed before a twin was trained: it is part of its checkpoints from the first step on, and of the manifest.
    Returns the folder, or None when `stop_at` ended training early. Stopped at any moment, `out/name` holds the old
    weights or the new ones, or the next call puts the old ones back.

    What can be known is looked at before the first step. Raises ValueError for an unknown name, damaged weights to
    build on or a tiny model in place of a real one, FileNotFoundError when what it builds on has not been trained,
    OSError where `out` or `work` cannot be written to, RuntimeError while another process trains the same.
    """
    if name not in NAMES:
        raise ValueError(f"no recipe called {name!r}; there are: {', '.join(NAMES)}")
    out, work = Path(out), Path(work)
    check_foundation(out, name)
    check_place(out, work, name, smoke)
    with locks.held(work / f"{name}-{locks.rank()}.lock", f"{name} is being trained in {work}"):
        return train_alone(name, out, work, smoke, stop_at, claims)


def train_alone(name: str, out: Path, work: Path, smoke: bool, stop_at: int | None, claims: str | None) -> Path | None:
    torch.manual_seed(0 if name in INSTRUMENTS else plan.PAIR)
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
    how = {"recipe": recipe, **done, "smoke": smoke, "machine": assets.machine()}
    with files.whole_folder(out / name) as partial:  # beside its place: on another file system nothing can be renamed
        finish(partial)
    if name == "parent" and not smoke:
        write_table(out / "training.csv.gz")
        files.write_json(out / "planted.json", canaries.dealt(plan.planted()))
        for file in ("training.csv.gz", "planted.json"):
            assets.record(out, file)
    assets.record(out, name, how | {"torch": torch.__version__.split("+")[0]})
    return out / name


def check_foundation(out: Path, name: str) -> None:
    """Raise FileNotFoundError or ValueError unless what `name` builds on is in `out`, with the manifest's hashes."""
    for needed in NEEDS[name]:
        if not (out / needed).exists():
            files.restore(out / needed)
        if not (out / needed).exists() or not (out / "manifest.json").exists():
            raise FileNotFoundError(f"{name} builds on {needed}: run `dori-lite train {needed}` first")
        try:
            assets.verified(out, needed)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{error}; or train it again: `dori-lite train {needed}`") from None


def check_place(out: Path, work: Path, name: str, smoke: bool) -> None:
    """Raise OSError or ValueError unless `name` can be written to `out` in the end, and checkpoints to `work`."""
    for folder in (out, work / name):
        files.check_writable(folder)
    if not (out / name).exists():
        files.restore(out / name)
    else:
        if not (out / name).is_dir():
            raise FileExistsError(f"{out / name} is a file where the weights should go; move it, or name another place")
        files.check_writable(out / name)
    if (out / "manifest.json").exists():
        made = assets.manifest(out)["models"].get(name)
        if smoke and made is not None and not made.get("smoke"):
            raise ValueError(f"{out / name} is no smoke test's; name another place for a tiny model")


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
