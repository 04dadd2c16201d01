"""Walking people: a figure is drawn from a look, which a person keeps, and a pose, which changes between images.

Lengths are statures (1 = the person's height), in the frame of `solids.py`.
"""

import math
from dataclasses import dataclass

from PIL import Image

from reid.drawn.looks import Look, apart
from reid.drawn.solids import Painter, Pixel, Point, Ring, Trunk, shade

THIGH, SHIN, UPPER_ARM, FOREARM = 0.245, 0.235, 0.165, 0.15
ANKLE_Z, HIP_Z, WAIST_Z, SHOULDER_Z, HEAD_Z = 0.045, 0.525, 0.60, 0.80, 0.925


@dataclass(frozen=True, slots=True)
class Pose:
    """The direction and the step of a person, which change from image to image. Angles are in radians."""

    yaw: float
    """0 towards the camera, pi / 2 to the right of the picture."""
    phase: float
    """Phase of the gait, 0 to 2 pi."""
    stride: float
    """The largest angle of the thigh."""
    bend: float
    """The bend of the elbows."""


def draw_figure(
    look: Look, pose: Pose, *, size: tuple[int, int], foot: Pixel, stature_px: float, pitch: float, light: float
) -> Image.Image:
    """The person as an RGBA picture of `size` (width, height), standing at the pixel `foot`."""
    legs = _legs(look, pose)
    sunk = min(ankle[2] for _, _, ankle in legs) - ANKLE_Z
    standing = (foot[0], foot[1] + sunk * stature_px)
    painter = Painter(size=size, foot=standing, stature_px=stature_px, yaw=pose.yaw, pitch=pitch, light=light)
    torso = _torso(look)
    for hip, knee, ankle in legs:
        _draw_leg(painter, look, hip, knee, ankle)
    _draw_skirt(painter, look, pose)
    _draw_torso(painter, look, torso)
    hands = _draw_arms(painter, look, pose)
    _draw_head(painter, look)
    _draw_bag(painter, look, torso, hands)
    return painter.paint()


def _torso(look: Look) -> Trunk:
    broad = look.girth * look.shoulders
    return Trunk(
        (
            Ring(HIP_Z - 0.035, 0.083 * look.girth, 0.066 * look.girth),
            Ring(WAIST_Z, 0.078 * look.girth, 0.060 * look.girth),
            Ring(0.73, 0.097 * broad, 0.072 * look.girth),
            Ring(SHOULDER_Z, 0.106 * broad, 0.060 * look.girth),
            Ring(0.825, 0.072 * broad, 0.048 * look.girth),
            Ring(0.845, 0.036, 0.034),
        )
    )


def _legs(look: Look, pose: Pose) -> list[tuple[Point, Point, Point]]:
    legs = []
    for side in (-1, 1):
        swing = side * pose.stride * math.sin(pose.phase)
        flex = 0.12 + 1.6 * pose.stride * max(0.0, side * math.cos(pose.phase))
        hip = (side * 0.045 * look.girth, 0.0, HIP_Z)
        knee = (hip[0], hip[1] + THIGH * math.sin(swing), hip[2] - THIGH * math.cos(swing))
        ankle = (hip[0], knee[1] + SHIN * math.sin(swing - flex), knee[2] - SHIN * math.cos(swing - flex))
        legs.append((hip, knee, ankle))
    return legs


def _draw_skirt(painter: Painter, look: Look, pose: Pose) -> None:
    if look.outfit in ("skirt", "dress", "coat"):
        colour = {"skirt": look.bottom, "dress": look.top, "coat": look.top}[look.outfit]
        hem = 0.27 if look.outfit == "dress" else 0.34
        flare = 0.088 if look.outfit == "coat" else 0.125
        sway = 0.03 * math.sin(pose.phase)
        skirt = Trunk(
            (
                Ring(hem, flare * look.girth, flare * look.girth * 0.85, sway),
                Ring(HIP_Z, 0.09 * look.girth, 0.072 * look.girth),
                Ring(WAIST_Z, 0.078 * look.girth, 0.060 * look.girth),
            )
        )
        painter.trunk(skirt, shade(colour, 0.9), lift=0.10)
        if look.outfit == "coat":
            painter.patch(skirt, (hem, WAIST_Z), (-0.12, 0.12), shade(colour, 0.6), lift=0.11)


