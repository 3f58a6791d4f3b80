"""The repository's public address: its source is `[project.urls]` in pyproject.toml, and others copy it.

    write_address("https://github.com/reef/finding", root)  # what `dori-lite set-url` does

Cells that clone, links that open Colab and the citation hold such copies.
"""

import re
import tomllib
from pathlib import Path

from .. import files

# Where copies stand.
COPIES = ("_config.yml", "CITATION.cff", "README.md", "book/**/*.md", "book/**/*.ipynb")


def address(root: Path) -> str:
    """The repository's public address, from its one source."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def write_address(url: str, root: Path) -> list[Path]:
    """Replace the address in its source and its copies, launch links included; the files that changed.

    Raises ValueError unless `url` is a repository's address on GitHub, which Colab's links need.
    """
    new = re.fullmatch(r"https://github\.com/([A-Za-z0-9-]+/[A-Za-z0-9_.-]+?)(\.git)?/?", url)
    if not new or new[1].split("/")[1] in (".", ".."):
        raise ValueError(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    old = address(root).removeprefix("https://github.com/")
    written = []
    copies = [path for pattern in COPIES for path in sorted(root.glob(pattern))]
    for path in [*copies, root / "pyproject.toml"]:  # the source last: stopped in between, it is done again
        before = path.read_text(encoding="utf-8")
        # github.com/OWNER/NAME in addresses, github/OWNER/NAME in links that open Colab
        after = re.sub(rf"(\bgithub(?:\.com)?/){re.escape(old)}(?![\w-])", rf"\g<1>{new[1]}", before)
        if after != before:
            files.write_text(path, after)
            written.append(path)
    return written
