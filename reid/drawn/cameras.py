"""Cameras: the place that each looks at, its direction and light, and its sensor's colours, tone, blur and noise.

Legend: H, W are the height and width of one image in pixels; pictures are float32 (H, W, 3), RGB, 0 to 255.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from reid.drawn.places import draw_place

Picture = NDArray[np.float32]
"""(H, W, 3), RGB, 0 to 255."""


@dataclass(frozen=True)
class Camera:
    """One camera: its place, its direction, its light and its sensor."""

    place: NDArray[np.uint8]
    """The surroundings, about (1.35 H, 6 W, 3); an image shows a window of them."""
    yaw: float
    """The direction in which most persons walk in front of it; radians, 0 towards the camera."""
    yaw_spread: float
    pitch: float
    light: float
    """The side from which the light comes: -1 left, 1 right."""
    colour: NDArray[np.float32]
    """White balance and crosstalk of the sensor, (3, 3): multiplies the scene's red, green and blue."""
    gain: float
    gamma: float
    saturation: float
    haze: float
    blur_px: float
    noise: float
    coarse: float
    """Size of the sensor's pixels as a multiple of the image's: 1 or more."""
    quality: int


def set_up_camera(rng: np.random.Generator, *, index: int, cameras: int, height: int, width: int) -> Camera:
    """Camera `index` (from 0) of `cameras`; each has its own direction, place and sensor."""
    return Camera(
        place=draw_place(rng, kind=index, height=height, width=width),
        yaw=math.tau * index / cameras + rng.normal(0, 0.3),
        yaw_spread=float(rng.uniform(0.4, 0.9)),
        pitch=float(rng.uniform(0.08, 0.42)),
        light=float(rng.uniform(-1, 1)),
        colour=_sensor_colour(rng),
        gain=float(rng.uniform(0.85, 1.2)),
        gamma=float(rng.uniform(0.75, 1.35)),
        saturation=float(rng.uniform(0.55, 1.15)),
        haze=float(rng.uniform(0, 36)),
        blur_px=float(rng.uniform(0.2, 0.75)) * height / 128,
        noise=float(rng.uniform(1.5, 6)),
        coarse=float(rng.choice([1.0, 1.0, 1.0, 1.6])),
        quality=int(rng.integers(85, 93)),
    )


def view(camera: Camera, rng: np.random.Generator, *, height: int, width: int) -> Picture:
    """The empty window (H, W, 3) of a camera's surroundings in which a person is detected."""
    high, wide = camera.place.shape[:2]
    top, left = int(rng.integers(high - height + 1)), int(rng.integers(wide - width + 1))
    return camera.place[top : top + height, left : left + width].astype(np.float32)


def expose(picture: Picture, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """The scene (H, W, 3) as the camera delivers it: light, white balance, tone, blur, noise."""
    height, width = picture.shape[:2]
    lit = picture * _daylight(rng, height, width) * np.float32(camera.gain)
    lit = lit @ camera.colour.T
    toned = 255 * np.power(np.clip(lit / 255, 0, 1), np.float32(camera.gamma * rng.uniform(0.88, 1.14)))
    grey = toned.mean(axis=2, keepdims=True)
    toned = camera.haze + (1 - camera.haze / 255) * (
        grey + np.float32(camera.saturation * rng.uniform(0.75, 1.2)) * (toned - grey)
    )
    image = Image.fromarray(np.clip(toned, 0, 255).astype(np.uint8))
    if camera.coarse > 1:
        small = (round(width / camera.coarse), round(height / camera.coarse))
        image = image.resize(small, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(camera.blur_px * rng.uniform(0.7, 1.4)))
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(camera.noise)
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))


def _sensor_colour(rng: np.random.Generator) -> Picture:
    mixing = np.eye(3) + rng.normal(0, 0.05, (3, 3))
    mixing /= mixing.sum(axis=1, keepdims=True)
    return (rng.uniform(0.87, 1.13, (3, 1)) * mixing).astype(np.float32)


def _daylight(rng: np.random.Generator, height: int, width: int) -> Picture:
    """The light (H, W, 3) on a scene: sun or cloud, warm or cool, sometimes with the edge of a building's shadow."""
    warmth = rng.normal(0, 0.035)
    level = rng.uniform(0.8, 1.2) * np.array([1 + warmth, 1.0, 1 - warmth])
    across = np.linspace(rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), width)
    down = np.linspace(rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), height)
    field = down[:, None] * across[None, :]
    if rng.random() < 0.3:
        edge = rng.uniform(0.1, 0.9) + rng.normal(0, 0.4) * (np.linspace(0, 1, width) - 0.5)
        above = np.clip((edge[None, :] - np.linspace(0, 1, height)[:, None]) * height / 6 + 0.5, 0, 1)
        dark = rng.uniform(0.6, 0.85)
        field = field * (dark + (1 - dark) * (above if rng.random() < 0.5 else 1 - above))
    return (field[..., None] * level).astype(np.float32)
