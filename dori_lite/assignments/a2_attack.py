"""The part of "Break the pruned model" that is judged by pictures: whose picture, and how near an attack comes to it.

    target = canary(salt="practice", student="practice")
    given = attack_given(key, "practice")  # its latent, its caption's embedding, seeds, and Wanda's mask in packed bits
    share, reason = attack_judge(key, "practice", given, attack_call(attack, given))

The mask is made by the grader; what an attack returns is only ever given to the grader's own model.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from .. import dori, evaluation, masks, models, wanda
from ..book import checks, publish
from ..reef import world as reef
from .a2_parts import BUDGET
from .parts import Key, chosen

STEPS = 25  # of an attack, with eight samples each
RUNS, NOISES = 2, 4  # attacks with a seed of their own, and drawings under each trigger
ROOM, AHEAD = 0.2, 0.15  # of the pool: gained by the published attack; ahead of every control
# Measured at fixed noises: the score after 25 steps differs between seeds of the attack by a standard deviation of 0.09
# on the three tuning canaries that came back (0.02 to 0.14; four seeds each) and of 0.06 in the pool (three seeds). The
# difference of two means of RUNS seeds has the same; the tolerance is about twice that.
TOLERANCE = 0.15
LEAST = 0.05  # so far above the caption's score lies the bar, whatever the reference did


# ---- whose picture ------------------------------------------------------------------------------------


@cache
def pool() -> tuple[str, ...]:
    """Names of the planted pictures that 25 steps bring back, by chapter 4's published run.

    In the twin that saw it, pruned by Wanda, the mean score rises by ROOM or more, and ends AHEAD or more of each model
    that never saw the picture (unpruned, pruned, under the same mask). Attacks start from the caption.
    """
    rows = publish.published("04_the_picture_comes_back").rows("attack")
    rows = rows[(rows["start"] == "prompt") & (rows["role"] == "canary") & rows["steps"].isin([0, STEPS])]
    score = rows.pivot(index="target", columns=["condition", "steps"], values="descriptor mean")
    own, controls = score["pruned by Wanda"], ["never saw it", "never saw it, pruned", "never saw it, same mask"]
    never = score[controls].xs(STEPS, axis=1, level="steps").max(axis=1)
    comes_back = (own[STEPS] - own[0] >= ROOM) & (own[STEPS] - never >= AHEAD)
    return tuple(sorted(score.index[comes_back]))


def canary(salt: str, student: str) -> evaluation.Target:
    """The planted picture that is a student's to bring back: one of the `pool`."""
    return target_of(*chosen(pool(), 1, salt, student))


def target_of(name: str) -> evaluation.Target:
    return targets()[name]


@cache
def targets() -> dict[str, evaluation.Target]:
    return {target.name: target for target in reef.planted()}


@cache
def twin(home: str) -> evaluation.World:
    """The reef with one twin, on the CPU, so that the same answer gets the same grade."""
    return reef.load(f"twin-{home}", device="cpu")


def pruned(target) -> evaluation.Condition:
    """The twin that saw the picture, pruned by Wanda for its caption."""
    return twin(target.labels["home"]).condition(target, "own", prune="Wanda")


# ---- what goes to the child and comes back --------------------------------------------------------------


def array(value) -> np.ndarray:
    """What a student's function returned, as an array; raises NotAttempted for `...`."""
    return torch.as_tensor(checks.attempted(value)).detach().cpu().numpy()


def tensors(given: Mapping, *names: str, of: str = "") -> list[torch.Tensor]:
    """Arrays of what is given, as tensors that may be changed."""
    return [torch.from_numpy(np.array(given[f"{name}{of}"])) for name in names]


def attack_given(key: Key, student: str) -> dict:
    """x_0 [1, C, h, w], y [1, L, D], the seeds [RUNS], the home (0 or 1), and the mask's bits of each layer."""
    target = canary(key.salt, student)
    condition = pruned(target)
    given = {"x_0": models.encode(condition.pipe, target.image[None]).numpy()}
    given["y"] = models.embed(condition.pipe, target.caption).numpy()
    given["seeds"] = np.array([key.seed(student, "attack", k) for k in range(RUNS)])
    given["home"] = np.array("ab".index(target.labels["home"]))
    return given | {f"mask {name}": np.packbits(where.numpy()) for name, where in condition.mask.layers.items()}


