"""Prompt lists: the captions that others found Stable Diffusion to have memorized, read as they were published.

    rows = read("nemo")  # or a path of your own: csv, tsv, jsonl, or txt with a caption a line
    print(described(rows))

A list is fetched on first use from its authors' repository, kept in the cache and never handed on. Captions are not
repaired in any way: what was memorized are their tokens, quotes, entities and double spaces included.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import assets
from ..checks import check_captions
from ..files import check_name

RAW = "https://raw.githubusercontent.com"
NEMO = f"{RAW}/ml-research/localizing_memorization_in_diffusion_models/c8de0c620ec511cdb9e937905d1503cd9758910b/prompts"
WEN = f"{RAW}/YuxinWenRick/diffusion_memorization/c8fe471d80b62213bdc8a384543ff44b44c62020/examples"
PRUNE = f"{RAW}/ruchikachavhan/concept-prune/04a8a672eb380a1f5bfa3c659c6d6566e32e6b81/datasets"
JEON = f"{RAW}/Dongjae0324/sharpness_memorization_diffusion/ded9b27c56d7204ced6fd0cc3bd8b08582cd8820/prompts"


@dataclass(frozen=True)
class Known:
    """Where a list is published: `files` below `address`; the `sha256` of each where we know it; what it is `of`."""

    address: str
    files: tuple[str, ...]
    of: str
    sha256: tuple[str | None, ...] = ()


LISTS = {
    "nemo": Known(
        NEMO,
        ("memorized_laion_prompts.csv",),
        "500 memorized captions of Stable Diffusion 1.4 (112 VM, 388 TM)",
        ("0b527a5965dc463e7a3e0d234ff7fd5489b1a76869c456dbb209dc753cb4af25",),
    ),
    "wen": Known(
        WEN,
        ("sdv1_500_memorized.jsonl",),
        "the same 500, without their kind",
        ("8eb16c6ff1c7195cddf26b3207bdc7c6a905a20162c6070d79fe60336a525c60",),
    ),
    "nemo-unmemorized": Known(NEMO, ("unmemorized_laion_prompts.csv",), "500 captions that are not memorized"),
    "nemo-coco": Known(NEMO, ("coco2014_val_10000.csv",), "10,000 captions of COCO"),
    "concept-prune": Known(
        PRUNE, tuple(f"memorize_{k}.txt" for k in range(60)), "490 of the 500, in groups that overlap"
    ),
    "concept-prune-sd2": Known(
        PRUNE, tuple(f"memorize_sd2_{k}.txt" for k in range(10)), "100 captions of Stable Diffusion 2"
    ),
    "jeon-sd2": Known(JEON, ("sd2_mem.jsonl",), "219 captions of Stable Diffusion 2 (4 VM, 215 TM)"),
}
# A column's name in the files that are about, in lower letters → ours.
ALIASES = dict.fromkeys(("caption", "prompt", "prompts", "text", "captions"), "caption")
ALIASES |= dict.fromkeys(("url", "image_url", "imageurl", "link"), "url")
ALIASES |= dict.fromkeys(("type", "overfit_type", "kind"), "kind")
ALIASES |= {"index": "index", "mean_sscd": "mean_sscd", "max_sscd": "max_sscd"}
KINDS = {"MV": "VM", "TV": "TM"}  # matching and template verbatim; two authors, two orders of the letters
SCORES = ("mean_sscd", "max_sscd")
MISSING = ("", "nan", "none", "null")  # of what is no caption


def read(name, *, trust: bool = False):
    """A list as a `pandas.DataFrame`, a row a caption, in the file's order.

    `name` is one of `LISTS` or the path of a file. Columns: `name` ("nemo-0007": a file's name, and a row's number),
    `caption` (as it stands in the file), `url` and `kind` ("VM", "TM"; "" where there is none), `index` (the file's
    own, as text), `mean_sscd`, `max_sscd` (NaN), `repeats` (the first row with this caption, "" where it is this one).

    Raises FileNotFoundError for no such list or file, RuntimeError where it cannot be had or has no known SHA-256 and
    is not trusted (`trust=True` records the one that came), ValueError, with file and line, for what cannot be read.
    """
    import pandas as pd

    if isinstance(name, str) and name in LISTS:
        title, files = name, fetched(name, trust)
    elif Path(name).is_file():
        title, files = check_name("a list's file", Path(name).stem.replace(" ", "_")), [Path(name)]
    else:
        known = ", ".join(LISTS)
        raise FileNotFoundError(f"no prompt list {str(name)!r}: give the path of a file, or one of: {known}")
    found = [line for file in files for line in parsed(file)]
    if not found:
        raise ValueError(f"{files[0]} holds no caption")
    digits, first, rows = max(4, len(str(len(found)))), {}, []
    for k, line in enumerate(found):
        row = {"name": f"{title}-{k:0{digits}d}", "caption": line["caption"], "url": line.get("url", "")}
        row |= {"kind": line.get("kind", ""), "index": line.get("index", "")}
        row |= {score: line.get(score, math.nan) for score in SCORES}
        original = first.setdefault(line["caption"], row["name"])
        rows.append(row | {"repeats": "" if original == row["name"] else original})
    return pd.DataFrame(rows)


def fetched(name: str, trust: bool = False) -> list[Path]:
    """The files of one of `LISTS`, downloaded unless they are in the cache."""
    known = LISTS[name]
    digests = known.sha256 or (None,) * len(known.files)
    folder = assets.cache_folder() / "lists" / name
    return [
        assets.fetch(f"{known.address}/{file}", file, trust, folder, digest=digest)
        for file, digest in zip(known.files, digests, strict=True)
    ]


def described(rows, tokenizer=None) -> str:
    """One line: how many captions of which kind, how many repeat another, how many have a URL.

    With the `tokenizer` of a model, also how many are longer than it reads, which cuts them as Stable Diffusion does.
    """
    kinds = Counter(kind for kind in rows["kind"] if kind)
    said = f"{len(rows)} captions"
    if kinds:
        said += f" ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items(), reverse=True))})"
    repeated, urls = (rows["repeats"] != "").sum(), (rows["url"] != "").sum()
    said += f", {f'{repeated} of them repeat' if repeated else 'none of them repeats'} another, {urls} with a URL"
    if tokenizer is not None:
        long, most = len(too_long(rows["caption"], tokenizer)), tokenizer.model_max_length
        said += f"; {long or 'none'} longer than the model's {most} tokens{', cut there' * (long > 0)}"
    return said


def too_long(captions, tokenizer) -> list[int]:
    """The places of captions that take more tokens, start and end counted, than the model reads."""
    ids = tokenizer(list(captions), verbose=False).input_ids
    return [k for k, tokens in enumerate(ids) if len(tokens) > tokenizer.model_max_length]


# ---- one file -------------------------------------------------------------------------------------------


def parsed(file: Path) -> list[dict]:
    """The rows of a file, {our column: text}. What kind of file it is, its name's ending says."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{file} is no text: it holds zero bytes")
    kind = file.suffix.lower()
    if kind in (".jsonl", ".json"):
        return [tidy(line, f"{file}, line {k}") for k, line in objects(text, file)]
    if kind in (".csv", ".tsv"):
        return [tidy(line, f"{file}, line {k}") for k, line in table(text, file)]
    if kind == ".txt":
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        return [{"caption": line} for line in lines if line.strip()]  # a blank line is no caption
    raise ValueError(f"{file}: a prompt list is a .csv, .tsv, .jsonl or .txt; rename or convert it")


