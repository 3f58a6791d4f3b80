"""Tables and figures by their names: a published run's, or your own run's, beside the paper's numbers.

    print(listed())  # the names, and what they stand for
    print(reproduce("attack-steps", out="here"))  # what `dori-lite reproduce attack-steps --out here` does

What a name stands for is in `reproduce.toml`; the book's page of figures has the same names. A figure is what its
chapter's cell draws: nothing is drawn here.
"""

import base64
import difflib
import json
import re
import tomllib
from contextlib import ExitStack
from pathlib import Path

import nbformat

from .. import files
from ..runs import open_existing, runs_folder
from . import told
from .chapter import FIRST, NOT_YET
from .claims import CLAIMS
from .pages import PUBLISHED, WORLD, alone, asks_where, chapters, checkout
from .profiles import PROFILES
from .site import contents

NOT_MADE, NOT_HERE = "not made", "not in this run"
ENDINGS = {"image/png": "png", "text/html": "html", "text/markdown": "md", "text/plain": "txt"}
ABOUT = "provenance.json"
ENTRIES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
LAYERS = ENTRIES.pop("layers")


def entry(name: str) -> dict:
    """What `reproduce.toml` says of a name. Raises ValueError, with the nearest ones, for an unknown one."""
    if name not in [*ENTRIES]:
        near = difflib.get_close_matches(str(name), ENTRIES, 3, 0.4)
        cure = f"did you mean {' or '.join(near)}? All" if near else "all"
        raise ValueError(f"nothing is called {name!r}; {cure} names: dori-lite reproduce --list")
    return ENTRIES[name]


def status(name: str) -> str:
    """ "published", "not yet run" where no published run has it, or "not made"."""
    about = entry(name)
    if not about.get("made", True):
        return NOT_MADE
    there = is_page(about) or about["chapter"] in told.runs(about.get("model", WORLD))
    return PUBLISHED if there else NOT_YET


def is_page(about: dict) -> bool:
    return not about["chapter"].isdecimal()


def listed() -> str:
    """All names as a table: chapter, status, and what they stand for."""
    lines = [("name", "chapter", "status", "what it is")]
    for name, about in ENTRIES.items():
        chapter = about.get("chapter", "–").removeprefix("0") or "0"
        lines.append((name, chapter, status(name), about["what"]))
    return aligned(lines)


def shown(cell) -> str:
    return "" if cell is None or cell != cell else f"{cell:g}" if isinstance(cell, float) else cell


def aligned(lines) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def reproduce(name: str, profile: str | None = None, model: str | None = None, out=None, processes: int = 1) -> str:
    """Write a table's or figure's rows, pictures and expected numbers to the folder `out`; what to print about them.

    `out` is runs/reproduced/NAME by default. Without a `profile` they are the published run's; with one the chapter is
    run in it. `model` is a world's name [default: the entry's own, or the reef]. Written are <kind>.csv of each kind of
    rows (lists in it are JSON text), <cell>.png, .html, .md or .txt of what each cell shows, expected.csv (see
    `expected`; with a profile, the published numbers as well), and provenance.json, which says of what run they are.
    What an earlier call left there is removed. Raises ValueError for what is unknown, not made or not yet run, OSError
    where nothing can be written, and as `build.execute`.
    """
    from . import build  # runs notebooks, by what Colab has not; tables need it not

    about = entry(name)
    model = about.get("model", WORLD) if model is None else model
    path = chapter_of(name, profile, model)
    build.check("quick" if profile is None else profile, 0, False, model, processes)
    out = files.check_writable(runs_folder() / "reproduced" / name if out is None else out)
    if path is None:
        runs = [run for number, run in told.runs().items() if number in quoted(about)]
        table, found, missing = expected(about), {}, []
    else:
        run, notebook = run_of(path, profile, model, processes)
        table, runs, (found, missing) = expected(about, run), [run], figures(about, notebook)
        if profile is not None and (ours := told.runs(model).get(about["chapter"])):
            table.insert(3, PUBLISHED, expected(about, ours)["obtained"])
        for kind in about.get("rows", run.kinds()):
            if len(rows := run.rows(kind)):
                found[f"{files.slug(kind)}.csv"] = as_csv(rows)
            else:
                missing.append(f"rows of {kind}")
    found["expected.csv"] = as_csv(table)
    replace(out, found, {"name": name, "what": about["what"], PUBLISHED: profile is None} | made_by(runs))
    lines = [[*table], *([shown(cell) for cell in line] for line in table.to_numpy(object))]
    said = [f"{about['what']}: {model}, {profile or 'published run'}"]
    said += [aligned(lines) if len(table) else "no number is expected of it"]
    said += [f"{NOT_HERE}: {', '.join(missing)}"] if missing else []
    return "\n\n".join([*said, f"in {out}: {', '.join([*found, ABOUT])}"])