def attack_call(attack, given: Mapping) -> dict:
    """The triggers that the student's attack finds in the pruned twin, [RUNS, L, D], one for each seed."""
    home = "ab"[int(given["home"])]
    pipe, found = twin(home).models[f"twin-{home}"], []
    with masks.pruned(pipe, unpacked(pipe.unet, given)):
        for seed in given["seeds"]:
            with counted(pipe.unet):
                found.append(array(attack(pipe.unet, *tensors(given, "x_0", "y"), int(seed))))
    return {"triggers": np.concatenate(found)}


def unpacked(unet, given: Mapping) -> masks.WeightMask:
    """The mask whose bits are given."""
    found = {}
    for name, module in wanda.layers(unet).items():
        bits = np.unpackbits(given[f"mask {name}"], count=module.weight.numel())
        found[name] = torch.from_numpy(bits.astype(bool)).view(module.weight.shape)
    return masks.WeightMask(found)


@contextmanager
def counted(unet):
    """Raise ValueError when the U-Net is shown more noisy latents than the BUDGET."""
    spent = 0

    def count(_, places, names):
        nonlocal spent
        spent += len(places[0] if places else names["sample"])
        if spent > BUDGET:
            raise ValueError(f"the attack shows the U-Net more than {BUDGET} noisy latents; take {STEPS} steps of 8")

    handle = unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


# ---- judging ----------------------------------------------------------------------------------------------


@contextmanager
def one_thread():
    """On another number of threads sums differ in their last digits, and attacks let these grow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def scores(target, prompts: torch.Tensor, first: int) -> list[float]:
    """Mean score of what the pruned twin draws under each of the embeddings [N, L, D], from NOISES noises each."""
    world = twin(target.labels["home"])
    detector = world.detectors([target], count=64)[0]  # the descriptor, which needs no rivals
    with one_thread(), pruned(target) as pipe:
        drawn = evaluation.grid(pipe, prompts, range(first, first + NOISES), **world.sampling)
    return [detector.scores(shots, target.image.expand_as(shots)).mean().item() for shots in drawn]


@cache
def stakes(name: str, seed: int, first: int) -> tuple[float, float]:
    """The caption's score, and the mean score of RUNS reference attacks. Computed once for all who have the canary."""
    target = target_of(name)
    with one_thread(), pruned(target) as pipe:
        x_0 = models.encode(pipe, target.image[None]).expand(RUNS, -1, -1, -1)
        y = models.embed(pipe, target.caption)
        found = dori.find_triggers(pipe, x_0, y, steps=STEPS, seed=seed).embeddings
    caption, *reached = scores(target, torch.cat([y, found]), first)
    return caption, sum(reached) / RUNS


def attack_judge(key: Key, student: str, given: Mapping, returned: Mapping) -> tuple[float, str]:
    """The share, from the caption's score (0) to the reference attack's less the tolerance (1), and a reason."""
    target, triggers = canary(key.salt, student), returned.get("triggers")
    shape = (RUNS, *given["y"].shape[1:])
    if triggers is None or triggers.shape != shape or triggers.dtype.kind != "f" or not np.isfinite(triggers).all():
        return 0.0, f"these are no triggers: finite numbers [1, {shape[1]}, {shape[2]}] for each seed"
    first = key.seed(target.name, "noises of the attack")
    caption, reference = stakes(target.name, key.seed(target.name, "the reference attack"), first)
    try:
        reached = sum(scores(target, torch.from_numpy(triggers).float(), first)) / RUNS
    except ValueError:  # numbers so large that no picture comes of them
        return 0.0, "under these triggers the twin draws nothing"
    bar = caption + max(reference - TOLERANCE - caption, (reference - caption) / 2, LEAST)
    said = (
        f"score {reached:.2f}; under the caption {caption:.2f}, the package's attack {reference:.2f}; full at {bar:.2f}"
    )
    return round(min(1.0, max(0.0, (reached - caption) / (bar - caption))), 3), said
