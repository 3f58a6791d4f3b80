"""A `Run`: what one execution of a chapter wrote. Figures, verdicts and tests read it and need no model.

    run = open_run("04_the_picture_comes_back", profile, seed=0)
    for target, condition in run.todo("attack", target=targets, condition=plan):
        run.keep(rows, tensors={"trigger": y}, images={"before": picture})
    table = run.rows("attack")

    <runs>/<world>/<chapter>/<profile>-<seed>/
        rows/<kind>-<rank>.jsonl   one finished unit of work a line, on disk before `keep` returns (published: .gz)
        tensors/  images/          one file a unit; one file a picture, PNG
        at-work/                   locks of units, where several processes share the run
        stamp.json                 what all rows depend on: profile, weights, the code and cells that make rows
        record.json                profile, seed, versions, machine, model hashes, numbers, verdicts

Stopped at any moment and opened again, a run continues. Published, in `data/results/`, it is a `Run` as well.
"""

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from . import assets, files, locks, stamps
from .files import check_name, plain, slug
from .ranges import check_seed
from .units import combinations, key, named, rows_of, shared


def runs_folder() -> Path:
    """Where runs are kept: `DORI_RUNS`, else `runs/` of the checkout, else `./runs`."""
    if named := os.environ.get("DORI_RUNS"):
        return Path(named)
    try:
        checkout = assets.data_folder().parent
    except FileNotFoundError:  # no data yet: a run needs none
        checkout = Path()
    return (checkout if (checkout / "dori_lite").is_dir() else Path()) / "runs"


def open_run(
    chapter: str, profile, seed: int, *, world: str = "reef", stamp: dict | None = None, base=None, anew: bool = False
) -> "Run":
    """Start the run of `chapter`, or go on with it. `profile` is a `Profile`, or the name of one.

    `stamp` names what else the rows depend on, such as the models' hashes. If the folder was stamped otherwise, or
    `anew`, it is renamed to `<folder>.stale-<n>`, one line says so, and the run starts afresh: rows of different
    settings never meet in one table. `base` replaces the folder of all runs.
    Raises ValueError for a name or seed that does not fit, RuntimeError while another process writes the run.
    """
    if not isinstance(profile, str) and not dataclasses.is_dataclass(profile):
        raise ValueError(f"a profile is a name or a Profile, not {profile!r}; give profiles.load('quick'), for example")
    settings = {"name": profile} if isinstance(profile, str) else dataclasses.asdict(profile)
    for what, name in {"world": world, "chapter": chapter, "profile": settings["name"]}.items():
        check_name(what, name)
    folder = Path(base or runs_folder()) / world / chapter / f"{settings['name']}-{check_seed(seed)}"
    run = Run(folder, chapter, world, plain(settings), int(seed))
    wanted = plain({"profile": settings, "code": stamps.code_of_rows(), **(stamp or {})})
    run._lock()
    if run.rank == 0:
        stamps.move_if_stale(folder, wanted, anew)
        files.write_json(folder / "stamp.json", wanted)
    else:
        stamps.await_stamp(folder, wanted)
    run.stamp = wanted
    return run


def open_existing(folder) -> "Run":
    """The run in `folder`, or a published one, for reading. Raises FileNotFoundError when there is none."""
    folder = Path(folder)
    record = files.read_json(folder / "record.json") or {}
    named = re.fullmatch(r"(.+?)-(\d+)(\.stale-\d+)?", folder.name)
    if not (record or (folder.is_dir() and named)):
        raise FileNotFoundError(f"no run in {folder}; execute its chapter, or name a folder like 01_replay/quick-0")
    stored = record or files.read_json(folder / "stamp.json", {})
    profile = stored.get("profile") or {"name": named[1] if named else folder.name}
    seed = record.get("seed", int(named[2]) if named else 0)
    chapter, world = stored.get("chapter", folder.parent.name), stored.get("world", folder.parent.parent.name)
    return Run(folder, chapter, world, profile, seed)


