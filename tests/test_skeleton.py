"""The rules of the house: layers, module sizes, notebook hygiene, packaging, one public address."""

import ast
import builtins
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dori_lite import cli
from dori_lite.book.kernel import ROWS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dori_lite"
NOTEBOOKS = sorted((ROOT / "book" / "chapters").glob("*.ipynb"))
ASSIGNMENTS = sorted((ROOT / "book" / "assignments").rglob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# A module imports only from entries above its own; within a folder (unlearning, reef, figures) anything goes.
LAYERS = [
    *("files", "ranges", "checks", "locks", "stats", "planning", "assets", "stamps", "models", "diffusion", "hooks"),
    *("masks", "distances", "copies", "metrics", "detection"),
    *("nemo_statistics", "nemo_search", "nemo", "nemo_published", "neurons", "wanda"),
    *("dori", "locality", "spread", "activations", "overlap"),
    *("evaluation", "checkpoints", "fit", "units", "runs", "unlearning", "stable_diffusion", "reef", "figures", "book"),
    *("assignments", "audit", "cli"),
]
# So it is within book/.
BOOK = [
    "address",
    "checks",
    "profiles",
    "reported",
    "claims",
    "contrasts",
    "everywhere",
    "inside",
    "weights",
    "removed",
    "effects",
    "verdicts",
    "publish",
    "chapter",
    "tables",
]
BOOK += ["told", "kernel", "pages", "site", "build", "reproduce"]
MODULE_LINES = 262  # "about 250"
CELL_LINES, CELL_COLUMNS = 15, 88
PARAMETERS = {"profile": "quick", "seed": 0, "where": "reef"}
TAGS = {"set-up", "idea", "experiment", "figure", "exercise", "solution"}


# ---- layers ------------------------------------------------------------------------------------------


def imported(tree: ast.AST, module: list[str], folder: str | None = None) -> set[str]:
    """The parts of `dori_lite`, or of a `folder` in it, that `module` (its path below the package) imports."""
    above = ["dori_lite"] + ([folder] if folder else [])
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (["dori_lite", *module][: -node.level] if node.level else []) + (node.module or "").split(".")
            paths = [[*filter(None, base), alias.name] for alias in node.names]
        else:
            continue
        found |= {path[len(above)] for path in paths if path[: len(above)] == above and len(path) > len(above)}
    return found


def layer_problems(modules: dict[str, str], layers=LAYERS, folder: str | None = None) -> list[str]:
    """What is wrong with {path below the package: source}, or with those of a `folder` among each other."""
    problems = []
    for path, source in modules.items():
        module = path.removesuffix(".py").split("/")
        own, depth = module[bool(folder)], len(module) - bool(folder)
        allowed = layers[: layers.index(own)] if own in layers else []
        if own not in layers and own != "__init__":
            problems.append(f"{path}: not among the layers; give it its place there")
        for name in sorted(imported(ast.parse(source), module, folder) & set(layers)):
            if name not in allowed and not (name == own and depth > 1):
                problems.append(f"{path} imports {name}, which is not below it")
    return problems


def modules_of(folder: Path) -> dict[str, str]:
    """{path below the package: source} of the modules in a folder."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


def test_modules_import_only_from_lower_layers():
    assert not layer_problems(modules_of(PACKAGE))


def test_the_book_s_modules_import_only_from_lower_ones():
    found = modules_of(PACKAGE / "book")
    assert not layer_problems(found, BOOK, "book")
    assert {f"book/{name}.py" for name in [*BOOK, "__init__"]} == found.keys()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("book/contrasts.py", "from . import effects"),
        ("book/contrasts.py", "from .claims import claim\nfrom .verdicts import judged"),
        ("book/publish.py", "def f():\n    from .chapter import begin"),
        ("book/claims.py", "import dori_lite.book.verdicts"),
        ("book/effects.py", "from .effects import effect"),
        ("book/novelty.py", ""),
    ],
)
def test_the_check_of_the_book_s_layers_bites(path, source):
    assert len(layer_problems({path: source}, BOOK, "book")) == 1


def test_the_check_of_the_book_s_layers_lets_lower_ones_pass():
    chapter = "from . import claims\nfrom .. import assets\nfrom .effects import effect\nfrom ..reef import world"
    assert not layer_problems({"book/chapter.py": chapter, "book/tables.py": "from .chapter import x"}, BOOK, "book")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nemo.py", "from .reef import canaries"),
        ("nemo.py", "from . import models, wanda"),
        ("nemo.py", "def f():\n    from dori_lite.runs import Run"),
        ("models.py", "import dori_lite.diffusion"),
        ("reef/verify.py", "from ..book import claims"),
        ("reef/verify.py", "from .. import cli"),
        ("book/build.py", "from ..audit import report"),
        ("unlearning/loop.py", "from dori_lite import reef"),
        ("novelty.py", ""),
    ],
)
def test_the_layer_check_bites(path, source):
    assert layer_problems({path: source})


def test_the_layer_check_lets_lower_layers_pass():
    source = (
        "from . import canaries\nfrom .. import assets\nfrom ..fit import fit\nimport torch\nfrom ..models import load"
    )
    assert not layer_problems({"reef/train.py": source, "wanda.py": "from .models import unet\nfrom . import nemo"})


# ---- modules -----------------------------------------------------------------------------------------


def test_modules_are_short():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > MODULE_LINES}


def unwanted_imports(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    return names & {"torchvision", "torchaudio", "pickle", "dill", "cloudpickle"}


def test_nothing_imports_torchvision_or_pickle():
    files = [path for name in ("dori_lite", "tests", "benchmarks", "tools") for path in (ROOT / name).rglob("*.py")]
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    sources |= {path.name: python(nbformat.read(path, 4)) for path in NOTEBOOKS + ASSIGNMENTS}
    assert not {name for name, source in sources.items() if unwanted_imports(source)}
    assert unwanted_imports("def f():\n    from torchvision.ops import nms\n    import pickle as p") == {
        "torchvision",
        "pickle",
    }


# ---- notebooks ---------------------------------------------------------------------------------------


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(notebook) -> str:
    """The notebook's code without lines for the shell or IPython."""
    lines = "\n".join(cell.source for cell in code_cells(notebook)).splitlines()
    return "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in lines)


def declared(source: str) -> dict:
    """What a cell of plain `name = literal` lines assigns; empty when it holds anything else."""
    body = ast.parse(source).body
    plain = all(
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        for node in body
    )
    return {node.targets[0].id: node.value.value for node in body} if plain else {}


def notebook_problems(notebook, allowed=({"profile": "quick", "seed": 0}, PARAMETERS)) -> list[str]:
    problems = []
    cells = code_cells(notebook)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        problems.append(f"{len(tagged)} cells are tagged `parameters`")
    elif declared(tagged[0].source) not in allowed:
        problems.append('the parameters cell is not just `profile = "quick"`, `seed = 0` and perhaps `where = "reef"`')
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]
        begins = repr(lines[0]) if lines else "an empty cell"
        if cell.outputs or cell.execution_count is not None:
            problems.append(f"{begins}: outputs are kept; strip them with nbstripout")
        if len(lines) > CELL_LINES:
            problems.append(f"{begins}: {len(lines)} lines of code, and {CELL_LINES} are allowed")
        if (widest := max(map(len, cell.source.splitlines()), default=0)) > CELL_COLUMNS:
            problems.append(f"{begins}: a line of {widest} columns, and {CELL_COLUMNS} are allowed")
        draws = re.search(
            r"\bpictures\.(?!as_array|as_pil|as_tensor|open_image)|\b(charts|explorer|choices|doses|graded|returns|triggers)\.|\bplt\.|\.show\(",
            re.sub(r"(?m)^\s*(from|import) .*", "", cell.source),
        )
        if draws and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip():
            problems.append(f"{begins}: it draws, and its metadata has no mystnb.image.alt")
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    for line in lines:  # a table's cell ends at every bar, one inside a formula or code among them
        if line.startswith("|") and any("|" in span for span in re.findall(r"`([^`]*)`", line)):
            problems.append(f"{line[:40]!r}: a bar between back-ticks ends the table's cell")
        if line.startswith("%"):
            problems.append(f"{line[:40]!r}: a line that begins with % is a comment, and is not shown")
    return problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebooks_are_clean(path):
    assert not notebook_problems(nbformat.read(path, 4))


