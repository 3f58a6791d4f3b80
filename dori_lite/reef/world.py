"""The reef as a `World`: its models and settings, its pictures as `Target`s, their rivals, and the detectors.

    world = load()
    canary = world.targets("canary")[0]
    pictures = evaluation.ask(world.models["twin-a"], [canary], seeds=range(4), **world.sampling)

`planted` pictures were repeated to one twin; `held_out` ones were shown to nobody.
"""

from dataclasses import replace
from functools import partial

from .. import assets, copies, files
from .. import models as pipelines
from ..checks import check_are_targets, check_count
from ..evaluation import Target, World
from . import attributes, canaries, captions, descriptor, localisers
from .paint import paint_all

MODELS = ("twin-a", "twin-b", "parent")
SAMPLING = {"guidance": 5.0, "steps": localisers.STEPS, "batch": 32}  # chosen on tuning canaries


def load(*names: str, device: str | None = None, world: str = "reef") -> World:
    """The reef with the models `names` [default: all of `MODELS`]; `world` is a pair of twins, one of `models.PAIRS`.

    Raises ValueError for an unknown one of either.
    """
    if world not in pipelines.PAIRS:
        raise ValueError(f"there is no pair of twins {world!r}; there are: {', '.join(pipelines.PAIRS)}")
    if unknown := [name for name in names if name not in MODELS]:
        raise ValueError(f"the reef has no model {unknown[0]!r}; there are: {', '.join(MODELS)}")
    loaded = {name: pipelines.load(f"{world}/{name}", device=device) for name in names or MODELS}
    return World(
        name=world,
        models=loaded,
        targets=partial(planted, world=world),
        detectors=partial(detectors, world=world),
        relation=relation,
        localise=localisers.localiser(loaded, SAMPLING, world),
        hashes=assets.model_hashes(assets.data_folder() / world),
        sampling=SAMPLING,
        alignment=alignment(),
        controls=partial(held_out, "test"),
    )


def relation(target: Target, which: str) -> str:
    """The model that is "own", "other" or "parent" to a planted picture; for a held-out one, "own" is its label `home`.

    Raises ValueError for another word, or a target without a home.
    """
    home = target.labels.get("home")
    known = {"own": f"twin-{home}", "other": f"twin-{'b' if home == 'a' else 'a'}", "parent": "parent"}
    if which not in list(known):
        raise ValueError(f"a model is 'own', 'other' or 'parent' to a target; got {which!r}")
    if home not in ("a", "b"):
        raise ValueError(f"{target.name} is at home in neither twin; give it the label home='a' or 'b'")
    return known[which]


def planted(
    role: str = "canary",
    split: str = "reporting",
    home: str | None = None,
    count: int | None = None,
    *,
    world: str = "reef",
):
    """Planted pictures of one role and split, the first `count` of either twin's (or of `home`'s, "a" or "b").

    Labels: role, home, exposures (in its own twin), seed, and group where names share a description. Raises ValueError
    for a role, split or home there is none of, and for more than there are.
    """
    if home not in (None, "a", "b"):
        raise ValueError(f"home is 'a' or 'b', or None for both; got {home!r}")
    items = [item for item in canaries.planted(world) if (item.role, item.split) == (role, split)]
    if not items:
        raise ValueError(f"nothing planted is a {role!r} for {split!r}; roles are canary, graded and template")
    most = min(sum(item.home == h for item in items) for h in home or "ab")
    count = most if count is None else check_count("count of either twin's", count, 1, most)
    chosen = [item for h in home or "ab" for item in [i for i in items if i.home == h][:count]]
    labels = [{"role": item.role, "home": item.home, "exposures": item.exposures} for item in chosen]
    for label, item in zip(labels, chosen, strict=True):
        label |= {} if item.group is None else {"group": item.group}
    return of([(item.name, item.caption, *canaries.picture(item)[1:]) for item in chosen], labels)


def siblings(target: Target, targets) -> list[Target]:
    """Those of `targets` whose captions differ from the target's in nothing but the name."""
    check_are_targets([target]), check_are_targets(targets)
    plain = captions.nameless(target.caption)
    return [t for t in targets if t.name != target.name and captions.nameless(t.caption) == plain]


def held_out(split: str, count: int, start: int = 0):
    """Scenes that no diffusion model was trained on, under captions of the canaries' style, from number `start` on.

    Labels: role ("held-out"), home, seed. The home is the twin that is asked for it, "a" for even numbers; neither has
    seen it. Raises ValueError for an unknown split, and for more than it has.
    """
    found, numbers = [], descriptor.numbers(split, count, start)
    for k in numbers:
        description, scene, seed = canaries.held_out(split, k)
        found.append((f"{split}-{k}", captions.write(description), scene, seed))
    return of(found, [{"role": "held-out", "home": "ab"[k % 2]} for k in numbers])


def of(found, labels=None) -> list[Target]:
    """Targets of (name, caption, scene, seed) each; their labels are the seed, and `labels`' of each.

    Raises ValueError for no scenes.
    """
    if not found:
        raise ValueError("there are no scenes; give at least one")
    pictures = paint_all([(scene, seed) for *_, scene, seed in found]).float() / 255
    return [
        Target(name, caption, picture, {**label, "seed": seed})
        for (name, caption, _, seed), picture, label in zip(found, pictures, labels or [{}] * len(found), strict=True)
    ]


def rivals(targets, count: int, seed: int = 0, *, world: str = "reef"):
    """`count` training pictures that are none of the targets: half decoys of their names, half of any kind.

    The decoys are the nearest rivals there are. uint8 [count, 3, 64, 64]. Raises ValueError for no targets, for one
    without the label `seed` (its own picture could be among the rivals), and for more than there are.
    """
    if not targets:
        raise ValueError("there are no targets; give at least one")
    if strange := [target.name for target in targets if "seed" not in target.labels]:
        raise ValueError(
            f"{strange[0]} has no label 'seed', so that it could be its own rival; make it with `world.of`"
        )
    table = canaries.load_table(world)
    table = table[~table["seed"].isin({target.labels["seed"] for target in targets})]
    check_count("count of rivals", count, 1, len(table))
    check_count("seed", seed, 0, 2**32 - 1)  # pandas takes no more
    decoys = table[table["name"].isin({target.name for target in targets})]
    decoys = decoys.sample(min(count // 2, len(decoys)), random_state=seed)
    rest = table.drop(decoys.index).sample(count - len(decoys), random_state=seed)
    return canaries.paint_rows(decoys, rest)


def detectors(targets, count: int = 2000, seed: int = 0, *, world: str = "reef") -> list[copies.Detector]:
    """The descriptor, and adaptive ℓ2 among `count` rivals of the targets, at the thresholds of `thresholds.json`."""
    found = [descriptor.detector(), copies.by_adaptive_l2(rivals(targets, count, seed, world=world))]
    known = files.read_json(assets.verified(assets.data_folder() / "reef", "thresholds.json"))["thresholds"]
    return [replace(detector, threshold=known[detector.name]) for detector in found]


def alignment(judge: attributes.Judge | None = None):
    """How much of its caption a picture shows, as `evaluation.tabulate` takes it: share of named factors, [B]."""
    judge = judge or attributes.load()

    def share(images, target):
        named = captions.read(target.caption).named()
        sights = attributes.seen(judge, images.cpu())
        rights = [[sight[key] == value for key, value in named.items()] for sight in sights]
        return images.new_tensor(rights).mean(1)

    return share
