"""Numbers in the book's sentences: written there by this module, from the published runs, and never by hand.

    value("wanda-hides interval")  # "0.51 [0.40, 0.62]"
    value("first 03/condition descriptor rate where condition=Wanda")  # "0.21"
    update(pages("."))  # what `dori-lite fill` does, and the site with its copy of the pages

A page holds a number between two comments, which no reader sees, and a table of verdicts in the same way:

    It hides half: <!--wanda-hides-->0.51<!--/-->.
    <!--table wanda-hides wanda-chooses--> … <!--/table-->

`<!--record 03 1a2b3c4d-->` says which verdicts of chapter 3 the sentences around it were written about. When the
published verdicts change, `problems` names the page until somebody has read its sentences (`dori-lite fill --read 03`).
"""

import json
import re
import tomllib
from pathlib import Path

import numpy as np

from ..files import digest, write_text
from . import effects
from .chapter import FIRST, NOT_YET, in_brackets, in_clusters
from .claims import CLAIMS, claim
from .publish import standard

SPAN = re.compile(r"<!--(?!/|table |record )([^<>]+?)-->([^<\n]*)<!--/-->")
TABLE = re.compile(r"<!--table ([^<>]+?)-->\n.*?<!--/table-->", re.DOTALL)
RECORD = re.compile(r"<!--record (\d\d) ([0-9a-f]{8})-->")
QUERY = re.compile(r"(?:(\w+) )?(\d\d)/(\S+) (.+?)(?: where (.+))?")
NAMED = {"half-memory": ("02", effects.half_memory)}  # numbers with a function of their own: chapter, function of a run
HOW = {"mean": np.mean, "min": np.min, "max": np.max, "median": np.median, "sum": np.sum}
SHORT = tomllib.loads(Path(__file__).with_name("short.toml").read_text(encoding="utf-8"))  # claims in few words


def runs(world: str = "reef") -> dict:
    """The published `standard` runs of a world: {number of the chapter: run}."""
    return {run.chapter[:2]: run for run in standard(world)}


def with_own(world: str, own=None) -> dict:
    known = runs(world)
    return known | {own.chapter[:2]: own} if own is not None and own.world == world else known


def verdict_of(key: str, world: str = "reef", own=None) -> dict | None:
    """What the published run says of a claim; None where there is none yet. Raises ValueError for an unknown claim.

    The run `own` stands for its chapter's published one.
    """
    claim(key)
    said = (run.read_record()["verdicts"] for run in with_own(world, own).values())
    return next((verdicts[key] for verdicts in said if key in verdicts), None)


def value(key: str, own=None) -> str:
    """The number, or the words, that `key` asks for; "not yet run" where no published run says it.

    A claim (`wanda-hides`) with nothing for its estimate, or `interval`, `low`, `high`, `n`, `verdict`, `rates`; or
    the mean of a column of published rows (`03/condition descriptor rate where condition=Wanda, …`), or another of
    min, max, median, sum, count before it; or `03 minutes`, `03 machine`; `claims` or `claims undecided`, how many have
    a verdict, or this one (`claims committed`, `claims later`: by when); or one of `NAMED`. `first ` before any of them
    asks the first pair; ` as %` or ` as .3f` after it is the format. With a `Run` of one's `own`, that run is asked in
    the place of its chapter's published one, and of its world. Raises ValueError, saying what there is, for what nobody
    can answer.
    """
    asked, form = re.fullmatch(r"(?s)(.*?)(?: as (%|\.\d+f))?", key).groups(default="")
    world = FIRST if asked.startswith("first ") else "reef" if own is None else own.world
    asked, known_runs = asked.removeprefix("first "), with_own(world, own)
    name, _, field = asked.partition(" ")
    if name in [*CLAIMS]:
        return of_claim(verdict_of(name, world, own), field or "estimate", form)
    if found := re.fullmatch(r"claims(?: (.+))?", asked):
        known = {key: said["verdict"] for key in CLAIMS if (said := verdict_of(key, world, own))}
        when = {"committed": False, "later": True}.get(found[1])
        counted = [said for key, said in known.items() if when in (None, claim(key).later is not None)]
        return f"{len(counted) if when is not None else sum(found[1] in (None, said) for said in counted)}"
    if asked in [*NAMED]:
        chapter, of = NAMED[asked]
        return shown(of(run), form or ".0f") if (run := known_runs.get(chapter)) else NOT_YET
    if found := re.fullmatch(r"(\d\d) (minutes|machine)", asked):
        run = known_runs.get(found[1])
        said = run.read_record()[found[2]] if run else NOT_YET
        return shown(said, form or ".0f") if run and found[2] == "minutes" else said
    if not (found := QUERY.fullmatch(asked)):
        raise ValueError(f"{key!r} is no number of the book; give a claim, or CHAPTER/KIND COLUMN where COLUMN=VALUE")
    how, chapter, kind, column, where = found.groups(default="")
    if how not in ["", "count", *HOW]:
        raise ValueError(f"{key!r}: there is no {how!r}; choose one of {', '.join(HOW)}, count")
    if chapter not in [*known_runs]:
        return NOT_YET
    part = matching(known_runs[chapter].rows(kind), column, where, key)
    if how == "count":
        return f"{len(part)}"
    if isinstance(part[column].iloc[0], str):
        raise ValueError(f"{key!r}: {column} holds words, which have no mean; count them, or choose another column")
    numbers = np.concatenate([np.atleast_1d(np.asarray(x, float)) for x in part[column]])
    return shown(float(HOW[how or "mean"](numbers)), form)