@pytest.mark.parametrize("path", ASSIGNMENTS, ids=["-".join(path.parts[-2:]) for path in ASSIGNMENTS])
def test_assignments_are_clean(path):
    assert not notebook_problems(nbformat.read(path, 4), [{"student": "practice"}])


def parameters(source='profile = "quick"\nseed = 0'):
    return new_code_cell(source, metadata={"tags": ["parameters"]})


PICTURE = "pictures.grid(run)"
ALT = {"mystnb": {"image": {"alt": "A grid of pictures"}}}


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([], "0 cells are tagged"),
        ([parameters(), parameters()], "2 cells are tagged"),
        ([parameters('profile: str = "quick"\nseed: int = 0')], "parameters cell is not"),
        ([parameters('profile = "quick"')], "parameters cell is not"),
        ([parameters('profile = "full"\nseed = 0')], "parameters cell is not"),
        ([parameters('profile = "quick"\nseed = 0\nwhere = "reef-first"')], "parameters cell is not"),
        ([parameters('profile = "quick"\nwhere = "reef"')], "parameters cell is not"),
        ([parameters(), new_code_cell("x", execution_count=3)], "outputs are kept"),
        ([parameters(), new_code_cell("x", outputs=[new_output("stream", text="x")])], "outputs are kept"),
        ([parameters(), new_code_cell("x = 1\n" * 16)], "16 lines"),
        ([parameters(), new_code_cell("x" * 89)], "a line of 89 columns"),
        ([parameters(), new_code_cell("charts.curves(x)")], "mystnb.image.alt"),
        ([parameters(), new_code_cell(PICTURE)], "mystnb.image.alt"),
        ([parameters(), new_markdown_cell("| a | {math}`|z|` | b |")], "a bar between back-ticks"),
        ([parameters(), new_markdown_cell("so that 99\n% of them count")], "is a comment"),
        ([parameters(), new_code_cell("choices.side_by_side({})")], "mystnb.image.alt"),
        ([parameters(), new_code_cell("import matplotlib.pyplot as plt\nplt.plot([1])")], "mystnb.image.alt"),
        ([parameters(), new_code_cell("picture.show()", metadata={"mystnb": {"image": {"alt": " "}}})], "mystnb"),
    ],
)
def test_the_notebook_check_bites(cells, problem):
    (found,) = notebook_problems(new_notebook(cells=cells))
    assert problem in found


