"""A folder of notebooks, graded: one line for each, whatever is in it, in `grades.csv`.

    key = read_key("key.json")
    table = grade("submissions", key, "grades.csv", processes=2)

Inputs are made here, a student's functions run in a child process (see `sandbox`), and what comes back is judged here.
What is graded is kept beside the table, so that a run that was stopped goes on where it was.
"""

import hashlib
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

import pandas as pd

from .. import files
from ..ranges import check_count
from . import sandbox as sandboxes
from .exchange import joined, short
from .parts import NOBODY, PRACTICE, Key
from .sandbox import Limits
from .submission import Submission, read

OURS = "dori_lite.assignments"
FIELDS = {"assignment": str, "ask": Mapping, "salt": str, "secret": str}


def read_key(path) -> Key:
    """The key that `key.json` holds, {"assignment", "ask", "salt", "secret"}.

    Raises ValueError or FileNotFoundError, in one line, for what is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no key {path}; name the key.json that was written with the variant")
    content = files.read_json(path)
    for name, kind in FIELDS.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise ValueError(f"{path} is no key (it has no {name!r}); name the key.json written with the variant")
    if strange := sorted(set(content) - set(FIELDS)):
        raise ValueError(f"{path} is no key (it has {strange[0]!r}); name the key.json written with the variant")
    files.check_name("assignment", content["assignment"])
    return Key(**content)


def grade(
    folder,
    key: Key,
    out="grades.csv",
    *,
    processes: int = 1,
    sandbox: bool = True,
    limits: Limits | None = None,
    module: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Grade every notebook in `folder`, sorted by name, and write the table `out`.

    Its columns are file, student, one of points for each part, total, of, reasons, isolation. `processes` grade at
    once; without `sandbox` nothing but limits holds the students' code; `module` holds the assignment, if it is none of
    ours; `tell` is called with a line when a notebook is graded. What is graded is kept in the folder `<out>.parts`, by
    the hash of notebook, key, limits and assignment. Raises ValueError for a folder without notebooks and an assignment
    that there is not, RuntimeError where nothing isolates and `sandbox` asks for it, all in one line.
    """
    check_count("processes", processes)
    limits, module = limits or Limits(), module or f"{OURS}.{files.check_name('assignment', key.assignment)}"
    paths = sorted(path for path in Path(folder).glob("*.ipynb") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"there are no notebooks in {folder}; name the folder that the submissions are in")
    if not (spec := find_spec(module)) or not spec.origin:
        raise ValueError(f"there is no assignment {key.assignment!r}; look into the key")
    isolation = sandboxes.check_isolation() if sandbox else "none"
    kept = files.check_writable(f"{out}.parts")
    code = [files.sha256(path) for path in sorted(Path(spec.origin).parent.glob(f"{Path(spec.origin).stem}*.py"))]
    settings = files.digest([*asdict(key).values(), asdict(limits), isolation, code])
    results: dict[Path, dict] = {}
    todo: dict[Path, Path] = {}  # notebook: where its grade is kept
    for path in paths:
        place = kept / f"{fingerprint(path, settings)}.json"
        if result := kept_result(place):
            results[path] = result
        else:
            todo[path] = place
    work = partial(one, key=key, module=module, limits=limits, sandbox=sandbox)
    for path, result in done(work, list(todo), processes):
        files.write_json(todo[path], result)
        results[path] = result
        if tell:
            tell(f"{len(results)} of {len(paths)} graded; {path.name}: {result['total']:g} of {result['of']:g} points")
    table = pd.DataFrame(lines(paths, results))
    files.write_text(out, table.map(plain_text).to_csv(index=False))
    return table


def fingerprint(path: Path, settings: str) -> str:
    """What a grade depends on: the notebook's bytes, its name (which may be the student's), and the settings."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    return hashlib.sha256(b"\0".join([path.stem.encode(), settings.encode(), content])).hexdigest()


def kept_result(place: Path) -> dict | None:
    try:
        result = files.read_json(place)
    except ValueError:  # damaged: it is graded again
        return None
    return result if isinstance(result, dict) and {"student", "points", "reasons"} <= set(result) else None


def done(work: Callable, paths: list[Path], processes: int):
    """(path, result) of each, as they come; one process is this one."""
    if processes == 1 or len(paths) < 2:
        yield from ((path, work(path)) for path in paths)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(paths)), spawn) as pool:
        futures = {pool.submit(work, path): path for path in paths}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise RuntimeError("a grading process was stopped; run it again, with fewer processes") from None
        finally:
            pool.shutdown(cancel_futures=True)


def one(path: Path, key: Key, module: str, limits: Limits, sandbox: bool) -> dict:
    """Grade one notebook: {"student", "points": {part: points}, "total", "of", "reasons", "isolation"}."""
    parts = import_module(module).PARTS
    try:
        found, general = read(path), ""
    except ValueError as error:
        found, general = Submission(path.stem, ""), str(error)
    student, points, reasons = found.student, {part.name: 0.0 for part in parts}, []
    isolation = sandboxes.isolation() if sandbox else "none"
    if not general:
        with one_thread():
            tried = [part for part in parts if part.name not in found.computed]
            given = {part.name: part.given(key, student) for part in tried}
            names = {"ask": files.plain(key.ask), "student": student}
            outcome = sandboxes.run(module, found.source, given, names, limits, sandbox)
            general = "; ".join([*filter(None, [outcome.reason]), *found.problems])
            for part in parts:
                share, reason = 0.0, outcome.reasons.get(part.name, "")
                if part.name in found.computed:
                    reason = "not attempted (its value is computed in the notebook; write it out)"
                elif part.name in outcome.returned:
                    share, judged = judgement(part, key, student, given[part.name], outcome.returned[part.name])
                    reason = joined(reason, judged)
                points[part.name] = round(share * part.points, 2)
                reasons += [f"{part.name}: {reason}"] if reason else []
    if key.secret and student in (PRACTICE, NOBODY):
        reasons.insert(0, "the student's name was left as it was")
    total, of = round(sum(points.values()), 2), sum(part.points for part in parts)
    reasons = [*filter(None, [general]), *reasons]
    result = {"student": short(student, 80), "points": points, "total": total, "of": of}
    return result | {"reasons": reasons, "isolation": isolation}


def judgement(part, key: Key, student: str, given, returned) -> tuple[float, str]:
    """A part's share, in [0, 1], and the reason; 0 where odd arrays make its judge fail."""
    try:
        share, reason = part.judge(key, student, given, returned)
        share = float(share)
    except Exception as error:  # arrays of any shape and kind may have come back
        return 0.0, f"cannot be judged ({type(error).__name__}: {short(error, 120)})"
    if not isfinite(share):
        return 0.0, joined(short(reason), "its measure is no number")
    return min(max(share, 0.0), 1.0), short(reason)


def lines(paths: list[Path], results: Mapping[Path, dict]) -> list[dict]:
    """The table's lines, in which who handed in twice is named."""
    students = Counter(results[path]["student"] for path in paths)
    table = []
    for path in paths:
        result, told = results[path], []
        if students[result["student"]] > 1:
            others = [other.name for other in paths if results[other]["student"] == result["student"] and other != path]
            told = [f"{result['student']} also handed in {', '.join(others)}"]
        line = {"file": path.name, "student": result["student"], **result["points"]}
        reasons = "; ".join(told + result["reasons"])
        table.append(line | {k: result[k] for k in ("total", "of")} | {"reasons": reasons})
        table[-1]["isolation"] = result["isolation"]
    return table


def plain_text(value):
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


@contextmanager
def one_thread():
    """Sums are the same however many cores there are."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
