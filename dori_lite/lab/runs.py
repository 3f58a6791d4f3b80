"""A `Run`: what one execution of a chapter wrote. Figures and tests read it and need no model.

    <runs>/<chapter>/<profile>-<seed>/
        rows-<rank>.jsonl     one finished unit of work a line, on disk before `row` returns
        tensors.safetensors   triggers, masks (`tensors-<rank>.safetensors` for ranks above 0)
        images/               pictures, PNG
        stamp.json            what the rows depend on: effective profile, model hashes
        record.json           profile, seed, versions, machine, model hashes, timings, numbers, verdicts

Stopped at any moment and opened again, a run continues: the loop asks `done(key)` before each unit.
What is heavy is imported where it is used, so that figures and commands start at once.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import time
from pathlib import Path

from .. import assets
from .records import append, machine, plain, read_json, read_lines, to_numpy, versions, write_json

PUBLISHED_BYTES = 2_000_000
WAIT = 60.0  # seconds that ranks above 0 give rank 0 to prepare the folder


def runs_folder() -> Path:
    """Where runs are kept: `DORI_RUNS`, else `runs/` of the checkout, else `./runs`."""
    if named := os.environ.get("DORI_RUNS"):
        return Path(named)
    try:
        checkout = assets.data_folder().parent
    except FileNotFoundError:  # no data yet: a run needs none
        checkout = Path()
    return (checkout if (checkout / "dori_lite").is_dir() else Path()) / "runs"


def open_run(chapter: str, profile, seed: int, base=None, stamp: dict | None = None) -> "Run":
    """Start the run of `chapter`, or go on with it. `profile` is a `Profile`, or the name of one.

    `stamp` names what else the rows depend on, such as the models' hashes; a `Profile` is part of it
    without being told. If the folder was stamped otherwise, it is renamed to `<folder>.stale-<n>`, one
    line says so, and the run starts afresh: rows of different settings never meet in one table.
    Without a stamp nothing is compared. `base` replaces the folder of all runs.
    """
    settings = dataclasses.asdict(profile) if dataclasses.is_dataclass(profile) else {"name": str(profile)}
    folder = Path(base or runs_folder()) / chapter / f"{settings['name']}-{seed}"
    run = Run(folder, chapter, settings, int(seed))
    if stamp is not None or dataclasses.is_dataclass(profile):
        wanted = plain({"profile": settings, **(stamp or {})})
        if run.rank == 0:
            move_if_stale(folder, wanted)
            write_json(folder / "stamp.json", wanted)
        else:
            await_stamp(folder, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    return run


def open_existing(folder) -> "Run":
    """The run in `folder`, for reading. Raises FileNotFoundError when there is none."""
    folder = Path(folder)
    named = re.fullmatch(r"(.+?)-(\d+)(\.stale-\d+)?", folder.name)
    if not folder.is_dir() or not named:
        raise FileNotFoundError(f"no run in {folder}; execute its chapter, or name a folder like 01_replay/quick-0")
    stored = read_json(folder / "stamp.json") or {}
    return Run(folder, folder.parent.name, stored.get("profile", {"name": named[1]}), int(named[2]))


def move_if_stale(folder: Path, stamp: dict) -> None:
    """Rename `folder` when it was stamped otherwise, or holds rows and no stamp."""
    stored = read_json(folder / "stamp.json")
    if stored == stamp or (stored is None and not any(folder.glob("rows-*.jsonl"))):
        return
    differ = [k for k in {**(stored or {}), **stamp} if stored is None or stored.get(k) != stamp.get(k)]
    n = 1
    while (aside := folder.with_name(f"{folder.name}.stale-{n}")).exists():
        n += 1
    folder.rename(aside)
    print(f"{folder} was made with another {', '.join(differ)}: moved to {aside.name}, starting afresh")


def await_stamp(folder: Path, stamp: dict) -> None:
    end = time.monotonic() + WAIT
    while read_json(folder / "stamp.json") != stamp:
        if time.monotonic() > end:
            raise RuntimeError(f"{folder} was not prepared by rank 0 in {WAIT:.0f} s; start all processes alike")
        time.sleep(0.1)


class Run:
    """One run's folder. Make it with `open_run` or `open_existing`.

    `rank` is this process's number among those that share the run (`accelerate launch` sets RANK).
    """

    def __init__(self, folder: Path, chapter: str, profile: dict, seed: int):
        self.folder, self.chapter, self.profile, self.seed = folder, chapter, profile, seed
        self.rank = int(os.environ.get("RANK", 0))
        self._done = None

    def __repr__(self):
        return f"Run({str(self.folder)!r})"

    def row(self, key, /, **values) -> None:
        """Keep the result of the unit `key`; on return it is on disk. A key's last row counts.

        `key` is text, or a tuple that is joined with "/". Values are numbers, text, or lists and dicts
        of them, of numpy's or torch's kind too; NaN and infinities are stored as null.
        """
        if "unit" in values:
            raise ValueError("a row's `unit` is its key; give this value another name")
        line = json.dumps(plain({"unit": unit(key), **values}), allow_nan=False) + "\n"
        append(self.folder / f"rows-{self.rank}.jsonl", line.encode("ascii"))
        if self._done is not None:
            self._done.add(unit(key))

    def done(self, key) -> bool:
        """Whether the unit `key` has a row (of any rank, as of this run's opening, and its own since)."""
        if self._done is None:
            self._done = set(self._read_rows())
        return unit(key) in self._done

    def rows(self):
        """All ranks' rows: a `pandas.DataFrame`, one row a unit, column `unit` first; null is NaN."""
        import pandas as pd

        rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in self._read_rows().values()]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["unit"])

    def _read_rows(self) -> dict[str, dict]:
        files = sorted(self.folder.glob("rows-*.jsonl"), key=lambda path: int(path.stem.split("-")[1]))
        return {row["unit"]: row for path in files for row in read_lines(path)}

    def save_tensors(self, tensors: dict) -> None:
        """Add numpy arrays or torch tensors, by name, to what is kept. Existing names are replaced.

        bfloat16, which numpy has not, is kept as float32.
        """
        from safetensors.numpy import load_file, save_file

        path = self.folder / ("tensors.safetensors" if self.rank == 0 else f"tensors-{self.rank}.safetensors")
        kept = load_file(path) if path.exists() else {}
        partial = path.with_suffix(".partial")
        save_file(kept | {name: to_numpy(value) for name, value in tensors.items()}, partial)
        os.replace(partial, path)

    def tensors(self) -> dict:
        """All kept tensors by name, as numpy arrays."""
        from safetensors.numpy import load_file

        return {k: v for path in sorted(self.folder.glob("tensors*.safetensors")) for k, v in load_file(path).items()}

    def save_image(self, name: str, image) -> Path:
        """Keep a PIL image as `images/<name>.png`."""
        if not re.fullmatch(r"\w[\w.=+-]*", name):
            raise ValueError(f"{name!r} cannot be a picture's name; use letters, digits and _ . = + -")
        path = self.folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{name}.partial")
        image.save(partial, format="PNG")
        os.replace(partial, path)
        return path

    def images(self) -> dict[str, Path]:
        """The files of all kept pictures, by name."""
        return {path.name.removesuffix(".png"): path for path in sorted(self.folder.glob("images/*.png"))}

    def record(self, **content) -> dict:
        """Write record.json: what identifies this run, and what is passed; returns it.

        Expected are `models` (from `model_hashes`), `timings`, `numbers` and `verdicts`, each a dict.
        Ranks above 0 write nothing.
        """
        record = {"chapter": self.chapter, "profile": self.profile, "seed": self.seed}
        record |= {"versions": versions(), "machine": machine()}
        if clash := sorted(record.keys() & content.keys()):
            raise ValueError(f"a record's {', '.join(clash)} come from the run; give these values other names")
        record = plain(record | {"models": {}, "timings": {}, "numbers": {}, "verdicts": {}} | content)
        if self.rank == 0:
            write_json(self.folder / "record.json", record)
        return record

    def read_record(self) -> dict:
        """record.json. Raises FileNotFoundError when the run was not finished."""
        if (record := read_json(self.folder / "record.json")) is None:
            raise FileNotFoundError(f"{self.folder} has no record: execute its chapter to the end")
        return record


