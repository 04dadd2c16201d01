"""One image: a person in front of a camera, with shadow, passers-by and things in the way, in a detector's crop.

Legend: H, W are the height and width of one image in pixels; pictures are float32 (H, W, 3), RGB, 0 to 255.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from reid.drawn.cameras import Camera, Picture, expose, view
from reid.drawn.figures import Pose, draw_figure
from reid.drawn.looks import Look, dress
from reid.drawn.places import THINGS, cloudy, draw_bicycle, draw_bush, muted
from reid.drawn.solids import shade

SUPERSAMPLING = 3


def photograph(
    camera: Camera, person: Look, rng: np.random.Generator, *, height: int, width: int, spoiled: bool
) -> Image.Image:
    """A detector's crop (W x H) of a person who passes the camera; spoiled: the box is misplaced or contains nobody."""
    picture = view(camera, rng, height=height, width=width)
    framing = _spoiled_box if spoiled else _usual_box
    foot, stature_px = framing(rng, height, width)
    if rng.random() < 0.15:
        behind = (rng.uniform(0, width), foot[1] - rng.uniform(0.12, 0.3) * height)
        picture = _stand(picture, dress(rng), camera, rng, foot=behind, stature_px=stature_px * rng.uniform(0.5, 0.75))
    if not spoiled or rng.random() < 0.7:
        picture = _stand(picture, person, camera, rng, foot=foot, stature_px=stature_px * person.stature)
    if rng.random() < 0.07:
        ahead = (
            foot[0] + rng.choice([-1, 1]) * rng.uniform(0.42, 0.6) * width,
            foot[1] + rng.uniform(0.02, 0.1) * height,
        )
        picture = _stand(picture, dress(rng), camera, rng, foot=ahead, stature_px=stature_px * rng.uniform(0.98, 1.1))
    if rng.random() < 0.15:
        picture = _hide_partly(picture, rng)
    return expose(picture, camera, rng)


def _usual_box(rng: np.random.Generator, height: int, width: int) -> tuple[tuple[float, float], float]:
    x, y = (0.5 + rng.normal(0, 0.05)) * width, (0.955 + rng.normal(0, 0.022)) * height
    return (x, y), height * rng.uniform(0.84, 1.0)


def _spoiled_box(rng: np.random.Generator, height: int, width: int) -> tuple[tuple[float, float], float]:
    x, y = rng.choice([-1, 1]) * rng.uniform(0.3, 0.6) * width + 0.5 * width, rng.uniform(0.5, 1.9) * height
    return (x, y), height * rng.uniform(0.6, 2.0)


def _stand(
    picture: Picture,
    person: Look,
    camera: Camera,
    rng: np.random.Generator,
    *,
    foot: tuple[float, float],
    stature_px: float,
) -> Picture:
    """The picture (H, W, 3) with a person in a pose drawn at random, and the person's shadow."""
    height, width = picture.shape[:2]
    pose = Pose(
        yaw=float(camera.yaw + rng.normal(0, camera.yaw_spread)),
        phase=float(rng.uniform(0, math.tau)),
        stride=float(rng.choice([0.08, 0.3, 0.38, 0.44])),
        bend=float(rng.uniform(0.1, 0.7)),
    )
    figure = draw_figure(
        person,
        pose,
        size=(SUPERSAMPLING * width, SUPERSAMPLING * height),
        foot=(SUPERSAMPLING * foot[0], SUPERSAMPLING * foot[1]),
        stature_px=SUPERSAMPLING * stature_px,
        pitch=camera.pitch,
        light=camera.light,
    )
    shadowed = _cast_shadow(picture, foot=foot, stature_px=stature_px, light=camera.light)
    return _lay_over(shadowed, figure.reduce(SUPERSAMPLING), light=camera.light, rng=rng)


def _cast_shadow(picture: Picture, *, foot: tuple[float, float], stature_px: float, light: float) -> Picture:
    """The picture (H, W, 3) with a soft shadow on the ground, from the foot away from the light."""
    height, width = picture.shape[:2]
    x, y = foot
    mask = Image.new("L", (width, height))
    reach, thick = 0.30 * stature_px, 0.030 * stature_px
    ends = sorted((x - 0.07 * stature_px * np.sign(light), x - light * reach))
    ImageDraw.Draw(mask).ellipse(
        (ends[0] - 0.05 * stature_px, y - thick, ends[1] + 0.05 * stature_px, y + thick), fill=150
    )
    soft = np.asarray(mask.filter(ImageFilter.BoxBlur(height / 64)), np.float32)[..., None] / 255
    return (picture * (1 - 0.75 * soft)).astype(np.float32, copy=False)


def _lay_over(picture: Picture, figure: Image.Image, *, light: float, rng: np.random.Generator) -> Picture:
    """The picture (H, W, 3) with an RGBA figure over it, rounded by light from one side and creased as cloth is."""
    height, width = picture.shape[:2]
    pixels = np.asarray(figure, np.float32)
    alpha = pixels[..., 3:] / 255
    soft = np.asarray(figure.getchannel("A").filter(ImageFilter.BoxBlur(height / 40)), np.float32)
    slope = np.gradient(soft, axis=1) * (height / 128) / 255
    shading = (1 - 2.0 * light * slope) * cloudy(rng, height, width, 0.07)
    mixed: Picture = picture + alpha * (pixels[..., :3] * np.clip(shading, 0.55, 1.3)[..., None] - picture)
    return mixed


def _hide_partly(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture (H, W, 3) with something in front of it: a post, a railing, a bush, or a parked bicycle."""
    height, width = picture.shape[:2]
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).resize((2 * width, 2 * height))
    draw = ImageDraw.Draw(image)
    scale = 2 * height / 128
    kind = rng.integers(4)
    colour = muted(THINGS, int(rng.integers(len(THINGS))), rng)
    if kind == 0:
        x, wide = rng.uniform(0, 2 * width), rng.uniform(3, 9) * scale
        draw.rectangle((x, 0, x + wide, 2 * height), fill=colour)
        draw.rectangle((x, 0, x + wide * 0.4, 2 * height), fill=shade(colour, 1.25))
    elif kind == 1:
        y = rng.uniform(0.55, 0.8) * 2 * height
        for step in range(3):
            level = y + step * 11 * scale
            draw.rectangle((0, level, 2 * width, level + 2.5 * scale), fill=shade(colour, 1.1))
        for x in np.arange(rng.uniform(0, 20) * scale, 2 * width, 26 * scale):
            draw.rectangle((x, y, x + 2.5 * scale, 2 * height), fill=colour)
    elif kind == 2:
        draw_bush(draw, rng, rng.uniform(0, 2 * width), 2 * height, scale * rng.uniform(1.0, 1.8))
    else:
        draw_bicycle(draw, rng, rng.uniform(0.2, 0.8) * 2 * width, 2 * height, scale * rng.uniform(1.3, 1.8))
    hidden: Picture = np.asarray(image.reduce(2), np.float32)
    return hidden