def _draw_leg(painter: Painter, look: Look, hip: Point, knee: Point, ankle: Point) -> None:
    girth = look.girth
    toe = (ankle[0], ankle[1] + 0.085, ankle[2] - 0.028)
    heel = (ankle[0], ankle[1] - 0.012, ankle[2] - 0.022)
    bare = look.outfit in ("shorts", "skirt", "dress")
    shin = look.skin if bare else look.bottom
    painter.capsule(knee, ankle, (0.036 * girth, (0.024 if bare else 0.034) * girth), shin)
    if bare and look.socks:
        middle = _between(knee, ankle, 0.6)
        painter.capsule(middle, ankle, (0.032 * girth, 0.027 * girth), (228, 226, 222), lift=0.002)
    painter.capsule(heel, toe, (0.028, 0.02), look.shoes, lift=0.003)
    painter.capsule(
        hip, knee, (0.058 * girth, 0.042 * girth), look.skin if look.outfit == "skirt" else look.bottom, lift=0.004
    )
    if look.outfit == "shorts":
        painter.capsule(hip, knee, (0.062 * girth, 0.054 * girth), look.bottom, lift=0.005)


def _draw_torso(painter: Painter, look: Look, torso: Trunk) -> None:
    painter.capsule((0, 0, 0.83), (0, 0.008, 0.89), (0.03, 0.028), look.skin, lift=0.06)
    painter.trunk(torso, look.top, lift=0.12)
    bands = (painter.facing - 1.7, painter.facing + 1.7)
    if look.outfit not in ("dress", "coat"):
        painter.patch(torso, (HIP_Z - 0.035, HIP_Z + 0.02), bands, look.bottom, lift=0.121)
    low, high = HIP_Z + 0.02, 0.825
    if look.pattern in ("hoops", "check"):
        for step in range(6):
            z = low + 0.012 + step * 0.048
            painter.patch(torso, (z, z + 0.02), bands, look.second, lift=0.122)
    if look.pattern in ("stripes", "check"):
        for step in range(14):
            azimuth = step * math.tau / 14
            painter.patch(torso, (low, high), (azimuth, azimuth + 0.16), look.second, lift=0.122)
    if look.pattern == "print":
        painter.patch(torso, (0.65, 0.765), (-0.6, 0.6), look.second, lift=0.122)
        painter.patch(torso, (0.67, 0.76), (math.pi - 0.5, math.pi + 0.5), look.second, lift=0.122)
    if look.pattern == "block":
        painter.patch(torso, (0.71, high), bands, look.second, lift=0.122)
    if look.pattern == "panels":
        for centre in (-math.pi / 2, math.pi / 2, 3 * math.pi / 2):
            painter.patch(torso, (low, 0.79), (centre - 0.5, centre + 0.5), look.second, lift=0.122)
    if look.open_jacket:
        painter.patch(torso, (low, 0.84), (-0.42, 0.42), apart(look.second, look.top), lift=0.123)
    painter.patch(torso, (0.815, 0.85), (-0.9, 0.9), look.skin if look.sleeve < 1 else look.second, lift=0.124)


def _draw_arms(painter: Painter, look: Look, pose: Pose) -> tuple[Point, Point]:
    hands = []
    for side in (-1, 1):
        swing = -0.85 * side * pose.stride * math.sin(pose.phase)
        shoulder = (side * 0.108 * look.girth * look.shoulders, 0.0, SHOULDER_Z)
        spread = 0.10 + 0.06 * look.girth
        elbow = (
            shoulder[0] + side * UPPER_ARM * spread,
            UPPER_ARM * math.sin(swing),
            shoulder[2] - UPPER_ARM * math.cos(swing),
        )
        lower = swing + pose.bend
        wrist = (elbow[0] - side * 0.01, elbow[1] + FOREARM * math.sin(lower), elbow[2] - FOREARM * math.cos(lower))
        outwards = painter.nearness((side * 1.0, 0, 0))
        lift = 0.125 * outwards + (0.11 if outwards > -0.4 else -0.02)
        upper, fore = 0.036 * look.girth, 0.027 * look.girth
        painter.ball(wrist, 0.027, look.skin, lift=lift)
        painter.capsule(
            elbow, wrist, (fore, fore * 0.85), look.skin if look.sleeve < 1 else look.top, lift=lift + 0.001
        )
        cover = look.sleeve if look.sleeve < 1 else 1.0
        painter.capsule(shoulder, elbow, (upper, fore), look.top if look.sleeve >= 1 else look.skin, lift=lift + 0.002)
        if 0 < look.sleeve < 1:
            cuff = _between(shoulder, elbow, 1.6 * cover)
            painter.capsule(shoulder, cuff, (upper * 1.1, upper * 1.02), look.top, lift=lift + 0.003)
        hands.append(wrist)
    return hands[0], hands[1]