def test_the_notebook_check_lets_clean_notebooks_pass():
    long = new_code_cell("# a comment\n\n" * 20 + "from dori_lite.figures import pictures")
    for given in (parameters(), parameters('profile = "quick"\nseed = 0\nwhere = "reef"')):
        text = new_markdown_cell("plt.show()\n\n| `a` | {math}`x` | `b` |")
        cells = [text, given, long, new_code_cell(PICTURE, metadata=ALT)]
        assert not notebook_problems(new_notebook(cells=cells))


# ---- what the lines of chapters are for ---------------------------------------------------------------

# Lines that keep books wherever they stand: keys, rows, tables turned about, file names.
BOOKS = re.compile(
    r"\.(todo|keep|rows|record|tensors|image|images|explode|pivot|pivot_table|unstack|melt|merge|reset_index)\("
    r"|\bjson\.|\.jsonl|\.csv|\.png|read_json|isinstance\("
)


def code_lines(cell) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]


def by_tag(notebook) -> dict[str, int]:
    """Lines of code by tag; parameters count as set-up. Raises AssertionError for a cell with no tag, or two."""
    found = dict.fromkeys(sorted(TAGS), 0)
    for cell in code_cells(notebook):
        tags = set(cell.metadata.get("tags", []))
        tags = {"set-up"} if "parameters" in tags else tags & TAGS
        assert len(tags) == 1, f"give one tag to the cell that begins {cell.source.splitlines()[0]!r}"
        found[tags.pop()] += len(code_lines(cell))
    return found


CHAPTERS = [path for path in NOTEBOOKS if path.stem[:2] in ("01", "02", "03", "04")]


@pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem[:2] for path in CHAPTERS])
def test_chapters_are_about_their_idea_and_not_about_books(path):
    notebook = nbformat.read(path, 4)
    found, text = by_tag(notebook), [line for cell in code_cells(notebook) for line in code_lines(cell)]
    total, books = sum(found.values()), sum(bool(BOOKS.search(line)) for line in text)
    assert found["set-up"] <= 0.10 * total, f"{found} of {total}"
    assert books <= 0.10 * total, f"{books} of {total} lines keep books"
    if path.stem[:2] in ("03", "04"):
        assert found["idea"] >= 0.25 * total, f"{found} of {total}"


def undefined(sources: list[str]) -> set[str]:
    """The names that some code reads and nowhere binds."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | {*dir(builtins)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    imports = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    bound |= {(alias.asname or alias.name).split(".")[0] for alias in imports}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - bound


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_that_make_rows_need_no_others(path):
    """A process that helps runs these alone (`kernel.helpers`)."""
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if ROWS & {*cell.metadata.get("tags", [])}]
    assert not undefined([python(notebook)])


def test_the_check_for_names_from_other_cells_bites():
    source = "import a.b as c, d.e\ndef f(x, *y, z=1):\n    return [c + k for k in y] + [d, z, f, len(x)]\n"
    assert not undefined([source]) and undefined([source, "f(table)[0] = other.k"]) == {"table", "other"}


def test_the_count_of_tags_bites():
    with pytest.raises(AssertionError, match="give one tag to the cell that begins 'x = 1'"):
        by_tag(new_notebook(cells=[new_code_cell("x = 1")]))
    with pytest.raises(AssertionError, match="give one tag"):
        by_tag(new_notebook(cells=[new_code_cell("x", metadata={"tags": ["idea", "figure"]})]))
    assert BOOKS.search("table = run.rows('x').pivot(index='a')") and not BOOKS.search("loss = (a - b).square()")


NOT_ON_COLAB = ("papermill", "nbclient", "jupyter_book", "sphinx", "nbstripout", "jupyter_server_mathjax", "myst_nb")
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
{lines}
"""


