"""Adversarial fine-tuning of Stable Diffusion, as *Finding DoRI* has it: for a few targets, on a GPU of 15 GB.

    unlearned = adversarial(sd, sd.targets("VM", count=4), sd.controls(count=100), folder="runs/unlearned")
    found = attack(sd, Condition("adversarial", unlearned), target, **options)

The loop and its loss are the reef's; what differs is where both sides come from, and what a small GPU has room for.
"""

import torch

from ..checks import check_count, check_targets
from ..models import conditions, encode
from ..unlearning.answers import far_ones
from ..unlearning.methods import ROUNDS, unlearn

PRUNE, WRONG = "Wanda, 10 %", 8  # what draws the surrogates, and how many of a target
# A sample of each side, since activations are large; Adafactor, since Adam's two copies of 860 million weights have no
# room. Its rate is in units of a weight's size, and ours: the paper's is not in what we could read.
SMALL = {"batch": (1, 1), "samples": 4, "optimizer": "adafactor", "lr": 3e-4}


@torch.no_grad()
def sides(world, targets, controls, count: int = WRONG):
    """What is retained, latents [R, C, h, w] and embeddings [R, L, D], and wrong answers x̃, [targets, count, C, h, w].

    Retained are `controls` with their captions. Wrong answers are what the model pruned by `PRUNE` draws under a
    target's caption, far from its picture. Raises ValueError for no targets or controls, and where a target is among
    the controls; RuntimeError where the pruned model draws too few that are far.
    """
    check_targets(targets), check_targets(controls)
    check_count("count", count)
    if both := {target.caption for target in targets} & {control.caption for control in controls}:
        raise ValueError(f"{min(both)!r:.60} is to be forgotten and retained; take it out of one")
    pipe, wrong = world.models["own"], []
    for target in targets:
        kept, drawn = far_ones(world, target, target.caption, count, PRUNE)
        if len(kept) < count:
            raise RuntimeError(f"{target.name}: only {len(kept)} of {drawn} drawings are no copies, {count} are needed")
        wrong.append(torch.stack(kept))
    latents = torch.cat([encode(pipe, control.image[None]) for control in controls])
    y = torch.cat([conditions(pipe, control.caption) for control in controls])
    return (latents.float(), y.float()), torch.stack(wrong).float()


def adversarial(
    world, targets, controls, *, folder, rounds: int = ROUNDS, count: int = WRONG, seed: int = 0, **options
):
    """A new pipeline whose U-Net was trained against the attack until it forgot the `targets`: hours on a small GPU.

    It is trained in fp32, and returned in the model's precision. `rounds` begin with an attack on the model as it is;
    `options` take the place of those in `SMALL`. Interrupted, the same call goes on from the checkpoint in `folder`,
    which takes 5 GB and, while it is written, as much memory beside the GPU's (twice as much with a safetensors before
    0.8). Raises as `sides` and `unlearning.methods.unlearn` do.
    """
    retained, wrong = sides(world, targets, controls, count)
    options = {**SMALL, "rounds": rounds, "seed": seed, **options}
    base = world.models["own"]
    new = unlearn(base, targets, "adversarial", retained, wrong, folder=folder, **options)
    torch.nn.Module.to(new.unet, base.unet.dtype)  # a small GPU has no more room
    return new
