"""What a chapter runs on Colab after cloning: install the package, and only what is missing there.

Never torch, numpy, diffusers or transformers: an upgrade of one of them can break the others.
"""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

MISSING = ("torchmetrics", "lightning_utilities")


def command(root: Path) -> list[str]:
    """The pip command that installs the clone in `root` and what this Python lacks."""
    missing = [name for name in MISSING if not importlib.util.find_spec(name)]
    return [sys.executable, "-m", "pip", "install", "-q", "--no-deps", str(root), *missing]


def main() -> None:
    """Install, so that this Python finds it at once; run in a notebook (`%run`), it is the notebook's own Python."""
    if subprocess.call(command(Path(__file__).resolve().parents[1])):
        sys.exit("dori-lite: the installation did not finish (its reason is above): run this cell again")
    importlib.invalidate_caches()


if __name__ == "__main__":
    main()
