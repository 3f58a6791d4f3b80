"""Stable Diffusion as a `World`: the reef's functions on the real model, with the papers' settings. It has no twin.

    sd = load(world="sd14", prompts="nemo", images="url")
    [target] = sd.targets("VM", count=1)
    found = evaluation.attack(sd, sd.condition(target, prune="Wanda"), target, seeds=range(4), detectors=sd.detectors())

A GPU with 15 GB is enough for one target at a time. Nothing of the pictures or lists is handed on.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

from .. import assets, copies, evaluation, files, masks, metrics, models, nemo, stamps, wanda
from ..checks import check_count
from ..diffusion import generate
from ..nemo_published import published_statistics
from ..nemo_statistics import load as load_statistics
from ..runs import runs_folder
from . import lists, references

SAMPLING = {"guidance": 7.0, "steps": 50}  # NeMo's; the paper's own guidance is not in what we could read
PROMPTS = {"sd14": "nemo", "sd2": "jeon-sd2"}
DOSES = {"Wanda": 0.01, "Wanda, 10 %": 0.1}
METHODS = ("NeMo", *DOSES)
STATISTICS, COMPARED = 400, 64  # captions for NeMo's means and deviations, and for its thresholds
WIDTH_OF_2 = 1024  # of Stable Diffusion 2's embeddings
OWN_SEED = 2**32 - 1  # of the picture that stands for a reference: no table draws it (torch keeps 32 bits of a seed)
KINDS = ("VM", "TM")


def load(
    *names: str,
    device: str | None = None,
    world: str = "sd14",
    prompts=None,
    images="url",
    unmemorized="nemo-unmemorized",
    statistics=None,
    detector: copies.Detector | None = None,
    alignment: Callable | None = None,
    trust: bool = False,
) -> evaluation.World:
    """Stable Diffusion with its targets. `world` is "sd14", "sd2", a folder that `save_pretrained` wrote or a hub id.

    `prompts` is one of `lists.LISTS` or a file [default: the model's in `PROMPTS`]. `images` says where the reference
    pictures come from: "url", the path of a folder of your own, or "generated", the model's own drawing of the caption.
    `unmemorized` is a list of captions for controls and for NeMo. `statistics` is a file for NeMo: the published one,
    after which its τ goes with it, or one that `nemo_statistics.save` wrote; without, both are computed. `detector` and
    `alignment` [default: SSCD at 0.7; CLIP] and `trust` of files that nobody verified are as in `copies.sscd`.

    Raises ValueError for models by name (there are no twins), and as `models.load` does: a model that predicts v is
    refused.
    """
    if names:
        raise ValueError(f"Stable Diffusion has no {names[0]!r}: what needs it can be asked in the reef alone")
    pipe = models.load(world, device)
    large = pipe.unet.config.sample_size >= 32
    if large:  # what a small GPU has room for; slower by a third
        pipe.unet.enable_gradient_checkpointing()
    if prompts is None and world not in PROMPTS:
        raise ValueError(f"{world}: nothing says which captions it memorized; give prompts, a list's name or a file")
    sampling = {**SAMPLING, "batch": 4 if large else 32}
    given = {"pipe": pipe, "images": images, "sampling": sampling, "trust": trust}
    return evaluation.World(
        name=re.sub(r"[^\w.-]|^\W", "-", Path(world).name),  # a folder's, for the run
        models={"own": pipe},
        targets=partial(targets, PROMPTS[world] if prompts is None else prompts, **given),
        detectors=lambda targets=(), seed=0: [detector or sscd(trust)],
        relation=relation,
        localise=localiser(pipe, unmemorized, statistics, sampling, trust),
        hashes={"own": models.fingerprint(pipe)},
        sampling=sampling,
        alignment=alignment or by_clip,
        controls=partial(targets, unmemorized, **given),
    )


@cache
def sscd(trust: bool) -> copies.Detector:
    """SSCD, read from its file once."""
    return copies.sscd(trust)


def relation(target: evaluation.Target, which: str) -> str:
    """The model that is "own" to a target. Raises ValueError for another word: there is no twin."""
    if which != "own":
        raise ValueError(f"Stable Diffusion has no model that is {which!r} to a target, only its 'own'")
    return "own"


def by_clip(images: torch.Tensor, target: evaluation.Target) -> torch.Tensor:
    """Cosine of each picture and the caption under CLIP, [B]."""
    return metrics.alignment_text_image(images, target.caption)


# ---- targets --------------------------------------------------------------------------------------------


def targets(prompts, kind: str | None = None, count: int | None = None, *, pipe, images, sampling, trust=False):
    """The first `count` captions of a list [default: all] with their reference pictures, as `Target`s.

    Of `kind` "VM" or "TM" alone, if it is given. A caption whose picture is not to be had is no target, and a repeated
    caption is one target; what was found is printed. Labels: `kind`, and `origin`, where the picture came from ("url",
    "own" or "generated"). Raises ValueError for a list without the kind, a `count` below 1, and where none was found.
    """
    rows = lists.read(prompts, trust=trust)
    print(f"{prompts}: {lists.described(rows, pipe.tokenizer)}")
    rows = rows[rows["repeats"] == ""]
    if kind is not None:
        if kind not in (known := [k for k in KINDS if (rows["kind"] == k).any()]):
            raise ValueError(f"{prompts} has no captions of kind {kind!r}; it has: {', '.join(known) or 'no kinds'}")
        rows = rows[rows["kind"] == kind]
    count = len(rows) if count is None else check_count("count", count, 1)
    size = models.latent_shape(pipe)[-1] * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    if images == "generated":
        return [own_picture(pipe, row, sampling) for _, row in rows.head(count).iterrows()]
    own, found = (None if images == "url" else images), []
    rows = rows if own is None else rows.assign(url="")  # pictures of one's own, and no others
    for k in range(0, len(rows), 4 * count):  # no more are asked for than are needed
        part = references.collect(rows.iloc[k : k + 4 * count], own=own)
        for _, row in part[part["path"] != ""].iterrows():
            picture = references.open_picture(Path(row["path"]).read_bytes())
            labels = {"kind": row["kind"], "origin": row["origin"]}
            image = references.as_target_image(picture, size)
            found.append(evaluation.Target(row["name"], row["caption"], image, labels))
        shared = part["sha256"][part["sha256"] != ""].duplicated(keep=False).sum()
        print(references.summary(part) + f"; {shared} of them share a file: is it a host's placeholder?" * bool(shared))
        if len(found) >= count:
            break
    if not found:
        raise ValueError(f"{prompts}: no reference picture was found; give a folder of your own, or images='generated'")
    return found[:count]


def own_picture(pipe, row, sampling) -> evaluation.Target:
    """The undefended model's own drawing of a caption, as a target; drawn once and kept in the cache."""
    asked = [models.fingerprint(pipe), row["caption"], OWN_SEED, sampling["guidance"], sampling["steps"]]
    path = assets.cache_folder() / "generated" / f"{files.digest(asked)[:24]}.png"
    if not path.exists():
        drawn = generate(pipe, row["caption"], seeds=[OWN_SEED], **sampling)[0].cpu()
        with files.whole(path) as unfinished:
            files.as_pil(drawn).save(unfinished, format="PNG")
    picture = references.open_picture(path.read_bytes())
    image = references.as_target_image(picture, picture.width)
    return evaluation.Target(row["name"], row["caption"], image, {"kind": row["kind"], "origin": "generated"})


# ---- localisers, as the papers set them -------------------------------------------------------------------


def localiser(pipe, unmemorized, statistics, sampling, trust=False) -> Callable[..., masks.WeightMask]:
    """The function find(model's name, method, prompt, target=None, **options) → mask, for the `METHODS`.

    As the reef's, it keeps what it found in `runs/`; `options` go to the method. Raises ValueError for another method.
    """

    @cache
    def base(**options):  # with the sampling as it is by then: callers may change it
        return wanda.activation_norms(pipe, "", **options)

    @cache
    def settings():
        return nemo_settings(pipe, unmemorized, statistics, trust)

    def find(model: str, method: str, prompt, target=None, **options) -> masks.WeightMask:
        if method not in METHODS:
            raise ValueError(f"no method {method!r}; there are: {', '.join(METHODS)}")
        known = [content_of(unmemorized), content_of(statistics)] if method == "NeMo" else []
        asked = [prompt, options, known, models.fingerprint(pipe), sampling, stamps.code_of_rows()]
        name = files.slug(method, files.digest(asked)[:24])
        path = runs_folder() / "stable-diffusion" / "masks" / f"{name}.safetensors"
        return masks.kept(path, partial(made, method, prompt, options))

    def made(method, prompt, options):
        if method in DOSES:
            which, options = options.get("which", "sixteen"), {k: v for k, v in options.items() if k != "which"}
            options = {**sampling, **options}
            known = base(names=(*wanda.layers(pipe.unet, which),), **options)
            return wanda.localise(pipe, prompt, DOSES[method], base=known, which=which, **options)
        return nemo.localise(pipe, prompt, **{**settings(), **options}).mask(pipe.unet)

    return find


def content_of(source) -> str | None:
    """What stands for a list or a file in a mask's name: a file's SHA-256, a list's name."""
    return files.sha256(source) if source is not None and Path(source).is_file() else source


def nemo_settings(pipe, unmemorized, statistics=None, trust: bool = False) -> dict:
    """What `nemo.localise` needs: statistics, τ and the variant that τ belongs to.

    A published file (`.pt`) brings the published τ; a file of one's own, or none, that of captions of `unmemorized`,
    its last, since its first are the controls. ValueError for a published file and Stable Diffusion 2, whose layers
    have the same sizes.
    """
    if statistics is not None and Path(statistics).suffix == ".pt":
        if pipe.unet.config.cross_attention_dim == WIDTH_OF_2:
            raise ValueError(f"{statistics} is of Stable Diffusion 1.4, and this model is a 2: leave statistics out")
        return {"statistics": published_statistics(pipe, statistics), **nemo.PUBLISHED}
    captions = lists.read(unmemorized, trust=trust)["caption"].tolist()
    known = nemo.statistics(pipe, captions[-STATISTICS:]) if statistics is None else load_statistics(statistics)
    tau, _ = nemo.thresholds(pipe, captions[-COMPARED:], variant="published")
    return {"statistics": known, "tau": tau, "variant": "published"}
