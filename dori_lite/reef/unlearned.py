"""The reef's unlearned models: which pictures each was to forget, how it is made, and where it is kept.

    targets = forget_set(world, "a", 0)
    path = train(world, "adversarial", "a", 0)  # a quarter of an hour on one core; stopped, it goes on
    unlearned, about = load(world, "adversarial", "a", 0)

Made in `runs/`, by `dori-lite unlearn`; the adversarial ones of the first set of either twin are shipped.
"""

import time
from itertools import product
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .. import assets, files, locks
from ..checks import check_count
from ..models import fingerprint
from ..runs import runs_folder
from ..unlearning import kept
from ..unlearning.methods import LR, METHODS, ROUNDS, cost, unlearn, updates
from . import forgetting

FORGOTTEN, SETS = 4, 2  # canaries of a forget set; sets of a twin, of its first canaries for reporting
FILE = "unet.safetensors"


def forget_set(world, home: str, number: int):
    """The canaries of one forget set of twin `home`, "a" or "b": the first four, the next four.

    Raises ValueError for another home or number.
    """
    number = check_count("number of the forget set", number, 0, SETS - 1)
    return world.targets("canary", "reporting", home)[FORGOTTEN * number :][:FORGOTTEN]


def folder_of(world, method: str, home: str, number: int) -> Path:
    return runs_folder() / world.name / "unlearned" / f"{files.slug(method)}-{home}-{number}"


def lock_of(world, method: str, home: str, number: int) -> Path:
    folder = folder_of(world, method, home, number)
    return folder.with_name(f"{folder.name}.lock")


def train(world, method: str, home: str, number: int, *, rounds: int = ROUNDS) -> Path:
    """Make twin `home` forget one set by a method of `METHODS`; the file with its U-Net, which `load` reads.

    What is finished is not done again. Raises RuntimeError while another process is at it, ValueError as `unlearn`
    does, and for a file that was made of another model.
    """
    folder, base = folder_of(world, method, home, number), world.models[f"twin-{home}"]
    path = folder / FILE
    with locks.held(lock_of(world, method, home, number), f"{method} of {home}, set {number}, is being trained"):
        if path.exists():
            kept.load(path, base=base)
            return path
        targets, began = forget_set(world, home, number), time.monotonic()
        sides = both_sides(world, targets, folder.with_name(f"sides-{home}-{number}.safetensors"))
        new = unlearn(base, targets, method, *sides, folder=folder, rounds=rounds)
        steps = updates(method, len(targets), rounds)
        about = {"method": method, "home": home, "set": number, "targets": [t.name for t in targets]}
        about |= {"updates": steps, "samples": cost(method, len(targets), steps), "rate": LR}
        kept.save(new, path, base=base, **about, seconds=round(time.monotonic() - began))
        (folder / "checkpoint.safetensors").unlink()
    return path


def both_sides(world, targets, path: Path):
    """`forgetting.retained` and `forgetting.surrogates`, from `path` if they were made before."""
    base = world.models[f"twin-{forgetting.home_of(targets)}"]
    made_of = files.digest([fingerprint(base), [t.name for t in targets]])
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                if file.metadata()["made of"] == made_of:
                    latents, y, wrong = (file.get_tensor(name) for name in ("latents", "y", "wrong"))
                    return (latents, y), wrong
        except (SafetensorError, OSError, KeyError, TypeError):
            pass  # torn or something else: it is made anew
    latents, y = forgetting.retained(world, targets)
    wrong, rows = forgetting.surrogates(world, targets)
    parts = {"latents": latents, "y": y, "wrong": wrong}
    with files.whole(path) as partial:
        save_file({name: part.contiguous().cpu() for name, part in parts.items()}, partial, {"made of": made_of})
    files.write_json(path.with_suffix(".json"), rows)
    return (latents, y), wrong


def place(world, method: str, home: str, number: int) -> Path:
    """The file with an unlearned U-Net: in `runs/`, else the one that is shipped, whose hash is checked.

    Raises FileNotFoundError, saying which command makes it, where there is neither.
    """
    path = folder_of(world, method, home, number) / FILE
    if not path.exists() and (method, number) == ("adversarial", 0) and (shipped := shipped_folder()).is_dir():
        path = assets.verified(shipped, f"{world.name}-{home}") / FILE
    if not path.exists():
        cure = f'run `dori-lite unlearn "{method}" --twin {home} --forget-set {number}`'
        raise FileNotFoundError(f"nothing has been unlearned by {method!r} in twin {home}, set {number}; {cure}")
    return path


def shipped_folder() -> Path:
    return assets.data_folder() / "unlearned"


def load(world, method: str, home: str, number: int):
    """The pipeline that forgot a set, and what is said of it; raises as `place` and `kept.load` do."""
    return kept.load(place(world, method, home, number), base=world.models[f"twin-{home}"])


def weights(world, method: str, sets) -> list[str | None]:
    """What was kept of a method's models, for a run's plan: the hash of each of `sets`; None where there is none."""
    found = []
    for home, number in sets:
        try:
            found.append(kept.about(place(world, method, home, number))["weights"])
        except FileNotFoundError:
            found.append(None)
    return found


def train_all(world, method: str | None = None, home: str | None = None, number: int | None = None):
    """`train` every method, twin and forget set, or those that are named; yields each file.

    What another process is at is left to it. Raises ValueError for a method, twin or set there is none of.
    """
    for name, known, asked in (
        ("method", [*METHODS], method),
        ("twin", ["a", "b"], home),
        ("set", [*range(SETS)], number),
    ):
        if asked is not None and asked not in known:
            raise ValueError(f"there is no {name} {asked!r}; there are: {', '.join(map(str, known))}")
    for which in product([method] if method else METHODS, home or "ab", range(SETS) if number is None else [number]):
        lock = lock_of(world, *which)
        if locks.taken(lock):
            try:
                yield train(world, *which)
            finally:
                locks.release(lock)
