"""Runs that everybody gets: from `runs/` to `data/results/`, and back as a `Run` that figures read.

    folder = publish("runs/reef/04_the_picture_comes_back/standard-0")
    rows = published("04_the_picture_comes_back").rows("attack")

What is published carries the hashes of its models, which must be the shipped ones.
"""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from .. import assets, files
from ..files import slug
from ..runs import Run, open_existing

PUBLISHED_BYTES = 2_000_000


def published(chapter: str, profile: str = "standard", world: str = "reef") -> Run | None:
    """A published run, None when there is none yet."""
    folder = assets.data_folder() / "results" / world / chapter / profile
    return open_existing(folder) if (folder / "record.json").exists() else None


def publish(folder) -> Path:
    """Copy a run's rows, record and pictures to `data/results/<world>/<chapter>/<profile>/`; returns it.

    Raises FileNotFoundError without a record, and ValueError when the record's models are not the ones shipped in
    `data/<world>` (a world whose weights are not ours must only name them), when there are no rows, or when it would
    take more than 2 MB.
    """
    run = open_existing(folder)
    record, models = run.read_record(), run.read_record()["models"]
    if not models:
        raise ValueError(f"{run.folder} does not say which models made it; pass record(models=world.hashes)")
    weights = assets.data_folder() / run.world
    if (weights / "manifest.json").exists():
        known = assets.model_hashes(weights)
        if strange := [name for name, digest in models.items() if known.get(name) != digest]:
            raise ValueError(f"{run.folder} was made with a {', '.join(strange)} that is not shipped; execute it again")
    if all(run.rows(kind).empty for kind in run.kinds()):
        raise ValueError(f"{run.folder} has no rows; execute its chapter to the end")
    target = assets.data_folder() / "results" / run.world / run.chapter / run.profile["name"]
    with whole_folder(target) as partial:
        for kind in run.kinds():
            lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in run._read(kind).values()]
            files.write_text(partial / "rows" / f"{slug(kind)}-0.jsonl", "".join(lines))
        files.write_json(partial / "record.json", record)
        for path in run.images():
            (partial / "images").mkdir(exist_ok=True)
            shutil.copyfile(path, partial / "images" / path.name)
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if size > PUBLISHED_BYTES:
            cure = "keep fewer or smaller pictures (limit 2 MB)"
            raise ValueError(f"{run.folder} would publish {size / 1e6:.1f} MB; {cure}")
    return target


@contextmanager
def whole_folder(target: Path):
    """A place to write beside the folder `target`, which takes its place when the body ends without an exception."""
    partial, old = (target.with_name(f"{target.name}.{end}") for end in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    try:
        yield partial
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
    finally:
        if old.exists() and not target.exists():  # stopped between the two
            os.replace(old, target)
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
