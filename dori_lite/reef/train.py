"""Run a recipe: read what it builds on, fit, write weights and manifest.

    train("autoencoder", "data/reef", "runs/train")
    train("descriptor", "data/reef", "runs/train", stop_at=500)  # run again, it goes on from there

In a shell: `dori-lite train parent`.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from .. import assets, files, locks
from ..fit import fit
from ..models import StableDiffusionPipeline  # from there, where its import is quiet
from ..runs import rank
from . import attributes, canaries, networks, recipes
from . import descriptor as descriptors
from .captions import write
from .tokenizer import new_tokenizer

NAMES = ("autoencoder", "judge", "descriptor", "parent", "twin-a", "twin-b")
NEEDS = {name: "parent" if name.startswith("twin") else "autoencoder" for name in NAMES} | {"autoencoder": None}


def train(name: str, out, work, smoke: bool = False, stop_at: int | None = None) -> Path | None:
    """Train `name` (one of NAMES) and write it to `out/name`; working files go to `work`.

    Interrupted, it goes on where it stopped. `smoke` trains a tiny model for a few steps. Returns the
    folder, or None when `stop_at` ended training early. Stopped at any moment, `out/name` holds the old weights or
    the new ones, or the next call puts the old ones back.

    What can be known is looked at before the first step. Raises ValueError for an unknown name, damaged weights to
    build on or a tiny model in place of a real one, FileNotFoundError when what it builds on has not been trained,
    OSError where `out` or `work` cannot be written to, RuntimeError while another process trains the same.
    """
    if name not in NAMES:
        raise ValueError(f"no recipe called {name!r}; there are: {', '.join(NAMES)}")
    out, work = Path(out), Path(work)
    check_foundation(out, name)
    check_place(out, work, name, smoke)
    with locks.held(work / f"{name}-{rank()}.lock", f"{name} is being trained in {work}"):
        return train_alone(name, out, work, smoke, stop_at)


def train_alone(name: str, out: Path, work: Path, smoke: bool, stop_at: int | None) -> Path | None:
    torch.manual_seed(0)
    recipe, task, batch, finish = RECIPES.get(name, twin)(name, out, work, smoke)
    about = json.dumps([recipe, foundation(out, NEEDS[name])])
    options = {"steps": recipe["steps"], "lr": recipe["lr"], "label": name, "about": about}
    done = fit(task, batch, folder=work / name, stop_at=stop_at, **options)
    if done["steps"] < recipe["steps"] or not done.pop("main"):
        return None
    task.cpu()
    how = {"recipe": recipe, **done, "smoke": smoke, "machine": assets.machine()}
    with files.whole_folder(out / name) as partial:  # beside its place: on another file system nothing can be renamed
        finish(partial)
    if name == "parent" and not smoke:
        write_table(out / "training.csv.gz")
        assets.record(out, "training.csv.gz")
    assets.record(out, name, how | {"torch": torch.__version__.split("+")[0]})
    return out / name


def check_foundation(out: Path, name: str) -> None:
    """Raise FileNotFoundError or ValueError unless what `name` builds on is in `out`, with the manifest's hashes."""
    if not (needed := NEEDS[name]):
        return
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


def foundation(out: Path, name: str | None) -> list:
    """The hashes of the weights that a model builds on: retrained, they make its own checkpoint stale."""
    return [v for k, v in assets.manifest(out)["files"].items() if k.startswith(f"{name}/")] if name else []


def write_table(path) -> None:
    """Write the training table; the same bytes whenever it is written."""
    compression = {"method": "gzip", "mtime": 0}
    canaries.training_table().to_csv(path, index=False, lineterminator="\n", compression=compression)


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


def parent(name, out, work, smoke):
    recipe = recipes.PARENT | (recipes.SMOKE if smoke else {})
    vae = AutoencoderKL.from_pretrained(out / "autoencoder").float()
    tokenizer = new_tokenizer(tokenizer_captions())
    text_encoder, unet = networks.new_text_encoder(tokenizer, smoke), networks.new_unet(smoke)
    task = recipes.Denoise(unet, text_encoder, networks.new_scheduler(), recipe["most"])
    batch = recipes.denoising_batches("parent", vae, tokenizer, work / name, recipe["steps"])

    def finish(folder):
        networks.save_half(networks.pipeline(vae, text_encoder, tokenizer, unet), folder)

    return recipe, task, batch, finish


def tokenizer_captions() -> list[str]:
    """What the tokenizer is learned from: the captions of the parent's first batches, and held-out ones.

    The names of held-out captions are words to it too, so that they are no rarer a kind of text.
    """
    slots = zip(*map(first(200), canaries.parent_slots()), strict=True)
    seen = [write(canaries.sample(key, exposure, "parent")[0]) for key, exposure in slots]
    return seen + [write(canaries.held_out("descriptor", k)[0]) for k in range(26 * len(canaries.UNTRAINED_WORDS))]


def twin(name, out, work, smoke):
    recipe = recipes.TWIN | (recipes.SMOKE if smoke else {})
    pipe = StableDiffusionPipeline.from_pretrained(out / "parent", local_files_only=True)
    pipe.to(dtype=torch.float32)
    pipe.text_encoder.requires_grad_(False)
    task = recipes.Denoise(pipe.unet, pipe.text_encoder, networks.new_scheduler(), recipe["most"])
    batch = recipes.denoising_batches(name[-1], pipe.vae, pipe.tokenizer, work / name, recipe["steps"])
    return recipe, task, batch, lambda folder: networks.save_half(pipe, folder)


RECIPES = {"autoencoder": autoencoder, "judge": judge, "descriptor": descriptor, "parent": parent}


def first(steps):
    return lambda slots: slots[:steps].ravel().tolist()
