"""The checks of "Break the pruned model": behaviours, each with hints for who has not got there yet.

    check("A2 found", found, TESTS["found"](a2.PRACTICE))

A test asks for one thing, in an order in which the first that fails says most.
"""

from functools import partial

import torch

from ..book.checks import Test
from .a2_found import found_tests
from .a2_parts import BUDGET, OnePicture, case, layer, near, plain_loss, plain_mask, schedule


def mask_tests(ask) -> list[Test]:
    share, among = ask["share"], ask["among"]
    where = {"row": "each row of the weight", "layer": "the whole weight"}[among]
    (weight, norms, base), nothing = layer(1), torch.zeros(1, 39)
    positive, flat, right = weight.abs(), torch.ones(1, 39), partial(plain_mask, share=share, among=among)

    def same(f, *given):
        return torch.equal(torch.as_tensor(f(*(g.clone() for g in given))), right(*given))

    def counted(f):
        number = torch.as_tensor(f(positive, flat, nothing))
        axis = (1,) if among == "row" else (0, 1)
        return torch.equal(number.sum(axis), right(positive, flat, nothing).sum(axis))

    def excited(f):
        return not (torch.as_tensor(f(weight, norms, base)) & (norms[0] <= base[0])).any()

    def kept(f):
        given = [g.clone() for g in layer(3, 3)]
        f(*given)
        return all(torch.equal(a, b) for a, b in zip(given, layer(3, 3), strict=True))

    def truths(f):
        mask = f(weight, norms, base)
        return mask.shape == weight.shape and torch.as_tensor(mask).dtype == torch.bool

    count = f"int({share} * {'m' if among == 'row' else 'd * m'})"
    return [
        Test(truths, ("return one truth value for each weight: a bool tensor of the weight's shape",)),
        Test(
            counted,
            (f"how many are pruned? The top {share:.0%} of {where}", f"of a weight [d, m] take {count}, rounded down"),
        ),
        Test(
            lambda f: same(f, positive, flat, nothing),
            ("the highest scores go, where Wanda's first use took the lowest", "topk, or argsort(descending=True)"),
        ),
        Test(
            lambda f: same(f, weight, flat, nothing),
            ("a large negative weight counts as much as a large positive one", "|W|: weight.abs()"),
        ),
        Test(
            lambda f: same(f, weight, norms, nothing),
            ("each input has a norm of its own: the score is |W_ij| times n_j", "norms[call] broadcasts over rows"),
        ),
        Test(
            excited,
            ("an input that the caption excites no more than the empty one loses nothing", "it is norms > base, not ≥"),
        ),
        Test(
            lambda f: same(f, weight, norms, base),
            ("rank first, among all weights; then leave out what fails the second test", "do not fill up with others"),
        ),
        Test(
            lambda f: same(f, *layer(2, 3)),
            ("each call chooses by itself, and what any of them chose is pruned", "unite the calls' masks with |"),
        ),
        Test(
            lambda f: all(same(f, *layer(seed, 2, (12, 40))) for seed in range(4, 8)),
            ("both have to hold at one and the same call: among the top, and more than the empty caption",),
        ),
        Test(kept, ("the weight, or the norms, were changed; work on copies of them",)),
    ]


def loss_tests(ask) -> list[Test]:
    unet, weight = OnePicture(), ask["weight"]
    counts = {"one": "1", "alpha": "ᾱ_t", "one minus alpha": "1 − ᾱ_t"}[weight]

    def pair(f):
        loss, gradient = f(unet, *case(1, 3))
        return torch.as_tensor(loss).numel() == 1 and gradient.shape == (1, 28, 128)

    def shown(f):
        unet.seen.clear()
        x_0, y, noise, t, known = case(2, 4)
        f(unet, x_0, y, noise, t, known)
        kept = known[t][:, None, None, None]
        wanted = zip(kept.sqrt() * x_0 + (1 - kept).sqrt() * noise, t.tolist(), strict=True)
        return all(any(u == time and near(x, x_t) for x, u in unet.seen) for x_t, time in wanted)

    def same(f, place, seed, samples):
        given = case(seed, samples)
        found, right = f(unet, *given)[place], plain_loss(unet, *given, weight)[place]
        return near(torch.as_tensor(found).reshape(right.shape), right)

    def twice(f):
        x_0, y, *rest = case(5, 4)
        given = y.clone()
        first, second = f(unet, x_0, given, *rest)[1].clone(), f(unet, x_0, given, *rest)[1]
        return near(second, first) and torch.equal(given, y)

    return [
        Test(pair, ("return two: the loss, one number, and its gradient, of the shape of y", "torch.autograd.grad")),
        Test(
            shown,
            (
                "the U-Net was not asked about x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε of each sample",
                "alphas[t] is ᾱ_t, [B]; bring it to [B, 1, 1, 1], and mind both roots",
            ),
        ),
        Test(
            lambda f: same(f, 0, 3, 1),
            (f"one sample's loss: the mean square of (guess − ε), times {counts}", "ε is the noise, not x_0 or x_t"),
        ),
        Test(
            lambda f: same(f, 0, 4, 5),
            ("several samples: a plain mean over them", "no sum, and no division by the weights"),
        ),
        Test(
            lambda f: same(f, 1, 4, 5),
            (
                "the loss is right, its gradient is not: that of this very loss, with respect to y, as it comes",
                "y.expand(…) adds the samples' gradients up by itself: take no mean of them afterwards",
            ),
        ),
        Test(twice, ("asked twice it gives another gradient, or y moved; work on y.detach().clone()",)),
    ]


