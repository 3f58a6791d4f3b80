"""The checks of "Catch the copy": what is right, written as plainly as can be, and behaviours with hints.

    distances(images, reference, PRACTICE)  # [B], by loops over pictures and tiles
    checks.check("A1 magnitude", magnitude, TESTS["magnitude"](PRACTICE))

A test asks for one thing, in an order in which the first that fails says most.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from ..book.checks import Test

STEPS = {"mean": "the mean over all steps", "max": "the largest of all steps"}
STEPS |= {f"{end} 5": f"the mean over the {end} five steps" for end in ("first", "last")}


# ---- the right answers, one number after the other -------------------------------------------------------


def distances(images, reference, ask: Mapping) -> np.ndarray:
    """What `tile_distance` should give: [B]."""
    n, found = ask["tile"], []
    for apart in np.abs(np.asarray(images, np.float64) - np.asarray(reference, np.float64)):
        places = [(top, left) for top in range(0, apart.shape[1], n) for left in range(0, apart.shape[2], n)]
        tiles = [apart[:, top : top + n, left : left + n] for top, left in places]
        each = [tile.mean() if ask["norm"] == 1 else np.sqrt((tile**2).mean()) for tile in tiles]
        found.append(max(each) if ask["reduce"] == "max" else np.mean(each))
    return np.array(found)


def pushes(with_text, without, ask: Mapping) -> np.ndarray:
    """What `magnitude` should give: [N]."""
    found = []
    for steps in np.abs(np.asarray(with_text, np.float64) - np.asarray(without, np.float64)):
        each = [step.sum() if ask["push_norm"] == 1 else np.sqrt((step**2).sum()) for step in steps]
        part = {"first 5": each[:5], "last 5": each[-5:]}.get(ask["over"], each)
        found.append(max(part) if ask["over"] == "max" else np.mean(part))
    return np.array(found)


def numbers(value) -> np.ndarray:
    """What a student's function gave, as an array; it may be a tensor, an array or a list of numbers."""
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=np.float64)


def agree(found, wanted: np.ndarray) -> bool:
    """Whether `found`, whatever it is, is an array of these numbers."""
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or found.shape != wanted.shape:
        return False
    return np.allclose(found, wanted, rtol=1e-3, atol=1e-5)


# ---- behaviours -----------------------------------------------------------------------------------------


def gives(reference: Callable, inputs, *hints: str) -> Test:
    """That a function gives what the reference does."""
    wanted = reference(*inputs)
    return Test(lambda function: agree(numbers(function(*[each.clone() for each in inputs])), wanted), hints)


def has_length(inputs, length: int, *hints: str) -> Test:
    """That it gives one number for each of the first axis."""
    return Test(lambda function: numbers(function(*[each.clone() for each in inputs])).shape == (length,), hints)


def spares(inputs, *hints: str) -> Test:
    """That it leaves what it is given as it was."""

    def passes(function):
        copied = [each.clone() for each in inputs]
        function(*copied)
        return all(torch.equal(one, other) for one, other in zip(copied, inputs, strict=True))

    return Test(passes, hints)


