"""The appearance that a person keeps under every camera: build, skin, hair, clothes and bag."""

from dataclasses import dataclass

import numpy as np

from reid.drawn.solids import Colour, shade

SKINS: tuple[Colour, ...] = ((238, 203, 178), (214, 168, 134), (164, 114, 84), (104, 72, 54))
HAIRS: tuple[Colour, ...] = ((24, 21, 20), (58, 40, 30), (118, 84, 52), (196, 160, 104), (156, 154, 152))
BLACK, GREY, SILVER, WHITE = (34, 34, 38), (96, 98, 104), (164, 164, 168), (230, 228, 224)
NAVY, DENIM, BLUE, TEAL = (36, 46, 88), (74, 96, 136), (70, 108, 172), (52, 140, 138)
RED, CORAL, ORANGE, YELLOW = (164, 42, 46), (200, 100, 82), (218, 146, 70), (220, 198, 96)
GREEN, PURPLE, PINK = (72, 116, 70), (110, 72, 138), (210, 140, 162)
BROWN, BEIGE = (120, 88, 66), (192, 168, 134)
TOPS: tuple[Colour, ...] = (
    *(BLACK, BLACK, GREY, SILVER, WHITE, WHITE, NAVY, BLUE, TEAL, RED),
    *(CORAL, ORANGE, YELLOW, GREEN, PURPLE, PINK, BEIGE),
)
BOTTOMS: tuple[Colour, ...] = (BLACK, BLACK, GREY, NAVY, DENIM, DENIM, BEIGE, BROWN, WHITE)
SHOES: tuple[Colour, ...] = (BLACK, BLACK, WHITE, GREY, BROWN)
BAG_COLOURS: tuple[Colour, ...] = (BLACK, BLACK, GREY, NAVY, RED, BROWN)
PATTERNS = ("plain", "plain", "hoops", "stripes", "print", "block", "panels", "check")
OUTFITS = ("trousers", "trousers", "trousers", "shorts", "shorts", "skirt", "dress", "coat")
BAGS = ("none", "none", "backpack", "backpack", "shoulder bag", "handbag")
HAIR_STYLES = ("short", "short", "short", "long", "long", "ponytail", "bun", "bald")
HATS = ("none", "none", "none", "none", "cap", "beanie")


@dataclass(frozen=True, slots=True)
class Look:
    """The appearance that a person keeps under every camera."""

    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    outfit: str
    top: Colour
    second: Colour
    """The colour of the pattern on the top, or of the shirt under an open jacket."""
    pattern: str
    sleeve: float
    """The covered part of the arm: 0 bare, 0.5 to the elbow, 1 to the wrist."""
    open_jacket: bool
    bottom: Colour
    shoes: Colour
    socks: bool
    bag: str
    bag_colour: Colour
    bag_side: int
    girth: float
    shoulders: float
    stature: float
    """Height as a multiple of the average."""


def dress(rng: np.random.Generator) -> Look:
    """A person chosen at random."""

    def one_of(colours: tuple[Colour, ...], hue: float = 5.0) -> Colour:
        return _vary(colours[rng.integers(len(colours))], rng, hue=hue)

    outfit = OUTFITS[rng.integers(len(OUTFITS))]
    top = one_of(TOPS)
    return Look(
        skin=one_of(SKINS, 2.0),
        hair=one_of(HAIRS, 2.0),
        hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
        hat=HATS[rng.integers(len(HATS))],
        hat_colour=one_of(BAG_COLOURS),
        outfit=outfit,
        top=top,
        second=apart(one_of(TOPS), top),
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        sleeve=1.0 if outfit == "coat" else float(rng.choice([0.0, 0.45, 0.45, 1.0, 1.0])),
        open_jacket=bool(rng.random() < 0.25),
        bottom=one_of(BOTTOMS),
        shoes=one_of(SHOES),
        socks=bool(rng.random() < 0.4),
        bag=BAGS[rng.integers(len(BAGS))],
        bag_colour=one_of(BAG_COLOURS),
        bag_side=int(rng.choice([-1, 1])),
        girth=float(rng.uniform(0.92, 1.32)),
        shoulders=float(rng.uniform(0.92, 1.12)),
        stature=float(rng.uniform(0.90, 1.06)),
    )


def _vary(colour: Colour, rng: np.random.Generator, *, hue: float) -> Colour:
    varied = np.array(colour) * rng.uniform(0.85, 1.12) + rng.normal(0, hue, 3)
    red, green, blue = (int(value) for value in np.clip(varied, 0, 255))
    return red, green, blue


def apart(colour: Colour, other: Colour) -> Colour:
    """The colour, or a darker or lighter one if it is too similar to the other."""
    if sum(abs(a - b) for a, b in zip(colour, other)) > 120:
        return colour
    return shade(colour, 0.35) if sum(colour) > 330 else (225, 222, 215)
