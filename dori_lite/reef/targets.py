"""The reef's pictures as `evaluation.Target`s, their rivals, and the detectors that look at them."""

from .. import copies
from ..evaluation import Target
from . import captions, descriptor, judges, plant
from .paint import paint_all


def planted(role: str = "canary", split: str = "reporting", home: str | None = None, count: int | None = None):
    """Planted pictures of one role and split, the first `count` of either twin's (or of `home`'s, "a" or "b").

    Labels: home, exposures (in its own twin), seed. Raises ValueError for a role, split or home there is none of.
    """
    if home not in (None, "a", "b"):
        raise ValueError(f"home is 'a' or 'b', or None for both; got {home!r}")
    items = [item for item in plant.planted() if (item.role, item.split) == (role, split)]
    if not items:
        raise ValueError(f"nothing planted is a {role!r} for {split!r}; roles are canary, graded and template")
    chosen = [item for h in home or "ab" for item in [i for i in items if i.home == h][:count]]
    return of([(item.name, item.caption, *plant.picture(item)[1:]) for item in chosen], items=chosen)


def held_out(split: str, count: int, start: int = 0):
    """Scenes that no diffusion model was trained on, under captions of the canaries' style. Label: seed.

    Raises ValueError for an unknown split.
    """
    if split not in plant.HELD_OUT:
        raise ValueError(f"there is no held-out split {split!r}; choose one of {', '.join(plant.HELD_OUT)}")
    found = []
    for k in range(start, start + count):
        description, scene, seed = plant.held_out(split, k)
        found.append((f"{split}-{k}", captions.write(description), scene, seed))
    return of(found)


def of(found, items=None) -> list[Target]:
    """Targets of (name, caption, scene, seed) each."""
    pictures = paint_all([(scene, seed) for *_, scene, seed in found]).float() / 255
    labels = [{"home": item.home, "exposures": item.exposures} for item in items] if items else [{}] * len(found)
    return [
        Target(name, caption, picture, {**label, "seed": seed})
        for (name, caption, _, seed), picture, label in zip(found, pictures, labels, strict=True)
    ]


def rivals(targets, count: int, seed: int = 0):
    """`count` training pictures that are none of the targets: half decoys of their names, half of any kind.

    The decoys are the nearest rivals there are. uint8 [count, 3, 64, 64].
    """
    table = plant.load_table()
    table = table[~table["seed"].isin({target.labels["seed"] for target in targets})]
    decoys = table[table["name"].isin({target.name for target in targets})]
    decoys = decoys.sample(min(count // 2, len(decoys)), random_state=seed)
    rest = table.drop(decoys.index).sample(count - len(decoys), random_state=seed)
    return plant.paint_rows(decoys, rest)


def detectors(targets, count: int = 2000, seed: int = 0) -> list[copies.Detector]:
    """The calibrated descriptor, and adaptive ℓ2 among `count` rivals of the targets."""
    return [descriptor.detector(), copies.by_adaptive_l2(rivals(targets, count, seed))]


def alignment(judge: judges.Judge | None = None):
    """How much of its caption a picture shows, as `evaluation.tabulate` takes it: share of named factors, [B]."""
    judge = judge or judges.load()

    def share(images, target):
        named = captions.read(target.caption).named()
        sights = judges.seen(judge, images.cpu())
        rights = [[sight[key] == value for key, value in named.items()] for sight in sights]
        return images.new_tensor(rights).mean(1)

    return share
