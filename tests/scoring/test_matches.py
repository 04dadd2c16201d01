from reid.data.market1501 import PersonImage, Split
from reid.scoring.matches import has_match


def split(*images: tuple[int, int]) -> Split:
    return Split(None, tuple(PersonImage(f"{number}.jpg", *who) for number, who in enumerate(images)))  # type: ignore[arg-type]


def test_only_the_same_person_in_another_camera_is_a_match():
    gallery = split((1, 1), (2, 2), (0, 2), (-1, 2))
    assert has_match(split((1, 1), (2, 1), (3, 1), (0, 1), (-1, 1)), gallery).tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]
