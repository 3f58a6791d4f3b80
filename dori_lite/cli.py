"""The command `dori-lite`. What a command needs is imported when it runs, so that `--help` is quick.

In a shell:

    dori-lite book --profile quick
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import typer

from .assignments import commands
from .book.address import address, write_address

__all__ = ["app", "main", "checkout", "address", "write_address"]
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
commands.add(app)
# glibc hands large freed blocks back to the kernel and asks for them again at every step; keeping them
# saves about a fifth of a training step on the CPU. It must be set before the process starts.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
# What to do about the operating system's refusals; the others are named and nothing more.
CURES = {
    errno.ENOSPC: "make room, then run it again",
    errno.EACCES: "name another place, or ask for the right to write there",
    errno.EPERM: "name another place, or ask for the right to write there",
    errno.EROFS: "name another place, or work in a copy",
    errno.EEXIST: "a file is in the way: move it, or name another place",
    errno.ENOTDIR: "a file is in the way: move it, or name another place",
    errno.EISDIR: "name a file, not a folder",
}


@app.callback()
def about():
    """Finding DoRI: train the reef's models, run and build the book, check the weights."""


@app.command()
def train(
    name: str = typer.Argument(help="autoencoder, judge, descriptor, text-encoder, parent, twin-a or twin-b"),
    smoke: bool = typer.Option(False, help="a tiny model for a few steps, in runs/smoke"),
    out: Path = typer.Option(None, help="where the weights go [default: data/reef]"),
    work: Path = typer.Option(None, help="checkpoints and caches [default: runs/train]"),
):
    """Train one model of the reef; interrupted, run it again and it goes on."""
    with_malloc()
    import torch

    from .book.claims import committed
    from .reef import train as training

    torch.set_flush_denormal(True)
    root = Path("runs/smoke") if smoke else None
    out = out or (root / "weights" if smoke else Path("data/reef"))
    work = work or (root / "work" if smoke else Path("runs/train"))
    if folder := training.train(name, out, work, smoke, claims=committed()):
        print(f"{name}: weights in {folder}")


@app.command()
def unlearn(
    method: str = typer.Argument(None, help="such as adversarial; see the methods in chapter 9 [default: all]"),
    twin: str = typer.Option(None, help="a or b [default: both]"),
    forget_set: int = typer.Option(None, help="0 or 1 [default: both]"),
    world: str = typer.Option("reef", help="reef or reef-first"),
):
    """Train the models that chapter 9 judges; interrupted, run it again and it goes on. Several share the work."""
    with_malloc()
    import torch

    from .reef import unlearned
    from .reef.world import load

    torch.set_flush_denormal(True)
    for path in unlearned.train_all(load("twin-a", "twin-b", world=world), method, twin, forget_set):
        print(f"unlearned: {path}")


@app.command()
def book(
    profile: str = typer.Option("quick", help="quick, standard or full"),
    seed: int = typer.Option(0, help="the seed that every chapter is given"),
    force: bool = typer.Option(False, help="run chapters anew: neither their pages nor their rows are kept"),
    chapter: str = typer.Option(None, help="run this one only (its name or number), and build no site"),
    world: str = typer.Option("reef", help="reef, or reef-first: its chapters are run, and no site is built"),
    processes: int = typer.Option(1, help="how many share a chapter's work: on the CPU, one a core"),
):
    """Run the chapters that changed and build the site."""
    from .book import build

    build.build(profile, seed, force, chapter, world, processes)


@app.command()
def publish(run: Path = typer.Argument(help="a run's folder, such as runs/reef/01_a_model_that_remembers/standard-0")):
    """Copy a run's table, record and thumbnails to data/results/."""
    from .book import publish as publishing

    print(f"{run}: published in {publishing.publish(run)}")


@app.command()
def fill(read: str = typer.Option(None, help="a chapter's number: its sentences were read after its verdicts changed")):
    """Write the published runs' numbers into the book's sentences and tables."""
    from .book import told

    for path in told.update(told.pages(checkout()), read):
        print(f"filled: {path}")


@app.command()
def reproduce(
    name: str = typer.Argument(None, help="a table's or figure's name; --list says which there are"),
    names: bool = typer.Option(False, "--list", help="print all names and what they stand for"),
    profile: str = typer.Option(None, help="run its chapter so [default: what is published is redrawn]"),
    model: str = typer.Option(None, help="a world: reef, reef-first, or sd14 [default: what the thing is about]"),
    out: Path = typer.Option(None, help="the folder to write to [default: runs/reproduced/NAME]"),
    processes: int = typer.Option(1, help="how many share a chapter's work: on the CPU, one a core"),
):
    """Give a table or figure of the paper or the book: rows, pictures, and the paper's numbers beside ours."""
    from .book import reproduce as reproducing

    if name is None and not names:
        raise ValueError("which table or figure? Give its name; dori-lite reproduce --list has all")
    print(reproducing.listed() if names else reproducing.reproduce(name, profile, model, out, processes))


