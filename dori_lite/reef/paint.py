"""Pixels of a scene: shapes at three times the size (`shapes`), scaled down.

    picture = render(draw(0), seed=0)
    pictures = paint_all([(draw(k), k) for k in range(6)])  # uint8 [6, 3, 64, 64]

The seed decides positions and shades, never attributes (`scenes`).
"""

import math
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from .scenes import PIXELS, Scene, stream
from .shapes import LENGTH, SIZE, WIDE, S, bubbles, mix, plants, scaled, seabed, shade, swim

MANY, PART = 256, 64  # scenes from which on processes are worth their start, and scenes that one is given at a time

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
    parts, painted = [scenes[k : k + PART] for k in range(0, len(scenes), PART)], None
    bar = tqdm(parts, label, delay=5, leave=False)
    if len(scenes) >= MANY:
        # joblib's workers never import the main script, which therefore needs no guard.
        with suppress(BrokenProcessPool, OSError):  # where none can work, this process paints
            painted = Parallel(n_jobs=-1)(delayed(paint_part)(part) for part in bar)
    if painted is None:
        painted = [paint_part(part) for part in parts]
    return torch.from_numpy(np.concatenate(painted)).permute(0, 3, 1, 2).contiguous()


def paint_part(scenes: list) -> np.ndarray:
    return np.stack([as_array(pair) for pair in scenes])


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
