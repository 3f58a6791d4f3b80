"""Run one notebook with papermill, in a kernel of its own.

    with environment(HF_HUB_OFFLINE="1"):
        notebook = run("stage/chapters/01_first.ipynb", "executed/01_first.ipynb", {"profile": "quick", "seed": 0})

What goes wrong is one line that says in which cell.
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

# Where the kernel's messages are waited for, the default of 4 s is fatal on a busy machine.
KERNEL = {"kernel_name": "python3", "start_timeout": 180, "iopub_timeout": 120, "extra_arguments": ["--log-level=40"]}


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
