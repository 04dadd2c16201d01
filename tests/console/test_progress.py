"""Progress of long work, as lines of the log."""

import pytest

from reid.console.progress import duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (0.44, "0.4s"), (8.2, "8s"), (125, "2m05s"), (3780, "1h03m")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
