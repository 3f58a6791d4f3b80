"""How the localisers are set in the reef. Everything here was chosen on tuning canaries, which no table reports.

    settings = nemo_settings(pipe, home="a")
    found = nemo.localise(pipe, caption, **settings)
    find = localiser(models, SAMPLING)
    mask = find("twin-a", "Wanda", caption)  # from `runs/`, where it was found before

A mask that was found before is read from `runs/`.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

from .. import files, nemo, neurons, stamps, wanda
from ..checks import check_are_targets, check_count
from ..detection import noise_differences, similarity
from ..masks import WeightMask, kept, of_neurons, pruned
from ..models import embed, encode, fingerprint, value_layers
from ..runs import runs_folder
from . import canaries, captions
from .paint import paint_all

GRID = (0.01, 0.02, 0.05, 0.1, 0.2)  # Wanda's ρ: the dose–response of chapter 3
# The first ρ of the grid at which the tuning canaries' rate of copies is below half of the unpruned one in both
# twins (chapter 3's appendix shows it). The papers' 1 % of Stable Diffusion's long rows is one weight here.
RHO = 0.2
NEURONS = 192  # of the highest by the loss, of a grid of 24, 48, 96, 192, 384: by the same rule
STATISTICS, COMPARED = 2000, 64  # captions for NeMo's means and deviations, and for its thresholds
STEPS = 25  # the sampler's; NeMo's noise differences are taken at its second timestep
FOUND = {}  # NeMo's settings by model, home, variant and world
METHODS = ("Wanda", "NeMo", "NeMo, sixteen layers", "neurons by loss")


def unmemorized(count: int) -> list[str]:
    """Captions that no model memorized: half ordinary ones, half in the canaries' style with names never trained."""
    half = check_count("count", count) // 2
    plain = [captions.write(canaries.base(600_000 + k)[0]) for k in range(count - half)]
    return plain + [captions.write(canaries.held_out("descriptor", k)[0]) for k in range(half)]


def nemo_settings(pipe, home: str, which: str = "seven", variant: str = "code", world: str = "reef") -> dict:
    """What `nemo.localise` needs to know of twin `home` ("a" or "b"): statistics, thresholds, variant and steps.

    `tau_blocked` compares the tuning canaries with unrelated captions (`nemo.thresholds`). Computed once for a model:
    a second call, for other layers too, gives what the first one found. Raises ValueError for another home: the
    parent has no canaries.
    """
    if home not in ("a", "b"):
        raise ValueError(f"NeMo is set on the tuning canaries of a twin, 'a' or 'b'; {home!r} has none")
    key = fingerprint(pipe), home, variant, world
    if key not in FOUND:
        tuning = [i.caption for i in canaries.planted(world) if (i.role, i.split, i.home) == ("canary", "tuning", home)]
        tau, tau_blocked = nemo.thresholds(pipe, unmemorized(COMPARED), tuning, variant=variant, steps=STEPS)
        known = nemo.statistics(pipe, unmemorized(STATISTICS), which="sixteen")
        FOUND[key] = {"statistics": known, "tau": tau, "tau_blocked": tau_blocked, "variant": variant, "steps": STEPS}
    settings = dict(FOUND[key])
    settings["statistics"] = settings["statistics"].of(nemo.layers(pipe.unet, which))
    return settings


