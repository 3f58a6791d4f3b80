"""Assignment 2, "Break the pruned model": prune by Wanda, attack by gradient descent, and say if a memory was found.

    a2.check("dori_loss", dori_loss, a2.PRACTICE)
    target = a2.canary(salt="practice", student="practice")  # the picture that is this student's to bring back

Masks, losses and verdicts are compared with answers written out; a trigger is judged by what the pruned twin draws.
"""

from collections.abc import Mapping

import numpy as np

from ..book import checks
from .a2_attack import STEPS, array, attack_call, attack_given, attack_judge, tensors, twin
from .a2_attack import canary as canary
from .a2_attack import pool as pool
from .a2_checks import TESTS
from .a2_parts import BUDGET, case, curves, layer, near, plain_found, plain_loss, plain_mask
from .a2_parts import alphas as alphas
from .parts import Key, Part, check_ask

NAME, TITLE = "a2", "Break the pruned model"
PRACTICE = {"share": 0.2, "among": "row", "weight": "one", "lead": 0.2, "over_noises": "mean"}
CHOICES = {"share": (0.05, 0.1, 0.2, 0.3), "among": ("row", "layer"), "weight": ("one", "alpha", "one minus alpha")}
CHOICES |= {"lead": (0.1, 0.15, 0.2, 0.3), "over_noises": ("mean", "median")}
OPEN = ("alphas",)  # what graded answers may use of this module
LAYERS, LOSSES, CURVES = 6, 3, 60  # hidden inputs of each kind
NORMS, SAMPLED = ("weight", "norms", "base"), ("x_0", "y", "noise", "t", "alphas")  # what the functions take


def asked(ask: Mapping) -> str:
    """The questions, in words. Raises ValueError for an `ask` that is not of `CHOICES`."""
    check_ask(ask, CHOICES)
    where = {"row": "each row of the weight", "layer": "the whole weight"}[ask["among"]]
    weight = {"one": "1", "alpha": "ᾱ_t", "one minus alpha": "1 − ᾱ_t"}[ask["weight"]]
    return "\n".join(
        [
            f"wanda_mask: the top {ask['share']:.0%} of {where}, rounded down, at each call",
            f"dori_loss:  each sample's squared error counts with the weight {weight}; then a plain mean over samples",
            f"attack:     the U-Net may be shown {BUDGET} noisy latents ({STEPS} steps of 8); the loss is up to you",
            f"found:      a lead of {ask['lead']} or more; scores are {ask['over_noises']}s over noises",
        ]
    )


def check(name: str, given, ask: Mapping) -> bool | None:
    """Print and return how the answer `name` does; see `checks.check`. Raises ValueError for another name or `ask`."""
    if name not in TESTS:
        raise ValueError(f"no part {name!r} in this assignment; there are: {', '.join(TESTS)}")
    return checks.check(f"A2 {name}", given, TESTS[name](check_ask(ask, CHOICES)))


# ---- wanda_mask, dori_loss, found: compared with answers written out --------------------------------------


def layers_given(key: Key, student: str) -> dict:
    given = {}
    for k in range(LAYERS):
        found = layer(key.seed(student, "wanda_mask", k), 1 + k % 3, ((5, 39), (12, 118))[k % 2])
        given |= {f"{n} {k}": v.numpy() for n, v in zip(NORMS, found, strict=True)}
    return given


def layers_call(wanda_mask, given) -> dict:
    return {f"mask {k}": array(wanda_mask(*tensors(given, *NORMS, of=f" {k}"))) for k in range(LAYERS)}


def layers_judge(key: Key, student: str, given, returned) -> tuple[float, str]:
    right = 0
    for k in range(LAYERS):
        known = tensors(given, *NORMS, of=f" {k}")
        mask = plain_mask(*known, key.ask["share"], key.ask["among"]).numpy()
        found = returned.get(f"mask {k}")
        right += found is not None and found.dtype == bool and np.array_equal(found, mask)
    return right / LAYERS, f"{right} of {LAYERS} masks are right"


def losses_given(key: Key, student: str) -> dict:
    given = {}
    for k in range(LOSSES):
        found = case(key.seed(student, "dori_loss", k), 3 + k)
        given |= {f"{n} {k}": v.numpy() for n, v in zip(SAMPLED, found, strict=True)}
    return given


def losses_call(dori_loss, given) -> dict:
    unet, returned = twin("a").models["twin-a"].unet, {}
    for k in range(LOSSES):
        loss, gradient = checks.attempted(dori_loss(unet, *tensors(given, *SAMPLED, of=f" {k}")))
        returned |= {f"loss {k}": array(loss), f"gradient {k}": array(gradient)}
    return returned


def losses_judge(key: Key, student: str, given, returned) -> tuple[float, str]:
    unet, right = twin("a").models["twin-a"].unet, {"loss": 0, "gradient": 0}
    for k in range(LOSSES):
        known = tensors(given, *SAMPLED, of=f" {k}")
        for name, value in zip(right, plain_loss(unet, *known, key.ask["weight"]), strict=True):
            found = returned.get(f"{name} {k}")
            fits = found is not None and found.dtype.kind == "f" and found.size == value.numel()
            right[name] += fits and near(found.reshape(value.shape), value)
    said = f"{right['loss']} of {LOSSES} losses and {right['gradient']} of {LOSSES} gradients are right"
    return sum(right.values()) / (2 * LOSSES), said


def curves_given(key: Key, student: str) -> dict:
    own, never = curves(key.seed(student, "found"), CURVES, key.ask["lead"], key.ask["over_noises"])
    return {"own": own.numpy(), "twin": never.numpy()}


def curves_call(found, given) -> dict:
    pairs = zip(*tensors(given, "own", "twin"), strict=True)
    return {"found": np.array([bool(array(found(own, never))) for own, never in pairs])}


def curves_judge(key: Key, student: str, given, returned) -> tuple[float, str]:
    pairs = zip(*tensors(given, "own", "twin"), strict=True)
    right = np.array([plain_found(*pair, key.ask["lead"], key.ask["over_noises"]) for pair in pairs])
    said = returned.get("found")
    if said is None or said.shape != right.shape or said.dtype != bool:
        return 0.0, "there is no verdict for each pair of curves"
    hits = [(said == right)[right == answer].mean() for answer in (True, False)]
    return max(
        0.0, float(sum(hits)) - 1
    ), f"{(said == right).sum()} of {CURVES} verdicts are right (guessing gets nothing)"


PARTS = (
    Part("wanda_mask", 25, layers_given, layers_call, layers_judge),
    Part("dori_loss", 25, losses_given, losses_call, losses_judge),
    Part("attack", 30, attack_given, attack_call, attack_judge),
    Part("found", 20, curves_given, curves_call, curves_judge),
)


def rehearse(name: str, given, ask: Mapping, salt: str, student: str) -> float | None:
    """Judge the answer `name` as the grader does, under other hidden inputs; print the share of its points.

    Returns it, None for what is not attempted. An exception of the student's is named.
    """
    key, [part] = Key(NAME, ask, salt), [part for part in PARTS if part.name == name]
    hidden, share = part.given(key, student), None
    try:
        share, reason = part.judge(key, student, hidden, part.call(given, hidden))
        print(f"A2 {name}, a rehearsal: {share:.0%} of the points ({reason})")
    except checks.NotAttempted:
        print(f"A2 {name}, a rehearsal: not attempted")
    except Exception as error:  # whatever the student's code raises
        print(f"A2 {name}, a rehearsal: stopped ({type(error).__name__}: {str(error).partition(chr(10))[0]:.120})")
    return share
