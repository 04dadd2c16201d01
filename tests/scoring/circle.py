"""Embeddings on a circle, whose distances can be computed by hand, and the settings they are scored with."""

import numpy as np

from reid.embeddings import Embeddings

DEVICE = {"device": "auto", "evaluate_device": "cpu"}
SETTINGS = {"k1": 20, "k2": 6, "lambda_value": 0.3, "max_rank": 3, **DEVICE}


def on_a_circle(*images: tuple[int, int, float]) -> Embeddings:
    """One image for each (person, camera, angle in degrees), the vector of length 2 in that direction."""
    person, camera, degrees = (np.array(column) for column in zip(*images))
    vectors = 2 * np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    paths = [f"/d/{p}_c{c}_{number}.jpg" for number, (p, c, _) in enumerate(images)]
    return Embeddings(paths, person.astype(np.int64), camera.astype(np.int64), vectors.astype(np.float32))


QUERY = on_a_circle((1, 1, 0), (2, 1, 90), (3, 1, 0))
GALLERY = on_a_circle((1, 1, 0), (2, 2, 30), (1, 2, 60), (0, 2, 180))
