import csv
import io

import pytest

from reid.errors import ArtifactError
from reid.scoring.per_query import WANTED, per_query_csv, read_per_query
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


def test_what_was_written_is_read_again(tmp_path):
    scored = score(QUERY, GALLERY, **SETTINGS)
    (tmp_path / "q.csv").write_text(per_query_csv(scored))
    read = read_per_query(tmp_path / "q.csv")
    assert read.paths == QUERY.paths
    assert read.person.tolist() == QUERY.person.tolist()
    assert read.rankings["plain"].average_precision == pytest.approx(
        scored.plain.scores.average_precision, abs=1e-6, nan_ok=True
    )
    assert read.rankings["reranked"].first_match_rank.tolist() == scored.reranked.scores.first_match_rank.tolist()
    assert read.rankings["plain"].top1[0] == GALLERY.paths[1]


HEAD = (
    "query,person,camera,plain_average_precision,plain_first_match_rank,plain_top1,plain_top1_person,plain_top1_distance,"
    "reranked_average_precision,reranked_first_match_rank,reranked_top1,reranked_top1_person,reranked_top1_distance\n"
)
ROW = "/d/q.jpg,1,1,0.5,2,/d/g.jpg,2,0.1,0.5,2,/d/g.jpg,2,0.1\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": found no query\n  want: WANTED"),
        (HEAD, ": found no query\n  want: WANTED"),
        (
            HEAD + ROW[:-9],
            ": found a last line that was cut off: '/d/q.jpg,1,1,0.5,2,/d/g.jpg,2,0.1,0.5,2,/d/g.j'\n  want: WANTED",
        ),
        (HEAD + ROW + "/d/r.jpg,1\n", ":3: has no camera\n  want: WANTED"),
        ("a,b\n1,2\n", ": has no column person\n  want: WANTED"),
        (HEAD + ROW.replace("q.jpg,1", "q.jpg,one"), ":2: person: found 'one'\n  want: a number"),
        (HEAD + ROW.replace("q.jpg,1", "q.jpg,1.5"), ":2: person: found '1.5'\n  want: a whole number"),
        (HEAD + ROW.replace("q.jpg,1", "q.jpg,1e300"), ":2: person: found '1e300'\n  want: a whole number"),
        (HEAD + ROW.replace("1,0.5,2", "1,nan,2"), ":2: plain_average_precision: found 'nan'\n  want: a number"),
        (
            HEAD + ROW.replace("1,0.5,2", "1,7,2"),
            ":2: found plain average precision 7 with first match rank 2\n"
            "  want: a number from 0 to 1 and a rank from 1, or neither",
        ),
        (HEAD + ROW + ROW, ": query /d/q.jpg stands there twice\n  want: each query once"),
        (
            HEAD + '"' + "x" * 200_000 + "\n",
            ": not a table of queries (field larger than field limit (131072))\n  want: WANTED",
        ),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path, content, said):
    (tmp_path / "q.csv").write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_per_query(tmp_path / "q.csv")
    assert str(caught.value) == f"{tmp_path / 'q.csv'}{said.replace('WANTED', WANTED)}"
