"""What a reef picture is drawn with: colours, fish, plants, sea beds, bubbles, as PIL shapes on a wide canvas.

    canvas = Image.new("RGB", (WIDE, WIDE))
    swim(canvas, fish, (32, 20), stream(seed, PIXELS))

Coordinates are in the units of the finished 64×64 picture; `S` turns them into canvas pixels.
"""

import colorsys
import math

from PIL import Image, ImageChops, ImageDraw

from .scenes import Fish

SIZE, S = 64, 3
WIDE = SIZE * S

FISH_RGB = {
    "red": (214, 40, 46),
    "orange": (247, 127, 30),
    "yellow": (250, 208, 44),
    "green": (64, 170, 72),
    "blue": (38, 84, 196),
    "purple": (132, 62, 170),
    "pink": (245, 130, 174),
    "white": (240, 240, 236),
}
ACCENT_RGB = {"white": (246, 244, 236), "black": (28, 26, 36), "yellow": (252, 214, 60)}
BED_RGB = {"sand": (228, 204, 150), "rock": (104, 98, 104), "gravel": (150, 140, 130)}
LENGTH = {"tiny": 11.0, "small": 16.0, "medium": 22.0, "large": 29.0}


def shade(rgb, rng, spread=0.05):
    """`rgb` with its hue kept and its saturation and lightness moved a little."""
    h, light, s = colorsys.rgb_to_hls(*(c / 255 for c in rgb))
    light = min(max(light + rng.uniform(-spread, spread), 0), 1)
    s = min(max(s + rng.uniform(-spread, spread), 0), 1)
    return tuple(round(c * 255) for c in colorsys.hls_to_rgb(h, light, s))


def mix(a, b, t):
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def scaled(points):
    return [(x * S, y * S) for x, y in points]


def disc(draw, x, y, rx, ry, fill):
    draw.ellipse((*scaled([(x - rx, y - ry)])[0], *scaled([(x + rx, y + ry)])[0]), fill=fill)


def seabed(canvas, bed, floor, bottom, rng):
    draw = ImageDraw.Draw(canvas)
    base = mix(shade(BED_RGB[bed], rng, 0.03), bottom, 0.12)
    phase = rng.uniform(0, 2 * math.pi)

    def edge(x):
        return floor + 1.2 * math.sin(x / 9 + phase)

    line = [(x, edge(x)) for x in range(-2, SIZE + 3, 2)]
    draw.polygon(scaled([*line, (SIZE + 2, SIZE + 2), (-2, SIZE + 2)]), fill=base)
    if bed == "sand":
        for k in range(1, 4):
            ripple = [(x, edge(x) + 3.3 * k + 0.5 * math.sin(x / 4 + k + phase)) for x in range(-2, SIZE + 3, 2)]
            draw.line(scaled(ripple), fill=mix(base, (150, 118, 70), 0.35), width=S)
    elif bed == "rock":
        x = rng.uniform(-4, 2)
        while x < SIZE + 4:
            r = rng.uniform(4.5, 8.5)
            stone, y = shade(base, rng, 0.06), floor + 5.5 + rng.uniform(-1, 1.5)
            disc(draw, x, y, r, r * 0.72, mix(stone, (0, 0, 0), 0.3))
            disc(draw, x - 0.5, y - 0.8, r * 0.9, r * 0.58, stone)
            disc(draw, x - r * 0.3, y - r * 0.34, r * 0.4, r * 0.18, mix(stone, (255, 255, 255), 0.3))
            x += r * rng.uniform(1.0, 1.35)
        draw.rectangle((0, 60 * S, WIDE, WIDE), fill=mix(base, (0, 0, 0), 0.3))
    else:
        for y in (floor + 2.2, floor + 6.4, floor + 10.6):
            x = rng.uniform(-2, 1)
            while x < SIZE + 2:
                r = rng.uniform(2.3, 3.3)
                tone = shade(((170, 156, 138), (130, 124, 122), (190, 180, 166))[rng.integers(3)], rng, 0.03)
                disc(draw, x, y + rng.uniform(-0.6, 0.6), r, r * 0.78, mix(tone, bottom, 0.1))
                x += r * 1.9


def plants(canvas, kind, floor, rng):
    draw = ImageDraw.Draw(canvas)
    spots = [rng.uniform(5, 15), rng.uniform(49, 59)]
    if rng.random() < 0.5:
        spots = spots[:1] if rng.random() < 0.5 else spots[1:]
    for x in spots:
        {"kelp": kelp, "coral": coral, "anemones": anemone, "none": lambda *_: None}[kind](draw, x, floor, rng)


def kelp(draw, x, floor, rng):
    for offset in (-3.2, 2.6):
        tone = shade((60, 122, 56), rng, 0.05)
        height, phase, sway = rng.uniform(26, 40), rng.uniform(0, 6.28), rng.uniform(1.2, 2.2)
        steps = [k / 14 for k in range(15)]
        spine = [(x + offset + sway * math.sin(4.5 * t + phase), floor + 3 - height * t) for t in steps]
        for k in range(2, 14, 2):
            (cx, cy), side = spine[k], 1 if k % 4 else -1
            leaf = [
                (cx, cy + 1.2),
                (cx + side * 2.6, cy - 0.4),
                (cx + side * 4.4, cy - 2.8),
                (cx + side * 1.2, cy - 1.6),
            ]
            draw.polygon(scaled(leaf), fill=mix(tone, (190, 210, 90), 0.25))
        draw.line(scaled(spine), fill=tone, width=int(1.7 * S), joint="curve")


