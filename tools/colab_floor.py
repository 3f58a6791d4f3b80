"""Chapters and an assignment in an environment like Colab's, all but Python and torch: does our set-up break it?

    python tools/colab_floor.py        # makes _build/colab-floor, installs as the set-up cell does, runs notebooks
    python tools/colab_floor.py 01 a1  # some of them

The versions are those of the snapshot of 2026-08-19 of Colab's own list. Every cell of a notebook is run in order, as
*Run all* does; the first error ends it. That our installation changes no version of what was there is checked.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "_build" / "colab-floor"
SNAPSHOT = """diffusers==0.39.0 transformers==5.15.0 huggingface-hub==1.27.0 tokenizers==0.22.2 accelerate==1.14.0
numpy==2.1.3 pandas==2.2.3 pillow==11.3.0 matplotlib==3.10.0 scikit-learn==1.6.1 ipywidgets==7.7.1 ipython==7.34.0
ipykernel==6.17.1 seaborn scipy safetensors filelock joblib tqdm typer pyyaml psutil nbformat jedi<0.19""".split()
NOTEBOOKS = ("01", "04", "a1")
# Runs the cells of a notebook in IPython, without a kernel: what a cell prints is printed, and an error ends it.
RUNNER = """
import json, os, sys
import matplotlib
matplotlib.use("Agg")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code" and "set-up" != cell["id"]:
        result = shell.run_cell("".join(cell["source"]))
        if not result.success:
            sys.exit(f"the cell {cell['id']!r} failed")
"""


def python() -> Path:
    return FOLDER / "bin" / "python"


def call(*command, **options) -> str:
    done = subprocess.run([*map(str, command)], text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"colab-floor: {' '.join(map(str, command))[:90]} failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def versions() -> dict[str, str]:
    """What is installed there: {package: version}."""
    found = json.loads(call(python(), "-m", "pip", "list", "--format", "json"))
    return {package["name"].lower().replace("_", "-"): package["version"] for package in found}


def make() -> None:
    """The environment as Colab has it, before anything of ours is installed; kept from run to run."""
    if not (FOLDER / "made").exists():
        call(sys.executable, "-m", "venv", "--clear", FOLDER)
        torch = call(sys.executable, "-c", "import torch; print(torch.__version__)").strip()
        index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"] if "+cpu" in torch else []
        call(python(), "-m", "pip", "install", "-q", f"torch=={torch}", *index)
        call(python(), "-m", "pip", "install", "-q", *SNAPSHOT)
        (FOLDER / "made").touch()


def path_of(name: str) -> Path:
    [path] = [
        *(ROOT / "book" / "chapters").glob(f"{name}_*.ipynb"),
        *(ROOT / "book/assignments").glob(f"{name}_*.ipynb"),
    ]
    return path


def main() -> None:
    make()
    before = versions()
    print("installing as the set-up cell does", flush=True)
    call(python(), ROOT / "tools" / "colab.py", cwd=FOLDER)
    after = versions()
    ours = {"dori-lite", "torchmetrics", "lightning-utilities"}
    changed = {name: (before.get(name), now) for name, now in after.items() if now != before.get(name)}
    if strange := {name: pair for name, pair in changed.items() if name not in ours}:
        sys.exit(f"colab-floor: the installation changed {strange}")
    for name in sys.argv[1:] or NOTEBOOKS:
        began = time.monotonic()
        call(python(), "-c", RUNNER, path_of(name), cwd=FOLDER)
        print(f"{path_of(name).stem}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
