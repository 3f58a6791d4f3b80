"""Reference pictures: the training images behind memorized captions, which are known by URL alone.

    found = collect(lists.read("nemo"))  # or own="my pictures", a folder of <name>.jpg, .png, ...
    print(summary(found))  # 417 of 500 found (417 by url); missing: 61 HTTP 404, 12 no such host, 10 timed out
    image = as_target_image(open_picture(Path(found.path[0]).read_bytes()), 512)

They are other people's pictures: kept in the cache as they came, and never handed on.
"""

import hashlib
import io
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from .. import assets, files
from ..ranges import check_count, check_positive, check_rows
from .downloads import NotFound, download

KINDS = {  # a file's ending → Pillow's name of the format, and how its content begins
    "jpg": ("JPEG", rb"\xff\xd8\xff"),
    "png": ("PNG", rb"\x89PNG\r\n\x1a\n"),
    "webp": ("WEBP", rb"RIFF.{4}WEBP"),
    "gif": ("GIF", rb"GIF8[79]a"),
    "bmp": ("BMP", rb"BM"),
}
# Reasons that will be the same tomorrow. "no such host" is none: without a network, every host is. Nor are the four of
# HTTP, which servers say when they are busy or dislike the asker.
FINAL = r"HTTP 4(?!03|08|25|29)\d\d|not a picture|larger than|more than"
RECORD = {"url": "", "kind": "", "sha256": "", "reason": ""}


# ---- one picture ----------------------------------------------------------------------------------------


def download_picture(url: str, *, most_pixels: int = 50_000_000, **limits) -> bytes:
    """The bytes of the picture at `url`, which `open_picture` takes; `limits` are those of `downloads.download`.

    Raises NotFound, whose message is the reason.
    """
    data = download(url, **limits)
    open_picture(data, most_pixels)
    return data


def kind_of(data: bytes) -> str:
    """Which of `KINDS` the bytes begin like. Raises NotFound for others."""
    for kind, (_, beginning) in KINDS.items():
        if re.match(beginning, data, re.DOTALL):
            return kind
    if not data:
        raise NotFound("not a picture (empty)")
    page = re.search(rb"<(!doctype html|html|head|body|script)\b", data[:2048], re.IGNORECASE)
    raise NotFound(f"not a picture ({'text/html' if page else 'no JPEG, PNG, WEBP, GIF or BMP'})")


def open_picture(data: bytes, most_pixels: int = 50_000_000):
    """The picture in `data`, whole, as a PIL image in RGB: upright by its EXIF, on white, of a GIF the first frame.

    Raises NotFound for what is no JPEG, PNG, WEBP, GIF or BMP, has more pixels, or does not decode to its end.
    """
    import numpy as np
    from PIL import Image, ImageOps

    kind, large = kind_of(data), NotFound(f"larger than {most_pixels / 1e6:g} million pixels")
    try:
        image = Image.open(io.BytesIO(data), formats=[KINDS[kind][0]])
        if image.width * image.height <= most_pixels:
            image.load()
            with suppress(Exception):  # damaged EXIF says nothing about how the picture stands
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip to white
                image = Image.fromarray((np.asarray(image).astype("float32") / 257).round().clip(0, 255).astype("u1"))
            if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise large from None
    except Exception:  # decoders raise whatever they stumble over
        raise NotFound("damaged picture") from None
    raise large


def as_target_image(image, size: int):
    """A PIL image as a tensor [3, size, size] in [0, 1]: its central square, resized with Pillow's LANCZOS filter."""
    import numpy as np
    import torch
    from PIL import Image

    size, side = check_count("size", size), min(image.size)
    x, y = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous().float() / 255


# ---- a whole list ---------------------------------------------------------------------------------------


def collect(rows, folder=None, *, own=None, private: bool = False, workers: int = 8, deadline: float = 20.0):
    """The reference pictures of `rows` (columns `name`, `url`): the rows with four more columns.

    `origin` ("own", "url", or "" if missing), `path` of the file, `reason` ("" if found), `sha256` of its bytes.
    The reader's own pictures, in the folder `own` as `<name>.jpg` or the like, come first. Others are downloaded into
    `folder` [default: pictures/ in the cache] as `<name>.<ending>`, each with a record `<name>.json`. Called again, it
    goes on: what is there or, by `FINAL`, is gone for good is not asked for again, unless its url has changed or its
    files were removed. `deadline` (seconds, for each) and `private` are those of `download_picture`.

    Raises ValueError for names that no file can have or that come twice, for a picture in `own` that is none, and for
    one in `folder` that changed or was not downloaded there; FileNotFoundError if `own` is no folder.
    """
    from tqdm.auto import tqdm

    check_rows(rows, "name", "url")
    check_count("workers", workers)
    check_positive("deadline", deadline)
    names = check_names(rows["name"])
    urls = {name: url if isinstance(url, str) else "" for name, url in zip(names, rows["url"], strict=True)}
    folder = files.check_writable(folder or assets.cache_folder() / "pictures")
    found, asked = own_pictures(own, folder, names), {}
    for name in (name for name in names if name not in found):  # all are checked before the first is downloaded
        record, path = recorded(folder, name)
        if record["url"] == urls[name] and (record["reason"] or path.exists()):
            found[name] = as_row(record, path)
        else:
            asked[name] = path
    pool = ThreadPoolExecutor(workers)
    try:
        jobs = {pool.submit(fetched, n, urls[n], folder, old, deadline, private): n for n, old in asked.items()}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="reference pictures", delay=5, leave=False):
            found[jobs[job]] = job.result()
    finally:  # interrupted, it ends with the downloads that have begun
        pool.shutdown(cancel_futures=True)
    columns = ("origin", "path", "reason", "sha256")
    return rows.assign(**{column: [found[name][column] for name in names] for column in columns})