def coral(draw, x, floor, rng):
    tone = shade(((226, 92, 108), (238, 138, 92), (216, 110, 168))[rng.integers(3)], rng, 0.04)

    def branch(bx, by, angle, length, width, depth):
        ex, ey = bx + length * math.cos(angle), by - length * math.sin(angle)
        draw.line(scaled([(bx, by), (ex, ey)]), fill=tone, width=max(int(width * S), 3))
        disc(draw, ex, ey, width / 2, width / 2, tone)
        if depth:
            for turn in (-0.5, 0.48):
                branch(ex, ey, angle + turn + rng.uniform(-0.15, 0.15), length * 0.74, width * 0.82, depth - 1)
        else:
            disc(draw, ex, ey, width * 0.62, width * 0.62, mix(tone, (255, 240, 220), 0.45))

    branch(x, floor + 4, math.pi / 2 + rng.uniform(-0.12, 0.12), rng.uniform(6.5, 8), 2.9, 2)


def anemone(draw, x, floor, rng):
    tone = shade((170, 96, 190), rng, 0.05)
    length = rng.uniform(7, 10)
    for k in range(7):
        angle = math.pi * (0.16 + 0.68 * k / 6) + rng.uniform(-0.06, 0.06)
        tip = x + 0.5 + length * math.cos(angle), floor - 0.5 - length * math.sin(angle)
        draw.line(scaled([(x + (k - 3) * 0.8, floor + 3), tip]), fill=tone, width=int(1.8 * S))
        disc(draw, *tip, 1.25, 1.25, mix(tone, (255, 230, 240), 0.6))
    disc(draw, x, floor + 3.2, 5, 2.6, mix(tone, (40, 10, 60), 0.35))


def swim(canvas, fish: Fish, place, rng, haze=None):
    """Paint one fish with its centre at `place`; `haze` = (colour, share) sets it back in the water."""
    x, y = place
    length = LENGTH[fish.size] * rng.uniform(0.96, 1.04)
    height, flip = length * rng.uniform(0.54, 0.6), 1 if fish.facing == "right" else -1
    body_rgb = shade(FISH_RGB[fish.colour], rng, 0.03)
    accent = ACCENT_RGB[fish.accent]
    if haze:
        body_rgb, accent = mix(body_rgb, *haze), mix(accent, *haze)

    def at(points):  # from the fish's own frame, facing right, to the canvas
        return scaled([(x + flip * px * length, y + py * height) for px, py in points])

    draw = ImageDraw.Draw(canvas)
    draw.polygon(at([(-0.26, 0), (-0.54, -0.46), (-0.46, 0), (-0.54, 0.46)]), fill=accent)
    draw.polygon(
        at([(0.14, -0.36), (0.04, -0.6), (-0.08, -0.7), (-0.2, -0.66), (-0.3, -0.5), (-0.24, -0.2)]), fill=accent
    )
    draw.polygon(at([(0.04, 0.36), (-0.12, 0.68), (-0.2, 0.3)]), fill=accent)
    angles = [2 * math.pi * k / 36 for k in range(36)]
    outline = at([(0.42 * math.cos(a), 0.5 * math.sin(a) * (0.82 + 0.2 * math.cos(a))) for a in angles])
    body = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(body).polygon(outline, fill=255)

    def clipped(paint, colour, share=1.0):
        mask = Image.new("L", canvas.size, 0)
        paint(ImageDraw.Draw(mask))
        mask = ImageChops.multiply(mask, body)
        canvas.paste(colour, mask=mask if share == 1 else mask.point(lambda v: int(v * share)))

    canvas.paste(body_rgb, mask=body)
    clipped(
        lambda d: d.polygon(at([(-0.6, 0.14), (0.6, 0.2), (0.6, 0.8), (-0.6, 0.8)]), fill=255),
        mix(body_rgb, (255, 255, 255), 0.35),
        0.75,
    )
    if fish.pattern == "striped":
        bands = [
            at([(px - 0.055, -0.6), (px + 0.055, -0.6), (px + 0.03, 0.6), (px - 0.08, 0.6)])
            for px in (-0.24, -0.02, 0.2)
        ]
        clipped(lambda d: [d.polygon(band, fill=255) for band in bands], accent)
    elif fish.pattern == "spotted":
        spots, r = (
            at([(-0.26, -0.1), (-0.1, 0.2), (-0.06, -0.24), (0.1, 0.0), (-0.3, 0.16), (0.12, 0.3)]),
            length * 0.062 * S,
        )
        clipped(lambda d: [d.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255) for cx, cy in spots], accent)
    (ex, ey), r = at([(0.28, -0.14)])[0], max(length * 0.062, 1.0) * S
    draw.ellipse((ex - r, ey - r, ex + r, ey + r), fill=(250, 250, 250))
    r *= 0.58
    draw.ellipse((ex - r + flip, ey - r, ex + r + flip, ey + r), fill=(16, 18, 26))


def bubbles(canvas, rng):
    x, y = rng.uniform(8, 56), rng.uniform(30, 42)
    veil = Image.new("L", canvas.size, 0)
    draw = ImageDraw.Draw(veil)
    for r in (1.3, 1.7, 2.2, 2.7):
        box = (*scaled([(x - r, y - r)])[0], *scaled([(x + r, y + r)])[0])
        draw.ellipse(box, fill=90, outline=230, width=2)
        disc(draw, x - r * 0.35, y - r * 0.35, r * 0.28, r * 0.28, 255)
        x, y = x + rng.uniform(-2.5, 2.5), y - rng.uniform(6, 8.5)
    canvas.paste((240, 250, 255), mask=veil)
