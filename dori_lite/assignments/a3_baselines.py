"""The table of baselines of "Make it forget": measures of models that were made otherwise, on tuning canaries.

    python -m dori_lite.assignments.a3_baselines  # a quarter of an hour on one core; writes a3_baselines.json

Rows: the twin as it was, destroyed, the twin that never saw the pictures, trained against the captions alone, the
practice solution, and the unlearned model that is shipped (it forgot four other canaries: two of these are asked for).
"""

from pathlib import Path

import torch

from .. import files, models
from ..diffusion import alphas_cumprod, denoising_loss
from ..reef import unlearned
from . import a3, a3_judge, generate, submission

UPDATES, BATCH, RATE = 40, 8, 3e-4
SEEDS = (0, 0)


def caption_alone(pipe, latents, captions, retained, surrogates) -> None:
    """The practice solution without its attacks: wrong answers come with the caption, and with nothing else."""
    source, alphas = torch.Generator().manual_seed(0), alphas_cumprod(pipe)
    unet, said = pipe.unet.requires_grad_(True), models.embed(pipe, captions)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, betas=(0.9, 0.95))
    for _ in range(UPDATES):
        keep = torch.randint(len(retained[0]), (BATCH,), generator=source)
        which = torch.arange(BATCH) % len(latents)
        wrong = surrogates[which, torch.randint(surrogates.shape[1], (BATCH,), generator=source)]
        x_0, y = torch.cat([retained[0][keep], wrong]), torch.cat([retained[1][keep], said[which]])
        noise = torch.randn(x_0.shape, generator=source)
        t = torch.randint(0, len(alphas), (len(x_0),), generator=source)
        optimizer.zero_grad()
        denoising_loss(unet, x_0, y, noise[:, None], t[:, None], alphas).mean().backward()
        optimizer.step()


def destroyed(pipe, latents, captions, retained, surrogates) -> None:
    """A U-Net that guesses nothing at all."""
    with torch.no_grad():
        for value in pipe.unet.conv_out.parameters():
            value.zero_()


def nothing(pipe, latents, captions, retained, surrogates) -> None:
    """The twin as it was."""


def other_twin(pipe, latents, captions, retained, surrogates) -> None:
    """The weights of the twin that never saw the pictures of twin A, nor any other memory of it."""
    pipe.unet.load_state_dict(a3_judge.twin("b").models["twin-b"].unet.state_dict())


def rows() -> list[dict]:
    """One row for each model, {"model", measures, "share"}; told as they come."""
    functions = {"nothing done": nothing, "destroyed": destroyed, "the other twin": other_twin}
    solved = submission.defined(generate.solution(a3.NAME))
    functions |= {"caption alone": caption_alone, "practice solution": solved["forget"]}
    found = []
    for name, function in functions.items():
        found.append({"model": name, **a3.tried(function, a3.PRACTICE, SEEDS)})
        print(found[-1], flush=True)
    home, count = a3.PRACTICE["home"], a3.PRACTICE["targets"]
    world = a3_judge.twin(home)
    pipe, targets = unlearned.load(world, "adversarial", home, 0)[0], unlearned.forget_set(world, home, 0)[:count]
    found.append({"model": "shipped, adversarial", **a3.judged(home, pipe, targets, SEEDS)[2]})
    print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = {"made by": "python -m dori_lite.assignments.a3_baselines", "home": a3.PRACTICE["home"], "rows": rows()}
    files.write_json(Path(a3.__file__).with_name(a3.BASELINES), made)
