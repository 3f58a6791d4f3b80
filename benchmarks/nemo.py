"""U-Net samples and time of NeMo's localiser against one that asks ten noises for every candidate set; the same sets.

On the reef's tuning canaries. A sample is one noise under one caption; a backward pass counts as two more. The slow
side is this package's own search with nothing spared (`lazy=False`), padded from the kept seeds to ten noises; that
it finds the sets of an independent naive version is tested in tests/test_nemo.py.
"""

import dori_lite  # noqa: F401, I001  (before torch, whose threads it tells when to sleep)
import time

import torch

from dori_lite import models, nemo, nemo_search
from dori_lite.reef import localisers, world

BAR, TEN = 5.0, 10


def main():
    spent = {"samples": 0, "baseline": 0, "seconds": 0.0, "baseline seconds": 0.0}
    for home in "ab":
        pipe = models.load(f"reef/twin-{home}", device="cpu")
        settings = localisers.nemo_settings(pipe, home)
        for target in world.planted("canary", "tuning", home=home):
            began = time.perf_counter()
            fast = nemo.localise(pipe, target.caption, **settings)
            middle = time.perf_counter()
            slow = plainly(pipe, target.caption, settings)
            ended = time.perf_counter()
            if fast.neurons != slow.neurons:
                raise RuntimeError(f"{target.name}: the two searches differ; there is nothing to compare")
            baseline = TEN * (slow.sets + 1)
            print(f"{target.name}: {fast.count} neurons, {fast.samples} samples against {baseline}", flush=True)
            for key, value in zip(spent, (fast.samples, baseline, middle - began, ended - middle), strict=True):
                spent[key] += value
    print(
        f"NeMo takes {spent['baseline'] / spent['samples']:.2f} times fewer U-Net samples (bar {BAR}) and "
        f"{spent['baseline seconds'] / spent['seconds']:.2f} times less time than ten noises a candidate set, for the "
        f"same neurons: 8 tuning canaries, on the CPU, threads: {torch.get_num_threads()}"
    )


def plainly(pipe, caption, settings):
    """`localise` with a batch of ten noises for every candidate set, nothing remembered and nothing replayed."""
    differences = nemo_search.Ablation.differences

    def ten(self, blocked, which):
        self.prefix = []
        return differences(self, blocked, [*which, *which * TEN][:TEN])[: len(which)]

    nemo_search.Ablation.differences = ten
    try:
        return nemo.localise(pipe, caption, lazy=False, **settings)
    finally:
        nemo_search.Ablation.differences = differences


if __name__ == "__main__":
    main()
