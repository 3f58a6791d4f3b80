"""Assignment 1, "Catch the copy": two measures of memory, and which of twelve captions a model has memorized.

    a1.check("tile_distance", tile_distance, a1.PRACTICE)
    mine = a1.captions("ada", salt="practice")  # this student's twelve
    with_text, without = a1.recorded(pipe, mine, seeds=[0, 1])

Measures are compared with answers written out, on hidden inputs; the answer with the table of what was planted.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from ..book import checks
from ..reef import canaries
from .a1_checks import STEPS, TESTS, agree, answer_tests, distances, evidence_tests, numbers, pushes
from .parts import Arrays, Key, Part, check_ask, chosen

NAME, TITLE = "a1", "Catch the copy"
CHOICES = {
    "tile": (16, 32, 64),
    "norm": (1, 2),
    "reduce": ("max", "mean"),
    "push_norm": (1, 2),
    "over": ("mean", "max", "first 5", "last 5"),
}
PRACTICE = {"tile": 16, "norm": 2, "reduce": "max", "push_norm": 2, "over": "mean"}  # Carlini's distance, Wen's push
WITHOUT = ({"norm": 1, "reduce": "mean"},)  # a mean of means is the whole picture's, whatever the tiles
EVIDENCE = ("pushes", "apart")  # computed in the notebook, and not graded
OF_EACH = 6  # captions of either kind
PICTURES = {"square": (3, 3, 3), "wide": (2, 1, 3), "tall": (2, 3, 1), "single": (1, 2, 2)}  # B, rows, columns of tiles
PREDICTIONS = {
    "single": (1, 12, 4, 16, 16),
    "many": (4, 25, 4, 16, 16),
    "small": (3, 7, 4, 8, 8),
    "odd": (2, 13, 3, 7, 5),
}


def asked(ask: Mapping) -> str:
    """The questions, in words. Raises ValueError for an `ask` that is not of `CHOICES`."""
    n = check_ask(ask, CHOICES)["tile"]
    inside = ["mean absolute difference", "root mean square of the difference"][ask["norm"] - 1]
    length = ["sum of the absolute values", "root of the sum of squares"][ask["push_norm"] - 1]
    of_tiles = {"max": "largest", "mean": "mean"}[ask["reduce"]]
    return "\n".join(
        [
            f"tile_distance: tiles of {n} x {n} pixels; a tile's distance is the {inside}",
            f"               over its colours and pixels; a picture's is the {of_tiles} of its tiles' distances",
            f"magnitude:     a step's push is the {length} of the difference over C, h and w;",
            f"               a sample's is {STEPS[ask['over']]}",
            "answer:        twelve times True or False: is this caption memorized by twin A?",
        ]
    )


def check(name: str, given, ask: Mapping, student: str | None = None, salt: str | None = None) -> bool | None:
    """Print and return how the answer `name` does; see `checks.check`.

    Of `EVIDENCE` it looks at the shape; of `answer` at the form alone, but where `salt` is the practice variant's:
    there it knows the captions.
    Raises ValueError for a part that there is none of.
    """
    if name in EVIDENCE:
        return checks.check(f"A1 {name}", given, evidence_tests(2 * OF_EACH))
    if name == "answer":
        known = in_twin_a(captions(student, salt)) if salt == "practice" and student is not None else None
        title = "A1 answer" if known else "A1 answer, its form alone"
        if right := checks.check(title, given, answer_tests(2 * OF_EACH, known)):
            print(f"  so it has to stand in the cell: answer = {list(given)}")
        return right
    if name not in TESTS:
        raise ValueError(f"no part {name!r} in this assignment; there are: {', '.join([*TESTS, *EVIDENCE, 'answer'])}")
    return checks.check(f"A1 {name}", given, TESTS[name](check_ask(ask, CHOICES)))


# ---- the captions, and what a model says to them ----------------------------------------------------------


def captions(student: str, salt: str) -> list[str]:
    """A student's twelve captions, in an order of their own: planted in one twin or in the other."""
    known, found = [item for item in canaries.planted() if (item.role, item.split) == ("canary", "reporting")], []
    for home in "ab":
        found += chosen([item.caption for item in known if item.home == home], OF_EACH, f"{salt} {home}", student)
    return chosen(found, len(found), f"{salt} order", student)


def in_twin_a(captions: list[str]) -> list[bool]:
    """Which of these had one picture again and again in twin A's training, as the table of what was planted says."""
    homes = {item.caption: item.home for item in canaries.planted()}
    return [homes[caption] == "a" for caption in captions]


