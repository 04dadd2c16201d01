import dataclasses
import json
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.contract import Contract
from reid.data.market1501 import PersonImage, Split
from reid.embeddings import Embeddings, OfPixels, embed, write_json
from reid.errors import ArtifactError
from tests.written import read_json

CONTRACT = Contract(height=2, width=1, channels=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), embedding=3)


def some_split(root: Path, count: int) -> Split:
    images = tuple(PersonImage(f"{i:04d}_c1s1_000001_00.jpg", person=i, camera=1 + i % 3) for i in range(count))
    return Split(root, images)


def some_embeddings(count: int, width: int = 4, folder: str = "/data/query") -> Embeddings:
    rng = np.random.default_rng(0)
    return Embeddings(
        [f"{folder}/{i:04d}_c1s1_000001_00.jpg" for i in range(count)],
        np.arange(count, dtype=np.int64),
        np.ones(count, np.int64),
        rng.normal(size=(count, width)).astype(np.float32),
    )


def mean_colour(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(2, 3))


def test_an_image_is_embedded_as_the_network_sees_it_after_preprocessing(tmp_path):
    # Both pixels of image i are (i, 2i, 3i); scaled to 0..1 their mean colour is (i, 2i, 3i) / 255.
    pixels = np.array([[[[i, 2 * i, 3 * i]]] * 2 for i in range(5)], np.uint8)
    found = embed(some_split(tmp_path, 5), pixels, mean_colour, contract=CONTRACT, batch_size=2, what="query")
    assert found.vectors == pytest.approx(np.outer(np.arange(5), [1, 2, 3]) / 255)
    assert found.vectors.dtype == np.float32
    assert found.person.tolist() == [0, 1, 2, 3, 4]
    assert found.camera.tolist() == [1, 2, 3, 1, 2]
    assert found.paths[4] == str(tmp_path / "0004_c1s1_000001_00.jpg")


