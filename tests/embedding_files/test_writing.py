import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reid.embedding_files.reading import read_embeddings
from reid.embedding_files.rows import BLOCK_ROWS, About, Block, Cutter, Names, blocks_of
from reid.embedding_files.writing import require_place, write_embeddings
from reid.embeddings import Embeddings, write_json
from reid.errors import ArtifactError

ABOUT = About(model_sha256="a" * 64, contract='{"height": 64}')
ENDINGS = (".npz", ".parquet")


def some_rows(count: int, *, width: int = 4, folder: str = "/数据/query", seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    paths = [f"{folder}/{row:04d}.jpg" for row in range(count)]
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    return Embeddings(paths, np.arange(count, dtype=np.int64) - 1, 1 + np.arange(count, dtype=np.int64) % 3, vectors)


def write(path: Path, count: int = 5, *, about: About = ABOUT, **settings: object) -> Embeddings:
    """Writes two query rows and the rest as gallery; returns all rows."""
    query, gallery = some_rows(2), some_rows(count - 2, folder="/d/gallery", seed=1)
    blocks = blocks_of({"query": query, "gallery": gallery})
    write_embeddings(path, blocks, rows=count, width=4, about=about, **settings)  # type: ignore[arg-type]
    return Embeddings.joined(query, gallery)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("shard_rows", [None, 2])
def test_rows_names_and_what_is_known_come_back_from_one_file_or_several(tmp_path, ending, shard_rows):
    path = tmp_path / f"rows{ending}"
    wanted = write(path, shard_rows=shard_rows)
    found = read_embeddings(path)
    assert (found.width, found.rows) == (4, 5)
    assert (found.about.model_sha256, found.about.contract) == (ABOUT.model_sha256, ABOUT.contract)
    rows = found.all_rows()
    assert rows.paths == wanted.paths
    assert rows.person.tolist() == wanted.person.tolist()
    assert rows.camera.tolist() == wanted.camera.tolist()
    assert rows.vectors.tobytes() == wanted.vectors.tobytes()
    assert [split for names in found.names() for split in names.split] == ["query"] * 2 + ["gallery"] * 3
    assert found.names_of(np.array([1, 4])).paths == [wanted.paths[1], wanted.paths[4]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_float16_halves_the_vectors_and_rounds_them(tmp_path, ending):
    wanted = write(tmp_path / f"rows{ending}", data_type="float16")
    found = read_embeddings(tmp_path / f"rows{ending}")
    assert next(found.vectors()).dtype == np.float16
    assert found.all_rows().vectors.tolist() == wanted.vectors.astype(np.float16).tolist()


def test_the_npz_is_numpys_and_the_embeddings_own_loader_reads_it(tmp_path):
    wanted = write(tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as arrays:
        assert arrays["vectors"].tolist() == wanted.vectors.tolist()
        assert arrays["split"].tolist() == [b"query"] * 2 + [b"gallery"] * 3
        assert json.loads(bytes(arrays["about"]))["reid.normalised"] == "no"
    assert Embeddings.load_npz(tmp_path / "rows.npz").paths == wanted.paths
    wanted.save_npz(tmp_path / "older.npz")
    assert read_embeddings(tmp_path / "older.npz").all_rows().person.tolist() == wanted.person.tolist()


def test_the_parquet_has_the_columns_that_databases_want(tmp_path):
    write(tmp_path / "rows.parquet", data_type="float16")
    schema = pq.read_schema(tmp_path / "rows.parquet")
    assert [f"{field.name} {field.type}" for field in schema] == [
        *("img_path string", "person int64", "camera int64", "split string"),
        "embedding fixed_size_list<element: halffloat>[4]",
    ]
    assert schema.metadata[b"reid.model_sha256"] == b"a" * 64
    assert schema.metadata[b"reid.normalised"] == b"no"


@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_rows_give_equal_bytes(tmp_path, ending):
    for name in "ab":
        write(tmp_path / f"{name}{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_blocks_are_cut_into_blocks_of_one_length_across_their_borders(monkeypatch):
    monkeypatch.setattr("reid.embedding_files.rows.BLOCK_ROWS", 4)
    vectors = np.arange(10, dtype=np.float32)[:, None]
    parts = [
        Block(Names.of_paths([str(row) for row in part]), vectors[part]) for part in ([0], [1, 2], list(range(3, 10)))
    ]
    cutter = Cutter(parts)
    assert [block.names.paths for block in cutter.take(7)] == [["0", "1", "2", "3"], ["4", "5", "6"]]
    assert [block.vectors[:, 0].tolist() for block in cutter.take(3)] == [[7, 8, 9]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_grow_with_the_vectors(tmp_path, ending):
    rows, width = 6 * BLOCK_ROWS, 64
    names = Names.of_paths(["/d/x.jpg"] * BLOCK_ROWS)
    blocks = (Block(names, np.full((BLOCK_ROWS, width), part, np.float32)) for part in range(6))
    tracemalloc.start()
    try:
        write_embeddings(tmp_path / f"r{ending}", blocks, rows=rows, width=width, about=ABOUT)
        found = read_embeddings(tmp_path / f"r{ending}")
        read = arrows = 0
        for block in found.vectors():
            read, arrows = read + len(block), max(arrows, pa.total_allocated_bytes())
        assert read == rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert arrows < 4 * BLOCK_ROWS * width * 4
    assert peak < 4 * BLOCK_ROWS * width * 4 < rows * width * 4  # a few blocks, and the names


@pytest.mark.parametrize("shard_rows", [None, 2])
def test_a_number_that_float16_cannot_hold_leaves_everything_as_it_was(tmp_path, shard_rows):
    write(tmp_path / "rows.npz", 7, shard_rows=shard_rows)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    bad = some_rows(5)
    bad.vectors[4, 0] = 1e6
    with pytest.raises(ArtifactError) as caught:
        write_embeddings(
            tmp_path / "rows.npz",
            blocks_of({"query": bad}),
            rows=5,
            width=4,
            about=ABOUT,
            data_type="float16",
            shard_rows=shard_rows,
        )
    name = "rows-00002-of-00003.npz" if shard_rows else "rows.npz"
    count = 1 if shard_rows else 5
    assert str(caught.value) == (
        f"{tmp_path / name}: 1 of {count} embeddings of a block are not finite as float16\n"
        "  first: /数据/query/0004.jpg"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_files_of_a_longer_set_and_the_single_file_are_gone_after_the_next_set(tmp_path):
    (tmp_path / "rows-of-mine.npz").write_text("another's")
    for shard_rows, wanted in (
        (None, ["rows.npz"]),
        (1, [f"rows-0000{number}-of-00005.npz" for number in range(5)]),
        (3, ["rows-00000-of-00002.npz", "rows-00001-of-00002.npz"]),
        (None, ["rows.npz"]),
    ):
        write(tmp_path / "rows.npz", shard_rows=shard_rows)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*wanted, "rows-of-mine.npz"])


def test_too_many_shards_and_another_ending_are_refused_before_anything_is_embedded(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        require_place(tmp_path / "rows.npz", rows=5000, shard_rows=2)
    assert str(caught.value) == (
        f"{tmp_path / 'rows.npz'}: 5,000 rows in files of 2 are 2,500 files\n"
        "  want: at most 500, which inference.shard_rows=10 gives"
    )
    with pytest.raises(ArtifactError) as caught:
        require_place(tmp_path / "rows.csv", rows=5, shard_rows=None)
    assert str(caught.value) == f"{tmp_path / 'rows.csv'}: not an ending of embeddings\n  want: one of .npz, .parquet"
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_a_file_without_rows(tmp_path):
    for ending in ENDINGS:
        write_embeddings(tmp_path / f"none{ending}", [], rows=0, width=4, about=ABOUT)
        found = read_embeddings(tmp_path / f"none{ending}")
        assert (found.rows, found.width, found.all_rows().vectors.shape) == (0, 4, (0, 4))
    write_json(tmp_path / "none.json")
    assert read_embeddings(tmp_path / "none.json").rows == 0
