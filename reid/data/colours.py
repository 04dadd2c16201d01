"""Draws which images of a batch have their colours changed, and how: colour jitter, random grey, AutoAugment.

Each has a random stream of its own beside the one of `reid.data.augment.draw`, so that the others' draws do not depend
on whether it is on. With a probability of 0 nothing is drawn.

Shapes: B images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reid.data.operations import NAMES, Operations

NUMBER = {name: number for number, name in enumerate(NAMES)}
JITTERS = np.array([NUMBER[name] for name in ("brightness", "contrast", "saturation", "hue")])
TOP_LEVEL = 10
"""The strongest level of an operation of AutoAugment."""
POLICIES = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("saturation", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("saturation", 1.0, 2)),
    (("saturation", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear", 0.6, 5), ("equalize", 1.0, 9)),
    (("saturation", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
"""The 25 sub-policies found on ImageNet: Cubuk et al., CVPR 2019, arXiv:1805.09501, table 9. Each has two operations
with their probabilities and levels of TOP_LEVEL; the paper's "Color" is saturation, its "ShearX" shear."""
VALUE_OF_LEVEL: dict[str, Callable[[int], float]] = {
    "posterize": lambda level: 4 + int(level / TOP_LEVEL * 4),
    "solarize": lambda level: int(level / TOP_LEVEL * 256),
    "rotate": lambda level: level / TOP_LEVEL * 30,
    "shear": lambda level: level / TOP_LEVEL * 0.3,
    "saturation": lambda level: level / TOP_LEVEL * 1.8 + 0.1,
    "contrast": lambda level: level / TOP_LEVEL * 1.8 + 0.1,
    "sharpness": lambda level: level / TOP_LEVEL * 1.8 + 0.1,
    "autocontrast": lambda _: 0,
    "equalize": lambda _: 0,
    "invert": lambda _: 0,
}
"""The value of an operation at a level, as timm and fast-reid have it."""
POLICY_KIND = np.array([[NUMBER[name] for name, _, _ in policy] for policy in POLICIES])
POLICY_CHANCE = np.array([[chance for _, chance, _ in policy] for policy in POLICIES])
POLICY_VALUE = np.array([[float(VALUE_OF_LEVEL[name](level)) for name, _, level in policy] for policy in POLICIES])


@dataclass(frozen=True)
class Colours:
    """The probability of each change for an image, and the strengths of the colour jitter."""

    jitter: float
    brightness: float
    contrast: float
    saturation: float
    """Factors are drawn from 1 - strength to 1 + strength; 0: this one is left out."""
    hue: float
    """The hue is turned by up to this part of the circle in either direction; 0: this one is left out."""
    grey: float
    autoaugment: float


def draw_colours(rng: np.random.Generator, count: int, colours: Colours) -> tuple[Operations | None, Operations | None]:
    """What happens to `count` images before they are moved (AutoAugment), and after (jitter, then grey); or None.

    It takes no number from the generator itself.
    """
    if not (colours.jitter or colours.grey or colours.autoaugment):
        return None, None
    jitter, grey, autoaugment = rng.spawn(3)
    before = draw_autoaugment(autoaugment, count, colours.autoaugment) if colours.autoaugment else None
    after = draw_jitter(jitter, count, colours) if colours.jitter else None
    if colours.grey:
        all_grey = draw_grey(grey, count, colours.grey)
        after = after.then(all_grey) if after else all_grey
    return before, after


def draw_jitter(rng: np.random.Generator, count: int, colours: Colours) -> Operations:
    """Brightness, contrast, saturation and hue in a random order with random values, as torchvision's ColorJitter."""
    chosen = rng.random(count) < colours.jitter
    order = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
    strength = np.array([colours.brightness, colours.contrast, colours.saturation, colours.hue])
    usual, least = np.array([1, 1, 1, 0]), np.array([0, 0, 0, -0.5])
    value = rng.uniform(np.maximum(usual - strength, least), usual + strength, (count, 4))
    kind = JITTERS * (strength > 0) * chosen[:, None]
    return Operations(np.take_along_axis(kind, order, 1), np.take_along_axis(value, order, 1))


def draw_grey(rng: np.random.Generator, count: int, probability: float) -> Operations:
    """Images that lose their colour, as torchvision's RandomGrayscale."""
    kind = NUMBER["grey"] * (rng.random((count, 1)) < probability)
    return Operations(kind, np.zeros((count, 1)))


def draw_autoaugment(rng: np.random.Generator, count: int, probability: float) -> Operations:
    """A random sub-policy for some images; each of its two operations happens by its own chance.

    Rotation and shear go in a random direction, with bilinear or bicubic interpolation.
    """
    chosen = rng.random(count) < probability
    policy = rng.integers(0, len(POLICIES), count)
    happens = chosen[:, None] & (rng.random((count, 2)) < POLICY_CHANCE[policy])
    direction, bicubic = rng.choice([-1, 1], (count, 2)), rng.integers(0, 2, (count, 2))
    kind, value = POLICY_KIND[policy], POLICY_VALUE[policy]
    geometric = (kind == NUMBER["rotate"]) | (kind == NUMBER["shear"])
    kind = kind + geometric * bicubic  # the bicubic form is the next number
    return Operations(kind * happens, np.where(geometric, value * direction, value))