def recorded(pipe, captions: list[str], seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model predicts while it draws, with the caption and without: [N, steps, C, h, w] each.

    N is captions × seeds, the seeds of one caption beside each other: `.unflatten(0, (len(captions), -1))` takes them
    apart. Pictures are drawn with the reef's settings, as in chapters 1 and 2.
    """
    from .. import diffusion, models  # here, because who grades needs no model
    from ..reef.world import SAMPLING

    x = diffusion.initial_noise(pipe, list(seeds)).to(pipe.unet.device).repeat(len(captions), 1, 1, 1)
    y = models.embed(pipe, list(captions)).repeat_interleave(len(seeds), 0)
    options, parts = {key: SAMPLING[key] for key in ("guidance", "steps")}, []
    for some_x, some_y in zip(x.split(SAMPLING["batch"]), y.split(SAMPLING["batch"]), strict=True):
        steps = [(step.given, step.without) for step in diffusion.trajectory(pipe, some_x, some_y, **options)]
        parts.append([torch.stack(each, 1) for each in zip(*steps, strict=True)])
    with_text, without = (torch.cat(each) for each in zip(*parts, strict=True))
    return with_text, without


# ---- the two measures: compared with answers written out ----------------------------------------------------


def pictures_given(key: Key, student: str) -> Arrays:
    """Pictures and references [B, 3, H, W], float32 in [0, 1], whose parts are spoiled by different amounts."""
    n, found = key.ask["tile"], {}
    for k, (name, (count, rows, columns)) in enumerate(PICTURES.items()):
        draw = np.random.default_rng(key.seed(student, "tile_distance", k))
        reference, other = draw.random((2, count, 3, rows * n, columns * n))
        spoiled = np.kron(draw.random((count, 1, 2 * rows, 2 * columns)) ** 2, np.ones((n // 2, n // 2)))
        images = reference + spoiled * (other - reference)
        found |= {f"{name} images": images.astype(np.float32), f"{name} reference": reference.astype(np.float32)}
    return found


def predictions_given(key: Key, student: str) -> Arrays:
    """Predictions with and without a caption [N, steps, C, h, w], float32; it pushes by another amount at each step."""
    found = {}
    for k, (name, shape) in enumerate(PREDICTIONS.items()):
        draw = np.random.default_rng(key.seed(student, "magnitude", k))
        without, push = draw.normal(size=(2, *shape))
        with_text = without + push * draw.uniform(0.1, 3, (*shape[:2], 1, 1, 1))
        found |= {f"{name} with_text": with_text.astype(np.float32), f"{name} without": without.astype(np.float32)}
    return found


def cases(given: Arrays) -> dict[str, list]:
    """{case: its inputs}, of arrays named "case argument"."""
    found = {}
    for name, array in given.items():
        found.setdefault(name.split()[0], []).append(array)
    return found


def call_function(function: Callable, given: Arrays) -> Arrays:
    """What a student's function gives in each case: {case: numbers}. One in which it fails is left out; not all."""
    found, problem = {}, None
    for name, inputs in cases(given).items():
        try:
            found[name] = numbers(function(*[torch.from_numpy(each.copy()) for each in inputs]))
        except Exception as error:  # whatever the student's code raises
            problem = error
    if not found:
        raise problem
    return found


def judge_function(reference: Callable, key: Key, student: str, given: Arrays, returned: Arrays) -> tuple[float, str]:
    """The share of hidden cases that are right."""
    known = cases(given)
    wrong = [name for name, inputs in known.items() if not agree(returned.get(name), reference(*inputs, key.ask))]
    told = f"wrong for hidden inputs of these kinds: {', '.join(wrong)}" if wrong else "right for all hidden inputs"
    return 1 - len(wrong) / len(known), told


# ---- the answer: compared with what was planted ----------------------------------------------------------------


def call_answer(answer, given: Arrays) -> Arrays:
    """The answer as 0 and 1; -1 for what is neither True nor False."""
    listed = answer if isinstance(answer, list | tuple) else []
    return {"answer": np.array([int(one) if isinstance(one, bool) else -1 for one in listed], dtype=np.int8)}


def judge_answer(key: Key, student: str, given: Arrays, returned: Arrays) -> tuple[float, str]:
    """Balanced accuracy beyond chance: 2 × it - 1, at least 0."""
    said, known = returned.get("answer"), np.array(in_twin_a(captions(student, key.salt)))
    if not isinstance(said, np.ndarray) or said.shape != known.shape or not np.isin(said, (0, 1)).all():
        return 0.0, f"no list of {len(known)} times True or False"
    found, alarms = (int((said == 1)[kind].sum()) for kind in (known, ~known))
    told = f"{found} of {OF_EACH} memorized captions found, {alarms} of {OF_EACH} others taken for memorized"
    return max(0.0, (found - alarms) / OF_EACH), told


PARTS = (
    Part("tile_distance", 30, pictures_given, call_function, partial(judge_function, distances)),
    Part("magnitude", 30, predictions_given, call_function, partial(judge_function, pushes)),
    Part("answer", 40, lambda key, student: {}, call_answer, judge_answer),
)