def chapter_of(name: str, profile: str | None, model: str) -> Path | None:
    """The notebook that an entry is made from, None for a page. Raises ValueError where there is none to be had."""
    about = entry(name)
    if status(name) == NOT_MADE:
        raise ValueError(f"{name}: {about['what']} was not made here; its reported numbers are in reproduce.toml")
    known = [about["model"]] if "model" in about else [WORLD, FIRST]
    if model not in known:
        raise ValueError(f"{name} is about {' or '.join(known)}, not about {model!r}")
    if is_page(about):
        if profile is not None or model != WORLD:
            raise ValueError(f"{name} is a page of published numbers: leave out --profile and --model")
        return None
    command = f"dori-lite reproduce {name} --profile standard --model {model}"
    found = [path for path in chapters() if path.stem.split("_")[0] == about["chapter"]]
    if not found:
        raise ValueError(
            f"{name}: not yet run; chapter {about['chapter']} is not in the book yet. Once it is, `{command}` runs it, "
            "on a machine with a GPU"
        )
    if model not in (WORLD, about.get("model")) and not asks_where(found[0]):
        raise ValueError(f"{name}: {found[0].stem} is about the {WORLD} alone; leave out --model")
    if profile is None and about["chapter"] not in told.runs(model):
        raise ValueError(f"{name}: no run of {found[0].stem} with {model} is published; `{command}` makes your own")
    return found[0]


def run_of(path: Path, profile: str | None, model: str, processes: int) -> tuple:
    """A chapter's run, and the notebook that was executed for it: the published ones, or your own."""
    from . import build

    if profile is None:
        with alone(root := checkout()):  # `build.show`, for any world
            done = build.execute_alone(path, PUBLISHED, 0, False, root, model)
        return told.runs(model)[path.stem[:2]], nbformat.read(done, 4)
    done = build.execute(path, profile, 0, False, checkout(), model, processes)
    folder = runs_folder() / model / path.stem / f"{profile}-0"
    if not (folder / "record.json").exists():  # the page was kept, and its rows were not
        again = f"dori-lite book --chapter {path.stem[:2]} --profile {profile} --world {model} --force"
        raise FileNotFoundError(f"{path.stem} was run, but its rows are not in {folder}; make them anew: {again}")
    return open_existing(folder), nbformat.read(done, 4)


def figures(about: dict, notebook) -> tuple[dict, list[str]]:
    """What an entry's cells show, {file: content}, and which of them were not run."""
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    tagged = [name for name, cell in cells.items() if "figure" in cell.metadata.get("tags", [])]
    wanted, found = about.get("cells", tagged), {}
    for name in [name for name in wanted if name in cells]:
        for kind, content in contents(cells[name]):
            stem, number = name, 1
            while (file := f"{stem}.{ENDINGS[kind]}") in found:
                number += 1
                stem = f"{name}-{number}"
            head = '<meta charset="utf-8">\n' if kind == "text/html" else ""
            found[file] = base64.b64decode(content) if kind == "image/png" else f"{head}{content}\n".encode()
    return found, [f"cell {name}" for name in wanted if name not in cells]


def expected(about: dict, run=None):
    """The paper's numbers beside those of a run [default: the published ones]: a table, one line a quantity.

    Its columns are quantity, expected (the paper's), source, obtained, low and high (a claim's interval), and status: a
    claim's verdict, who has a number, or "not yet run" where the run is not of the entry's model.
    """
    import pandas as pd

    elsewhere = run is not None and run.world != about.get("model", run.world)
    ours = {"obtained": None, "status": NOT_YET}
    lines = [line | (ours if elsewhere else obtained(line, run)) for line in quantities(about)]
    columns = ["quantity", "paper", "source", "obtained", "low", "high", "status"]
    return pd.DataFrame(lines, columns=columns).rename(columns={"paper": "expected"})


