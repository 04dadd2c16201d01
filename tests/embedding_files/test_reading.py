import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reid.embedding_files import json_rows
from reid.embedding_files.reading import read_embeddings
from reid.embedding_files.rows import About
from reid.embeddings import write_json
from reid.errors import ArtifactError
from tests.embedding_files.test_writing import ENDINGS, some_rows, write


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_embeddings(path).all_rows()
    return str(caught.value)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_json_rows_come_back_whatever_the_white_space_and_the_pieces(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(json_rows, "PIECE", piece)
    wanted = some_rows(3)
    write_json(tmp_path / "ours.json", wanted)
    rows = [
        {"img_path": path, "embedding": vector.tolist(), "more": 1}
        for path, vector in zip(wanted.paths, wanted.vectors)
    ]
    (tmp_path / "one_line.json").write_text(json.dumps(rows, ensure_ascii=False))
    (tmp_path / "indented.json").write_text(json.dumps(rows, indent=4))
    for name in ("ours", "one_line", "indented"):
        found = read_embeddings(tmp_path / f"{name}.json")
        assert (found.width, found.rows) == (4, None)
        rows_found = found.all_rows()
        assert found.rows == 3
        assert rows_found.paths == wanted.paths
        assert rows_found.vectors.tobytes() == wanted.vectors.tobytes()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "after 0 rows: found '', want a list"),
        ("{}", "after 0 rows: found '{', want a list"),
        ('[{"img_path": "a", "embedding": [1, 2]}', "after 1 rows: found '', want a comma or the end of the list"),
        (
            '[{"img_path": "a", "embedding": [1, 2]} {"img',
            "after 1 rows: found '{', want a comma or the end of the list",
        ),
        ('[{"img_path": "a", "embedding": [1, 2]}]]', "after 1 rows: more after the end of the list"),
        ('[{"img_path": "a"}]', "row 1: KeyError: 'embedding'"),
        ('[{"img_path": "a", "embedding": [1, 2]}, 3]', "row 2: TypeError: 'int' object is not subscriptable"),
        ('[{"img_path": 1, "embedding": [1, 2]}]', "row 1: TypeError: want a text and a list of numbers"),
        ('[{"img_path": "a", "embedding": []}]', "row 1: TypeError: want a text and a list of numbers"),
        (
            '[{"img_path": "a", "embedding": [1, 2]}, {"img_path": "b", "embedding": [1]}]',
            "row 2 has 1 numbers, the first has 2",
        ),
    ],
)
def test_json_that_is_no_list_of_rows_says_where(tmp_path, text, why):
    (tmp_path / "a.json").write_text(text)
    assert refusal(tmp_path / "a.json") == (
        f"{tmp_path / 'a.json'}: not readable as embeddings ({why})\n"
        '  want: a list of {"img_path": text, "embedding": [numbers]}, all of one length'
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_cut_off_or_has_wrong_bytes_is_one_clear_error(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    wanted = write(path)
    whole = path.read_bytes()
    found = 0
    for at in range(0, len(whole), 41):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                rows = read_embeddings(path).all_rows()
            except ArtifactError as error:
                found += 1
                assert str(error).startswith(f"{path}: ")
            else:
                assert len(damaged) == len(whole)  # a byte that says nothing of the rows, such as a date
                assert rows.vectors.tobytes() == wanted.vectors.tobytes()
    assert found > len(whole) // 41


def test_compressed_npz_files_and_bare_arrays_of_others_are_read(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    np.savez_compressed(tmp_path / "a.npz", vectors=vectors, paths=np.array(["x", "y", "z"]))
    found = read_embeddings(tmp_path / "a.npz").all_rows()
    assert (found.paths, found.person.tolist(), found.vectors.tolist()) == (["x", "y", "z"], [0] * 3, vectors.tolist())


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"vectors": np.zeros((2, 3))}, "There is no item named 'paths.npy' in the archive"),
        (
            {"vectors": np.zeros((2, 3)), "paths": np.array(["a", "b"])},
            "vectors is float64 of shape (2, 3), paths is <U1 of shape (2,)",
        ),
        (
            {"vectors": np.zeros((2, 3), np.float32), "paths": np.array(["a"])},
            "vectors is float32 of shape (2, 3), paths is <U1 of shape (1,)",
        ),
        (
            {"vectors": np.zeros((1, 3), np.float32), "paths": np.array(["a"]), "person": np.zeros(1)},
            "person is float64 of shape (1,)",
        ),
    ],
)
def test_npz_of_other_arrays_says_what_it_has(tmp_path, arrays, why):
    np.savez(tmp_path / "a.npz", **arrays)
    assert refusal(tmp_path / "a.npz") == (
        f"{tmp_path / 'a.npz'}: not readable as embeddings ({why})\n"
        "  want: the arrays vectors (rows, width) and paths (rows)"
    )


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"img_path": ["a"]}, "embedding is not there"),
        ({"img_path": ["a"], "embedding": [[1.0, 2.0]]}, "embedding is list<element: double>"),
        ({"embedding": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}, "img_path is not there"),
        (
            {"img_path": [1], "embedding": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))},
            "img_path is int64",
        ),
        (
            {"img_path": ["a"], "embedding": pa.array([[1.0, None]], pa.list_(pa.float32(), 2))},
            "embedding has a null",
        ),
        (
            {"img_path": [None, "a"], "embedding": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2))},
            "img_path has a null",
        ),
    ],
)
def test_parquet_of_other_columns_says_what_it_has(tmp_path, columns, why):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet") == (
        f"{tmp_path / 'a.parquet'}: not readable as embeddings ({why})\n"
        "  want: the columns img_path (string) and embedding (fixed_size_list of float or halffloat)"
    )


