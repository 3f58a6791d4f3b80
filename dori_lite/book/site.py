"""The site: the chapters as they are written now, with the outputs of two runs, the published one and the reader's.

    index = site("quick")  # from the executed copies of that profile, and of the published runs

A cell tagged `figure` shows both in tabs where they differ, *published* first; its outputs then leave the code cell for
a Markdown cell behind it. Set-up is folded. Nothing on a page is loaded from elsewhere: MathJax comes along, and
buttons that need the repository's address are there once it has one.
"""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_markdown_cell

from .. import files
from . import told
from .pages import OWN, PUBLISHED, WORLD, alone, chapters, checkout, code_cells, key, pages, stage
from .publish import published

# A page has no kernel: widgets, progress bars among them, would be dead there and load scripts from elsewhere.
WIDGET = "application/vnd.jupyter.widget-view+json"
KINDS = ("text/html", "image/png", "text/markdown", "text/plain")  # the first that an output has is shown
FOLDED = {"set-up", "parameters"}  # tags
HIDES_OUTPUT = {"hide-cell", "hide-output", "remove-cell", "remove-output"}  # tags of cells that get no tabs
NO_ADDRESS = "YOUR_ACCOUNT"  # in the repository's address until `dori-lite set-url` has set it
# What formulas need of MathJax 2.7, below the folder of the package that brings it.
MATHJAX = ("LICENSE", "MathJax.js", "config/TeX-AMS-MML_HTMLorMML-full.js", "fonts/HTML-CSS/STIX-Web/woff/*.woff")
MATHJAX += ("jax/element/**/*.js", "jax/input/TeX/*.js", "jax/output/HTML-CSS/**/*.js", "extensions/TeX/*.js")
MATHJAX += ("extensions/HTML-CSS/*.js", "extensions/Math*.js")


def site(profile: str = "quick", root=None) -> Path:
    """Build the site from the executed copies; the path of its first page.

    Raises FileNotFoundError or ValueError when a chapter has no current copy, RuntimeError when a page gives
    a warning or is missing, or another process builds here. Then there is no site.
    """
    root = Path(root or checkout()).resolve()
    with alone(root):
        return site_alone(profile, root)


