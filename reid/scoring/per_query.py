"""The table of queries: how each was ranked, as CSV."""

import csv
import io

from reid.scoring.ranking import Scored


def per_query_csv(scored: Scored) -> str:
    """A line for each query: average precision, place of the first right image, the nearest image; in both rankings.

    The cells of a query that no gallery image matches are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ours = ["average_precision", "first_match_rank", "top1", "top1_person", "top1_distance"]
    kinds = ("plain", "reranked")
    writer.writerow(["query", "person", "camera", *(f"{kind}_{name}" for kind in kinds for name in ours)])
    columns = [_per_query_columns(scored, kind) for kind in kinds]
    for row, path in enumerate(scored.query.paths):
        cells = [cell for column in columns for cell in column[row]]
        writer.writerow([path, int(scored.query.person[row]), int(scored.query.camera[row]), *cells])
    return text.getvalue()


def _per_query_columns(scored: Scored, kind: str) -> list[list[str]]:
    """Q rows of five cells."""
    scores, nearest = scored.ranking(kind).scores, scored.ranking(kind).nearest
    rows = []
    for query, image in enumerate(nearest.image[:, 0].tolist()):
        precision, first = scores.average_precision[query], int(scores.first_match_rank[query])
        result = [f"{precision:.6f}", str(first)] if first else ["", ""]
        distance = f"{nearest.distance[query, 0]:.6f}"
        top = [scored.gallery.paths[image], str(scored.gallery.person[image]), distance]
        rows.append(result + (top if image >= 0 else ["", "", ""]))
    return rows
