"""Places that cameras look at: a ground, a backdrop and things that stand on the ground.

Legend: H, W are the height and width of one image in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from reid.drawn.solids import Colour, shade

PLACE_WIDTHS, PLACE_HEIGHTS = 6, 1.35
"""Size of a camera's surroundings, in image widths and heights."""

GROUNDS: tuple[Colour, ...] = (
    (128, 124, 118),
    (104, 106, 110),
    (150, 140, 126),
    (92, 108, 78),
    (138, 118, 104),
    (116, 120, 128),
)
WALLS: tuple[Colour, ...] = (
    (168, 158, 142),
    (142, 106, 90),
    (120, 128, 136),
    (176, 174, 170),
    (110, 116, 96),
    (134, 124, 132),
)
THINGS: tuple[Colour, ...] = ((46, 48, 54), (124, 44, 42), (54, 78, 118), (178, 176, 170), (76, 92, 62), (150, 122, 78))


@dataclass(frozen=True, slots=True)
class Easel:
    """A picture that is being drawn."""

    draw: ImageDraw.ImageDraw
    rng: np.random.Generator
    wide: int
    """Width of the picture in pixels."""
    scale: float
    """Pixels of the picture per pixel of an image 128 high."""


def draw_place(rng: np.random.Generator, *, kind: int, height: int, width: int) -> NDArray[np.uint8]:
    """A camera's surroundings: a ground, a backdrop and things that stand between them; kind chooses among six."""
    wide, high = PLACE_WIDTHS * width, round(PLACE_HEIGHTS * height)
    scale = height / 128
    horizon = round(high * rng.uniform(0.22, 0.42))
    ground, wall = muted(GROUNDS, kind, rng), muted(WALLS, kind, rng)
    picture = Image.new("RGB", (2 * wide, 2 * high), ground)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 2 * wide, 2 * horizon), fill=wall)
    easel = Easel(draw, rng, 2 * wide, 2 * scale)
    BACKDROPS[kind % len(BACKDROPS)](easel, 2 * horizon, wall)
    FLOORS[kind % len(FLOORS)](easel, (2 * horizon, 2 * high), ground)
    for _ in range(int(rng.integers(5, 10))):
        x, foot = rng.uniform(0, 2 * wide), 2 * horizon + rng.uniform(0, 0.28) * height
        STANDING[rng.integers(len(STANDING))](draw, rng, x, foot, 2 * scale * rng.uniform(0.8, 1.3))
    plain = np.asarray(picture.reduce(2).filter(ImageFilter.GaussianBlur(0.8 * scale)), np.float32)
    depth = np.linspace(0.86, 1.08, high, dtype=np.float32)[:, None, None]
    grain = rng.normal(0, 5, (high, wide, 1)).astype(np.float32)
    lit = plain * depth * cloudy(rng, high, wide, 0.10)[..., None] + grain
    place: NDArray[np.uint8] = np.clip(lit, 0, 255).astype(np.uint8)
    return place


