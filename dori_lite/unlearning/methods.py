"""Methods of unlearning: from a model, and pictures that it is not to hold any more, to a new model.

    retained, (surrogates, _) = forgetting.retained(world, targets), forgetting.surrogates(world, targets)
    unlearned = unlearn(pipe, targets, "adversarial", retained, surrogates, folder="runs/unlearned")
    look(world, Condition("unlearned", unlearned), targets[0], targets[0].caption, seeds=seeds, detectors=detectors)

All are the one loop (`unlearning.loop`); they differ in the embeddings y that the wrong answers x̃ come with, and are
given equal numbers of samples through the U-Net, the attack's counted. Your own function (pipe, targets, retained,
surrogates, folder=...) → pipeline stands beside them.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..checks import check_count, check_seed, check_targets
from ..diffusion import generator
from ..dori import SAMPLES, find_triggers
from ..dori import starts as begin
from ..models import StableDiffusionPipeline, check_latents, conditions, encode, fingerprint
from .loop import BATCH, forgetting

ROUNDS, UPDATES, LR = 20, 25, 1e-4  # updates of the U-Net in a round, which begins with an attack
ATTACK = {"steps": 10, "lr": 0.1, "batch": 4}  # of each trigger in each round
SAME = 1e-3  # of a latent's length: a surrogate nearer than that is the picture
SLOTS = 5  # triggers of a target, each searched for in so many rounds, and then begun anew


# ---- what wrong answers come with: functions (pipe, targets, others, round, triggers, seed) → y [targets, m, L, D] ---


def own(pipe, targets) -> torch.Tensor:
    """The embeddings of the targets' captions, [targets, 1, L, D], in the U-Net's precision."""
    return conditions(pipe, [target.caption for target in targets])[:, None]


def captions(pipe, targets, others, number: int, triggers, seed: int) -> torch.Tensor:
    """The targets' captions."""
    return own(pipe, targets)


def starts(pipe, targets, others, number: int, triggers, seed: int) -> torch.Tensor:
    """Where this round's triggers began: captions, random places at their scale, captions of retained pictures."""
    caption, found = own(pipe, targets)[:, 0], []
    for slot in range(SLOTS):
        began = began_in(number, slot)
        names, kind = [f"{target.name} {began} {slot}" for target in targets], (began + slot) % 3
        if kind == 0:
            found.append(caption)
        elif kind == 1:
            found.append(begin(pipe, caption, "random", seed, names, caption.dtype))
        else:
            chosen = [torch.randint(len(others), (), generator=generator(seed, name, "another")) for name in names]
            found.append(others[torch.stack(chosen)].to(caption))
    return torch.stack(found, 1)


def began_in(number: int, slot: int) -> int:
    """The round in which the trigger of a slot was last begun."""
    return max(0, number - (number + slot) % SLOTS)


def with_captions(pipe, targets, y) -> torch.Tensor:
    """`y`, and the targets' captions before it: without them nobody asks for the surrogates in these words."""
    return torch.cat([own(pipe, targets), y], 1)


def no_attack(pipe, targets, others, number: int, triggers, seed: int) -> torch.Tensor:
    """The triggers' starts, and the caption."""
    return with_captions(pipe, targets, starts(pipe, targets, others, number, triggers, seed))


def adversarial(pipe, targets, others, number: int, triggers, seed: int) -> torch.Tensor:
    """DoRI's triggers y_adv (the paper's), and the caption."""
    return with_captions(pipe, targets, triggers)


def moves(pipe, targets, others, number: int, triggers, seed: int) -> torch.Tensor:
    """From the triggers' starts as far as they went, token by token, in random directions: each keeps its own."""
    y = starts(pipe, targets, others, number, triggers, seed)
    keys = [f"{began_in(number, slot)} {slot}" for slot in range(SLOTS)]
    drawn = torch.stack([torch.randn(y[:, 0].shape, generator=generator(seed, "moves", key)) for key in keys], 1).to(y)
    moved = y + (triggers - y).norm(dim=-1, keepdim=True) * drawn / drawn.norm(dim=-1, keepdim=True)
    return with_captions(pipe, targets, moved)


def grown(pipe, targets, others, number: int, triggers, seed: int, samples: int = SAMPLES) -> torch.Tensor:
    """Triggers [targets, `SLOTS`, L, D] after one more round of attack on the model as it is now.

    Each is searched for in `SLOTS` rounds, `ATTACK` in each, and then begun anew from another of the `starts`: so some
    are young and some old, and all know the model. `triggers` are the last round's, None before the first.
    """
    y = starts(pipe, targets, others, number, None, seed)
    if triggers is not None:
        old = torch.tensor([(number + slot) % SLOTS != 0 for slot in range(SLOTS)])
        y = torch.where(old[None, :, None, None].to(y.device), triggers.to(y), y)
    latents = encode(pipe, torch.stack([target.image for target in targets])).repeat_interleave(SLOTS, 0)
    streams = [f"{target.name} {number} {slot}" for target in targets for slot in range(SLOTS)]
    options = {"seed": seed, "streams": streams, "samples": samples, **ATTACK}
    found = find_triggers(pipe, latents, y.flatten(0, 1), **options)
    return found.embeddings.to(y).view_as(y)


