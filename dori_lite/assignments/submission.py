"""What of a notebook is graded: imports, functions, classes, and names given a value that is written out.

    found = submission.read("ada.ipynb")
    found.student, found.source, found.problems
    submission.source("ada.ipynb")
    submission.defined("solution.ipynb")["magnitude"]  # it runs: of a notebook that you trust

Nothing that other cells computed counts, so that an answer depends on neither their order nor their outputs.
"""

import ast
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

MEGABYTES = 5  # a solved assignment, pictures and all, has less
LINE_OF_MAGIC = re.compile(r"(\s*)([!%?].*|[\w.]+\?{1,2}\s*)")
PYTHON_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")  # below them stands Python
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)  # what Python's parser raises


class Submission(NamedTuple):
    """What was handed in: the `student`'s name, the `source` that is graded, and what is wrong with the rest.

    `problems` names cells that do not parse; `computed` are names whose last value is not written out.
    """

    student: str
    source: str
    problems: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()


def read(path) -> Submission:
    """What of the notebook `path` is graded. Raises ValueError, in one line, for what is no notebook."""
    path = Path(path)
    kept, problems, name = [], [], ""
    computed: dict[str, bool] = {}
    for number, text in cells(path):
        if (nodes := parse(text)) is None:
            problems.append(f"cell {number} is not Python and does not count")
            continue
        for node in nodes:
            name = name_in(node) or name
            some = graded(node)
            kept += some
            for target in targets(node):
                computed[target] = not some
    source = "\n".join(ast.unparse(node) for node in kept)
    names = tuple(sorted(target for target, is_so in computed.items() if is_so))
    return Submission(name or path.stem, source, tuple(problems), names)


def source(path) -> str:
    """Python text: what of the notebook `path` is graded. Raises ValueError as `read` does."""
    return read(path).source


def defined(path, **names) -> dict:
    """What the graded source of the notebook `path` defines, by name, beside the given `names`.

    It runs that source, here and unguarded: for solutions, and not for what was handed in. Raises ValueError as `read`.
    """
    exec(source(path), names)
    return names


def student(path) -> str:
    """The name given as `student = "…"` in the notebook `path`, else the file's. Raises ValueError as `read` does."""
    return read(path).student


def cells(path: Path) -> list[tuple[int, str]]:
    """The text of each cell of code, and its place among all cells, from 1 on."""
    no = f"{path.name} is no notebook"
    try:
        if path.stat().st_size > MEGABYTES * 10**6:
            raise ValueError(f"{no} to grade: it has more than {MEGABYTES} MB; clear its outputs")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError(f"{no} (it is no JSON); save it again and hand that in") from None
    listed = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"{no} (it has no cells); save it again and hand that in")
    texts = []
    for number, cell in enumerate(listed, 1):
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            text = cell.get("source", "")
            texts.append((number, "".join(map(str, text)) if isinstance(text, list) else str(text)))
    return texts


def parse(text: str) -> list[ast.stmt] | None:
    """The statements of a cell, without IPython's magics; None for what is no Python."""
    if text.lstrip().startswith("%%"):
        magic, _, text = text.lstrip().partition("\n")
        if not magic.startswith(PYTHON_MAGICS):
            return []  # a cell of another language
    lines = [LINE_OF_MAGIC.sub(r"\1pass", line) if LINE_OF_MAGIC.fullmatch(line) else line for line in text.split("\n")]
    for attempt in (text, "\n".join(lines)):  # as it stands first: a line may begin with % and be Python
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nodes = ast.parse(attempt).body
                [ast.unparse(node) for node in nodes]  # a text nested too deeply fails here
            return nodes
        except UNREADABLE:
            continue
    return None


def graded(node: ast.stmt) -> list[ast.stmt]:
    """The statement if it counts, as a list; the imports in a `try`, as in a set-up cell; else nothing."""
    if isinstance(node, ast.Try):
        return [inner for inner in node.body if isinstance(inner, ast.Import | ast.ImportFrom)]
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return []
    if isinstance(node, (*DEFINITIONS, ast.Import, ast.ImportFrom)):
        return [node]
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and targets(node):
        return [node] if written_out(node.value) else []
    return []


def written_out(value: ast.expr) -> bool:
    """Is it a literal, another name, or a lambda?"""
    if isinstance(value, ast.Name | ast.Lambda):
        return True
    try:
        ast.literal_eval(value)
    except UNREADABLE:
        return False
    return True


def targets(node: ast.stmt) -> list[str]:
    """The names that a statement binds; none where it also writes elsewhere (`a[0] = 1`), or binds nothing."""
    if isinstance(node, DEFINITIONS):
        return [node.name]
    if not isinstance(node, ASSIGNMENTS):
        return []
    left = list(node.targets) if isinstance(node, ast.Assign) else [node.target]
    flat = []
    while left:
        target = left.pop(0)
        if isinstance(target, ast.Tuple | ast.List):
            left = target.elts + left
        elif isinstance(target, ast.Name):
            flat.append(target.id)
        else:
            return []
    return flat


def name_in(node: ast.stmt) -> str:
    """What `student = "…"` says, "" for any other statement."""
    if isinstance(node, ast.Assign) and targets(node) == ["student"] and isinstance(node.value, ast.Constant):
        return node.value.value.strip() if isinstance(node.value.value, str) else ""
    return ""
