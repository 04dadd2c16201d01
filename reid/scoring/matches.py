"""Which gallery images are a match for which query.

Shapes: Q queries.
"""

import numpy as np
from numpy.typing import NDArray

from reid.data.market1501 import DISTRACTOR, Split
from reid.embeddings import Embeddings
from reid.retrieval.protocol import Protocol, market_protocol


def protocol_of(query: Embeddings, gallery: Embeddings) -> Protocol:
    """The protocol of the metric: which gallery image is a match for which query, and which are ignored."""
    return market_protocol(
        query_person=query.person,
        query_camera=query.camera,
        gallery_person=gallery.person,
        gallery_camera=gallery.camera,
    )


def has_match(query: Split, gallery: Split) -> NDArray[np.bool_]:
    """(Q,): whether the gallery holds an image of the query's person in another camera."""
    cameras: dict[int, set[int]] = {}
    for image in gallery.without_junk().images:
        cameras.setdefault(image.person, set()).add(image.camera)
    cameras.pop(DISTRACTOR, None)  # a distractor is no match for another distractor
    return np.array([bool(cameras.get(image.person, set()) - {image.camera}) for image in query.images], bool)


def advice_without_match(query: Split, gallery: Split) -> str:
    """The last line of the error that no query has a match: if cameras are the cause, the field of the spec to set."""
    if not set(query.of_persons().person.tolist()) & set(gallery.person.tolist()):
        return ""
    return "\n  if there is one camera only, or cameras are unknown: dataset.cameras=none"
