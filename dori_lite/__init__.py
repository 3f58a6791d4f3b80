"""Finding DoRI: memorization in diffusion models, on unmodified `diffusers` pipelines.

Import it before torch (in a notebook, in the first cell): it tells the OpenMP library, which reads this once when torch
is loaded, how long an idle thread spins before it sleeps. Left alone, threads spin against whatever else the machine
does, and beside four busy processes everything takes three to four times as long; asleep at once, it takes twice as
long on an idle machine. With the value below neither happens (measured on two cores). A value of your own is kept.
"""

import os

SPINS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}  # GNU's OpenMP; LLVM's and Intel's, in milliseconds

for name, value in SPINS.items():
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(name, value)
