"""Wrong answers for pictures that are to go: what a pruned model draws under the caption, if it is no copy.

    kept, drawn = far_ones(world, target, target.caption, count=8)

The paper's surrogates x̃; that some of them are still copies, and have to be left out, is ours.
"""

import torch

from ..checks import check_are_targets, check_count
from ..diffusion import BATCH, generate
from ..models import decode

DRAWS, PART = 64, 16  # pictures of one prompt before another one is asked, and how many at a time
FAR = 0.5  # of the first detector's threshold: a surrogate that came nearer would hold half of what is to go


def far_ones(world, target, prompt: str, count: int, prune: str = "Wanda"):
    """At most `count` latents that the target's own model, pruned, draws under a prompt, far from the target.

    No detector calls them a copy, and the first one's score is below `FAR` of its threshold. Returns latents, a list of
    [C, h, w], and how many pictures were drawn: `DRAWS` at most. Raises ValueError for what is no target, a count below
    1, and as `world.condition` does.
    """
    check_are_targets([target])
    check_count("count", count)
    detectors, kept = world.detectors([target]), []
    with world.condition(target, "own", prune=prune) as pipe:
        for first in range(0, DRAWS, PART):
            latents = generate(pipe, prompt, seeds=range(first, first + PART), output="latents", **world.sampling)
            images = torch.cat([decode(pipe, part).cpu() for part in latents.split(world.sampling.get("batch", BATCH))])
            goals = target.image.expand_as(images)
            near = detectors[0].scores(images, goals) >= FAR * detectors[0].threshold
            for detector in detectors:
                near |= detector(images, goals)
            kept += latents[~near.to(latents.device)]
            if len(kept) >= count:
                break
    return kept[:count], first + PART
