"""Which gallery images match a query, and which are ignored. Q queries, G gallery images.

The protocol of Market-1501 (Zheng et al., ICCV 2015): a query ignores the gallery images of its own person from its
own camera, and all junk (person < 0). Distractors (person 0) match no query and stay.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Protocol(NamedTuple):
    """Persons and cameras of queries and gallery, with an index of the gallery by person; kernels read it."""

    query_person: Integers
    query_camera: Integers
    gallery_person: Integers
    gallery_camera: Integers
    junk: Integers
    """Gallery indices of junk."""
    by_person: Integers
    """(G,): gallery indices sorted by person; those of query q's person are by_person[begin[q]:end[q]]."""
    begin: Integers
    end: Integers

    def block(self, distance: Floats, first: int) -> tuple[Floats, "Protocol"]:
        """distance (rows, G) of the queries from `first` on -> the same, C-contiguous float32, and their protocol.

        Raises ValueError if the shape does not fit.
        """
        queries, gallery = len(self.query_person), len(self.gallery_person)
        if distance.ndim != 2 or distance.shape[1] != gallery or first + len(distance) > queries:
            raise ValueError(
                f"distance: shape {distance.shape} from query {first} on; want at most {queries} x {gallery}"
            )
        part = slice(first, first + len(distance))
        return np.ascontiguousarray(distance, np.float32), self._replace(
            query_person=self.query_person[part],
            query_camera=self.query_camera[part],
            begin=self.begin[part],
            end=self.end[part],
        )


def market_protocol(
    *, query_person: Integers, query_camera: Integers, gallery_person: Integers, gallery_camera: Integers
) -> Protocol:
    """Persons and cameras (Q,) and (G,) -> Protocol. Raises ValueError if persons and cameras differ in number."""
    query_person, query_camera = _integers(query_person), _integers(query_camera)
    gallery_person, gallery_camera = _integers(gallery_person), _integers(gallery_camera)
    if query_person.shape != query_camera.shape or gallery_person.shape != gallery_camera.shape:
        raise ValueError(
            f"{len(query_person)} persons and {len(query_camera)} cameras of queries, "
            f"{len(gallery_person)} and {len(gallery_camera)} of the gallery; want one of each per image"
        )
    by_person = np.argsort(gallery_person, kind="stable")
    begin = np.searchsorted(gallery_person[by_person], query_person, side="left")
    end = np.searchsorted(gallery_person[by_person], query_person, side="right")
    return Protocol(
        query_person=query_person,
        query_camera=query_camera,
        gallery_person=gallery_person,
        gallery_camera=gallery_camera,
        junk=np.flatnonzero(gallery_person < 0),
        by_person=by_person,
        begin=begin,
        end=np.where(query_person > 0, end, begin),  # persons 0 and below have no matches
    )


def why_no_match(protocol: Protocol) -> str:
    """The error text for a protocol in which no query has a match."""
    person, images = protocol.query_person, protocol.end - protocol.begin
    nobody, absent, one_camera = person <= 0, (person > 0) & (images == 0), images > 0
    lines = [
        f"evaluation: none of {len(person)} queries has a match (an image of its person from another camera) "
        f"among {len(protocol.gallery_person)} gallery images"
    ]
    if nobody.any():
        lines.append(f"  {nobody.sum()} show no known person (distractor or junk); first: query {nobody.argmax()}")
    if absent.any():
        lines.append(f"  {absent.sum()} show a person who is not in the gallery; first: person {person[absent][0]}")
    if one_camera.any():
        lines.append(
            f"  {one_camera.sum()} have their person in the gallery from their own camera only; "
            f"first: person {person[one_camera][0]}, camera {protocol.query_camera[one_camera][0]}"
        )
    return "\n".join([*lines, "  want: query and gallery of the same persons, each seen by at least two cameras"])


def _integers(values: Integers) -> Integers:
    return np.ascontiguousarray(values, np.int64)
