"""The proposed corrections of `reid doctor` can all be taken at once."""

from itertools import count
from pathlib import Path

from reid.data.corrections import CorrectionsFile
from reid.data.market1501 import PersonImage
from reid.retrieval.suspects import SamePerson, Suspects, TwoPersons, WrongLabel
from reid.stages.doctor import Group, _as_corrections, _counts, _in_words


def group(title: str, *persons: int) -> Group:
    """Images of these persons, named by their row."""
    images = tuple(PersonImage(f"/{row}.jpg", person, 1) for row, person in enumerate(persons))
    names = tuple(f"{title}/{row}.jpg" for row in range(len(persons)))
    return Group(title, title == "train", images, names, tuple(f"{row:064x}" for row in range(len(persons))))


def test_no_image_is_proposed_twice_and_no_new_person_is_in_train_and_test(tmp_path: Path) -> None:
    train, gallery = group("train", 1, 2, 2, 2, 2), group("gallery", 3, 3, 3, 3)
    suspects = {
        "train": Suspects([WrongLabel(0.5, 0, 1, 2, 0, 1)], [SamePerson(0.4, 1, 2, 0, 1)], [], -1.0),
        "gallery": Suspects([], [], [TwoPersons(0.3, 3, (0, 1), (2, 3))], -1.0),
    }
    suspects["train"].two_persons.append(TwoPersons(0.3, 2, (1, 2), (3, 4)))
    new = count(4)
    found = [(one, list(_in_words(one, suspects[one.title], most=9, new_persons=new))) for one in (train, gallery)]
    text = _as_corrections(found)
    taken = tmp_path / "taken.csv"
    taken.write_text("\n".join(line if line.startswith("# ") else line.removeprefix("#") for line in text.split("\n")))
    assert [(one.image, one.text) for one in CorrectionsFile(taken).corrections] == [
        ("train/0.jpg", "person: 2"),
        ("train/3.jpg", "person: 4"),
        ("train/4.jpg", "person: 4"),
        ("gallery/2.jpg", "person: 5"),
        ("gallery/3.jpg", "person: 5"),
    ]


def test_a_model_that_suspects_every_fourth_label_is_doubted() -> None:
    wrong = [WrongLabel(0.5, row, 1, 2, 0, 1) for row in range(3)]
    few, many = Suspects(wrong[:2], [], [], -1.0), Suspects(wrong, [], [], -1.0)
    train = group("train", *range(1, 9))
    assert len(list(_counts(train, few))) == 1
    assert list(_counts(train, many))[1] == "train: so many suspects say more about the model than about the labels"
