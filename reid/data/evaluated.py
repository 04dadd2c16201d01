"""Which images a model is measured on, as one hash: two figures can be compared only if it is the same."""

import hashlib
import json

from reid.data.market1501 import DISTRACTOR, Manifest, Split


def evaluated_images(manifest: Manifest) -> str:
    """SHA-256 over query and gallery of the main test set as they are scored: images, who is who, and cameras.

    Training images do not count, nor do the persons' numbers, which may depend on them.
    """
    number: dict[int, int] = {}
    rows = [_rows(manifest.query, number), _rows(manifest.gallery.without_junk(), number)]
    return hashlib.sha256(json.dumps([manifest.test_images, *rows]).encode()).hexdigest()


def _rows(split: Split, number: dict[int, int]) -> list[tuple[str, int, int]]:
    """File, person and camera of each image; persons are numbered from 1 as they come, distractors and junk are not."""
    return [
        (
            image.file,
            image.person if image.person <= DISTRACTOR else number.setdefault(image.person, len(number) + 1),
            image.camera,
        )
        for image in split.images
    ]