def localiser(models: Mapping, sampling: Mapping, world: str = "reef") -> Callable[..., WeightMask]:
    """The function find(model's name, method, prompt, target=None, **options) → mask, for the `METHODS`.

    `prompt` is a caption or an embedding [1, L, D]; "neurons by loss" needs the `target` whose picture an embedding
    brings. `sampling` is Wanda's; `options` go to the method, beside the reef's settings: `seed` to Wanda and to
    neurons by loss, `seeds` and `order` to NeMo. A mask is kept in `runs/` and found once: its place is named by the
    model's weights, as they are now, the method, the prompt, the settings and the code. What the method says of it is
    its `about`. Raises ValueError for an unknown method or model.
    """

    @cache
    def base(model, weights, **options):
        return wanda.activation_norms(models[model], "", **sampling, **options)

    def find(model: str, method: str, prompt, target=None, **options) -> WeightMask:
        if method not in METHODS:
            raise ValueError(f"no method {method!r}; there are: {', '.join(METHODS)}")
        if model not in list(models):
            raise ValueError(f"no model {model!r} was loaded; there are: {', '.join(models)}")
        pipe, weights = models[model], fingerprint(models[model])
        asked = [prompt, target and target.name, options]
        name = files.slug(method, files.digest([asked, weights, sampling, stamps.code_of_rows()])[:24])
        path = runs_folder() / world / "masks" / f"{name}.safetensors"
        return kept(path, partial(made, pipe, weights, model, method, prompt, target, options))

    def made(pipe, weights, model, method, prompt, target, options):
        if method == "Wanda":
            known = base(model, weights, **options)
            return wanda.localise(pipe, prompt, RHO, base=known, **sampling, **options)
        if method == "neurons by loss":
            return by_loss(pipe, prompt, world, target, **options)
        which = "seven" if method == "NeMo" else "sixteen"
        known = nemo_settings(pipe, model.removeprefix("twin-"), which, world=world)
        return nemo.localise(pipe, prompt, **known, **options).mask(pipe.unet)

    return find


def by_loss(pipe, prompt, world: str = "reef", target=None, *, count: int = NEURONS, seed: int = 0) -> WeightMask:
    """The mask of the `count` value neurons that the loss of a picture needs most (`neurons.loss_rises`).

    The picture is the `target`'s [default: the one planted with the caption `prompt`], the loss that under `prompt`, a
    caption or an embedding [1, L, D]. Raises ValueError without a target for an embedding, or for a caption that was
    planted with no picture.
    """
    if target is None:
        said = prompt if isinstance(prompt, str | None) else "an embedding"
        items = [item for item in canaries.planted(world) if item.caption == said and item.role != "template"]
        if not items:
            raise ValueError(f"neurons are ranked by the loss of a planted picture; {said!r:.60} was planted with none")
        name, picture = items[0].name, paint_all([canaries.picture(items[0])[1:]]).float() / 255
    else:
        check_are_targets([target])
        name, picture = target.name, target.image[None]
    scores = neurons.loss_rises(pipe, encode(pipe, picture), prompt, stream=name, seed=seed)
    return WeightMask(of_neurons(pipe.unet, neurons.highest(scores, count)).layers, fingerprint(pipe))


def evidence(pipe, home: str, tuning, others: int = 16, world: str = "reef") -> list[dict]:
    """What `tau_blocked` rests on, one row for each of the `tuning` targets of `world`.

    The highest similarity, over ten noises, of its δ to the δ of `others` unrelated captions (their mean), of the empty
    caption, and of itself with all seven layers blocked; beside both thresholds.
    """

    def delta(prompts, mask=None):
        with pruned(pipe, mask):
            return noise_differences(pipe, prompts, nemo.SEEDS, steps=STEPS)

    def nearest(one, other):
        return similarity(one, other).max().item()

    known = nemo_settings(pipe, home, world=world)
    unrelated, [empty] = delta(unmemorized(others)), delta(embed(pipe, ""))
    whole = of_neurons(pipe.unet, {k: range(v.out_features) for k, v in value_layers(pipe.unet).items()})
    rows = []
    for target in tuning:
        [own], [blocked] = delta(target.caption), delta(target.caption, whole)
        near = [nearest(own, other) for other in unrelated]
        row = {"target": target.name, "unrelated": sum(near) / len(near), "empty": nearest(own, empty)}
        row |= {"all seven blocked": nearest(own, blocked)}
        rows.append(row | {"τ blocked": known["tau_blocked"], "τ": known["tau"]})
    return rows
