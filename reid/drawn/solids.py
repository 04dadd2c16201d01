"""Rounded solids under a camera that looks down on a standing person: capsules, balls and a trunk, painted far to near.

Points are in the body's frame, in statures (1 = the person's height): x to the person's left, y ahead, z up from the
ground. Azimuth is the angle about the body's axis: 0 ahead, +90 degrees to the person's left. Angles are radians.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PIL import Image, ImageDraw

Point = tuple[float, float, float]
Pixel = tuple[float, float]
Colour = tuple[int, int, int]

AZIMUTH_STEP = math.radians(12)
RIM = 0.70
"""Brightness of the side away from the light, as a share of the colour's."""


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, brighter (factor > 1) or darker."""
    red, green, blue = (min(255, max(0, round(value * factor))) for value in colour)
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Ring:
    """An elliptic cross-section of a trunk."""

    z: float
    breadth: float
    """Half the width from side to side."""
    depth: float
    """Half the width from front to back."""
    y: float = 0.0


@dataclass(frozen=True, slots=True)
class Trunk:
    """A stack of at least two rings, from low to high: a torso, a coat, a skirt."""

    rings: tuple[Ring, ...]

    def at(self, z: float) -> Ring:
        """The ring at height z, interpolated; beyond the ends it is the end ring."""
        if z <= self.rings[0].z:
            return self.rings[0]
        for low, high in zip(self.rings, self.rings[1:]):
            if z <= high.z:
                part = (z - low.z) / (high.z - low.z)
                mix = [
                    a + part * (b - a)
                    for a, b in zip((low.breadth, low.depth, low.y), (high.breadth, high.depth, high.y))
                ]
                return Ring(z, *mix)
        return self.rings[-1]


class Painter:
    """Collects the solids of one figure and paints them, far to near, on a transparent picture.

    `foot` is the pixel under the body's axis, `stature_px` its height in pixels; yaw 0 faces the camera, 90 degrees
    walks to the right of the picture; pitch is the angle at which the camera looks down; light -1 comes from the left,
    +1 from the right.
    """

    def __init__(
        self, *, size: tuple[int, int], foot: Pixel, stature_px: float, yaw: float, pitch: float, light: float
    ) -> None:
        self.size, self.foot, self.stature_px, self.light = size, foot, stature_px, light
        self.facing = -yaw
        """The azimuth that faces the camera."""
        self.cos_yaw, self.sin_yaw = math.cos(yaw), math.sin(yaw)
        self.cos_pitch, self.sin_pitch = math.cos(pitch), math.sin(pitch)
        self._solids: list[tuple[float, int, Callable[[ImageDraw.ImageDraw], None]]] = []

    def pixel(self, point: Point) -> Pixel:
        """The pixel at which the point appears in the picture."""
        x, y, z = point
        right, ahead = x * self.cos_yaw + y * self.sin_yaw, y * self.cos_yaw - x * self.sin_yaw
        up = z * self.cos_pitch - ahead * self.sin_pitch
        return self.foot[0] + right * self.stature_px, self.foot[1] - up * self.stature_px

    def nearness(self, point: Point) -> float:
        """How far the point is ahead of the body's axis, towards the camera."""
        return point[1] * self.cos_yaw - point[0] * self.sin_yaw

    def capsule(
        self, start: Point, end: Point, radii: tuple[float, float], colour: Colour, *, lift: float = 0.0
    ) -> None:
        """A limb: from a ball at start to a ball at end; `lift` brings it nearer in the order of painting."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, 0.0)
        self._add(self.nearness(middle) + lift, partial(self._capsule, start, end, radii, colour))

    def ball(self, centre: Point, radius: float, colour: Colour, *, tall: float = 1.0, lift: float = 0.0) -> None:
        """A ball, `tall` times as high as it is wide."""
        self._add(self.nearness(centre) + lift, partial(self._ball, centre, radius, tall, colour))

    def dome(self, centre: Point, radius: float, colour: Colour, *, lift: float = 0.0) -> None:
        """The upper half of a ball."""
        self._add(self.nearness(centre) + lift, partial(self._dome, centre, radius, colour))

    def trunk(self, trunk: Trunk, colour: Colour, *, lift: float = 0.0) -> None:
        """The whole outline of a trunk."""
        self._add(self.nearness((0, trunk.rings[0].y, 0)) + lift, partial(self._trunk, trunk, colour))

    def patch(
        self,
        trunk: Trunk,
        heights: tuple[float, float],
        azimuths: tuple[float, float],
        colour: Colour,
        *,
        lift: float = 0.0,
    ) -> None:
        """The part of the trunk's surface between two heights and two azimuths that the camera sees."""
        self._add(lift, partial(self._patch, trunk, heights, azimuths, colour))

    def paint(self) -> Image.Image:
        """The figure as RGBA."""
        picture = Image.new("RGBA", self.size)
        draw = ImageDraw.Draw(picture)
        for _, _, solid in sorted(self._solids, key=lambda entry: entry[:2]):
            solid(draw)
        return picture

    def _add(self, nearness: float, solid: Callable[[ImageDraw.ImageDraw], None]) -> None:
        self._solids.append((nearness, len(self._solids), solid))

    def _capsule(
        self, start: Point, end: Point, radii: tuple[float, float], colour: Colour, draw: ImageDraw.ImageDraw
    ) -> None:
        (x0, y0), (x1, y1) = self.pixel(start), self.pixel(end)
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        across_x, across_y = (y1 - y0) / length, (x0 - x1) / length
        for tint, width, aside in ((shade(colour, RIM), 1.0, 0.0), (colour, 0.76, 0.24 * self.light)):
            r0, r1 = radii[0] * self.stature_px, radii[1] * self.stature_px
            a, b = x0 + aside * r0, x1 + aside * r1
            r0, r1 = r0 * width, r1 * width
            corners = [(a + across_x * r0, y0 + across_y * r0), (b + across_x * r1, y1 + across_y * r1)]
            corners += [(b - across_x * r1, y1 - across_y * r1), (a - across_x * r0, y0 - across_y * r0)]
            draw.polygon(corners, fill=tint)
            draw.ellipse((a - r0, y0 - r0, a + r0, y0 + r0), fill=tint)
            draw.ellipse((b - r1, y1 - r1, b + r1, y1 + r1), fill=tint)

    def _ball(self, centre: Point, radius: float, tall: float, colour: Colour, draw: ImageDraw.ImageDraw) -> None:
        x, y = self.pixel(centre)
        for tint, width, aside in ((shade(colour, RIM), 1.0, 0.0), (colour, 0.84, 0.16 * self.light)):
            half_width, half_height = radius * self.stature_px * width, radius * self.stature_px * tall * width
            shifted = x + aside * radius * self.stature_px
            draw.ellipse((shifted - half_width, y - half_height, shifted + half_width, y + half_height), fill=tint)

    def _dome(self, centre: Point, radius: float, colour: Colour, draw: ImageDraw.ImageDraw) -> None:
        x, y = self.pixel(centre)
        size = radius * self.stature_px
        draw.pieslice((x - size, y - size * 1.15, x + size, y + size * 1.15), 180, 360, fill=colour)

    def _outline(self, ring: Ring) -> tuple[Pixel, float, float]:
        centre = self.pixel((0.0, ring.y, ring.z))
        half_width = math.hypot(ring.breadth * self.cos_yaw, ring.depth * self.sin_yaw)
        half_height = math.hypot(ring.breadth * self.sin_yaw, ring.depth * self.cos_yaw) * self.sin_pitch
        return centre, half_width * self.stature_px, half_height * self.stature_px

    def _trunk(self, trunk: Trunk, colour: Colour, draw: ImageDraw.ImageDraw) -> None:
        outlines = [self._outline(ring) for ring in trunk.rings]
        for (x, y), half_width, half_height in (outlines[0], outlines[-1]):
            draw.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=colour)
        right = [(x + half_width, y) for (x, y), half_width, _ in outlines]
        left = [(x - half_width, y) for (x, y), half_width, _ in reversed(outlines)]
        draw.polygon(right + left, fill=colour)

    def _patch(
        self,
        trunk: Trunk,
        heights: tuple[float, float],
        azimuths: tuple[float, float],
        colour: Colour,
        draw: ImageDraw.ImageDraw,
    ) -> None:
        low, high = heights
        ring = trunk.at((low + high) / 2)
        steps = max(1, math.ceil((azimuths[1] - azimuths[0]) / AZIMUTH_STEP))
        angles = [azimuths[0] + (azimuths[1] - azimuths[0]) * step / steps for step in range(steps + 1)]
        seen = [
            a for a in angles if math.cos(a) * self.cos_yaw / ring.depth > math.sin(a) * self.sin_yaw / ring.breadth
        ]
        if len(seen) < 2:
            return
        levels = [low, *(ring.z for ring in trunk.rings if low < ring.z < high), high]
        corners = [self._on(trunk, high, azimuth) for azimuth in seen]
        corners += [self._on(trunk, z, seen[-1]) for z in reversed(levels[1:-1])]
        corners += [self._on(trunk, low, azimuth) for azimuth in reversed(seen)]
        corners += [self._on(trunk, z, seen[0]) for z in levels[1:-1]]
        draw.polygon(corners, fill=colour)

    def _on(self, trunk: Trunk, z: float, azimuth: float) -> Pixel:
        ring = trunk.at(z)
        return self.pixel((ring.breadth * math.sin(azimuth), ring.y + ring.depth * math.cos(azimuth), z))
