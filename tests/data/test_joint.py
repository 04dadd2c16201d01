"""Several training sets as one."""

from pathlib import Path

from reid.data.joint import Part, join
from reid.data.market1501 import PersonImage, Split, TrainSet


def test_two_sets_share_no_person_and_no_camera() -> None:
    # persons 7 and 9 of the first set become 1 and 2, person 7 of the second is another one: 3
    one = Split(
        Path("/data/one/train"),
        (PersonImage("a.jpg", -1, 4), PersonImage("b.jpg", 7, 2), PersonImage("c.jpg", 9, 4)),
    )
    two = Split(Path("/data/two"), (PersonImage("x/a.jpg", 0, 2), PersonImage("x/b.jpg", 7, 2)))
    joint, sets = join([Part("one", one, 2.0), Part("two", two, 1.0)])
    assert joint.root == Path("/data")
    assert joint.images == (
        PersonImage("one/train/a.jpg", -1, 2),
        PersonImage("one/train/b.jpg", 1, 1),
        PersonImage("one/train/c.jpg", 2, 2),
        PersonImage("two/x/a.jpg", 0, 3),
        PersonImage("two/x/b.jpg", 3, 3),
    )
    assert joint.paths == [*one.paths, *two.paths]
    assert sets == (TrainSet("one", 0, 3, 2.0), TrainSet("two", 3, 2, 1.0))


def test_a_single_set_keeps_its_root() -> None:
    one = Split(Path("/data/one"), (PersonImage("a.jpg", 5, 3),))
    joint, sets = join([Part("one", one)])
    assert joint == Split(Path("/data/one"), (PersonImage("a.jpg", 1, 1),))
    assert sets == (TrainSet("one", 0, 1, None),)


def test_a_set_within_the_folder_of_another() -> None:
    outer, inner = (Split(Path(root), (PersonImage("a.jpg", 1, 1),)) for root in ("/data", "/data/inner"))
    joint, _ = join([Part("outer", outer), Part("inner", inner)])
    assert [image.file for image in joint.images] == ["a.jpg", "inner/a.jpg"]