def check_names(names) -> list[str]:
    """The names as a list. Raises ValueError unless each can be a file's, and no two could be one file's."""
    names = [files.check_name("name", name) for name in names]
    times = Counter(name.lower() for name in names)  # some file systems take A for a
    for name in names:
        if times[name.lower()] > 1:
            raise ValueError(f"name {name!r} comes twice, for files at least; give each row a name of its own")
        if len(name.encode()) > 200:
            raise ValueError(f"name {name!r:.40} is too long for a file; give at most 200 bytes")
    return names


def own_pictures(own, folder: Path, names: list[str]) -> dict[str, dict]:
    """What the reader's folder `own` holds of `names`: {name: its row}. Each picture is opened once."""
    found, names = {}, {*names}
    if own is None:
        return found
    own = Path(own)
    if not own.is_dir():
        raise FileNotFoundError(f"own={str(own)!r} is no folder; name the one that your pictures are in")
    if own.resolve() == folder.resolve():
        raise ValueError(f"{own} is where downloads are kept; keep your own pictures in another folder")
    for path in sorted(own.iterdir()):
        if path.stem not in names or path.suffix.lower().removeprefix(".") not in (*KINDS, "jpeg"):
            continue
        if path.stem in found:
            raise ValueError(f"{path} and {Path(found[path.stem]['path']).name} have one name; remove one of them")
        data = path.read_bytes()
        try:
            open_picture(data)
        except NotFound as error:
            raise ValueError(f"{path} cannot be used: {error}; replace or remove it") from None
        found[path.stem] = {
            "origin": "own",
            "path": str(path),
            "reason": "",
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    return found


def recorded(folder: Path, name: str) -> tuple[dict, Path]:
    """The record of a name, as `RECORD`, which it is where there is none; and where its picture is, or would be.

    Raises ValueError for a damaged record, and for a picture that is not the recorded one.
    """
    note, pictures = folder / f"{name}.json", [folder / f"{name}.{kind}" for kind in KINDS]
    pictures = [path for path in pictures if path.exists()]  # before the record is read: another process may be at work
    record = files.read_json(note, RECORD)
    fits = isinstance(record, dict) and {*record} == {*RECORD} and all(isinstance(v, str) for v in record.values())
    if not fits or record["kind"] not in ("", *KINDS):
        raise ValueError(f"{note} is damaged; remove it and the picture beside it, and collect again")
    known = folder / f"{name}.{record['kind'] or 'missing'}"
    if strange := [path for path in pictures if path != known]:
        cure = "move it to a folder of your own and give that as own, or remove it"
        raise ValueError(f"{strange[0]} was not downloaded by collect; {cure}")
    if pictures and files.sha256(known) != record["sha256"]:
        raise ValueError(f"{known} has changed since it was downloaded; remove it to download it again")
    return record, known


def fetched(name: str, url: str, folder: Path, old: Path, deadline: float, private: bool) -> dict:
    """Download the picture of a name and record it, or why there is none if that is final. Its row.

    The record comes before the picture, so that none lies there without one; `old` is where a former url's may be.
    """
    record = RECORD | {"url": url}
    try:
        data = download_picture(url, deadline=deadline, private=private)
        record |= {"kind": kind_of(data), "sha256": hashlib.sha256(data).hexdigest()}
    except NotFound as error:
        record["reason"] = str(error)
    path = folder / f"{name}.{record['kind']}"
    if record["kind"] or re.match(FINAL, record["reason"]):
        old.unlink(missing_ok=True)
        files.write_json(folder / f"{name}.json", record)
    if record["kind"]:
        with files.whole(path) as partial:
            partial.write_bytes(data)
    return as_row(record, path)


def as_row(record: dict, path: Path) -> dict:
    """What a record says, as columns."""
    there = bool(record["kind"])
    return record | {"origin": "url" if there else "", "path": str(path) if there else ""}


def summary(found) -> str:
    """What `collect` found, in one line: how many, from where, and why the others are missing."""
    check_rows(found, "origin", "reason")
    by_url, own = ((found["origin"] == origin).sum() for origin in ("url", "own"))
    origins = ", ".join([f"{by_url} by url"] * bool(by_url) + [f"{own} your own"] * bool(own))
    reasons = Counter(reason.partition(" (")[0] for reason in found["reason"] if reason)
    missing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    said = f"{by_url + own} of {len(found)} found" + (f" ({origins})" if origins else "")
    return said + (f"; missing: {missing}" if missing else "")