def site_alone(profile: str, root: Path) -> Path:
    build, staged, mathjax = root / "_build", stage(root), mathjax_folder()
    for old in (".doctrees", "html"):  # with old doctrees Sphinx does not repeat their warnings
        shutil.rmtree(build / old, ignore_errors=True)
    for chapter in chapters(root):
        notebook, target = shown(chapter, profile, root), staged / chapter.relative_to(root / "book")
        if published(chapter.stem, world=WORLD):
            notebook = side_by_side(notebook, shown(chapter, PUBLISHED, root), profile, target)
        nbformat.write(fold(notebook), target)
    for path in (staged / f"{page}.ipynb" for page in pages(root) if not page.startswith("chapters/")):
        if path.exists():  # an assignment, which is shown as its students get it
            nbformat.write(fold(nbformat.read(path, 4)), path)
    told.update(told.below(staged))
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", staged]
    command += ["--config", configured(root), "--path-output", root, "-W", "--keep-going"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    log = build / "site.log"
    log.write_text(done.stdout, encoding="utf-8")
    missing = [page for page in [*pages(root), "index"] if not (build / "html" / f"{page}.html").exists()]
    if done.returncode or missing:
        shutil.rmtree(build / "html", ignore_errors=True)
        problems = [line.strip() for line in done.stdout.splitlines() if re.search("WARNING|ERROR|Error", line)]
        reason = (problems or [f"pages are missing: {', '.join(missing)}" if missing else "jupyter-book failed"])[0]
        raise RuntimeError(f"the site was not built: {reason} (all messages are in {log})")
    for path in (path for pattern in MATHJAX for path in mathjax.glob(pattern)):
        target = build / "html" / "_static" / "mathjax" / path.relative_to(mathjax)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return build / "html" / "index.html"


def shown(chapter: Path, profile: str, root: Path):
    return with_outputs(chapter, root / "_build" / "executed" / profile / chapter.name, profile)


def with_outputs(chapter: Path, executed: Path, profile: str):
    """The chapter as it is written now with the outputs of its executed copy.

    Raises FileNotFoundError when it was never run with this profile, ValueError when it has changed since.
    """
    how, which = ("on its published run", "") if profile == PUBLISHED else (f"with profile {profile}", profile)
    cure = f"run `dori-lite book{which and f' --profile {which}'}`"
    if not executed.exists():
        raise FileNotFoundError(f"{chapter.stem} has not been run {how}; {cure}")
    done = nbformat.read(executed, 4)
    note = done.metadata.pop("dori_lite")
    if note["key"] != key(chapter, profile, note["seed"]):
        raise ValueError(f"{chapter.stem}: its code, the package or the data have changed since it was run; {cure}")
    notebook = nbformat.read(chapter, 4)
    notebook.metadata.update({k: v for k, v in done.metadata.items() if k not in ("papermill", "widgets")})
    for cell, its_run in zip(code_cells(notebook, profile), code_cells(done), strict=True):
        cell.outputs = [output for output in its_run.outputs if WIDGET not in output.get("data", {})]
        cell.execution_count = its_run.execution_count
    return notebook


def fold(notebook):
    """The notebook with its set-up folded; as long as there is no address to clone, without what would clone it."""
    for cell in code_cells(notebook):
        tags = cell.metadata.setdefault("tags", [])
        if NO_ADDRESS in cell.source:
            tags.append("remove-cell")
        elif FOLDED & {*tags} and "hide-cell" not in tags:
            tags.append("hide-cell")
    return notebook


def side_by_side(own, other, profile: str, path: Path):
    """The notebook `own`, to be written to `path`, with tabs where a figure of the published run differs from its."""
    cells = []
    for position, (cell, twin) in enumerate(zip(own.cells, other.cells, strict=True)):
        cells.append(cell)
        tags = {*cell.metadata.get("tags", [])}
        if "figure" not in tags or (OWN | HIDES_OUTPUT) & tags:
            continue
        both = {"published": contents(twin), f"your run ({profile})": contents(cell)}
        if len({json.dumps(content) for content in both.values()}) > 1:
            cell.outputs = []
            pictures = path.with_name(f"{path.stem}-{position}")
            cells.append(new_markdown_cell(tabs(both, cell.metadata.get("mystnb", {}).get("image", {}), pictures)))
    own.cells = cells
    return own


def contents(cell) -> list[tuple[str, str]]:
    """What a page shows of a cell's outputs: [(kind, content)]; what was printed in several pieces is one."""
    found = []
    for output in cell.outputs:
        data = {"text/plain": output.text} if output.output_type == "stream" else output.get("data", {})
        found += [(kind, data[kind].rstrip()) for kind in KINDS if kind in data][:1]
    pieces = [(kind, [content for _, content in group]) for kind, group in groupby(found, key=lambda pair: pair[0])]
    return [
        (kind, content)
        for kind, several in pieces
        for content in (["\n".join(several)] if kind == "text/plain" else several)
    ]


def tabs(versions: dict[str, list], options: dict, pictures: Path) -> str:
    """Several versions of outputs, {label: `contents`}, as tabs in Markdown, the first one open.

    All tabs of a page switch together. `options` are a picture's, such as its `alt`; pictures are written to files
    whose names begin as `pictures`.
    """
    items = []
    for version, (label, found) in enumerate(versions.items()):
        blocks = [block(*output, options, f"{pictures}-{version}-{k}.png") for k, output in enumerate(found)]
        inside = "\n\n".join(blocks or ["*This run shows nothing here.*"])
        inside = re.sub(r"explorer-[0-9a-f]{12}", rf"\g<0>-{version}", inside)  # ids stand once on a page
        head = [f"{{tab-item}} {label}", f":sync: version-{version}"]
        items.append(fenced(":", "\n".join(head + [":selected:"] * (version == 0)), inside))
    return fenced(":", "{tab-set}\n:sync-group: runs", "\n\n".join(items))


def block(kind: str, content: str, options: dict, picture: str) -> str:
    """One output as Markdown; a PNG goes into the file `picture`."""
    if kind == "text/html":
        return fenced("`", "{raw} html", f'<div style="overflow-x: auto">{content}</div>')
    if kind == "image/png":
        Path(picture).write_bytes(base64.b64decode(content))
        given = [f":{name.replace('classes', 'class')}: {json.dumps(value)}" for name, value in options.items()]
        return fenced("`", f"{{image}} {Path(picture).name}", "\n".join(given))
    return content if kind == "text/markdown" else fenced("`", "text", content)


def fenced(sign: str, head: str, inside: str) -> str:
    """A block between fences that are longer than any inside. What `head` says stands directly behind the first."""
    longest = max([2, *(len(run) for run in re.findall(rf"(?m)^\s*({sign}{{3,}})", inside))])
    fence = sign * (longest + 1)
    return f"{fence}{head}\n{inside}\n{fence}" if sign == "`" else f"{fence}{head}\n\n{inside}\n\n{fence}"


def configured(root: Path) -> Path:
    """The book's configuration as the site is built with it: without an address, without the buttons that need it."""
    content = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if NO_ADDRESS in content["repository"]["url"]:
        content |= {"repository": {"url": ""}, "launch_buttons": {}}
        content["html"] |= {"use_repository_button": False, "use_issues_button": False}
    files.write_text(root / "_build" / "config.yml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return root / "_build" / "config.yml"


def mathjax_folder() -> Path:
    """Where MathJax is installed. Raises ModuleNotFoundError where it is not."""
    if (package := importlib.util.find_spec("jupyter_server_mathjax")) is None:  # not imported: it wants a server
        raise ModuleNotFoundError("No module named 'jupyter_server_mathjax'")
    return Path(package.submodule_search_locations[0]) / "static"