def tile_tests(ask: Mapping) -> list[Test]:
    n, right = ask["tile"], partial(distances, ask=ask)
    random = torch.rand(2, 3, 3, 2 * n, 2 * n, generator=torch.Generator().manual_seed(0))
    blank = torch.zeros(1, 3, 2 * n, 2 * n)  # four tiles
    mixed, red, one, across = (blank.clone() for _ in range(4))
    mixed[..., ::2], red[:, 0], one[:, :, :n, n : 2 * n] = 0.6, 0.6, 0.8
    across[:, :, n // 2 : n // 2 + n, n // 2 : n // 2 + n] = 0.8
    inside = ["take absolute values, then their mean: 0.3", "square, take the mean, then the root: 0.42"]
    joined = ["their mean is 0.2", "the root of the mean of their squares is 0.35"][ask["norm"] - 1]
    of_all = {"max": "the worst tile counts: 0.8", "mean": "the mean over the four tiles counts: 0.2"}[ask["reduce"]]
    strips = "are they squares? reshape alone cuts strips; images.unfold(2, n, n).unfold(3, n, n) cuts tiles of n x n"
    root = ["0.25 is the square of what is asked for: take the root"] * (ask["norm"] == 2)
    grid = f"tiles have {n} x {n} pixels and stand side by side, from the upper left corner on"
    quarter = "the difference in this test is a square as large as a tile, and covers a quarter of each of four tiles"
    return [
        has_length(
            random,
            3,
            "three pictures have three distances: give [B]",
            "reduce over the tiles of a picture, and not over pictures",
        ),
        gives(right, (blank, blank), "a picture has the distance 0 to itself"),
        gives(
            right,
            (blank + 0.5, blank),
            "where all numbers differ by 0.5, so does each tile: take means, not sums",
            *root,
        ),
        gives(right, (blank, blank + 0.5), "it does not matter which of the two is the darker: distances have no sign"),
        gives(right, (mixed, blank), f"half of each tile's pixels differ by 0.6; {inside[ask['norm'] - 1]}"),
        gives(right, (red, blank), f"one colour of three differs, by 0.6: a tile joins its colours, {joined}"),
        gives(right, (one, blank), f"one tile of four differs by 0.8, the others not at all; {of_all}", strips),
        gives(right, (across, blank), grid, quarter),
        gives(right, random, "each picture of a batch goes with its own reference and has its own tiles"),
        gives(right, random[..., :n], f"pictures need not be square: these are {2 * n} pixels high and {n} wide"),
        spares(random, "it changes its inputs: write images - reference, and no -="),
    ]


def push_tests(ask: Mapping) -> list[Test]:
    right, over = partial(pushes, ask=ask), ask["over"]
    random = torch.randn(2, 4, 9, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    blank = torch.zeros(2, 12, 4, 6, 6)
    entries, uneven, turning = blank.clone(), blank.clone(), blank.clone()
    entries[:, :, 0, 1, 2], entries[:, :, 3, 4, 5] = 3, -4
    uneven[:, :, 1, 2, 3] = torch.tensor([4.0, 1, 6, 2, 9, 3, 8, 5, 12, 7, 10, 11])
    turning[:, ::2, 1, 2, 3], turning[:, 1::2, 1, 2, 3] = 2, -2
    length = ["7, the sum of absolute values", "5, the root of the sum of squares"][ask["push_norm"] - 1]
    kept = f"{STEPS[over]} counts: here {right(uneven, blank)[0]:.3g}"
    together = "one length a step, over C, h and w together: flatten(2) joins them; a sum, no mean; then one over steps"
    apart = "take the length of the difference, not the difference of the lengths"
    order = "the second axis is the steps, in the order in which a picture is drawn: the first has the most noise"
    return [
        has_length(random, 4, "four samples have four numbers: give [N]", together),
        gives(right, (blank, blank), "where the caption changes nothing the push is 0"),
        Test(lambda f: (numbers(f(entries, -entries)) > 0).all(), (apart,)),
        gives(
            right, (entries, blank), f"two entries of a step differ, by 3 and by -4: its length is {length}", together
        ),
        gives(right, (turning, blank), "first a length for each step, then over steps: opposite pushes do not cancel"),
        gives(right, (uneven, blank), f"the lengths of the steps are 4, 1, 6, …, 10, 11, and {kept}", order),
        gives(right, random, "other sizes come as well: take them from the inputs, and keep samples apart"),
        spares(random, "it changes its inputs: write with_text - without, and no -="),
    ]


def answer_tests(count: int, known: Sequence[bool] | None = None) -> list[Test]:
    """Of the form of an answer, and of its truth where that is `known`."""

    def wrong(given, about: bool) -> bool:
        return any(said != is_so for said, is_so in zip(given, known, strict=True) if is_so is about)

    form = [
        Test(
            lambda given: isinstance(given, list | tuple) and len(given) == count,
            (f"give a list of {count}, one for each caption, in the captions' order",),
        ),
        Test(
            lambda given: all(isinstance(one, bool) for one in given),
            ("each is True or False: no text in quotes, no number, no tensor",),
        ),
        Test(lambda given: 0 < sum(given) < count, ("some are memorized and some are not: not all are alike",)),
    ]
    missed = "a caption that you call no memory gives one picture, whatever the noise", "which columns hardly vary?"
    alarm = "a caption that you call memorized gives another picture from each noise", "which columns vary?"
    if known is None:
        return form
    return [
        *form,
        Test(lambda given: not wrong(given, True), missed),
        Test(lambda given: not wrong(given, False), alarm),
    ]


def evidence_tests(count: int) -> list[Test]:
    """Of what a student computes for each caption, which is not graded: its shape alone."""

    def one_each(given) -> bool:
        return numbers(given).shape == (count,)

    return [Test(one_each, (f"give {count} numbers, one for each caption: [{count}]",))]


TESTS = {"tile_distance": tile_tests, "magnitude": push_tests}