def test_batches_are_never_longer_than_asked_and_leave_nothing_out(tmp_path):
    sizes = []

    def network(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return mean_colour(images)

    embed(some_split(tmp_path, 5), np.zeros((5, 2, 1, 3), np.uint8), network, contract=CONTRACT, batch_size=2, what="")
    assert sizes == [2, 2, 1]


def test_the_next_batch_starts_before_the_last_ones_vectors_are_waited_for(tmp_path):
    said = []

    def start(pixels: np.ndarray) -> Callable[[], np.ndarray]:
        first = int(pixels[0, 0, 0, 0])
        said.append(f"start {first}")

        def wait() -> np.ndarray:
            said.append(f"fetch {first}")
            return pixels[:, 0, 0].astype(np.float32)

        return wait

    pixels = np.array([[[[i, i, i]]] * 2 for i in range(5)], np.uint8)
    found = embed(some_split(tmp_path, 5), pixels, OfPixels(start), contract=CONTRACT, batch_size=2, what="")
    assert said == ["start 0", "start 2", "fetch 0", "start 4", "fetch 2", "fetch 4"]
    assert found.vectors[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_images_that_are_not_kept_are_not_embedded(tmp_path):
    pixels = np.array([[[[i, i, i]]] * 2 for i in range(4)], np.uint8)
    keep = np.array([False, True, False, True])
    split = some_split(tmp_path, 4)
    found = embed(split, pixels, mean_colour, contract=CONTRACT, batch_size=8, what="", keep=keep)
    assert found.person.tolist() == [1, 3]
    assert found.vectors[:, 0] == pytest.approx([1 / 255, 3 / 255])
    assert [Path(path).name[:4] for path in found.paths] == ["0001", "0003"]


def test_an_output_of_the_wrong_width_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        embed(
            some_split(tmp_path, 2),
            np.zeros((2, 2, 1, 3), np.uint8),
            lambda images: np.zeros((len(images), 7), np.float32),
            contract=CONTRACT,
            batch_size=2,
            what="",
        )
    assert str(caught.value) == "network: output of shape (2, 7)\n  want: (2, 3) (images, embedding)"


def test_an_embedding_that_is_not_finite_names_its_image(tmp_path):
    def network(images: np.ndarray) -> np.ndarray:
        output = mean_colour(images)
        output[1, 0] = np.nan
        return output

    with pytest.raises(ArtifactError) as caught:
        pixels = np.zeros((3, 2, 1, 3), np.uint8)
        embed(some_split(tmp_path, 3), pixels, network, contract=CONTRACT, batch_size=3, what="")
    assert str(caught.value) == (
        f"network: 1 of 3 embeddings of a batch are not finite\n  first: {tmp_path}/0001_c1s1_000001_00.jpg"
    )


def test_decoded_images_of_another_split_are_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        pixels = np.zeros((3, 2, 1, 3), np.uint8)
        embed(some_split(tmp_path, 2), pixels, mean_colour, contract=CONTRACT, batch_size=3, what="")
    assert str(caught.value) == f"{tmp_path}: 3 decoded images\n  want: 2, one for each file"


def test_the_json_is_the_seeds_list_of_path_and_embedding_query_first(tmp_path):
    query, gallery = some_embeddings(2), some_embeddings(3, folder="/data/gallery")
    write_json(tmp_path / "out" / "inference.json", query, gallery)
    rows = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert [row["img_path"] for row in rows] == query.paths + gallery.paths
    assert [set(row) for row in rows] == [{"img_path", "embedding"}] * 5
    assert np.array(rows[4]["embedding"], np.float32).tolist() == gallery.vectors[2].tolist()


def test_a_json_without_rows_is_an_empty_list(tmp_path):
    write_json(tmp_path / "none.json", some_embeddings(0))
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert read_json(tmp_path / "none.json") == []


@given(vector=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_every_float32_comes_back_to_the_bit(tmp_path_factory, vector):
    path = tmp_path_factory.mktemp("json") / "one.json"
    vectors = np.array([vector], np.float32)
    write_json(path, Embeddings(["a.jpg"], np.zeros(1, np.int64), np.ones(1, np.int64), vectors))
    ((name, back),) = read_json(path)
    assert name == "a.jpg"
    assert back.tobytes() == vectors[0].tobytes()


def test_a_path_with_quotes_and_chinese_comes_back(tmp_path):
    vectors = np.zeros((1, 2), np.float32)
    write_json(tmp_path / "x.json", Embeddings(['/数据/"a".jpg'], np.zeros(1, np.int64), np.ones(1, np.int64), vectors))
    assert read_json(tmp_path / "x.json")[0][0] == '/数据/"a".jpg'


def test_a_vector_that_is_not_finite_leaves_the_old_json_as_it_was(tmp_path):
    path = tmp_path / "inference.json"
    write_json(path, some_embeddings(1))
    before = path.read_bytes()
    bad = some_embeddings(2)
    bad.vectors[1, 0] = np.inf
    with pytest.raises(ArtifactError, match="not finite"):
        write_json(path, bad)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["inference.json"]


def test_npz_gives_the_same_embeddings_back_and_the_same_bytes_twice(tmp_path):
    saved = Embeddings.joined(some_embeddings(3), some_embeddings(2, folder="/数据/gallery"))
    saved.save_npz(tmp_path / "a.npz")
    saved.save_npz(tmp_path / "b.npz")
    back = Embeddings.load_npz(tmp_path / "a.npz")
    assert back.paths == saved.paths
    assert back.person.tolist() == saved.person.tolist()
    assert back.camera.tolist() == saved.camera.tolist()
    assert back.vectors.tobytes() == saved.vectors.tobytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_name_of_any_bytes_comes_back_from_npz(tmp_path):
    one = Embeddings(["a/caf\udce9.jpg"], np.ones(1, np.int64), np.ones(1, np.int64), np.ones((1, 2), np.float32))
    one.save_npz(tmp_path / "a.npz")
    assert Embeddings.load_npz(tmp_path / "a.npz").paths == ["a/caf\udce9.jpg"]


def test_npz_that_is_missing_or_damaged_is_one_clear_error(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        Embeddings.load_npz(tmp_path / "none.npz")
    assert str(caught.value) == f"{tmp_path / 'none.npz'}: no such file\n  want: embeddings as .npz"
    np.savez(tmp_path / "other.npz", vectors=np.zeros(3))
    with pytest.raises(ArtifactError, match=r"other\.npz: not readable as embeddings"):
        Embeddings.load_npz(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ArtifactError, match=r"text\.npz: not readable as embeddings"):
        Embeddings.load_npz(tmp_path / "text.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ArtifactError, match=r"array\.npz: not readable as embeddings"):
        Embeddings.load_npz(tmp_path / "array.npz")


def test_npz_that_is_cut_off_or_has_a_wrong_byte_is_one_clear_error_wherever_that_is(tmp_path):
    path = tmp_path / "a.npz"
    saved = some_embeddings(3)
    saved.save_npz(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        wrong = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        for damaged in (whole[:at], wrong):
            path.write_bytes(damaged)
            try:
                found = Embeddings.load_npz(path)
            except ArtifactError as error:
                assert str(error).startswith(f"{path}: not readable as embeddings (")
            else:  # a byte that says nothing, such as a date
                assert damaged is wrong
                assert found.vectors.tobytes() == saved.vectors.tobytes()


@pytest.mark.parametrize(
    ("name", "array", "found"),
    [
        ("paths", np.array(["a", "b"]), "paths is <U1 of shape (2,)"),
        ("person", np.array([1.0, 2.0]), "person is float64 of shape (2,)"),
        ("vectors", np.zeros(2), "vectors is float64 of shape (2,)"),
        ("camera", np.array(1), "camera is int64 of shape ()"),
    ],
)
def test_npz_of_other_arrays_names_the_first(tmp_path, name, array, found):
    arrays = {"paths": np.array([b"a", b"b"]), "person": np.ones(2, int), "camera": np.ones(2, int)}
    np.savez(tmp_path / "a.npz", **(arrays | {"vectors": np.zeros((2, 3), np.float32)} | {name: array}))
    with pytest.raises(ArtifactError) as caught:
        Embeddings.load_npz(tmp_path / "a.npz")
    assert str(caught.value) == (
        f"{tmp_path / 'a.npz'}: not readable as embeddings ({found})\n"
        "  want: arrays ('paths', 'person', 'camera', 'vectors')"
    )


def test_the_rows_of_a_split_are_found_by_path_in_its_order(tmp_path):
    split = some_split(tmp_path, 3)
    whole = some_embeddings(5, folder=str(tmp_path))
    shuffled = Embeddings(whole.paths[::-1], whole.person[::-1], whole.camera[::-1], whole.vectors[::-1])
    found = shuffled.of(split)
    assert found.vectors.tolist() == whole.vectors[:3].tolist()
    assert found.camera.tolist() == split.camera.tolist()


def test_a_split_with_images_that_have_no_embedding_names_the_first(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        some_embeddings(1, folder=str(tmp_path)).of(some_split(tmp_path, 3))
    assert str(caught.value) == (
        f"embeddings: 2 of 3 images of {tmp_path} have none\n  first: {tmp_path}/0001_c1s1_000001_00.jpg"
    )


def test_a_memory_map_of_images_costs_a_batch_of_memory(tmp_path):
    pixels = np.lib.format.open_memmap(tmp_path / "store.npy", mode="w+", dtype=np.uint8, shape=(800, 256, 128, 3))
    contract = dataclasses.replace(CONTRACT, height=256, width=128)
    tracemalloc.start()
    try:
        embed(some_split(tmp_path, 800), pixels, mean_colour, contract=contract, batch_size=16, what="")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    batch_bytes = 16 * 256 * 128 * 3 * 4
    assert peak < 4 * batch_bytes < pixels.nbytes / 2  # float32, and what becomes of it


@pytest.mark.slow
def test_half_a_million_rows_are_written_in_bounded_memory(tmp_path):
    count = 500_000
    rows = Embeddings(
        ["/d/x.jpg"] * count, np.zeros(count, int), np.zeros(count, int), np.zeros((count, 32), np.float32)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_json(tmp_path / "many.json", rows)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 30  # one block of rows