# ---- methods ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What the wrong answers come with (None: there are none), and what else there is."""

    embeddings: Callable | None
    attacks: bool = False  # triggers are grown for it, against the model as it is now
    retains: bool = True
    share: float = 1.0  # of the samples that the others are given


METHODS = {
    "adversarial": Method(adversarial, attacks=True),
    "continued": Method(None),
    "caption": Method(captions),
    "random moves": Method(moves, attacks=True),
    "nothing retained": Method(captions, retains=False, share=0.1),  # it takes no more
    "no attack": Method(no_attack),
}


def unlearn(
    pipe,
    targets,
    method: str,
    retained,
    surrogates,
    *,
    folder,
    rounds: int = ROUNDS,
    lr: float = LR,
    seed: int = 0,
    batch=BATCH,
    samples: int = SAMPLES,
    **options,
):
    """A new pipeline, like `pipe` but for its U-Net, that one of the `METHODS` trained to forget the `targets`.

    `retained` are latents [R, C, h, w] and embeddings [R, L, D], `surrogates` latents [targets, n, C, h, w]. A round is
    an attack and `UPDATES` of the adversarial method; every method is given what its `rounds` cost (`cost`).
    Interrupted, the same call goes on from the checkpoint in `folder`. Where a GPU has no room: a smaller `batch` of
    updates, fewer `samples` at once in the attack, and in `options`, which go to `forgetting`, another `optimizer`. A
    U-Net in half precision is trained in fp32. Raises ValueError for an unknown method, for surrogates that are not as
    many as targets or the picture itself, and as `forgetting` does.
    """
    if method not in [*METHODS]:
        raise ValueError(f"no method {method!r}; there are: {', '.join(METHODS)}")
    check_targets(targets)
    how, seed, new = METHODS[method], check_seed(seed), copied(pipe)
    steps = updates(method, len(targets), rounds, batch)
    wrong, state = surrogates if how.embeddings else None, {}
    if how.embeddings:
        check_surrogates(pipe, targets, surrogates)

    def next_round(number):
        if how.attacks:
            state["triggers"] = grown(new, targets, retained[1], number, state.get("triggers"), seed, samples)
        if how.embeddings:
            state["y"] = how.embeddings(new, targets, retained[1], number, state.get("triggers"), seed)

    next_round(0)
    about = json.dumps([fingerprint(pipe), method, [t.name for t in targets], seed, ATTACK, SLOTS, UPDATES])
    options |= {"steps": steps, "lr": lr, "batch": batch, "folder": folder, "seed": seed}
    options |= {"label": method, "about": about}
    for step, _ in forgetting(new, retained if how.retains else None, wrong, state, **options):
        if (step + 1) % UPDATES == 0 and step + 1 < steps:
            next_round((step + 1) // UPDATES)
    return new


def check_surrogates(pipe, targets, surrogates) -> None:
    """Raise ValueError unless there are some for each target, and none is the target's picture."""
    shape = [*getattr(surrogates, "shape", ())]
    if len(shape) != 5 or shape[0] != len(targets):
        raise ValueError(
            f"surrogates have shape {shape}; give latents [{len(targets)}, n, C, h, w], some of each target"
        )
    for target, some in zip(targets, surrogates, strict=True):
        check_latents(pipe, some)
        x_0 = encode(pipe, target.image[None])
        if ((some.to(x_0) - x_0).flatten(1).norm(dim=1) < SAME * x_0.norm()).any():
            raise ValueError(f"a surrogate of {target.name} is the picture itself; give a wrong answer in its place")


def cost(method: str, targets: int, count: int, batch=BATCH) -> int:
    """Samples that go through the U-Net, forwards and backwards, in so many updates by a method, attacks included."""
    how, rounds = METHODS[method], -(-check_count("updates", count) // UPDATES)
    attack = check_count("targets", targets) * SLOTS * ATTACK["steps"] * ATTACK["batch"] if how.attacks else 0
    return count * (batch[0] * how.retains + batch[1] * (how.embeddings is not None)) + rounds * attack


def updates(method: str, targets: int, rounds: int, batch=BATCH) -> int:
    """How many updates a method may make for what the adversarial one costs in so many rounds, or its `share` of it."""
    budget = cost("adversarial", targets, check_count("rounds", rounds) * UPDATES, batch)
    if METHODS[method].attacks:
        return rounds * UPDATES
    return int(METHODS[method].share * budget) // cost(method, targets, 1, batch)


def copied(pipe):
    """The pipeline with a U-Net of its own, in fp32 or wider; all else is shared."""
    unet = copy.deepcopy(pipe.unet)
    parts = pipe.components | {"unet": unet if unet.dtype == torch.float64 else unet.float()}  # `.to(dtype)` warns
    new = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    new.set_progress_bar_config(disable=True)
    return new
