"""Large figures of a page."""

import pytest

from reid.reports.blocks import Tile


@pytest.mark.parametrize(
    ("value", "before", "by_chance", "tone"),
    [
        (61.0, 60.0, False, "gain"),
        (59.0, 60.0, False, "loss"),
        (60.04, 60.0, False, "soft"),
        (59.96, 60.0, False, "soft"),
        (66.0, 60.0, True, "soft"),
        (60.0, None, False, "soft"),
    ],
)
def test_a_gain_has_a_colour_if_it_is_one(value: float, before: float | None, by_chance: bool, tone: str) -> None:
    assert Tile("mAP", value, before, by_chance=by_chance).tone == tone
