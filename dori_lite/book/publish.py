"""Runs that everybody gets: from `runs/` to `data/results/`, and back as a `Run` that figures read.

    folder = publish("runs/reef/04_the_picture_comes_back/standard-0")
    rows = published("04_the_picture_comes_back").rows("attack")

What is published carries the hashes of its models, which must be the shipped ones. `data/results/manifest.json` holds
the SHA-256 of every published file.
"""

import gzip
import json
import shutil
from pathlib import Path

from .. import assets, files
from ..files import slug
from ..runs import Run, open_existing

PUBLISHED_BYTES = 2_500_000


def published(chapter: str, profile: str = "standard", world: str = "reef") -> Run | None:
    """A published run, None when there is none yet. Raises ValueError for what can be no name."""
    names = [files.check_name(*name) for name in {"world": world, "chapter": chapter, "profile": profile}.items()]
    folder = assets.data_folder().joinpath("results", *names)
    return open_existing(folder) if (folder / "record.json").exists() else None


def all_published(world: str = "reef") -> list[Run]:
    """All published runs of a world, in the order of chapters and profiles."""
    folder = assets.data_folder() / "results" / files.check_name("world", world)
    found = [path.parent for path in sorted(folder.glob("*/*/record.json"))]
    return [open_existing(run) for run in found if run.suffix not in (".partial", ".old")]  # of a stopped `publish`


def standard(world: str = "reef") -> list[Run]:
    """The published runs that the book quotes: those of the profile `standard`, in the order of chapters."""
    return [run for run in all_published(world) if run.profile["name"] == "standard"]


def publish(folder) -> Path:
    """Copy a run's rows, record and pictures to `data/results/<world>/<chapter>/<profile>/`; returns it.

    Raises FileNotFoundError without a record, and ValueError when the record's models are not the ones shipped in
    `data/<world>` (a world whose weights are not ours must only name them), when there are no rows, or when it would
    take more than 2.5 MB. Stopped anywhere, what was published before stays or the new run stands; publish it again.
    """
    run = open_existing(folder)
    record = run.read_record()
    if not (models := record.get("models")):
        raise ValueError(f"{run.folder} does not say which models made it; pass record(models=world.hashes)")
    weights = assets.data_folder() / run.world
    if (weights / "manifest.json").exists():
        known = assets.model_hashes(weights)
        if strange := [name for name, digest in models.items() if known.get(name) != digest]:
            raise ValueError(f"{run.folder} was made with a {', '.join(strange)} that is not shipped; execute it again")
    if all(run.rows(kind).empty for kind in run.kinds()):
        raise ValueError(f"{run.folder} has no rows; execute its chapter to the end")
    place = {"world": run.world, "chapter": run.chapter, "profile": run.profile.get("name")}
    name = "/".join(files.check_name(what, part) for what, part in place.items())
    target = assets.data_folder() / "results" / name
    with files.whole_folder(target) as partial:
        for kind in run.kinds():
            found = [{k: v for k, v in line.items() if k != "at"} for line in run._read(kind).values()]
            lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in found]
            with files.whole(partial / "rows" / f"{slug(kind)}-0.jsonl.gz") as path:
                path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
        files.write_json(partial / "record.json", record)
        for path in run.images():
            (partial / "images").mkdir(exist_ok=True)
            shutil.copyfile(path, partial / "images" / path.name)
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if size > PUBLISHED_BYTES:
            cure = "keep fewer or smaller pictures (limit 2.5 MB)"
            raise ValueError(f"{run.folder} would publish {size / 1e6:.1f} MB; {cure}")
    assets.record(assets.data_folder() / "results", name)
    return target
