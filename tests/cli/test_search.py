"""`reid search`: the hits of images and of files of embeddings, the verdicts, the files written, and every refusal."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reid.cli.commands import main
from reid.data.image_file import read_picture
from reid.deploy.onnx import OnnxModel
from reid.embedding_files.npz import NpzFile
from reid.embedding_files.reading import read_embeddings
from reid.embedding_files.rows import About, blocks_of
from reid.embedding_files.writing import write_embeddings
from reid.embeddings import Embeddings, write_json
from reid.files.hashes import file_sha256
from reid.stages.search import _require_images
from tests.cli.test_match import KNOWN
from tests.tiny_onnx import write_mean_colour

COLOURS = {
    "blue.bmp": (10, 20, 240),
    "dark red.png": (130, 20, 12),
    "green.jpg": (20, 200, 30),
    "red.png": (250, 30, 20),
    "violet.png": (150, 30, 180),
}
MODEL = ("--model", "judges.onnx")
QUERY = str(Path("query") / "also red.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a gallery of images of one colour each, and a folder of queries."""
    folder = tmp_path_factory.mktemp("search")
    write_mean_colour(folder / "judges.onnx", thresholds=KNOWN)
    write_mean_colour(folder / "plain.onnx")
    for place, colours in (("gallery", COLOURS), ("query", {"also red.png": (240, 40, 20), "blue.png": (5, 20, 250)})):
        (folder / place).mkdir()
        for name, colour in colours.items():
            Image.new("RGB", (50, 120), colour).save(folder / place / name)
    (folder / "gallery" / "notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(["search", *arguments]) == status
    out, err = capsys.readouterr()
    return err[err.index("error: ") :] if status else out


def unit_vectors(*paths: str) -> np.ndarray:
    model = OnnxModel(Path("plain.onnx"))
    resized = [np.asarray(read_picture(path).resize((32, 64), Image.Resampling.BILINEAR)) for path in paths]
    vectors = model(model.contract.preprocess(np.stack(resized))).astype(np.float64)
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def ranked(folder: Path, query: str) -> list[tuple[str, float]]:
    paths = sorted(str(folder / "gallery" / name) for name in COLOURS)
    cosine = unit_vectors(*paths) @ unit_vectors(query)[0]
    return [(paths[row], float(cosine[row])) for row in np.argsort(-cosine)]


def hits_of(file: str) -> list[list[tuple[str, float]]]:
    content = json.loads(Path(file).read_text())
    return [[(hit["img_path"], hit["similarity"]) for hit in query["hits"]] for query in content["queries"]]


def test_the_hits_of_an_image_in_a_folder_are_printed_with_verdicts(folder, capsys):
    hits = ranked(folder, QUERY)[:4]
    assert Path(hits[0][0]).name == "red.png"
    assert hits[0][1] > 0.99 > hits[3][1]
    verdicts = ["same person" if cosine >= 0.99 else " " * 11 for _, cosine in hits]
    text = said(capsys, QUERY, *MODEL, "--gallery", "gallery", "--top-k", "4")
    assert text == (
        f"{folder / QUERY}\n"
        + "".join(
            f"    {rank}  {cosine:7.4f}  {verdict}  {path}\n"
            for rank, ((path, cosine), verdict) in enumerate(zip(hits, verdicts, strict=True), 1)
        )
        + "\n"
        "Same person: cosine of 0.9900 or more. At most 0.1 % of the pairs of different persons reach that, and 75.0 % "
        "of the pairs of one person (measured on 4 query and 9 gallery images).\n"
        "1 query in a gallery of 5 images\n"
    )
    looser = said(capsys, QUERY, *MODEL, "--gallery", "gallery", "--false-match-rate", "0.01")
    assert "Same person: cosine of 0.9000 or more. At most 1 % of" in looser
    assert "No threshold is known" in said(capsys, QUERY, "--model", "plain.onnx", "--gallery", "gallery")


@pytest.mark.parametrize("name", ["rows.npz", "rows.parquet"])
def test_a_gallery_that_is_kept_gives_the_same_hits_without_its_images(folder, capsys, tmp_path, name):
    kept = tmp_path / name
    said(capsys, "query", *MODEL, "--gallery", "gallery", "--save-gallery", str(kept), "--output", "first.json")
    assert read_embeddings(kept).about.model_sha256 == file_sha256(Path("judges.onnx"))
    for place in (kept, tmp_path):
        said(capsys, "query", *MODEL, "--gallery", str(place), "--output", "second.json")
        assert Path("second.json").read_text() == Path("first.json").read_text()
    assert [row[0][0] for row in hits_of("first.json")] == [
        str(folder / "gallery" / n) for n in ("red.png", "blue.bmp")
    ]
    assert hits_of("first.json")[0] == [
        (path, pytest.approx(cosine, abs=1e-6)) for path, cosine in ranked(folder, QUERY)
    ]


def test_embeddings_against_embeddings_need_no_model_and_take_thresholds_from_the_file(folder, capsys, tmp_path):
    said(capsys, "query", *MODEL, "--gallery", "gallery", "--save-gallery", str(tmp_path / "g.npz"))
    said(capsys, QUERY, *MODEL, "--gallery", "query", "--save-gallery", str(tmp_path / "q.parquet"))
    said(capsys, str(tmp_path / "q.parquet"), "--gallery", str(tmp_path / "g.npz"), "--output", str(tmp_path / "h.csv"))
    with (tmp_path / "h.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    path, cosine = ranked(folder, QUERY)[0]
    assert rows[0] == {
        "query": str(folder / QUERY),
        "rank": "1",
        "img_path": path,
        "similarity": f"{cosine:.6f}",
        "same_person": "true",
    }
    assert rows[4]["same_person"] == "false"


def test_a_json_of_tao_is_a_gallery_with_a_warning(folder, capsys, caplog, tmp_path):
    said(capsys, QUERY, *MODEL, "--gallery", "gallery", "--save-gallery", str(tmp_path / "g.npz"), "--output", "a.json")
    write_json(tmp_path / "g.json", read_embeddings(tmp_path / "g.npz").all_rows())
    said(capsys, QUERY, *MODEL, "--gallery", str(tmp_path / "g.json"), "--output", "b.parquet")
    table = pq.read_table("b.parquet").to_pylist()
    assert [(row["img_path"], row["similarity"]) for row in table] == hits_of("a.json")[0]
    assert f"{tmp_path}/g.json: nothing says which model its embeddings, or those of the queries, are of" in caplog.text


def test_the_sheet_shows_images_and_empty_frames_for_those_that_are_gone(capsys, tmp_path):
    rows = Embeddings(
        [f"/gone/{row}.jpg" for row in range(3)], np.zeros(3, int), np.zeros(3, int), np.eye(3, 16, dtype="f4")
    )
    about = About(model_sha256=file_sha256(Path("judges.onnx")))
    write_embeddings(tmp_path / "g.npz", blocks_of({"": rows}), rows=3, width=16, about=about)
    for place in ("gallery", str(tmp_path / "g.npz")):
        sheet = tmp_path / "sheet.png"
        said(capsys, "query", *MODEL, "--gallery", place, "--sheet", str(sheet))
        with Image.open(sheet) as picture:
            assert picture.width > 900
            assert picture.height > 500


def file_of(tmp_path: Path, count: int, width: int = 16, sha: str = "") -> str:
    rows = Embeddings(
        [str(row) for row in range(count)], np.zeros(count, int), np.zeros(count, int), np.ones((count, width), "f4")
    )
    write_embeddings(tmp_path / "g.npz", blocks_of({"": rows}), rows=count, width=width, about=About(model_sha256=sha))
    return str(tmp_path / "g.npz")


def test_embeddings_of_another_model_are_refused_unless_it_is_the_same_network(capsys, tmp_path):
    file = file_of(tmp_path, 2, sha="b" * 64)
    assert said(capsys, QUERY, *MODEL, "--gallery", file, status=2) == (
        f"error: {file}: embeddings of another model than those of the queries\n"
        f"  found: SHA-256 {'b' * 64}\n"
        f"  want: {file_sha256(Path('judges.onnx'))}; or --same-network if one file is made from the other\n"
    )
    said(capsys, QUERY, *MODEL, "--gallery", file, "--same-network")
    file_of(tmp_path, 2, width=7)
    assert said(capsys, QUERY, *MODEL, "--gallery", file, status=2) == (
        f"error: {file}: embeddings of width 7\n  want: 16, as those of the queries\n"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["query", "--gallery", "gallery"], "no model: want --model FILE, or -e SPEC of a training"),
        (["nobody.jpg", "--gallery", "gallery", *MODEL], "{}/nobody.jpg: no such file\n  want: an image file"),
        (["empty", "--gallery", "gallery", *MODEL], "empty: no image in this folder"),
        (["query", "--gallery", "empty", *MODEL], "empty: no image in this folder"),
        (
            ["query", "--gallery", "gallery/red.png", *MODEL],
            "gallery/red.png: one image is no gallery\n  want: a folder, or a file of embeddings",
        ),
        (
            ["query", "--gallery", "judges.onnx", *MODEL],
            "judges.onnx: not a file of embeddings\n  want: one of .json, .npz, .parquet",
        ),
        (
            ["query", "--gallery", "nowhere", *MODEL],
            "nowhere: no such file or folder\n  want: a file of embeddings, or a folder",
        ),
        (
            ["query", "rows.npz", "--gallery", "gallery", *MODEL],
            "rows.npz: embeddings beside other queries\n  want: that file alone, or images",
        ),
        (
            ["query", "--gallery", "gallery", *MODEL, "--output", "hits.txt"],
            "hits.txt: not an ending of results\n  want: one of .json, .csv, .parquet",
        ),
        (
            ["query", "--gallery", "gallery", *MODEL, "--sheet", "hits.gif"],
            "hits.gif: not an ending of a picture\n  want: one of .png, .svg, .pdf",
        ),
        (
            ["query", "--gallery", "gallery", "--model", "plain.onnx", "--false-match-rate", "0.01"],
            "false match rate 0.01: the model knows no threshold\n  want: the model of a training, or its ONNX file "
            "exported after reid evaluate on images of known persons",
        ),
    ],
)
def test_what_cannot_be_searched_is_one_clear_error(folder, capsys, arguments, error):
    assert said(capsys, *arguments, status=2) == f"error: {error.format(folder)}\n"


