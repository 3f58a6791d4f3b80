"""How much a chapter computes, by one word: `quick`, `standard`, `full`; never which model (that is a world's name).

    settings = load("quick", canaries=2)

Counts only. What an experiment *is* (layers, thresholds, guidance) belongs to its chapter and is the same
in every profile.
"""

import os
from dataclasses import dataclass, fields, replace

from ..files import digest
from ..ranges import check_count, check_seed

LADDER = (0, 1, 10, 25, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Profile:
    """The size of an experiment. `dataclasses.asdict` of it is stored with every run."""

    name: str
    needs: tuple[str, ...]  # "cuda"
    canaries: int  # a twin
    attacked: int  # of these, canaries a twin that are pruned and attacked in chapters 3 and 4
    generation_seeds: int  # pictures a caption
    steps: int  # DDIM sampling steps
    attack_steps: int  # optimiser steps of DoRI
    control_steps: int  # the same for controls: held-out targets, other twin, parent
    triggers: int  # random starts a picture, in the chapter on where triggers lie
    forgotten: int  # canaries that unlearning removes

    @property
    def device(self) -> str:
        """ "cuda" where there is such a GPU, else "cpu"."""
        return "cuda" if cuda_available() else "cpu"

    def noises(self, seed: int, name: str, count: int | None = None) -> list[int]:
        """`count` noises of a target's own, by its name [default: as many as a caption gets pictures].

        The same in all conditions, and others for another `seed` of the chapter. Raises ValueError for bad input.
        """
        if not isinstance(name, str):
            raise ValueError(f"noises belong to a target's name; give text, not a {type(name).__name__}")
        count = self.generation_seeds if count is None else check_count("count", count)
        first = int(digest([check_seed(seed), name])[:12], 16)
        return [first + k for k in range(count)]

    def after(self, steps: int) -> list[int]:
        """The numbers of attack steps, up to `steps`, after which an attack is looked at."""
        return [k for k in LADDER if k < steps] + [steps]

    @property
    def direction_only(self) -> bool:
        """Too few units for a verdict: print the direction beside the published one."""
        return self.name == "quick"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", (), 3, 1, 2, 25, 25, 40, triggers=2, forgotten=2),
        Profile("standard", (), 8, 8, 4, 25, 50, 200, triggers=6, forgotten=4),
        Profile("full", ("cuda",), 16, 16, 10, 25, 50, 1000, triggers=24, forgotten=4),
    )
}
# With DORI_TINY=1, for the tests: `quick` is smaller still. That every cell runs is all that it shows.
TINY = "DORI_TINY"
TINY_COUNTS = {"canaries": 1, "generation_seeds": 1, "attack_steps": 1, "control_steps": 1}
OVERRIDABLE = tuple(f.name for f in fields(Profile) if f.name not in ("name", "needs"))


def load(name: str, /, **overrides: int) -> Profile:
    """The profile `name`, with some of its counts replaced: `load("quick", canaries=2)`. DORI_TINY=1 shrinks `quick`.

    Raises ValueError for an unknown name, an unknown count or one that is not a positive whole number,
    RuntimeError when the profile needs a GPU and this machine has none.
    """
    if name not in [*PROFILES]:
        raise ValueError(f"no profile called {name!r}; there are: {', '.join(PROFILES)}")
    if unknown := sorted(overrides.keys() - set(OVERRIDABLE)):
        raise ValueError(f"profiles have no {', '.join(unknown)}; what can be set: {', '.join(OVERRIDABLE)}")
    for key, value in overrides.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key}={value!r} is not a count; set it to a whole number from 1 on")
    tiny = TINY_COUNTS if name == "quick" and os.environ.get(TINY) == "1" else {}
    profile = replace(PROFILES[name], **{**tiny, **overrides})
    if "cuda" in profile.needs and not cuda_available():
        raise RuntimeError(
            f'profile="{name}" needs a CUDA GPU and there is none here: in Colab, click Runtime > Change runtime '
            'type > T4 GPU; elsewhere use profile="quick"'
        )
    return profile


def cuda_available() -> bool:
    """Whether torch sees a CUDA GPU. Imports torch, which takes seconds."""
    import torch

    return torch.cuda.is_available()
