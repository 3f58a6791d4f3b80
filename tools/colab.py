"""What a chapter runs on Colab after cloning: install the package, and only what is missing there.

Never torch, numpy, diffusers or transformers: an upgrade of one of them can break the others. Where one is too old, it
says what to click.
"""

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MISSING = ("torchmetrics", "lightning_utilities")
LATEST = "in Colab, click Runtime > Change runtime type, choose the latest version, then run this cell again"


def command(root: Path) -> list[str]:
    """The pip command that installs the clone in `root` and what this Python lacks."""
    missing = [name for name in MISSING if not importlib.util.find_spec(name)]
    return [sys.executable, "-m", "pip", "install", "-q", "--no-deps", str(root), *missing]


def numbers(version: str) -> list[int]:
    """A version's numbers, for comparison: 2.11.0+cu128 is [2, 11, 0]."""
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def too_old(root: Path) -> list[str]:
    """What is installed here in an older version than the package needs, a sentence each."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for line in project["dependencies"]:
        name, floor = re.match(r"([\w-]+)>=([\d.]+)", line).groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # it is installed, or named by Python when it is missed
        if numbers(version) < numbers(floor):
            found.append(f"{name} is {version}, and {floor} is needed")
    return found


def main() -> None:
    """Install, so that this Python finds it at once; run in a notebook (`%run`), it is the notebook's own Python.

    It may be run again, after a crash as well. Exits with one line that says what to do where it cannot be done.
    """
    if old := too_old(ROOT):
        sys.exit(f"dori-lite: {old[0]}: {LATEST}")
    if subprocess.call(command(ROOT)):
        sys.exit("dori-lite: the installation did not finish (its reason is above): run this cell again")
    importlib.invalidate_caches()


if __name__ == "__main__":
    main()
