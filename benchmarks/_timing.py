"""What the benchmarks share: two functions timed side by side. It is imported by the scripts and is none itself."""

import statistics
import time


def interleaved(ours, theirs, pairs: int) -> tuple[float, float, float]:
    """Medians over `pairs` runs of both, in turns who is first: ratio by the clock, in processor time, our seconds."""
    ratios, seconds = [], []
    for k in range(pairs):
        order = (ours, theirs) if k % 2 else (theirs, ours)
        taken = {function: timed(function) for function in order}
        ratios.append([a / b for a, b in zip(taken[ours], taken[theirs], strict=True)])
        seconds.append(taken[ours][0])
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    return wall, cpu, statistics.median(seconds)


def timed(function) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, which other programs disturb less."""
    began = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began[0], time.process_time() - began[1]
