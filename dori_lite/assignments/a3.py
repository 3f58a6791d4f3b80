"""Assignment 3, "Make it forget": a function that trains a model until it no longer holds some of its pictures.

    a3.check("forget", forget, a3.PRACTICE)  # quick: behaviours
    a3.tried(forget, a3.PRACTICE)  # as it is graded, on tuning canaries: beside the table of `baselines`

Graded canaries, noises, attacks and new captions are hidden. What comes back from a student's function are weights.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from .. import files, models
from ..book import checks
from ..reef import captions, forgetting, scenes
from ..reef import world as reef
from ..reef.paint import paint_all
from ..reef.unlearned import FORGOTTEN
from ..unlearning.answers import FAR
from . import a3_judge
from .a3_checks import TESTS
from .parts import Arrays, Key, Part, check_ask, chosen

NAME, TITLE = "a3", "Make it forget"
PRACTICE = {"home": "a", "targets": 2}
CHOICES = {"home": ("a", "b"), "targets": (2, 3)}
RETAINED, SURROGATES = 250, 8  # pairs to keep; wrong answers for each target
SEEDS = 20_000_000  # where those of the surrogates' scenes begin: no model has seen one of them
SECONDS = 90  # that `forget` may take, on one core
BASELINES = "a3_baselines.json"  # made by `python -m dori_lite.assignments.a3_baselines`


def asked(ask: Mapping) -> str:
    """The questions, in words. Raises ValueError for an `ask` that is not of `CHOICES`."""
    check_ask(ask, CHOICES)
    many = {2: "two canaries", 3: "three canaries"}[ask["targets"]]
    return "\n".join(
        [
            f"forget: {many} of twin {ask['home'].upper()}, in {SECONDS} s of one core for all of them;",
            "        graded on others than you try it on, under noises, attacks and captions that you do not see",
        ]
    )


def check(name: str, given, ask: Mapping) -> bool | None:
    """Print and return how the answer `name` does; see `checks.check`. Half a minute or more: `forget` runs once.

    Raises ValueError for another name, and for an `ask` that is not of `CHOICES`.
    """
    if name not in TESTS:
        raise ValueError(f"no part {name!r} in this assignment; there are: {', '.join(TESTS)}")
    [target] = tuning(check_ask(ask, CHOICES))[:1]
    tests = TESTS[name](target, lambda: material(ask["home"], [target]), SECONDS)
    return checks.check(f"A3 {name}", given, tests)


# ---- what is forgotten, and with what ----------------------------------------------------------------------


def tuning(ask: Mapping) -> list:
    """The canaries to try a function on: as many as are asked for."""
    return reef.planted("canary", "tuning", ask["home"])[: ask["targets"]]


def graded(key: Key, student: str) -> list:
    """The canaries that a student is graded on; not those that the shipped unlearned models forgot."""
    some = reef.planted("canary", "reporting", key.ask["home"])[FORGOTTEN:]
    return chosen(some, key.ask["targets"], f"{key.salt} {key.seed(student, 'canaries')}", student)


def surrogates(target, count: int = SURROGATES) -> torch.Tensor:
    """Wrong answers for a target: pictures [count, 3, 64, 64] of other scenes that its caption describes.

    They are painted, where chapter 9 lets the pruned model draw them in a minute: of the same kind as what the other
    twin saw under this caption. The nearest to the target are left out, by chapter 9's measure.
    """
    start = SEEDS + 100 * int(target.labels["seed"] % 10_000)
    scenes_of = [(scenes.complete(captions.read(target.caption), start + k), start + k) for k in range(4 * count)]
    pictures = paint_all(scenes_of).float() / 255
    detector, _ = a3_judge.instruments()
    far = detector.scores(pictures, target.image.expand_as(pictures)) < FAR * detector.threshold
    return pictures[far][:count]


def material(home: str, targets) -> Arrays:
    """What `call` takes: home (0 or 1), captions [T], latents [T, …], retained pairs [R, …], surrogates [T, k, …]."""
    world = a3_judge.twin(home)
    pipe = world.models[f"twin-{home}"]
    kept, y = forgetting.retained(world, targets, RETAINED)
    wrong = torch.stack([models.encode(pipe, surrogates(target)) for target in targets])
    tensors = [models.encode(pipe, torch.stack([target.image for target in targets])), kept, y, wrong]
    arrays = {name: value.numpy() for name, value in zip(a3_judge.NAMES, tensors, strict=True)}
    return arrays | {"captions": np.array([target.caption for target in targets]), "home": np.array("ab".index(home))}


def given(key: Key, student: str) -> Arrays:
    """The `material` of a student's graded canaries."""
    return material(key.ask["home"], graded(key, student))


# ---- the function, applied and judged ----------------------------------------------------------------------


def call(forget: Callable, given: Arrays) -> Arrays:
    """In the child: the weights that a student's function leaves, fp16 [N]."""
    return {"weights": a3_judge.flat(a3_judge.applied(forget, given))}


def judge(key: Key, student: str, given: Arrays, returned: Arrays) -> tuple[float, str]:
    """The least share of removal, by the captions and by a new attack, and of utility, on new captions and others."""
    home, weights = key.ask["home"], returned.get("weights")
    if reason := a3_judge.problem(home, weights):
        return 0.0, reason
    seeds = key.seed(student, "forget"), key.seed("everybody", "forget")
    return judged(home, a3_judge.fresh(home, weights), graded(key, student), seeds)[:2]


def judged(home: str, pipe, targets, seeds) -> tuple[float, str, dict]:
    """The share of a model, what is told of it, and its row of the table."""
    try:
        row = a3_judge.measured(pipe, targets, *seeds)
    except (FloatingPointError, ValueError) as error:  # its weights are finite, and what it draws is not
        return 0.0, f"what the model draws cannot be judged ({error})", {"share": 0.0}
    parts = a3_judge.shares(row, a3_judge.untouched(home, targets, *seeds))
    share = a3_judge.total(parts)
    return share, a3_judge.told(row, parts), {name: round(value, 4) for name, value in (row | {"share": share}).items()}


PARTS = (Part("forget", 100, given, call, judge),)


# ---- for the notebook ----------------------------------------------------------------------------------------


def tried(forget: Callable, ask: Mapping, seeds=(0, 0)) -> dict | None:
    """Apply a function to tuning canaries and judge it as it is graded: a row of `baselines`; None for a stub.

    A minute or two. The canaries, noises and captions are others than those of the grade; `seeds` are those of noises
    and attacks, and of the new captions. Prints each measure with its share, and the seconds that the function took.
    """
    targets = tuning(ask)
    inputs, began = material(ask["home"], targets), time.process_time()
    try:
        pipe = a3_judge.applied(forget, inputs)
    except checks.NotAttempted:
        return None
    print(f"A3 forget, a rehearsal: {time.process_time() - began:.0f} s of {SECONDS}")
    weights = a3_judge.flat(pipe)
    if reason := a3_judge.problem(ask["home"], weights):
        print(reason)
        return {"share": 0.0}
    pipe = a3_judge.fresh(ask["home"], weights)  # from fp16, as it is handed in
    share, told, row = judged(ask["home"], pipe, targets, seeds)
    print("\n".join(f"  {line}" for line in [*told.split("; "), f"the least: {share:.0%}"]))
    return row


def baselines():
    """What is known of models that were made otherwise: a pandas table, measured as `tried` does."""
    import pandas as pd

    return pd.DataFrame(files.read_json(Path(__file__).with_name(BASELINES))["rows"]).set_index("model")