def cloudy(rng: np.random.Generator, height: int, width: int, strength: float) -> NDArray[np.float32]:
    """A smooth random field (height, width) about 1."""
    coarse = rng.standard_normal((max(2, height // 10), max(2, width // 10)), dtype=np.float32)
    field = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return 1 + np.float32(strength) * np.asarray(field, np.float32)


def muted(colours: tuple[Colour, ...], index: int, rng: np.random.Generator) -> Colour:
    """The colour at index (which wraps around), slightly changed."""
    red, green, blue = (int(v) for v in np.clip(np.array(colours[index % len(colours)]) + rng.normal(0, 7, 3), 0, 255))
    return red, green, blue


def _facade(easel: Easel, foot: int, wall: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    pitch, glass = rng.uniform(24, 40) * scale, shade(wall, 0.5)
    for x in np.arange(rng.uniform(0, pitch), wide, pitch):
        draw.rectangle((x, foot - 46 * scale, x + pitch * 0.55, foot - 14 * scale), fill=glass)
        draw.rectangle((x, foot - 46 * scale, x + pitch * 0.26, foot - 31 * scale), fill=shade(glass, 1.5))
    draw.rectangle((0, foot - 5 * scale, wide, foot), fill=shade(wall, 0.7))


def _hedge(easel: Easel, foot: int, _wall: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    for x in np.arange(0, wide, 7 * scale):
        green, size = shade((82, 104, 62), rng.uniform(0.6, 1.2)), rng.uniform(7, 14) * scale
        y = foot - rng.uniform(4, 30) * scale
        draw.ellipse((x - size, y - size, x + size, y + size), fill=green)


def _brickwork(easel: Easel, foot: int, wall: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    for row, y in enumerate(np.arange(foot - 60 * scale, foot, 6 * scale)):
        for x in np.arange(-(row % 2) * 8 * scale, wide, 16 * scale):
            draw.rectangle((x, y, x + 15 * scale, y + 5 * scale), fill=shade(wall, rng.uniform(0.85, 1.1)))


def _shutters(easel: Easel, foot: int, _wall: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    x = 0.0
    while x < wide:
        step = rng.uniform(30, 70) * scale
        tint = muted(WALLS, int(rng.integers(len(WALLS))), rng)
        draw.rectangle((x, foot - 70 * scale, x + step * 0.9, foot), fill=shade(tint, 0.85))
        for y in np.arange(foot - 66 * scale, foot, 5 * scale):
            draw.line((x, y, x + step * 0.9, y), fill=shade(tint, 0.7), width=round(scale))
        x += step


def _tiles(easel: Easel, rows: tuple[int, int], ground: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    top, bottom = rows
    y, step, line = float(top), 3.0 * scale, shade(ground, 0.82)
    while y < bottom:
        draw.line((0, y, wide, y), fill=line, width=max(1, round(scale * 0.7)))
        y, step = y + step, step * 1.3
    slant = rng.uniform(-0.6, 0.6) * (bottom - top)
    for x in np.arange(-wide // 4, wide * 5 // 4, 22 * scale):
        draw.line((x, top, x + slant, bottom), fill=line, width=max(1, round(scale * 0.7)))


def _lawn(easel: Easel, rows: tuple[int, int], ground: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    for _ in range(900):
        x, y = rng.uniform(0, wide), rng.uniform(*rows)
        draw.line(
            (x, y, x + rng.normal(0, 2) * scale, y - 3 * scale),
            fill=shade(ground, rng.uniform(0.7, 1.25)),
            width=round(scale),
        )
    kerb = rows[0] + rng.uniform(0.35, 0.6) * (rows[1] - rows[0])
    draw.rectangle((0, kerb, wide, rows[1]), fill=(140, 134, 126))
    draw.rectangle((0, kerb, wide, kerb + 4 * scale), fill=(172, 168, 160))


def _road(easel: Easel, rows: tuple[int, int], ground: Colour) -> None:
    draw, rng, wide, scale = easel.draw, easel.rng, easel.wide, easel.scale
    top, bottom = rows
    kerb = top + 0.22 * (bottom - top)
    draw.rectangle((0, top, wide, kerb), fill=shade(ground, 1.3))
    draw.rectangle((0, kerb, wide, kerb + 3 * scale), fill=shade(ground, 0.7))
    stripe = top + rng.uniform(0.5, 0.8) * (bottom - top)
    for x in np.arange(0, wide, 60 * scale):
        draw.polygon(
            [
                (x, stripe),
                (x + 34 * scale, stripe),
                (x + 30 * scale, stripe + 6 * scale),
                (x - 4 * scale, stripe + 6 * scale),
            ],
            fill=(204, 202, 194),
        )


def _tree(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, foot: float, scale: float) -> None:
    draw.rectangle(
        (x - 3 * scale, foot - 60 * scale, x + 3 * scale, foot), fill=shade((92, 74, 58), rng.uniform(0.8, 1.2))
    )
    draw_bush(draw, rng, x, foot - 38 * scale, scale * 1.2)


def draw_bush(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, foot: float, scale: float) -> None:
    """A bush whose lower edge is at the row `foot`."""
    for _ in range(16):
        cx, cy, size = x + rng.normal(0, 9) * scale, foot - rng.uniform(0, 26) * scale, rng.uniform(4, 9) * scale
        draw.ellipse((cx - size, cy - size, cx + size, cy + size), fill=shade((76, 98, 56), rng.uniform(0.55, 1.25)))


def draw_bicycle(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, foot: float, scale: float) -> None:
    """A parked bicycle that stands on the row `foot`."""
    colour, thin = muted(THINGS, int(rng.integers(len(THINGS))), rng), max(1, round(1.2 * scale))
    for wheel in (-11, 11):
        cx, cy, size = x + wheel * scale, foot - 8 * scale, 8 * scale
        draw.ellipse((cx - size, cy - size, cx + size, cy + size), outline=(38, 38, 40), width=thin)
    frame = [(-11, -8), (-4, -20), (8, -20), (0, -8), (-4, -20), (-5, -24), (8, -20), (11, -8), (7, -26), (3, -27)]
    draw.line([(x + a * scale, foot + b * scale) for a, b in frame], fill=colour, width=thin)


def _car(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, foot: float, scale: float) -> None:
    colour = muted(THINGS, int(rng.integers(len(THINGS))), rng)
    draw.polygon(
        [(x + a * scale, foot + b * scale) for a, b in ((-26, -18), (-16, -34), (18, -34), (30, -18))],
        fill=shade(colour, 0.6),
    )
    draw.rounded_rectangle(
        (x - 38 * scale, foot - 20 * scale, x + 40 * scale, foot - 3 * scale), 5 * scale, fill=colour
    )
    for wheel in (-22, 24):
        draw.ellipse(
            (x + (wheel - 7) * scale, foot - 12 * scale, x + (wheel + 7) * scale, foot + 2 * scale), fill=(30, 30, 32)
        )


def _post(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, foot: float, scale: float) -> None:
    colour = muted(THINGS, int(rng.integers(len(THINGS))), rng)
    draw.rectangle((x - 2 * scale, foot - rng.uniform(30, 90) * scale, x + 2 * scale, foot), fill=colour)
    draw.rectangle((x - 7 * scale, foot - 6 * scale, x + 7 * scale, foot), fill=shade(colour, 0.8))


Backdrop = Callable[[Easel, int, Colour], None]
Floor = Callable[[Easel, tuple[int, int], Colour], None]
Thing = Callable[[ImageDraw.ImageDraw, np.random.Generator, float, float, float], None]

BACKDROPS: tuple[Backdrop, ...] = (_facade, _hedge, _shutters, _brickwork, _hedge, _facade)
FLOORS: tuple[Floor, ...] = (_tiles, _road, _tiles, _lawn, _tiles, _road)
STANDING: tuple[Thing, ...] = (_tree, draw_bush, draw_bicycle, _car, _post)
