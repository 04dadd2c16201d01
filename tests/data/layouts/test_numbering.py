"""Numbers for persons and cameras."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from reid.data.file_names import ANY
from reid.data.layouts.layout import SPLITS, Found, NamedImage
from reid.data.layouts.numbering import number

PERSONS = st.sampled_from(["-1", "0", "00", "1", "01", "7", "anna", "Anna", "²", "9" * 19])


@given(
    st.dictionaries(st.sampled_from(SPLITS), st.lists(st.tuples(PERSONS, st.sampled_from("ab12")), max_size=6)),
    st.booleans(),
    st.booleans(),
)
def test_a_number_is_positive_and_of_one_person_and_a_person_has_one_number(
    sets: dict[str, list[tuple[str, str]]], apart: bool, distractors: bool
) -> None:
    found = {
        split: Found(Path("/d"), ANY, tuple(NamedImage(f"{place}.jpg", *who) for place, who in enumerate(images)))
        for split, images in sets.items()
    }
    numbered = number(found, apart=apart, distractors=distractors)
    persons, cameras = set(), set()
    for split, listed in found.items():
        for image, named in zip(numbered.listings[split].split.images, listed.images):
            assert image.file == named.file
            cameras.add((named.camera, image.camera))
            if named.person == "-1":
                assert image.person == -1
            elif distractors and named.person in {"0", "00"}:
                assert image.person == 0
            else:
                persons.add(((apart and split != "train", named.person), image.person))
    assert all(person > 0 for _, person in persons)
    for pairs in (persons, cameras):
        assert len(pairs) == len({left for left, _ in pairs}) == len({right for _, right in pairs})
