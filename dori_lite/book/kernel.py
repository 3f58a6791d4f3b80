"""Run one notebook with papermill, in a kernel of its own.

    with environment(HF_HUB_OFFLINE="1"):
        notebook = run("stage/chapters/01_first.ipynb", "executed/01_first.ipynb", {"profile": "quick", "seed": 0})

What goes wrong is one line that says in which cell. Other processes can share its work (`helpers`).
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

# Where the kernel's messages are waited for, the default of 4 s is fatal on a busy machine.
KERNEL = {"kernel_name": "python3", "start_timeout": 180, "iopub_timeout": 120, "extra_arguments": ["--log-level=40"]}
ROWS = {"set-up", "parameters", "experiment"}  # the cells that make rows, and what they need


def check_parameters(notebook: Path, passed: dict) -> None:
    """Raises ValueError unless the `parameters` cell declares exactly what will be passed.

    papermill itself only logs a parameter that no cell declares, and the run would ignore it in silence.
    """
    declared = papermill.inspect_notebook(notebook)
    known = f"its parameters cell declares: {', '.join(declared) or 'nothing'}"
    for name in passed.keys() - declared.keys():
        raise ValueError(f"{notebook.stem}: unknown parameter {name!r}; {known}")
    for name in declared.keys() - passed.keys():
        raise ValueError(f"{notebook.stem}: nothing is passed for its parameter {name!r}; {known}")


@contextmanager
def environment(**settings: str):
    """Environment variables for the kernels that are started inside."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run(notebook: Path, output: Path, parameters: dict, called: str | None = None):
    """Execute `notebook` in its own folder; the executed notebook. `called` names it in messages [default: its file].

    Raises ValueError for an unknown parameter, RuntimeError in one line when a cell fails or the kernel dies.
    """
    check_parameters(notebook, parameters)
    called = called or notebook.stem
    try:
        bar = sys.stderr.isatty()
        return papermill.execute_notebook(notebook, output, parameters, cwd=notebook.parent, progress_bar=bar, **KERNEL)
    except PapermillExecutionError as error:
        where = f"in the cell that begins {error.source.strip().splitlines()[0]!r} (traceback in {output})"
        raise RuntimeError(f"{called}: {error.ename}: {' '.join(error.evalue.split())}, {where}") from error
    except (DeadKernelError, TimeoutError) as error:
        raise RuntimeError(f"{called}: {' '.join(str(error).split())}") from error


@contextmanager
def helpers(count: int, notebook: Path, output: Path, parameters: dict):
    """`count` more processes for the length of the body, which share the rows of `notebook` (`units.shared`).

    Each runs the cells that make rows (`ROWS`) in a kernel of its own, in a file beside `output`. One that fails says
    so, and the others do what it left. They end with the body.
    """
    part = nbformat.read(notebook, 4)
    part.cells = [cell for cell in part.cells if ROWS & {*cell.metadata.get("tags", [])}]
    if not any("experiment" in cell.metadata["tags"] for cell in part.cells):
        count = 0
    if not count:
        yield
        return
    at_work, threads = {}, max(1, (os.cpu_count() or 1) // (count + 1))
    with environment(RANK="0", WORLD_SIZE=str(count + 1), OMP_NUM_THREADS=str(threads)):
        try:
            for rank in range(1, count + 1):
                path = output.with_name(f"{output.stem}-{rank}.ipynb")
                nbformat.write(part, path)
                command = [sys.executable, "-m", __name__, str(path), json.dumps(parameters)]
                at_work[path] = subprocess.Popen(command, env=os.environ | {"RANK": str(rank)})
            yield
        finally:
            for path, process in at_work.items():
                failed = process.poll()
                process.terminate()
                process.wait()
                if not failed:  # the traceback of one that did stays there
                    path.unlink()


if __name__ == "__main__":
    path = Path(sys.argv[1])
    try:
        run(path, path, json.loads(sys.argv[2]))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"a helping process has ended: {error}")
