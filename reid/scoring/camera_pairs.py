"""Figures for each pair of a query's camera and another camera of the gallery, and their table as CSV.

Of queries of camera a and the images of camera b alone (see reid.retrieval.camera_pairs), by the plain distance: a
re-ranked distance depends on the whole gallery.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reid.retrieval.camera_pairs import CameraScorer
from reid.retrieval.protocol import Integers
from reid.scoring.confidence import Interval, share_interval

MOST_CAMERAS = 50
"""With more cameras, which then are no cameras but tracks for example, there are no figures of pairs."""
DRAWS = 1000
"""Fewer than for the figures of all queries, for there may be hundreds of pairs."""
SEED = 0


@dataclass(frozen=True)
class CameraPair:
    """The figures of the queries of one camera, looked for in another one."""

    query_camera: int
    gallery_camera: int
    queries: int
    """Queries of the one camera whose person the other one shows too; the means are over these."""
    gallery: int
    """Images of the gallery's camera without junk."""
    mAP: Interval  # noqa: N815 - the field's spelling
    rank1: Interval

    @property
    def persons(self) -> int:
        """Persons of these queries."""
        return self.mAP.persons


def camera_pairs(
    scorer: CameraScorer, *, person: Integers, camera: Integers, gallery_person: Integers, gallery_camera: Integers
) -> list[CameraPair]:
    """person, camera (Q,) of the queries -> every pair of cameras that has a query with a match."""
    pairs = []
    for query_camera in np.unique(camera).tolist():
        rows = np.flatnonzero(camera == query_camera)
        for column, gallery_camera_of in enumerate(scorer.cameras.tolist()):
            precision, first = scorer.average_precision[rows, column], scorer.first_match_rank[rows, column]
            known = first > 0
            if not known.any():
                continue
            shown = person[rows][known]
            mAP, rank1 = (
                share_interval(value, shown, seed=SEED, draws=DRAWS)
                for value in (precision[known], (first[known] == 1).astype(np.float64))
            )
            here = int(((gallery_camera == gallery_camera_of) & (gallery_person >= 0)).sum())
            pairs.append(CameraPair(query_camera, gallery_camera_of, len(shown), here, mAP, rank1))
    return pairs


def camera_pairs_csv(pairs: Sequence[CameraPair]) -> str:
    """A line for each pair; the cells of an interval are empty if there is one person only."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{name}{end}" for name in ("mAP", "rank1") for end in ("", "_low", "_high")]
    writer.writerow(["query_camera", "gallery_camera", "queries", "persons", "gallery", *figures])
    for pair in pairs:
        cells = [
            cell
            for found in (pair.mAP, pair.rank1)
            for cell in (
                f"{found.value:.6f}",
                *(f"{end:.6f}" if found.known else "" for end in (found.low, found.high)),
            )
        ]
        writer.writerow([pair.query_camera, pair.gallery_camera, pair.queries, pair.persons, pair.gallery, *cells])
    return text.getvalue()