@pytest.mark.parametrize(("option", "value"), [("--top-k", "0"), ("--top-k", "x"), ("--false-match-rate", "1")])
def test_a_number_out_of_range_is_refused_at_once(capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        main(["search", "query", "--gallery", "gallery", option, value])
    assert caught.value.code == 2
    assert f"{option}: {value}: want a" in capsys.readouterr().err


def test_pictures_that_are_not_searched_are_named(folder, caplog):
    place = folder / "phone"
    place.mkdir()
    (place / "a.png").write_bytes((folder / "gallery" / "red.png").read_bytes())
    for name in ("c.heic", "b\n.HEIC", "notes.txt"):
        (place / name).touch()
    assert [file.name for file in _require_images(place)] == ["a.png"]
    assert caplog.messages == [
        f"{place}: 2 files are pictures in formats that are not searched (first: b\\n.HEIC); convert them to one of "
        ".jpg, .jpeg, .jfif, .png, .bmp, .webp, .tif, .tiff"
    ]


def test_no_rows_damaged_rows_and_a_folder_of_both_kinds_are_refused(folder, capsys, tmp_path):
    file = file_of(tmp_path, 0)
    assert said(capsys, QUERY, *MODEL, "--gallery", file, status=2) == (
        f"error: {file}: no embeddings in it\n  want: at least one row\n"
    )
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing")
    assert said(capsys, QUERY, *MODEL, "--gallery", str(tmp_path / "bad.parquet"), status=2).startswith(
        f"error: {tmp_path}/bad.parquet: not readable as embeddings ("
    )
    for name, broken in (("gallery", np.nan), ("query", 0.0)):
        vectors = np.array([[1.0] * 16, [broken] * 16], np.float32)
        np.savez(tmp_path / f"{name}.npz", vectors=vectors, paths=np.array(["a.jpg", "b.jpg"]))
    assert said(capsys, QUERY, *MODEL, "--gallery", str(tmp_path / "gallery.npz"), status=2) == (
        f"error: {tmp_path}/gallery.npz: row 2 has no direction\n  found: not finite\n"
        "  want: finite values, not all zeros\n"
    )
    assert said(capsys, str(tmp_path / "query.npz"), *MODEL, "--gallery", "gallery", status=2).startswith(
        "error: query b.jpg: embeddings: 1 of 2 have no direction\n  first: row 1, all zeros\n"
    )
    for name in ("gallery.npz", "query.npz"):
        (tmp_path / name).unlink()
    (tmp_path / "red.png").write_bytes((folder / "gallery" / "red.png").read_bytes())
    assert said(capsys, QUERY, *MODEL, "--gallery", str(tmp_path), status=2) == (
        f"error: {tmp_path}: images and files of embeddings\n  found: red.png, bad.parquet\n"
        "  want: a folder of either, or the file itself\n"
    )


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that opens its model fails: it did not refuse in time."""

    def opened(*_: object, **__: object) -> None:
        pytest.fail("the model was opened")

    monkeypatch.setattr("reid.deploy.opening.open_model", opened)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--output", "rows.parquet"], "--output rows.parquet: the same file as --gallery"),
        (["--output", "./x.csv", "--sheet", "x.csv"], "--sheet x.csv: the same file as --output"),
        (["--sheet", QUERY], f"--sheet {QUERY}: the same file as a query"),
    ],
)
def test_a_file_that_is_read_is_not_written(capsys, options, error):
    text = said(capsys, QUERY, *MODEL, "--gallery", "rows.parquet", *options, status=2)
    assert text == f"error: {error}\n  want: a file of its own\n"


@pytest.mark.usefixtures("no_model")
def test_a_file_that_cannot_be_kept_is_refused_before_anything_is_embedded(capsys, tmp_path):
    keep = ("--save-gallery", str(tmp_path / "kept.txt"))
    assert said(capsys, QUERY, *MODEL, "--gallery", "gallery", *keep, status=2) == (
        f"error: {tmp_path}/kept.txt: not an ending of embeddings\n  want: one of .npz, .parquet\n"
    )
    rows = file_of(tmp_path, 2)
    assert said(capsys, QUERY, *MODEL, "--gallery", rows, "--save-gallery", str(tmp_path / "k.npz"), status=2) == (
        f"error: {rows}: embedded already\n  want: a folder of images with --save-gallery\n"
    )


def test_file_names_that_are_not_utf8_are_found_and_written_or_refused_clearly(folder, capsys, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    image = (folder / "gallery" / "red.png").read_bytes()
    try:
        Path(os.fsdecode(os.fsencode(odd) + b"/\xff.png")).write_bytes(image)
    except OSError:
        pytest.skip("this file system only takes names in UTF-8")
    asked = (QUERY, *MODEL, "--gallery", str(odd))
    said(capsys, *asked, "--output", str(tmp_path / "hits.csv"))
    assert b"/odd/\xff.png," in (tmp_path / "hits.csv").read_bytes()
    said(capsys, *asked, "--output", str(tmp_path / "hits.json"))
    assert json.loads((tmp_path / "hits.json").read_text())["queries"][0]["hits"][0]["img_path"].endswith("\udcff.png")
    said(capsys, *asked, "--save-gallery", str(tmp_path / "kept.npz"))
    assert np.load(tmp_path / "kept.npz")["paths"].tolist() == [os.fsencode(odd) + b"/\xff.png"]
    assert next(NpzFile(tmp_path / "kept.npz").names()).paths == [f"{odd}/\udcff.png"]
    for option, name in (("--output", "hits.parquet"), ("--save-gallery", "k.parquet")):
        text = said(capsys, *asked, option, str(tmp_path / name), status=2)
        assert text.startswith(f"error: {tmp_path}/{name}: 1 of ") and "file names are not UTF-8\n  first: " in text
        assert not (tmp_path / name).exists()