def test_notebooks_import_nothing_that_colab_has_not():
    trees = [ast.parse(python(nbformat.read(path, 4))) for path in NOTEBOOKS + ASSIGNMENTS]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = "\n".join(sorted({ast.unparse(node) for node in nodes}))
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=NOT_ON_COLAB, lines=lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-500:]
    bites = WITHOUT.format(names=NOT_ON_COLAB, lines="import dori_lite.book.build")
    assert subprocess.run([sys.executable, "-c", bites], cwd=ROOT, capture_output=True).returncode == 1


def test_the_set_up_cell_is_the_same_everywhere():
    first = {code_cells(nbformat.read(path, 4))[0].source for path in NOTEBOOKS + ASSIGNMENTS}
    assert len(first) == 1 and "import dori_lite" in first.pop().splitlines()[1]  # before torch


# ---- what a user meets first ----------------------------------------------------------------------------


def docstring_shows_a_call(source: str) -> bool:
    """Whether a module's docstring has an indented example."""
    text = ast.get_docstring(ast.parse(source)) or ""
    return bool(re.search(r"(?m)^    \S", text))


def test_every_module_shows_a_call():
    modules = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "data"]
    empty = {"reef/__init__.py", "book/__init__.py", "figures/__init__.py"}
    names = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in modules}
    assert not [name for name, source in names.items() if name not in empty and not docstring_shows_a_call(source)]
    assert not docstring_shows_a_call('"""What it is.\n\nAnd why."""') and not docstring_shows_a_call("x = 1")


def test_the_package_gives_what_a_user_needs_on_first_use():
    check = (
        "import dori_lite, sys; assert 'torch' not in sys.modules; names = list(dori_lite.HOME); "
        "assert len(names) == 12 and set(names) <= set(dir(dori_lite)); "
        "assert all(callable(getattr(dori_lite, name)) for name in names); "
        "assert dori_lite.wanda.localise and dori_lite.nemo.localise; dori_lite.nonsense"
    )
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("AttributeError: dori_lite has no 'nonsense'; there are its modules, and: load, embed")


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_readme_s_lines_of_python_work(whole, tmp_path):
    """With a step and a picture in place of fifty and four, and as they stand."""
    (block,) = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"))
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 12
    for many, few in () if whole else (("[0, 50]", "[0, 1]"), ("range(4)", "range(1)")):
        assert block.count(many) == 1
        block = block.replace(many, few)
    environment = os.environ | {"DORI_RUNS": str(tmp_path), "TQDM_DISABLE": "1"}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, "-c", block], **options)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 3


# ---- the public address -------------------------------------------------------------------------------


def test_copies_of_the_address_agree_with_their_source():
    address = cli.address(ROOT)
    name = address.removeprefix("https://github.com/")
    assert yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"] == address
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"] == address
    texts = {path.name: python_and_shell(nbformat.read(path, 4)) for path in NOTEBOOKS + ASSIGNMENTS}
    if (ROOT / "README.md").exists():
        texts["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
    for file, text in texts.items():
        # other projects may be linked to; what is cloned and what Colab opens is ours
        cloned = re.findall(r"git clone\b.*?https://github\.com/([\w.-]+/[\w-]+)", text)
        opened = re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w-]+)", text)
        assert set(cloned + opened) <= {name}, f"{file}: run `dori-lite set-url {address}`"


def python_and_shell(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells)


# ---- packaging ---------------------------------------------------------------------------------------


def test_every_package_is_in_the_wheel():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert sorted(found | {"dori_lite.data"}) == tool["packages"]
    assert tool["package-dir"] == {"dori_lite.data": "data"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "names and plain versions only"
    assert lines == sorted(lines, key=str.lower)
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_the_constraints_satisfy_the_declared_floors():
    pinned, extras = pins(), PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["book"], *extras["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text
    for text in [*extras["gpu"], *extras["lora"]]:
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), text


def test_no_gpu_libraries_without_a_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if torch.version.cuda:
        pytest.skip("this is PyTorch's CUDA build, which brings its own; the README says how to do without")
    names = {canonicalize_name(found.metadata["Name"] or "") for found in metadata.distributions()}
    unwanted = sorted(name for name in names if name.startswith("nvidia-"))
    assert not unwanted, "a dependency brings gigabytes for a GPU that is not here"


def test_help_needs_no_torch():
    check = "import sys, dori_lite.cli; sys.exit('torch' in sys.modules or 'papermill' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_importing_the_package_tells_threads_when_to_sleep(given, expected):
    """On import, before torch is loaded; a setting of the user's own is kept."""
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    check = "import dori_lite, os, sys; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == expected, found.stderr