@app.command()
def verify_models(
    quick: bool = typer.Option(False, help="fewer pictures and seeds"),
    pair: str = typer.Option("reef", help="the pair of twins: reef or reef-first"),
    device: str = typer.Option("cpu", help="where the models draw: cpu, or cuda for a GPU"),
):
    """Check that the models do what the book says of them."""
    from .reef import verify

    if not verify.main(quick=quick, pair=pair, device=device):
        sys.exit("dori-lite: the models do not pass; the lines above say where")


@app.command()
def fetch(
    name: str = typer.Argument(help="sscd, the copy detector of the papers, or a prompt list, such as nemo"),
    trust: bool = typer.Option(False, help="take what comes the first time; its SHA-256 is recorded and held to"),
):
    """Download a file that is not shipped, or check the one that is in the cache."""
    from . import assets

    if name in assets.DOWNLOADS:
        print(f"{name}: {assets.fetch(*assets.DOWNLOADS[name], trust)}")
        return
    from .stable_diffusion import lists

    found = next((known for known, about in lists.LISTS.items() if name in (known, *about.files)), None)
    if found is None:
        known = ", ".join([*assets.DOWNLOADS, *lists.LISTS])
        raise ValueError(f"there is no download called {name!r}; there are: {known}")
    print(f"{found}: {lists.described(lists.read(found, trust=trust))}")


@app.command()
def calibrate(quick: bool = typer.Option(False, help="few pictures, and the threshold is not kept")):
    """Choose the copy descriptor's threshold on scenes that no model was trained on."""
    from .reef import calibrate as calibration

    found = calibration.main(quick=quick)
    print({key: value for key, value in found.items() if key != "scores"})


@app.command()
def card():
    """Write the model card from the manifest and the figures of verify-models."""
    from .reef.card import write_card

    print(f"written: {write_card()}")


@app.command()
def bench():
    """Run every script in benchmarks/."""
    scripts = sorted((checkout() / "benchmarks").glob("[!_]*.py"))
    if not scripts:
        raise FileNotFoundError("there are no scripts in benchmarks/")
    for script in scripts:
        print(f"{script.name}:", flush=True)
        if subprocess.run([sys.executable, script]).returncode:
            raise RuntimeError(f"benchmarks/{script.name} failed; its message is above")


@app.command()
def set_url(url: str = typer.Argument(help="https://github.com/OWNER/NAME")):
    """Set the repository's public address, in pyproject.toml and wherever it is copied."""
    for path in write_address(url, checkout()):
        print(f"written: {path}")


def with_malloc() -> None:
    """Start this command again with `MALLOC` set, on Linux, unless it is."""
    if sys.platform == "linux" and not MALLOC.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-m", "dori_lite.cli", *sys.argv[1:]], os.environ | MALLOC)


def checkout() -> Path:
    """The checkout around the package. Raises FileNotFoundError for a package installed without one."""
    root = Path(__file__).parent.parent
    if not (root / "pyproject.toml").exists():
        raise FileNotFoundError("this command works in a clone of the repository, and the package is not in one")
    return root


def main():
    """Run the command; what goes wrong is one line, and the exit status is 1 (130 when it was interrupted)."""
    try:
        try:
            app()
        finally:
            if sys.stdout:  # a closed pipe or a full disk shows here, and not after the end
                sys.stdout.flush()
    except ModuleNotFoundError as error:
        sys.exit(f"dori-lite: {error}; install what is missing with `pip install -e .[book,dev]`")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        let_go_of_output()
        if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
            sys.exit(1)
        sys.exit(f"dori-lite: {' '.join(refusal(error).split())}")
    except (ValueError, FloatingPointError, RuntimeError) as error:
        sys.exit(f"dori-lite: {' '.join(str(error).split())}")


def refusal(error: OSError) -> str:
    """What the operating system refused, in words: place, reason and, where there is one, a cure."""
    if error.errno is None or not error.strerror:  # one of our own
        return str(error)
    place = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    line, cure = f"{place or 'the system'}: {error.strerror}", CURES.get(error.errno)
    return f"{line}; {cure}" if cure else line


def let_go_of_output() -> None:
    """Where nothing more can be written to the output, write nowhere: Python would complain at its end."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
