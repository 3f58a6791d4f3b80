"""Pixels of a scene: shapes at three times the size (`shapes`), scaled down.

    picture = render(draw(0), seed=0)
    pictures = paint_all([(draw(k), k) for k in range(6)])  # uint8 [6, 3, 64, 64]

The seed decides positions and shades, never attributes (`scenes`).
"""

import json
import math
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from operator import index

import numpy as np
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from .scenes import PIXELS, Fish, Scene, stream
from .shapes import LENGTH, SIZE, WIDE, S, bubbles, mix, plants, scaled, seabed, shade, swim

MANY, PART = 256, 64  # scenes from which on processes are worth their start, and scenes that one is given at a time
# What a worker runs. It sees the modules that this process sees, and never its main script, which need not be guarded.
WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); from dori_lite.reef import paint; paint.work()"
)

WATER_RGB = {  # top, bottom
    "clear": ((150, 222, 236), (58, 156, 200)),
    "deep": ((44, 92, 158), (12, 30, 78)),
    "green": ((168, 214, 160), (58, 128, 108)),
    "dusk": ((250, 178, 128), (104, 72, 132)),
}


def render(scene: Scene, seed: int) -> Image.Image:
    """Paint `scene` with the positions and shades of `seed`: an RGB image of 64×64 pixels."""
    rng = stream(seed, PIXELS)
    top, bottom = (shade(c, rng, 0.03) for c in WATER_RGB[scene.water])
    canvas = water(top, bottom)
    if scene.water in ("clear", "dusk"):
        sunbeams(canvas, top, rng)
    floor = hills(canvas, bottom, rng)
    seabed(canvas, scene.bed, floor, bottom, rng)
    main, *companions = scene.fish
    places = arrange(main, len(companions), rng)
    plants(canvas, scene.plants, floor, rng)
    for fish, place in zip(companions, places[1:], strict=True):
        swim(canvas, fish, place, rng, haze=(bottom, 0.12))
    swim(canvas, main, places[0], rng)
    if scene.bubbles:
        bubbles(canvas, rng)
    return canvas.reduce(S)


def paint_all(scenes: list, label: str = "painting"):
    """Pictures of (scene, seed) pairs: uint8 [N, 3, 64, 64], painted on every core when there are many."""
    import torch  # here, because the workers need none

    if not len(scenes):
        raise ValueError("there are no scenes to paint; give at least one")
    parts = [scenes[k : k + PART] for k in range(0, len(scenes), PART)]
    painted = in_workers(parts, label) if len(scenes) >= MANY else [None] * len(parts)
    # What no worker painted, because there are none here or one has died, is painted by this process.
    done = [
        np.stack([as_array(pair) for pair in part]) if p is None else p for part, p in zip(parts, painted, strict=True)
    ]
    return torch.from_numpy(np.concatenate(done)).permute(0, 3, 1, 2).contiguous()


def in_workers(parts: list, label: str) -> list:
    """The pictures of each part, uint8 [n, 64, 64, 3], painted by processes of their own; None where that failed."""
    program = os.path.basename(sys.executable or "")
    if getattr(sys, "frozen", False) or not program.startswith(("python", "pypy")):  # it would start itself again
        return [None] * len(parts)
    workers, idle = [], queue.SimpleQueue()
    try:
        with suppress(OSError):  # no more processes are to be had
            for _ in range(min(os.cpu_count() or 1, len(parts))):
                workers.append(start())
                idle.put(workers[-1])
        if not workers:
            return [None] * len(parts)

        def ask(part):
            worker = idle.get()
            try:
                return asked(worker, part)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                return list(tqdm(pool.map(ask, parts), label, len(parts), delay=5, leave=False))
            except BaseException:  # the threads wait for the workers: end these first
                pool.shutdown(wait=False, cancel_futures=True)
                stop(workers)
                raise
    finally:
        stop(workers)


def start() -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen([sys.executable, "-P", "-c", WORKER], **pipes)
    worker.stdin.write(json.dumps([*map(str, sys.path)]).encode() + b"\n")
    return worker


def asked(worker: subprocess.Popen, part: list):
    """What `work` answers to one part; None if it does not."""
    try:
        line = json.dumps([[asdict(scene), index(seed)] for scene, seed in part])
        worker.stdin.write(line.encode() + b"\n")
        worker.stdin.flush()
        wanted = len(part) * SIZE * SIZE * 3
        answer = worker.stdout.read(wanted)
    except (OSError, ValueError, TypeError):  # it is gone, or this is nothing that JSON can hold
        return None
    return np.frombuffer(answer, np.uint8).reshape(-1, SIZE, SIZE, 3) if len(answer) == wanted else None


def stop(workers: list) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        with suppress(OSError):
            worker.stdin.close()
        worker.stdout.close()
        worker.wait()


def work() -> None:
    """Paint what comes in, a JSON list of [scene, seed] a line, and write the pixels; what a worker does."""
    for line in sys.stdin:
        scenes = [(Scene(**s | {"fish": tuple(Fish(**f) for f in s["fish"])}), seed) for s, seed in json.loads(line)]
        sys.stdout.buffer.write(b"".join(as_array(pair).tobytes() for pair in scenes))
        sys.stdout.buffer.flush()


def as_array(pair) -> np.ndarray:
    return np.asarray(render(*pair))


def arrange(main, others, rng):
    """Centres that keep every fish inside the picture and its companions clear of it."""
    half = LENGTH[main.size] * 0.56
    places = [(rng.uniform(half + 1, SIZE - half - 1), rng.uniform(13, 40))]
    reach = LENGTH[main.size] * 0.5 + 7
    while len(places) <= others:
        best = None
        for _ in range(12):
            spot = rng.uniform(8, SIZE - 8), rng.uniform(7, 46)
            gap = min(
                math.hypot(spot[0] - x, (spot[1] - y) * 1.25) - (reach if k == 0 else 12)
                for k, (x, y) in enumerate(places)
            )
            if best is None or gap > best[0]:
                best = gap, spot
            if gap > 0:
                break
        places.append(best[1])
    return places


def water(top, bottom):
    column = np.linspace(0, 1, WIDE)[:, None, None] ** 0.9
    rows = np.asarray(top) + (np.asarray(bottom) - np.asarray(top)) * column
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(np.rint(rows), (WIDE, WIDE, 3))).astype(np.uint8))


def sunbeams(canvas, top, rng):
    light = Image.new("L", canvas.size, 0)
    draw = ImageDraw.Draw(light)
    x, lean = rng.uniform(4, 24), rng.uniform(-14, 14)
    for width in (9, 6, 8):
        draw.polygon(scaled([(x, -1), (x + width, -1), (x + width * 1.7 + lean, 56), (x + lean, 56)]), fill=38)
        x += width + rng.uniform(7, 13)
    canvas.paste(mix(top, (255, 255, 255), 0.7), mask=light)


def hills(canvas, bottom, rng):
    """Far ridges in the water's own colour; returns the height of the near floor."""
    draw = ImageDraw.Draw(canvas)
    floor = rng.uniform(50, 54)
    for lift, dark in ((9, 0.16), (4, 0.3)):
        phase, wave = rng.uniform(0, 2 * math.pi), rng.uniform(14, 22)
        ridge = [(x, floor - lift + 3.2 * math.sin(x / wave * 2 + phase)) for x in range(-2, SIZE + 3, 2)]
        draw.polygon(scaled([*ridge, (SIZE + 2, SIZE + 2), (-2, SIZE + 2)]), fill=mix(bottom, (10, 20, 40), dark))
    return floor