def beside(name: str, run):
    """The `expected` table of an entry, by quantity, for a chapter. Raises ValueError for an unknown name."""
    table = expected(entry(name), run).drop(columns=["low", "high"]).set_index("quantity")
    return table.astype(object).fillna("")


def quantities(about: dict) -> list[dict]:
    """The lines of an entry, those that stand for several spelled out; the paper's alone of entries it is `like`."""
    lines = []
    for line in about.get("expected", []):
        each = LAYERS if line.get("each") == "layers" else line.get("each", [""])
        for k, part in enumerate(each):
            said = {key: line[key].format(part) for key in ("quantity", "source", "obtained") if key in line}
            paper = line.get("paper")
            lines.append(said | ({} if paper is None else {"paper": paper[k] if isinstance(paper, list) else paper}))
    for key in about.get("claims", []):
        line = {"quantity": told.SHORT[key], "claim": key}
        lines.append(line | {"paper": CLAIMS[key].paper, "source": CLAIMS[key].source})
    own = {line["quantity"]: line for line in lines}
    for other in about.get("like", []):
        for line in quantities(ENTRIES[other]):
            if "paper" in line and "claim" not in line:
                reported = {key: line[key] for key in ("quantity", "paper", "source")}
                if line["quantity"] in own:
                    own[line["quantity"]].update(reported)
                else:
                    lines.append(reported)
    return lines


def obtained(line: dict, run) -> dict:
    if key := line.get("claim"):
        if (said := told.verdict_of(key, WORLD if run is None else run.world, run)) is None:
            return {"status": NOT_HERE}
        numbers = {"obtained": said["estimate"], "low": said["low"], "high": said["high"]}
        numbers = {name: None if number is None else round(number, 2) for name, number in numbers.items()}
        alone = run is not None and PROFILES[run.profile["name"]].direction_only
        return numbers | {"status": said["verdict"] + (" (direction only)" if alone else "")}
    if "obtained" not in line:
        return {"status": "the paper's alone"}
    try:
        number = float(told.value(line["obtained"], run))
    except ValueError:  # "not yet run", or rows that a small run has not; that published runs have them is tested
        return {"obtained": None, "status": NOT_HERE}
    return {"obtained": number, "status": "both" if "paper" in line else "ours alone"}


def quoted(about: dict) -> set[str]:
    """The numbers of the chapters whose runs an entry's numbers come from."""
    asked = " ".join(line.get("obtained") or "" for line in about.get("expected", []))
    return {*re.findall(r"\b(\d\d)/", asked), *(f"{CLAIMS[key].chapter:02}" for key in about.get("claims", []))}


def made_by(runs) -> dict:
    """Which run it is: world, profile, seed, chapter, models, versions, minutes; of several, a list of these."""
    records = [{k: v for k, v in run.read_record().items() if k not in ("numbers", "verdicts")} for run in runs]
    return records[0] if len(records) == 1 else {"runs": records}


def as_csv(table) -> bytes:
    """A table as pandas reads it back; lists and dicts become JSON text."""
    plain = table.map(lambda x: json.dumps(files.plain(x)) if isinstance(x, list | dict) else x)
    return plain.to_csv(index=False, lineterminator="\n").encode()


def replace(out: Path, found: dict[str, bytes], about: dict) -> None:
    """Write files, all of them or none, and provenance.json, which names them; those that the old one names go away."""
    known = files.read_json(out / ABOUT, {})
    old = {Path(name).name for name in known.get("files", [])} if isinstance(known, dict) else set()
    text = json.dumps(about | {"files": [*found]}, indent=1) + "\n"
    with ExitStack() as stack:  # what was written takes its place at the end, the first of them last
        for name, content in {ABOUT: text.encode(), **found}.items():
            stack.enter_context(files.whole(out / name)).write_bytes(content)
        for name in old - found.keys():
            (out / name).unlink(missing_ok=True)
