from pathlib import Path

from reid.data.market1501 import PersonImage, Split
from reid.deploy.sample import choose_rows, evenly


def split(*persons: int) -> Split:
    images = tuple(PersonImage(f"{row}.jpg", person, 1 + row % 2) for row, person in enumerate(persons))
    return Split(Path("/data"), images)


def test_everything_but_junk_is_taken_where_it_is_not_too_much():
    assert choose_rows(split(1, 2), split(-1, 1, 0, 2), limit=5) == ([0, 1], [1, 2, 3])


def test_persons_come_with_all_their_images_and_others_make_up_the_rest():
    query = split(*[person for person in range(1, 21) for _ in range(2)])
    gallery = split(*[person for person in range(1, 21) for _ in range(3)], *[0] * 40, -1)
    queries, shown = choose_rows(query, gallery, limit=40)
    # a person has 5 images: 6 of them are the most within 30; 10 others
    assert (len(queries), len(shown)) == (12, 18 + 10)
    persons = {query.images[row].person for row in queries}
    assert len(persons) == 6
    for person in persons:
        assert sum(gallery.images[row].person == person for row in shown) == 3
    assert 100 not in shown
    assert shown == sorted(shown)
    assert choose_rows(query, gallery, limit=40) == (queries, shown)


def test_one_person_at_least_is_taken_and_where_nobody_can_be_found_queries_alone():
    queries, shown = choose_rows(split(*[1] * 9), split(*[1] * 9), limit=4)
    assert (len(queries), len(shown)) == (9, 9)
    assert choose_rows(split(1, 2, 3, 4), split(0, 0, -1), limit=2) == ([0, 2], [])


def test_rows_are_spaced_evenly():
    assert evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert evenly([3, 5], 9) == [3, 5]
