"""The checks of `found` in "Break the pruned model": was a picture found in the model, or written by the attack?

    check("A2 found", found, found_tests(a2.PRACTICE))

Curves are made so that one rule alone decides each test.
"""

import torch

from ..book.checks import Test
from .a2_parts import curves, plain_found


def found_tests(ask) -> list[Test]:
    lead, over_noises = ask["lead"], ask["over_noises"]

    def says(f, own, twin, wild: float = 0.0):
        """What f says of two curves over steps, five noises each; one noise of own's last step is `wild`."""
        given = [torch.tensor(c)[:, None] + torch.tensor([-0.04, -0.02, 0.0, 0.02, 0.04]) for c in (own, twin)]
        given[0][-1, -1] += wild
        return bool(f(*given))

    def truth(f):
        value = f(*(c[0] for c in curves(1, 2, lead, over_noises)))
        return bool(value) in (True, False) and getattr(value, "ndim", 0) == 0

    def outlier(f):
        return says(f, [0.1, 0.1], [0.1, 0.1], 10 * lead) is (over_noises == "mean")

    def all_right(f):
        pairs = zip(*curves(2, 60, lead, over_noises), strict=True)
        return all(bool(f(*pair)) is plain_found(*pair, lead, over_noises) for pair in pairs)

    low, more = [0.1, 0.1, 0.1, 0.1], lead + 0.02
    return [
        Test(truth, ("return one truth value, for all steps and noises together", ".any() makes one of several")),
        Test(lambda f: says(f, [0.1, 0.1, 0.1, 0.1 + more], low), ("own gained enough, the twin nothing: found",)),
        Test(
            lambda f: not says(f, [0.1, 0.2, 0.4, 0.9], [0.1, 0.2, 0.4, 0.9]),
            ("where the twin gains as much, the picture was injected", "subtract the twin's gain, at the same step"),
        ),
        Test(
            lambda f: not says(f, [0.9, 0.9, 0.9, 0.9], low),
            ("own was high before the attack and gained nothing", "a gain is the score minus that at step 0"),
        ),
        Test(
            lambda f: says(f, [0.1, 0.1 + more, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9]),
            ("one number of steps is enough, and both are compared at the same one", "no maxima of each on its own"),
        ),
        Test(
            lambda f: (
                not says(f, [0.1, 0.1 + lead - 0.02, 0.1, 0.1], low) and says(f, [0.5, 0.5, 0.5, 0.5 + more], low)
            ),
            (f"the lead is {lead}, at least", f"{lead - 0.02:.2f} more is too little, {lead + 0.02:.2f} is enough"),
        ),
        Test(outlier, (f"one noise of five is far off: take the {over_noises} over noises, at each step",)),
        Test(all_right, (f"first the {over_noises} over noises, then gains, then the difference, then any step",)),
    ]