def objects(text: str, file: Path):
    """(line, object) of a file of JSON: an object a line, or one list of them."""
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except ValueError:
            raise ValueError(f"{file} is no JSON") from None
        return
    for k, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield k, json.loads(line)
            except ValueError:
                raise ValueError(f"{file}, line {k} is no JSON") from None


def table(text: str, file: Path):
    """(line, row) of a table with a header, whose separator is the one under which the header names the captions."""
    for separator in ";,\t":
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = next(rows, [])
        if "caption" in {ALIASES.get(name.strip().lower()) for name in header}:
            break
    else:
        raise ValueError(f"{file} has no column of captions; name one caption, prompt or text, or give a .txt")
    try:
        for row in rows:
            if len(row) != len(header) and any(row):
                raise ValueError(f"{file}, line {rows.line_num} has {len(row)} fields, the header {len(header)}")
            if any(row):
                yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.line_num}: {error}") from None


def tidy(given, where: str) -> dict:
    """A row under our columns' names: everything text but scores; of the caption not one character is another."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is a {type(given).__name__}, not an object with a caption")
    row = {}
    for name, value in given.items():
        ours = ALIASES.get(str(name).strip().lower())
        while isinstance(value, list) and len(value) == 1:  # as parquet files come out
            value = value[0]
        if ours is None or ours in row:
            continue
        row[ours] = value
    if not isinstance(row.get("caption"), str):
        raise ValueError(f"{where} has no caption (it is {row.get('caption')!r:.40})")
    if not row["caption"].strip():
        raise ValueError(f"{where}: the caption is empty")
    try:
        check_captions([row["caption"]])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for name in {"url", "kind", "index"} & {*row}:
        value = row[name]
        row[name] = "" if value is None or str(value).strip().lower() in MISSING else str(value)
    if "kind" in row:
        row["kind"] = KINDS.get(row["kind"], row["kind"])
    for name in {*SCORES} & {*row}:
        row[name] = number(row[name], f"{where}: {name}")
    return row


def number(value, what: str) -> float:
    """A score, NaN where there is none."""
    if value is None or str(value).strip().lower() in MISSING:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r:.40}, which is no number") from None
