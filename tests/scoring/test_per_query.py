import csv
import io

import pytest

from reid.scoring.per_query import per_query_csv
from reid.scoring.ranking import score
from tests.scoring.circle import GALLERY, QUERY, SETTINGS


def test_each_query_is_a_line_and_one_without_a_match_has_no_precision():
    rows = list(csv.DictReader(io.StringIO(per_query_csv(score(QUERY, GALLERY, **SETTINGS)))))
    assert [row["query"] for row in rows] == QUERY.paths
    first = rows[0]
    assert (first["person"], first["camera"]) == ("1", "1")
    assert (first["plain_average_precision"], first["plain_first_match_rank"]) == ("0.500000", "2")
    # 2 - 2 cos 30 degrees = 0.267949
    assert (first["plain_top1"], first["plain_top1_person"]) == (GALLERY.paths[1], "2")
    assert float(first["plain_top1_distance"]) == pytest.approx(0.267949, abs=2e-6)
    assert (rows[2]["plain_average_precision"], rows[2]["plain_first_match_rank"]) == ("", "")
    assert rows[2]["reranked_average_precision"] == ""
    assert rows[2]["plain_top1"] == GALLERY.paths[0]