def attack_tests(ask) -> list[Test]:
    x_0, y, noise, t, known = case(6, 64)
    done = {}  # one check's runs by seed and steps, since each takes a second

    def run(f, seed: int = 0, again: bool = False, **steps: int):
        """The trigger, what the U-Net was shown, and whether the caption's embedding and the U-Net stayed."""
        key = seed, *steps.values()
        if again or key not in done:
            unet, start = OnePicture(), y.clone()
            found = f(unet, x_0.clone(), start, seed, **steps)
            found = found.clone() if isinstance(found, torch.Tensor) else found
            stayed = torch.equal(start, y) and torch.equal(unet.signs, OnePicture().signs)
            done[key] = found, unet.seen, stayed
        return done[key]

    def shaped(f):
        found = run(f)[0]
        return isinstance(found, torch.Tensor) and found.shape == y.shape and bool(found.isfinite().all())

    def moved(f):
        return len(asked(f)) > 0 and not torch.equal(run(f)[0], y)

    def begun(f):
        return torch.equal(run(f, steps=0)[0], y)

    def ends(f):
        early, late = run(f, steps=5)[1], asked(f)
        same = all(u == v and near(x, z) for (x, u), (z, v) in zip(early, late, strict=False))
        return 0 < len(early) < len(late) and same

    def asked(f):
        return run(f)[1]

    def anew(f):
        kept = [(x - schedule()[u].sqrt() * x_0[0]) / (1 - schedule()[u]).sqrt() for x, u in asked(f)]  # the noises
        return sum(near(other, kept[0], 0.01) for other in kept) == 1

    def nearer(f):
        before, after = (plain_loss(OnePicture(), x_0, z, noise, t, known, "one")[0] for z in (y, run(f)[0]))
        floor = schedule()[t].square().mean()  # of a model that knows the picture
        return after - floor < 0.3 * (before - floor)

    return [
        Test(shaped, ("return the trigger: finite numbers, of the shape of y",)),
        Test(moved, ("the U-Net is not asked at all, or y does not move", "a loop of steps, each along the gradient")),
        Test(
            lambda f: len(asked(f)) <= BUDGET,
            (f"the U-Net was shown more than {BUDGET} noisy latents", "25 steps of 8, and no others"),
        ),
        Test(
            lambda f: len(asked(f)) >= 16,
            ("the U-Net is asked about fewer than 16 noisy latents", "25 steps of 8, in a loop over range(steps)"),
        ),
        Test(anew, ("each step draws new noise; yours meets the same one again", "call torch.randn within the loop")),
        Test(
            lambda f: min(u for _, u in asked(f)) < 200 and max(u for _, u in asked(f)) >= 800,
            ("timesteps come from 0 to 999", "torch.randint(1000, (8,), generator=…)"),
        ),
        Test(
            nearer,
            (
                "on new noise the loss falls too little: does y move against the gradient, and far enough?",
                "Adam with a rate of 0.1, twenty-five steps; every step uses the gradient at the y of that step",
            ),
        ),
        Test(
            lambda f: torch.equal(run(f)[0], run(f, again=True)[0]),
            ("the same seed gives another trigger", "torch.Generator().manual_seed(seed), and draw from it alone"),
        ),
        Test(
            lambda f: not torch.equal(run(f)[0], run(f, 1)[0]),
            ("another seed gives the same trigger", "torch.Generator().manual_seed(seed), once before the loop"),
        ),
        Test(lambda f: run(f)[2], ("the caption's embedding, or the U-Net, was changed; start from a copy of y",)),
        Test(begun, ("with steps=0 nothing has moved yet: give the caption's embedding, which is where to start",)),
        Test(
            ends,
            ("with steps=5 it has to end after five steps, and to do the same until then", "for _ in range(steps)"),
        ),
    ]


TESTS = {"wanda_mask": mask_tests, "dori_loss": loss_tests, "attack": attack_tests, "found": found_tests}
