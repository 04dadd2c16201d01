from pathlib import Path

import numpy as np
import pytest

from reid.data.market1501 import Manifest, PersonImage, Split, TrainSet
from reid.errors import DatasetError
from reid.training.choosing import choose_roles, chosen_on, images_by_role, shares_of

EVERYONE = Split(
    Path("train"), tuple(PersonImage(f"{who}{camera}.jpg", who, camera) for who in range(1, 9) for camera in (1, 2))
)


def test_too_few_persons_for_a_batch_name_the_field_and_the_most_that_can_be_held_out():
    with pytest.raises(DatasetError) as caught:
        choose_roles(EVERYONE, persons=5, seed=0, persons_in_a_batch=4)
    assert str(caught.value) == (
        "dataset.validation_persons: 5: 5 persons held out leave 3 to train on\n"
        "  found: a batch has 4 persons (dataset.batch_size / dataset.num_instances)\n"
        "  want:  dataset.validation_persons=4 or fewer, or a smaller dataset.batch_size"
    )


def test_one_person_is_too_few_to_train_on_and_the_advice_can_be_followed():
    with pytest.raises(DatasetError) as caught:
        choose_roles(EVERYONE.of({1, 2, 3}), persons=2, seed=0, persons_in_a_batch=1)
    assert str(caught.value) == (
        "dataset.validation_persons: 2: 2 persons held out leave 1 to train on\n"
        "  found: a classifier needs two persons\n"
        "  want:  dataset.validation_persons=null"
    )
    assert choose_roles(EVERYONE, persons=4, seed=0, persons_in_a_batch=4).persons == 4


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_held_out_images_are_rows_of_the_training_store_and_damaged_ones_are_left_out(resize):
    roles = choose_roles(EVERYONE, persons=3, seed=1, persons_in_a_batch=2)
    assert chosen_on(roles) == "3 held-out training persons, 6 images"
    damaged, opened = {roles.gallery.images[1].file, roles.train.images[0].file}, []

    def decoded(split: Split, resize: str) -> np.ndarray:
        opened.append((split, resize))
        return np.array([int(image.file[:2]) for image in split.images], np.uint8)[:, None, None, None]

    def readable(split: Split) -> Split:
        return Split(split.root, tuple(image for image in split.images if image.file not in damaged))

    test = Split(Path("test"), ())
    manifest = Manifest("f", EVERYONE, test, test)
    images = images_by_role(manifest, roles, decoded=decoded, readable=readable, resize=resize)
    held_out = [(images.query, "bilinear"), (images.gallery, "bilinear")] if resize == "bicubic" else []
    assert opened == [(readable(EVERYONE), resize), *held_out]  # one store, unless they are resized in two ways
    assert (images.all_persons, images.skipped) == (8, 2)
    for split, pixels in (
        (images.train, images.train_pixels),
        (images.query, images.query_pixels),
        (images.gallery, images.gallery_pixels),
    ):
        assert pixels[:].ravel().tolist() == [int(image.file[:2]) for image in split.images]
        assert not {image.file for image in split.images} & damaged
    assert len(images.train) == len(roles.train) - 1
    assert len(images.gallery) == len(roles.gallery) - 1


def test_shares_follow_the_images_that_are_trained_on():
    images = EVERYONE.images
    sets = (TrainSet("one", 0, 6, 2.0), TrainSet("two", 6, 10, 1.0))
    manifest = Manifest("f", EVERYONE, EVERYONE, EVERYONE, train_sets=sets)
    shares = shares_of(manifest, Split(EVERYONE.root, (images[0], images[6], images[5], images[15])))
    assert shares is not None
    assert (shares.names, shares.set_of.tolist(), shares.share) == (("one", "two"), [0, 1, 0, 1], (2.0, 1.0))
    alike = Manifest("f", EVERYONE, EVERYONE, EVERYONE, train_sets=(TrainSet("one", 0, 6), TrainSet("two", 6, 10)))
    assert shares_of(alike, EVERYONE) is None