def matching(rows, column: str, where: str, key: str):
    """The rows in which every `COLUMN=VALUE` of `where` is true."""
    if column not in rows:
        raise ValueError(f"{key!r}: no column {column!r}; there are: {', '.join(map(str, rows.columns)) or 'no rows'}")
    for condition in re.split(r", (?=[\w -]+=)", where) if where else []:
        name, _, wanted = condition.partition("=")
        if name not in rows:
            raise ValueError(f"{key!r}: no column {name!r}; there are: {', '.join(map(str, rows.columns))}")
        known = rows[name]
        said = known == float(wanted) if known.dtype.kind in "if" else known.astype(str) == wanted
        if not said.any():
            raise ValueError(f"{key!r}: {name} is never {wanted!r}; there are: {[*known.unique()][:12]}")
        rows = rows[said]
    return rows


def of_claim(found: dict | None, field: str, form: str) -> str:
    if found is None:
        return NOT_YET
    words = {"interval": in_brackets(found), "n": in_clusters(found), "verdict": found["verdict"]}
    words["rates"] = found["rates"]["verdict"] if "rates" in found else "no rate was named"
    numbers = {name: found[name] for name in ("estimate", "low", "high")}
    if field not in words | numbers:
        raise ValueError(f"a claim has no {field!r}; there are: {', '.join(words | numbers)}")
    return words[field] if field in words else shown(numbers[field], form)


def shown(number: float, form: str = "") -> str:
    if form == "%":
        return f"{100 * number:.0f} %"
    text = format(number, form or ".2f")
    return text.lstrip("-") if float(text) == 0 else text  # no minus zero


def table(keys: str) -> str:
    """The verdicts of claims as a Markdown table, both pairs side by side."""
    lines = ["", "| asked | effect [interval] | bar | units | verdict | first pair |", "|---|---|---|---|---|---|"]
    for key in keys.split():
        about, (here, first) = claim(key), (verdict_of(key, world) for world in ("reef", FIRST))
        bar = f"±{about.threshold:g}" if about.within else f"{about.threshold:g}"
        cells = [SHORT[key], value(f"{key} interval"), bar, value(f"{key} n"), said(here)]
        cells.append(value(f"first {key} interval") + (f", {first['verdict'].removesuffix(' here')}" if first else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"<!--table {keys}-->", *lines, "", "<!--/table-->"])


def said(found: dict | None) -> str:
    if found is None:
        return NOT_YET
    words = f"**{found['verdict'].removesuffix(' here')}**"
    in_rates = found.get("rates", {}).get("verdict", found["verdict"])
    return words if in_rates == found["verdict"] else f"{words}; in rates {in_rates.removesuffix(' here')}"


def record_hash(chapter: str) -> str:
    """Eight digits that change with any published verdict of a chapter, of either pair."""
    known = {world: runs(world).get(chapter) for world in ("reef", FIRST)}
    found = {world: run.read_record()["verdicts"] for world, run in known.items() if run}
    return digest(found)[:8]


def fill(text: str, read: str | None = None) -> str:
    """`text` with every number and table as the published runs have them; with the hash of chapter `read` renewed."""
    text = SPAN.sub(lambda found: f"<!--{found[1]}-->{value(found[1])}<!--/-->", text)
    text = TABLE.sub(lambda found: table(found[1]), text)
    return RECORD.sub(lambda m: f"<!--record {m[1]} {record_hash(m[1])}-->" if m[1] == read else m[0], text)


def problems(text: str) -> list[str]:
    """What is wrong with the numbers of a page: old ones, sentences about other verdicts, comments that show."""
    found = [f"says {was!r} where {key!r} is {now!r}" for key, was in SPAN.findall(text) if was != (now := value(key))]
    found += [f"its table of {keys} is an old one" for keys in TABLE.findall(text) if table(keys) not in text]
    for chapter, known in RECORD.findall(text):
        if known != record_hash(chapter):
            cure = f"read its sentences, mend them, then `dori-lite fill --read {chapter}`"
            found.append(f"the verdicts of chapter {chapter} have changed since it was written; {cure}")
    lines = [line.lstrip(" >*+-") for line in text.splitlines()]
    found += [f"a line begins with {line[:30]!r}, which hides it" for line in lines if SPAN.match(line)]
    return found


def pages(root) -> list[Path]:
    """Everything that may hold such numbers: the README, the book's pages and notebooks."""
    return [Path(root) / "README.md", *below(Path(root) / "book")]


def below(folder) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix in (".md", ".ipynb"))


def texts(path: Path) -> list[str]:
    """A page's Markdown: of a notebook, one text a cell."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return [content]
    return ["".join(cell["source"]) for cell in json.loads(content)["cells"] if cell["cell_type"] == "markdown"]


def update(paths, read: str | None = None) -> list[Path]:
    """Fill these pages; those that changed."""
    changed = []
    for path in paths:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            notebook = json.loads(content)
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = fill("".join(cell["source"]), read).splitlines(keepends=True)
            new = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        else:
            new = fill(content, read)
        if new != content:
            write_text(path, new)
            changed.append(path)
    return changed
