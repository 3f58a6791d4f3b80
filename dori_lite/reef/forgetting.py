"""The two sides of unlearning in the reef: pictures to retain, and wrong answers for those that are to go.

    pairs = retained(world, targets)  # four canaries of one twin
    wrong, drawn = surrogates(world, targets)

Half of the twin's other canaries are retained as well; the other half shows what unlearning does to them (`spared`).
"""

import torch

from ..checks import check_targets
from ..models import embed, encode
from ..unlearning.answers import far_ones
from . import canaries
from .recipes import TWIN
from .world import siblings

RETAINED, WRONG = 2000, 8  # pictures; surrogates of a target


def home_of(targets) -> str:
    """The twin in which all `targets` were planted, "a" or "b". Raises ValueError where they are of two, or of none."""
    check_targets(targets)
    homes = {target.labels.get("home") for target in targets}
    if len(homes) > 1 or not homes <= {"a", "b"}:
        raise ValueError("targets that one model is to forget are planted in one twin; give those of one home")
    return homes.pop()


def spared(world, targets):
    """The other canaries of the targets' twin, in two halves: those among what is retained, and those that are not."""
    gone = {target.name for target in targets}
    others = [t for t in world.targets("canary", home=home_of(targets)) if t.name not in gone]
    return others[::2], others[1::2]


def retained(world, targets, count: int = RETAINED, seed: int = 0, *, unnamed: bool = False, part: int = 250):
    """What the twin was trained on, without the `targets` and half of the other canaries: latents and embeddings.

    Latents [count, C, h, w] and embeddings [count, L, D]. A picture is drawn as often as training showed it; as there,
    some unnamed scenes come without their caption. With `unnamed` there are none but these, which both twins saw alike.
    Raises ValueError for targets of two twins.
    """
    model = f"twin-{home_of(targets)}"
    table, pipe = canaries.load_table(world.name), world.models[model]
    without = {target.name for target in [*targets, *spared(world, targets)[1]]}
    table = table[~(table["name"].isin(without) & (table["role"] != "decoy"))]
    table = table[table["role"] == "base"] if unnamed else table
    rows = table.sample(count, replace=True, weights=model, random_state=seed)
    silent = torch.rand(count, generator=torch.Generator().manual_seed(seed)).numpy() < TWIN["dropped"]
    silent &= (rows["role"] == "base").to_numpy()
    captions = ["" if alone else caption for alone, caption in zip(silent, rows["caption"], strict=True)]
    pictures = canaries.paint_rows(rows).float() / 255
    latents = torch.cat([encode(pipe, some) for some in pictures.split(part)])
    return latents, torch.cat([embed(pipe, captions[k : k + part]) for k in range(0, count, part)])


def surrogates(world, targets, count: int = WRONG):
    """Wrong answers x̃ for each of `targets`: latents [targets, count, C, h, w], and a row for each prompt asked.

    They are what the twin, pruned by Wanda, draws under the caption and is no copy (`answers.far_ones`). Where that
    gives too few, the other names of its group take the caption's place, those of the other twin first. Raises
    RuntimeError if even these are not enough.
    """
    home_of(targets)
    found, rows = [], []
    for target in targets:
        kept = []
        for prompt in [target.caption, *kin(world, target)]:
            if len(kept) < count:
                some, tried = far_ones(world, target, prompt, count - len(kept))
                kept += some
                rows.append({"target": target.name, "prompt": prompt, "drawn": tried, "kept": len(some)})
        if len(kept) < count:
            raise RuntimeError(f"{target.name}: only {len(kept)} of {count} surrogates are no copies; prune more of it")
        found.append(torch.stack(kept))
    return torch.stack(found), rows


def kin(world, target) -> list[str]:
    """The captions that differ from the target's in nothing but the name, those of the other twin first."""
    every = [t for split in ("tuning", "reporting") for t in world.targets("canary", split)]
    return [t.caption for t in sorted(siblings(target, every), key=lambda t: t.labels["home"] == target.labels["home"])]