def test_a_missing_file_an_unknown_ending_and_an_empty_folder_are_named(tmp_path):
    (tmp_path / "rows.csv").write_text("x")
    assert refusal(tmp_path / "a.npz") == f"{tmp_path / 'a.npz'}: no such file\n  want: a file of embeddings"
    assert refusal(tmp_path / "a.json") == f"{tmp_path / 'a.json'}: no such file\n  want: a file of embeddings"
    assert refusal(tmp_path / "rows.csv") == (
        f"{tmp_path / 'rows.csv'}: not a file of embeddings\n  want: one of .json, .npz, .parquet"
    )
    assert refusal(tmp_path) == f"{tmp_path}: no embeddings in this folder\n  want: files that end in .npz, .parquet"


def test_a_set_with_a_missing_shard_or_with_one_of_another_set_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    write(path, shard_rows=2)
    third = tmp_path / "rows-00002-of-00003.parquet"
    whole = third.read_bytes()
    write(tmp_path / "other" / "rows.parquet", shard_rows=2, data_type="float16")
    third.write_bytes((tmp_path / "other" / third.name).read_bytes())
    assert refusal(path).startswith(f"{third}: embeddings of another shard set than those of {tmp_path}/rows-00000-of-")
    third.unlink()
    for place in (path, tmp_path):
        assert refusal(place) == (
            f"{tmp_path}/rows-00000-of-00003.parquet: one of 3 files, 1 of them are not there\n"
            f"  first: {third}\n  want: the whole set"
        )
    third.write_bytes(whole)
    assert read_embeddings(tmp_path).rows == 5
    third.rename(tmp_path / "third.parquet")
    assert refusal(tmp_path / "third.parquet") == (
        f"{tmp_path}/third.parquet: one file of a set, under another name\n  want: NAME-00000-of-0000K and all others"
    )


def test_files_of_several_widths_or_models_are_not_one_gallery(tmp_path):
    write(tmp_path / "a.npz")
    write(tmp_path / "b.npz", about=About(model_sha256="b" * 64))
    assert refusal(tmp_path) == (
        f"{tmp_path}/b.npz: embeddings of another model's SHA-256 than those of {tmp_path}/a.npz\n"
        f"  found: {'b' * 64}\n  want: {'a' * 64}, in all files that are read together"
    )
    np.savez(tmp_path / "b.npz", vectors=np.zeros((1, 3), np.float32), paths=np.array(["x"]))
    assert refusal(tmp_path) == (
        f"{tmp_path}/b.npz: embeddings of another width than those of {tmp_path}/a.npz\n"
        "  found: 3\n  want: 4, in all files that are read together"
    )


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["embedding", "person"], "img_path is not there"),
        (["embedding", "img_path", "img_path"], "two columns img_path"),
        (["embedding", "embedding", "img_path"], "two columns embedding"),
    ],
)
def test_parquet_without_a_column_or_with_one_twice_says_so(tmp_path, names, why):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)
    columns = {"embedding": vectors, "person": pa.array([1]), "img_path": pa.array(["a.jpg"])}
    pq.write_table(pa.Table.from_arrays([columns[name] for name in names], names=names), tmp_path / "a.parquet")
    assert f"({why})" in refusal(tmp_path / "a.parquet")
