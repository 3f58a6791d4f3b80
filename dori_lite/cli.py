"""The command `dori-lite`."""

import os
import sys
from pathlib import Path

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
# glibc hands large freed blocks back to the kernel and asks for them again at every step; keeping them
# saves about a fifth of a training step on the CPU. It must be set before the process starts.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


@app.callback()
def about():
    """Finding DoRI: train the reef's models, run and build the book, check the weights."""


@app.command()
def train(
    name: str = typer.Argument(help="autoencoder, parent, twin-a or twin-b"),
    smoke: bool = typer.Option(False, help="a tiny model for a few steps, in runs/smoke"),
    out: Path = typer.Option(None, help="where the weights go [default: data/reef]"),
    work: Path = typer.Option(None, help="checkpoints and caches [default: runs/train]"),
):
    """Train one model of the reef; interrupted, run it again and it goes on."""
    if sys.platform == "linux" and not MALLOC.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-m", "dori_lite.cli", *sys.argv[1:]], os.environ | MALLOC)
    import torch

    from .reef import train as training

    torch.set_flush_denormal(True)
    root = Path("runs/smoke") if smoke else None
    out = out or (root / "weights" if smoke else Path("data/reef"))
    work = work or (root / "work" if smoke else Path("runs/train"))
    folder = training.train(name, out, work, smoke)
    print(f"{name}: weights in {folder}")


def main():
    try:
        app()
    except (ValueError, FileNotFoundError, FloatingPointError, RuntimeError) as error:
        sys.exit(f"dori-lite: {error}")


if __name__ == "__main__":
    main()