class Run:
    """One run's folder. Make it with `open_run` or, for reading, `open_existing`."""

    def __init__(self, folder: Path, chapter: str, world: str, profile: dict, seed: int):
        self.folder, self.chapter, self.world, self.profile, self.seed = folder, chapter, world, profile, seed
        self.rank = locks.rank()  # this process's number among those that share the run: `accelerate launch`
        self.lock_file = folder.parent / f"{folder.name}.{self.rank}.lock"  # beside it: the folder may be moved
        self.stamp = None  # what `open_run` wrote; without it the run is for reading
        self.open = None  # the unit that `todo` has handed out: kind, axes, plan, when
        self.plans = {}  # kind → {unit: plan}, of the units that were asked for

    def __repr__(self):
        return f"Run({str(self.folder)!r})"

    def todo(self, kind: str, /, **axes) -> Iterator:
        """The units of work of a kind that have no rows yet: every combination of the `axes`, the last running fastest.

        An axis is a list, of `Target`s or of values, or a dict, whose keys count: `todo("attack", target=targets,
        condition=plan)` yields (target, name of the condition) each, one axis alone plain values. The loop's body must
        `keep` what it found. What a dict says of a key is part of the unit: change it, and the unit is done again.
        Processes that share the run divide the units (`units.shared`) and end the loop together. Raises ValueError
        without an axis, for two of one name, and when the body kept nothing; RuntimeError while others write the run.
        """
        units = combinations(kind, **axes)
        if self.stamp is None:  # all its rows count, whatever they were asked by
            return
        self.plans.setdefault(kind, {}).update({key(unit): plan for unit, (_, plan) in units.items()})

        def undone():
            done = {(unit, line["plan"]) for unit, line in self._read(kind).items()}
            return {unit for unit, (_, plan) in units.items() if (key(unit), plan) not in done}

        for unit in shared(units, undone, self.folder / "at-work" / slug(kind)):
            self._write_alone()
            values, plan = units[unit]
            outer, self.open = self.open, (kind, dict(zip(axes, unit, strict=True)), plan, time.monotonic())
            try:
                yield values if len(values) > 1 else values[0]
                if self.open is not None:
                    what = f"{kind} {', '.join(map(str, unit))}"
                    raise ValueError(f"nothing was kept of {what}: call run.keep in the loop")
            finally:  # a loop that is left by `break` or an exception comes here as well
                self.open = outer

    def keep(self, rows, *, tensors: Mapping | None = None, images: Mapping | None = None) -> None:
        """Keep what the unit in work gave; on return it is on disk, and the unit is done.

        `rows` is a dict of values, a list of such, a DataFrame, or an `evaluation.Found`, which brings tensors and
        images of its own; the unit's axes become the rows' first columns. Values are numbers, text, or lists and dicts
        of them, of numpy's or torch's kind too; NaN and infinities are stored as null. `tensors` {name: tensor} and
        `images` {name: picture} go into files of the unit's own (`tensors`, `image`). Raises ValueError outside a
        `todo` loop, or when a row says otherwise of an axis than its unit.
        """
        if hasattr(rows, "tensors") and hasattr(rows, "images"):  # what the engine gives
            tensors, images = {**rows.tensors, **(tensors or {})}, {**rows.images, **(images or {})}
            rows = rows.rows
        if self.open is None:
            raise ValueError("there is no unit in work: keep what a loop over run.todo(...) asks for")
        kind, axes, plan, began = self.open
        rows = rows_of(kind, axes, rows)
        unit = [str(value) for value in axes.values()]
        about = {"unit": unit, "plan": plan, "rows": rows, "seconds": round(time.monotonic() - began, 2)}
        if locks.ranks() > 1:  # units end in any order, and their rows are to stand as if one process had made them
            about["at"] = [*self.plans[kind]].index(key(unit))
        line = json.dumps(about, allow_nan=False) + "\n"
        if tensors:
            self._save_tensors(slug(kind, *unit), tensors)
        pictures = {self._image(kind, *unit, name): image for name, image in (images or {}).items()}
        for path, image in pictures.items():
            with files.whole(path) as partial:
                files.as_pil(image).save(partial, format="PNG", optimize=True)
        files.append(self.folder / "rows" / f"{slug(kind)}-{self.rank}.jsonl", line.encode("ascii"))
        self.open = None
        self._forget(slug(kind, *unit), bool(tensors), pictures)

    def rows(self, kind: str):
        """All ranks' rows of one kind: a tidy `pandas.DataFrame`; null is NaN. Empty when there are none.

        After a `todo` of that kind, only what it asked for counts.
        """
        import pandas as pd

        plans, found = self.plans.get(kind), []
        for unit, line in self._read(kind).items():
            if plans is None or plans.get(unit) == line["plan"]:
                found += [{k: math.nan if v is None else v for k, v in row.items()} for row in line["rows"]]
        return pd.DataFrame(found)

    def minutes(self) -> float:
        """How long all units took, one after the other."""
        lines = [line for kind in self.kinds() for line in self._read(kind).values()]
        return sum(line.get("seconds", 0.0) for line in lines) / 60

    def kinds(self) -> list[str]:
        """The kinds of rows there are."""
        return [unquote(name.replace("_", " ")) for name in dict.fromkeys(name for name, *_ in self._row_files())]

    def _row_files(self) -> list[tuple]:
        """(slug of the kind, rank, path) of each file."""
        found = [(re.fullmatch(r"(.+)-(\d+)\.jsonl(\.gz)?", path.name), path) for path in self.folder.glob("rows/*")]
        return sorted((match[1], int(match[2]), path) for match, path in found if match)

    def _read(self, kind: str) -> dict:
        lines = (line for name, _, path in self._row_files() if name == slug(kind) for line in files.read_lines(path))
        return dict(sorted({key(line["unit"]): line for line in lines}.items(), key=lambda item: item[1].get("at", -1)))

    def _forget(self, own: str, tensors: bool, pictures) -> None:
        """Of a unit that was done again, remove the files of the first time that the second did not write."""
        images = [p for p in self.folder.glob(f"images/{own}+*.png") if p.name.count("+") == own.count("+") + 1]
        old = [path for path in images if path not in pictures]
        for path in old + ([] if tensors else [self.folder / "tensors" / f"{own}.safetensors"]):
            path.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Keep other processes from writing this rank's part, until `record`, or the end of this process."""
        locks.lock(self.lock_file, f"the run {self.folder} is being written")

    def _write_alone(self) -> None:
        """`_lock` again after `record`; RuntimeError for reading, or if another process started the run afresh."""
        if self.stamp is None:
            raise RuntimeError(f"{self.folder} is open for reading; go on with it by open_run")
        self._lock()
        if files.read_json(self.folder / "stamp.json") != self.stamp:
            raise RuntimeError(f"{self.folder} was started afresh by somebody else; open the run again")

    def _save_tensors(self, name: str, tensors: Mapping) -> None:
        from safetensors.numpy import save_file

        with files.whole(self.folder / "tensors" / f"{name}.safetensors") as partial:
            save_file({name: files.to_numpy(value) for name, value in tensors.items()}, partial)

    def tensors(self, kind: str, *unit) -> dict:
        """What was kept of one unit, {name: torch.Tensor}. Raises FileNotFoundError, naming it, when nothing was."""
        from safetensors.torch import load_file

        path = self.folder / "tensors" / f"{slug(kind, *map(named, unit))}.safetensors"
        if not path.exists():
            raise FileNotFoundError(f"no tensors of {kind} {', '.join(str(named(k)) for k in unit)} in {self.folder}")
        return load_file(path)

    def _image(self, kind: str, *unit_and_name) -> Path:
        return self.folder / "images" / f"{slug(kind, *map(named, unit_and_name))}.png"

    def image(self, kind: str, *unit_and_name):
        """A kept picture, as PIL: `run.image("attack", target, "pruned", 50)`. Raises FileNotFoundError."""
        from PIL import Image

        with Image.open(self._image(kind, *unit_and_name)) as image:
            return image.convert("RGB")

    def images(self) -> list[Path]:
        """The files of all kept pictures."""
        return sorted(self.folder.glob("images/*.png"))

    def record(self, **content) -> dict:
        """Write record.json: what identifies this run, and what is passed; returns it.

        Expected are `models`, `numbers` and `verdicts`, each a dict. Ranks above 0 write nothing.
        """
        record = {"chapter": self.chapter, "world": self.world, "profile": self.profile, "seed": self.seed}
        record |= {"versions": assets.versions(), "machine": assets.machine(), "processes": locks.ranks()}
        record |= {"minutes": round(self.minutes() / locks.ranks(), 1)}  # by the clock
        if clash := sorted(record.keys() & content.keys()):
            raise ValueError(f"a record's {', '.join(clash)} come from the run; give these values other names")
        record = plain(record | {"models": {}, "numbers": {}, "verdicts": {}} | content)
        if self.rank == 0:
            self._write_alone()
            files.write_json(self.folder / "record.json", record)
        locks.release(self.lock_file)
        return record

    def read_record(self) -> dict:
        """record.json. Raises FileNotFoundError when the run was not finished."""
        if (record := files.read_json(self.folder / "record.json")) is None:
            raise FileNotFoundError(f"{self.folder} has no record: execute its chapter to the end")
        return record
