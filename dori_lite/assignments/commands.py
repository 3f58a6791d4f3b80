"""The commands of the assignments: `dori-lite assignment` makes a graded variant, `dori-lite grade` grades a class.

In a shell:

    dori-lite assignment a1 --seed seed.txt --out course
    dori-lite grade submissions --key course/a1.key.json --out grades.csv

What they need is imported when they run.
"""

import os
from pathlib import Path

import typer


def add(app: typer.Typer) -> None:
    """Give `app` the commands."""
    app.command()(assignment)
    app.command()(grade)


def assignment(
    name: str = typer.Argument(help="a1, a2 or a3"),
    seed: Path = typer.Option(..., help="a file with a private text: the same text gives the same variant"),
    out: Path = typer.Option(..., help="the folder for the students' notebook and the private key"),
):
    """Make the graded variant of an assignment: other questions and canaries than in the book."""
    from .generate import graded

    notebook, key = graded(name, seed, out)
    print(f"for students: {notebook}\nfor you alone: {key} (without it nothing can be graded)")


def grade(
    folder: Path = typer.Argument(help="the folder of submissions, a notebook a student"),
    key: Path = typer.Option(..., help="the private key that `dori-lite assignment` wrote"),
    out: Path = typer.Option(Path("grades.csv"), help="the table of grades; what is in it is not graded again"),
    processes: int = typer.Option(1, help="how many submissions are graded at once: one a core"),
    sandbox: bool = typer.Option(True, help="run submissions without a network and with limits"),
):
    """Grade a folder of notebooks; interrupted, run it again and it goes on."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # no bars for what the grader computes: each grade is a line
    from .grade import grade as graded
    from .grade import read_key

    table = graded(folder, read_key(key), out, processes=processes, sandbox=sandbox, tell=typer.echo)
    print(f"{len(table)} submissions, in {out}")
