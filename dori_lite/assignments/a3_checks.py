"""The check of "Make it forget": behaviours that cost little, each with hints for who has not got there yet.

    check("A3 forget", forget, TESTS["forget"](target, make, seconds=90))  # make() gives `a3.material`

The function runs once, for one canary. No attack is made: whether the picture is gone this check cannot say.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from ..book.checks import Test
from ..diffusion import alphas_cumprod, denoising_loss, draw
from . import a3_judge

LOSSES = 32  # retained pairs whose loss is looked at
EXPLODED = 3  # times the loss of before: destroyed 10, the other twin 1.6, which is for the next test to say
LOST, GONE = 0.4, 0.4  # of other memories' score of before; score under the caption
SEED = 7


def forget_tests(target, make: Callable, seconds: float) -> list[Test]:
    home, done = target.labels["home"], {}

    def after(forget):
        """The twin after the function, which runs once."""
        if "pipe" not in done:
            done["given"] = make()
            began = time.process_time()
            try:
                done["pipe"] = a3_judge.applied(forget, done["given"])
            except RuntimeError as error:
                if "does not require grad" in str(error):
                    raise RuntimeError("the weights come frozen: call pipe.unet.requires_grad_(True) first") from None
                raise
            done["seconds"] = time.process_time() - began
        return done["pipe"]

    def weights(forget):
        return a3_judge.flat(after(forget))

    def fits(forget):
        return weights(forget).shape == a3_judge.flat(a3_judge.fresh(home)).shape

    def changed(forget):
        return not np.array_equal(weights(forget), a3_judge.flat(a3_judge.fresh(home)))

    def keeps(forget):
        return kept_loss(after(forget), done["given"]) <= EXPLODED * kept_loss(a3_judge.fresh(home), done["given"])

    def spares(forget):
        before, now = (a3_judge.of_others(pipe, [target], SEED) for pipe in (a3_judge.fresh(home), after(forget)))
        return now >= LOST * before

    return [
        Test(
            fits,
            (
                "it runs as forget(pipe, latents, captions, retained, surrogates) and changes the weights of pipe.unet",
                "latents [T, C, h, w], captions a list of T, retained = (latents [R, C, h, w], y [R, L, D]), "
                "surrogates [T, k, C, h, w]; no layer is added or taken away",
            ),
        ),
        Test(
            changed,
            (
                "the U-Net is as it was: nothing was trained, or a copy was; change pipe.unet itself",
                "its weights come frozen: pipe.unet.requires_grad_(True); then optimizer.zero_grad(), "
                "loss.backward(), optimizer.step()",
            ),
        ),
        Test(
            lambda forget: np.isfinite(weights(forget)).all(),
            (
                "some weights are not finite (NaN, or too large for fp16)",
                "a lower rate, such as 3e-4, and no loss that is maximized without end",
            ),
        ),
        Test(
            keeps,
            (
                "on retained pairs the loss is much higher than before: the model is being destroyed",
                "each update takes retained pairs beside the surrogates: add both losses, with equal weights",
                "fewer updates, or a lower rate: Adam at 1e-3 is too fast",
            ),
        ),
        Test(
            spares,
            (
                "pictures that nobody asked it to forget are gone: is this still the same model?",
                "fewer updates or a lower rate, and more retained pairs in each; other weights must come from training "
                "these, not from another model",
            ),
        ),
        Test(
            lambda forget: a3_judge.under_captions(after(forget), [target], SEED) <= GONE,
            (
                "the caption still brings the picture",
                "train on surrogates that come with the caption's embedding: models.embed(pipe, captions)",
                "more updates, or a rate of 2e-4 to 3e-4",
            ),
        ),
        Test(
            lambda forget: after(forget) is not None and done["seconds"] <= seconds,
            (
                f"it takes more than {seconds} s of one core",
                "count the samples that go through the U-Net: updates x batch, and in attacks targets x steps x batch",
            ),
        ),
    ]


@torch.no_grad()
def kept_loss(pipe, given) -> float:
    """The mean loss on some retained pairs, in noise that is always the same."""
    latents, y = (torch.from_numpy(np.array(given[f"retained {name}"][:LOSSES])) for name in ("latents", "y"))
    noise, t = draw([f"kept {k}" for k in range(len(latents))], SEED, 0, 1, latents, 0, 1000)
    loss = denoising_loss(pipe.unet, latents, y, noise, t, alphas_cumprod(pipe)).mean().item()
    return loss if np.isfinite(loss) else float("inf")


TESTS = {"forget": forget_tests}
