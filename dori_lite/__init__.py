"""Memorization in diffusion models, on unmodified `diffusers` pipelines: find, prune, attack it, see what is left.

    pipe = dori_lite.load("reef/twin-a")  # or "sd14", a folder, a hub id
    mask = dori_lite.wanda.localise(pipe, "a memorized caption", 0.2, guidance=5.0, steps=25)
    with dori_lite.pruned(pipe, mask):
        found = dori_lite.find_triggers(pipe, dori_lite.encode(pipe, image[None]), "a memorized caption")
        pictures = dori_lite.generate(pipe, found.embeddings, seeds=range(4), guidance=5.0, steps=25)

The names below and every module (`dori_lite.nemo`, `dori_lite.detection`, …) are imported on first use.

Import it before torch (in a notebook, in the first cell): it tells the OpenMP library, which reads this once when torch
is loaded, how long a waiting thread spins before it sleeps. Left alone, it spins on against whatever else the machine
does, and beside a few busy processes everything takes several times as long; asleep at once, it takes twice as long on
an idle machine. The value below lies where little is lost on either (measured on two cores). One of your own is kept;
on a machine that is never idle, `OMP_NUM_THREADS=1` is best.
"""

import os
from importlib import import_module

SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}  # GNU's OpenMP; LLVM's and Intel's, in milliseconds

for name, value in SPINS.items():
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(name, value)
del name, value

HOME = {  # what most users need, and the module each stands in
    "load": "models",
    "embed": "models",
    "encode": "models",
    "generate": "diffusion",
    "find_triggers": "dori",
    "pruned": "masks",
    "WeightMask": "masks",
    "Target": "evaluation",
    "Condition": "evaluation",
    "ask": "evaluation",
    "score": "evaluation",
    "attack": "evaluation",
}


def __getattr__(name: str):
    if name in HOME:
        return getattr(import_module(f"{__name__}.{HOME[name]}"), name)
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"dori_lite has no {name!r}; there are its modules, and: {', '.join(HOME)}")


def __dir__():
    return sorted({*globals(), *HOME})