def unit(key) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)


def model_hashes(*names: str) -> dict[str, str]:
    """One SHA-256 for each of the shipped models `names`, over its files' hashes in the manifest."""
    folder = assets.data_folder() / "reef"
    shipped, hashes = assets.manifest(folder), {}
    for name in names:
        own = sorted((path, digest) for path, digest in shipped["files"].items() if path.startswith(name + "/"))
        if not own:
            raise ValueError(f"{folder} ships no model {name!r}; there are: {', '.join(shipped['models'])}")
        hashes[name] = hashlib.sha256(json.dumps(own).encode()).hexdigest()
    return hashes


def published(chapter: str, profile: str = "standard") -> dict:
    """The verdicts of a published run, {} when there is none yet."""
    record = read_json(assets.data_folder() / "results" / chapter / profile / "record.json")
    return record["verdicts"] if record else {}


def publish(folder) -> Path:
    """Copy a run's table (CSV), record and pictures to `data/results/<chapter>/<profile>/`; returns it.

    Raises FileNotFoundError without a record, and ValueError when the record's models are not the ones
    that data/reef ships (profile sd14, whose weights are not ours, must only name them), when there are
    no rows, or when it would take more than 2 MB.
    """
    run = open_existing(folder)
    record, table = run.read_record(), run.rows()
    models = record["models"]
    if not models:
        raise ValueError(f"{run.folder} does not say which models made it; pass record(models=model_hashes(...))")
    if run.profile["name"] != "sd14":
        shipped = assets.manifest(assets.data_folder() / "reef")
        known = shipped["files"] | model_hashes(*shipped["models"])  # by model or by file
        if strange := [name for name, digest in models.items() if known.get(name) != digest]:
            raise ValueError(f"{run.folder} was made with a {', '.join(strange)} that is not shipped; execute it again")
    if table.empty:
        raise ValueError(f"{run.folder} has no rows; execute its chapter to the end")
    target = assets.data_folder() / "results" / run.chapter / run.profile["name"]
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    table.to_csv(partial / "table.csv", index=False, lineterminator="\n")
    write_json(partial / "record.json", record)
    for path in run.images().values():
        shutil.copyfile(path, partial / "images" / path.name)
    size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if size > PUBLISHED_BYTES:
        shutil.rmtree(partial)
        raise ValueError(f"{run.folder} would publish {size / 1e6:.1f} MB; keep fewer or smaller pictures (limit 2 MB)")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    return target