def _draw_head(painter: Painter, look: Look) -> None:
    painter.ball((0, 0.012, HEAD_Z - 0.006), 0.051, look.skin, tall=1.28, lift=0.15)
    for side in (-1, 1):
        if painter.nearness((side * 0.4, 1.0, 0)) > 0.35:
            painter.ball((side * 0.02, 0.055, HEAD_Z + 0.004), 0.009, shade(look.skin, 0.45), lift=0.16)
    if look.hair_style != "bald":
        painter.ball((0, -0.018, HEAD_Z + 0.014), 0.056, look.hair, tall=1.2, lift=0.15)
        painter.dome((0, 0.006, HEAD_Z + 0.03), 0.052, look.hair, lift=0.20)
    if look.hair_style == "long":
        painter.capsule((0, -0.03, HEAD_Z), (0, -0.05, 0.80), (0.056, 0.058), look.hair, lift=0.14)
    if look.hair_style == "ponytail":
        painter.capsule((0, -0.07, HEAD_Z + 0.02), (0, -0.085, 0.82), (0.026, 0.016), look.hair, lift=0.14)
    if look.hair_style == "bun":
        painter.ball((0, -0.045, HEAD_Z + 0.072), 0.03, look.hair, lift=0.22)
    if look.hat != "none":
        painter.dome((0, 0.0, HEAD_Z + 0.018), 0.062, look.hat_colour, lift=0.23)
    if look.hat == "cap":
        painter.capsule(
            (0, 0.04, HEAD_Z + 0.022),
            (0, 0.095, HEAD_Z + 0.012),
            (0.035, 0.022),
            shade(look.hat_colour, 0.85),
            lift=0.19,
        )


def _draw_bag(painter: Painter, look: Look, torso: Trunk, hands: tuple[Point, Point]) -> None:
    colour = look.bag_colour
    if look.bag == "backpack":
        painter.capsule((0, -0.105, 0.76), (0, -0.11, 0.63), (0.062, 0.072), colour, lift=0.13)
        painter.capsule((0, -0.15, 0.665), (0, -0.15, 0.635), (0.045, 0.045), shade(colour, 0.82), lift=0.13)
        for side in (-1, 1):
            painter.patch(torso, (0.66, 0.835), (side * 0.72 - 0.16, side * 0.72 + 0.16), shade(colour, 0.8), lift=0.13)
    if look.bag == "shoulder bag":
        hip = look.bag_side * 0.105 * look.girth
        for azimuth, height in ((0.0, 0.70), (math.pi, 0.70)):
            for step in range(-4, 5):
                z, turn = height - step * 0.03, step * 0.2 * look.bag_side * math.cos(azimuth)
                painter.patch(
                    torso, (z - 0.022, z + 0.022), (azimuth + turn - 0.12, azimuth + turn + 0.12), colour, lift=0.126
                )
        lift = 0.20 if painter.nearness((look.bag_side, 0, 0)) > -0.4 else -0.05
        painter.capsule((hip, -0.035, 0.53), (hip, 0.045, 0.53), (0.052, 0.052), colour, lift=lift)
    if look.bag == "handbag":
        hand = hands[0 if look.bag_side < 0 else 1]
        lift = 0.16 if painter.nearness((look.bag_side, 0, 0)) > -0.4 else -0.05
        painter.capsule(hand, (hand[0], hand[1], hand[2] - 0.06), (0.008, 0.008), colour, lift=lift)
        painter.capsule(
            (hand[0], hand[1] - 0.035, hand[2] - 0.10),
            (hand[0], hand[1] + 0.035, hand[2] - 0.10),
            (0.045, 0.045),
            colour,
            lift=lift,
        )


def _between(start: Point, end: Point, part: float) -> Point:
    return (
        start[0] + part * (end[0] - start[0]),
        start[1] + part * (end[1] - start[1]),
        start[2] + part * (end[2] - start[2]),
    )
