"""`reid client` against a real Triton server: its JSON is the one of `reid inference`, without the gallery's junk."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.cli.commands import main
from reid.cli.tasks import run_task
from reid.deploy.triton import write_repository
from reid.errors import ArtifactError, DatasetError
from reid.model.checkpoint import save_model
from reid.spec import load_spec
from reid.stages.client import _splits, client
from tests.exporting import exported
from tests.small_market import write_image, write_market
from tests.triton_server import TritonServer
from tests.written import read_json

ROOT = Path(__file__).resolve().parents[2]
NAME = "re_identification_tao"
TOLERANCE = 1e-6
"""Between torch and ONNX Runtime, of embeddings whose entries are about 0.05: float32 sums in another order."""


@dataclass(frozen=True)
class Served:
    """A network as a checkpoint, the same behind a server, and images of it."""

    checkpoint: Path
    market: Path
    server: TritonServer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Among the images are PNGs, grey ones, others of another size, and junk; 19 queries and 5 gallery images."""
    folder = tmp_path_factory.mktemp("served")
    onnx, network, contract = exported(folder / "model.onnx")
    save_model(folder / "model.pth", network, contract=contract, persons=[1, 2, 3, 4, 5])
    market = write_market(folder / "market")
    for number in range(15):
        write_image(market / "query" / f"0004_c2s1_{number:06d}_01.jpeg", size=(20 + number, 90))
    write_image(market / "query" / "0005_c1s1_000009_01.png", format="PNG")
    write_image(market / "query" / "0005_c1s1_000010_01.PNG", mode="L", format="PNG")
    write_repository(folder / "models", onnx, backend="python", name=NAME, max_batch_size=16)
    server = TritonServer(folder / "models", folder / "log")
    try:
        yield Served(folder / "model.pth", market, server.start())
    finally:
        server.kill()


@pytest.fixture(scope="module")
def inferred(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of `reid inference` on the same images."""
    folder = tmp_path_factory.mktemp("inferred")
    overrides = [
        f"results_dir={folder}", f"inference.checkpoint={served.checkpoint}",
        f"dataset.query_dataset_dir={served.market}/query",
        f"dataset.test_dataset_dir={served.market}/bounding_box_test",
    ]  # fmt: skip
    run_task("inference", load_spec(text="", overrides=overrides))
    return folder / "inference" / "inference.json"


def arguments(served: Served, output: Path, *more: str) -> list[str]:
    """As the seed's line has them."""
    return [
        "client", f"{served.market}/query", "--test_dir", f"{served.market}/bounding_box_test", "-m", NAME, *more,
        "--output_path", str(output),
    ]  # fmt: skip


def assert_same_rows(found: Path, wanted: Path) -> None:
    rows, others = read_json(found), [row for row in read_json(wanted) if "/-1_c" not in row[0]]
    assert [path for path, _ in rows] == [path for path, _ in others]
    vectors, expected = (np.array([vector for _, vector in each]) for each in (rows, others))
    assert np.ptp(expected, axis=0).mean() > 1000 * TOLERANCE, "another row would be seen"
    assert vectors == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["model", "-x", "1", "-b", "16", "--mode", "Re_identification", "-i", "https", "-u", "{http}", "--async"],
        ["-x", "1", "-b", "16", "--mode", "Re_identification", "-i", "gRPC", "-u", "{grpc}", "-a"],
        ["-b", "5", "-i", "http", "-u", "http://{http}"],
        ["-u", "{http}"],
        ["-b", "3", "-i", "grpc", "-u", "{grpc}", "--streaming", "-v"],
        ["-b", "16", "-u", "{http}", "--class_list", "person,bag", "--postprocessing_config", "/none"],
    ],
    ids=["the seed's own line", "grpc", "one request at a time", "the defaults", "streaming", "of other modes"],
)
def test_the_json_is_that_of_inference_row_for_row(
    served: Served, inferred: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server = {"http": served.server.http, "grpc": served.server.grpc}
    assert main(arguments(served, tmp_path, *(word.format(**server) for word in more))) == 0
    assert_same_rows(tmp_path / "results.json", inferred)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert capsys.readouterr().out.splitlines()[-1] == f"23 embeddings of width 16: {tmp_path}/results.json"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_is_started_a_moment_later_is_waited_for(
    served: Served, inferred: Path, tmp_path: Path, protocol: str
) -> None:
    served.server.kill()
    later = threading.Timer(1.0, served.server.start)
    later.start()
    try:
        assert main(arguments(served, tmp_path, "-u", served.server.url(protocol), "-i", protocol, "-b", "16")) == 0
    finally:
        later.join()
    assert_same_rows(tmp_path / "results.json", inferred)


@pytest.mark.slow
def test_an_earlier_json_is_replaced_and_not_added_to_and_stays_where_the_client_fails(
    served: Served, inferred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert main(arguments(served, tmp_path, "-u", served.server.http, "-b", "17")) == 2
    assert main(arguments(served, tmp_path, "-u", served.server.http, "-x", "2")) == 2
    assert (tmp_path / "results.json").read_text() == "[]"
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: {served.server.http}: no model {NAME}, version 2",
        f"  found: {NAME} version 1",
    ]
    assert main(arguments(served, tmp_path, "-u", served.server.http, "-b", "16")) == 0
    assert_same_rows(tmp_path / "results.json", inferred)


@pytest.mark.slow
def test_folders_are_named_as_the_command_line_names_them(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "query").mkdir()
    (tmp_path / "query" / "0001_c1s1_000001_01.jpg").write_bytes(b"no picture")
    line = ["-m", NAME, "-u", served.server.http, "--output_path", str(tmp_path)]
    assert main(["client", f"{tmp_path}/no", "--test_dir", f"{tmp_path}/none", *line]) == 2
    assert capsys.readouterr().err == (
        "error: the images are not there: 2 of 2 folders missing\n"
        f"  query: no such folder: {tmp_path}/no (the folder or file to embed)\n"
        f"  gallery: no such folder: {tmp_path}/none (--test_dir)\n"
    )
    assert main(["client", f"{tmp_path}/query", "--test_dir", f"{tmp_path}/empty", *line]) == 2
    shown = capsys.readouterr().err
    assert f"no image in {tmp_path}/empty (--test_dir)" in shown
    assert "1 of 1 images cannot be read" in shown


@pytest.mark.slow
def test_one_image_or_a_folder_alone_is_embedded_without_a_gallery(
    served: Served, inferred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dict(read_json(inferred))
    monkeypatch.chdir(served.market / "query")
    line = ["-m", NAME, "-u", served.server.http, "-b", "16", "--output_path", str(tmp_path)]
    assert main(["client", "0005_c1s1_000009_01.png", *line]) == 0
    ((path, vector),) = read_json(tmp_path / "results.json")
    assert path == f"{served.market}/query/0005_c1s1_000009_01.png"
    assert vector == pytest.approx(rows[path], abs=TOLERANCE)
    assert main(["client", f"{served.market}/query", *line]) == 0
    found = [path for path, _ in read_json(tmp_path / "results.json")]
    assert found == [path for path in rows if path.startswith(f"{served.market}/query/")]


@pytest.mark.slow
def test_a_proxy_is_not_asked_for_a_server_of_this_machine(served: Served, inferred: Path, tmp_path: Path) -> None:
    """In processes of their own: gRPC reads the variables when it starts."""
    nobody = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nobody)
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    for protocol in ("http", "grpc"):
        line = ["-u", served.server.url(protocol), "-i", protocol, "-b", "16", "--patience", "5"]
        command = [sys.executable, "-m", "reid", *arguments(served, tmp_path / protocol, *line)]
        subprocess.run(command, env=kept | proxies | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
        assert_same_rows(tmp_path / protocol / "results.json", inferred)


@pytest.mark.slow
def test_files_may_have_any_names(served: Served, tmp_path: Path) -> None:
    files = [write_image(tmp_path / "shop" / name) for name in ("a/anna 1.jpg", "b/12-north.jpg", "b/holiday.jpeg")]
    line = ["client", f"{tmp_path}/shop/a", "--test_dir", f"{tmp_path}/shop/b", "-m", NAME, "-u", served.server.http]
    assert main([*line, "--output_path", str(tmp_path)]) == 0
    assert [path for path, _ in read_json(tmp_path / "results.json")] == [str(file) for file in files]


@pytest.mark.slow
def test_relative_folders_give_absolute_paths_as_in_inference(
    served: Served, inferred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.market)
    line = ["client", "query", "--test_dir", "bounding_box_test", "-m", NAME, "-u", served.server.http, "-b", "16"]
    assert main([*line, "--output_path", str(tmp_path)]) == 0
    assert_same_rows(tmp_path / "results.json", inferred)


@pytest.mark.slow
def test_the_command_loads_neither_torch_nor_a_spec(served: Served, tmp_path: Path) -> None:
    code = (
        "import sys; from reid.cli.commands import main; status = main(sys.argv[1:]); "
        "print(status, *sorted({'torch', 'onnx', 'onnxruntime', 'mlflow'} & set(sys.modules)))"
    )
    line = arguments(served, tmp_path, "-u", served.server.http, "-b", "16")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done: Any = subprocess.run(
        [sys.executable, "-c", code, *line], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert len(json.loads((tmp_path / "results.json").read_text())) == 23


def test_junk_of_the_gallery_is_left_out_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    market = write_market(tmp_path / "market")
    write_image(market / "query" / "-1_c1s1_000001_01.jpg")
    caplog.set_level(logging.INFO, "reid")
    found = _splits(market / "query", market / "bounding_box_test")
    assert [image.file for image in found["gallery"].images] == [
        "0000_c2s1_000001_01.jpg",
        "0004_c1s1_000002_01.jpg",
        "0004_c2s1_000001_01.jpg",
        "0005_c1s1_000001_01.jpg",
    ]
    assert len(found["query"]) == 3
    assert "--test_dir: 1 of 5 images are junk (-1_c…) and left out" in caplog.messages


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=f"^{tmp_path}/a.jpg: the image cannot be read: "):
        _splits(tmp_path / "a.jpg", None)


def test_an_output_that_cannot_be_written_is_told_before_the_server_is_asked_for_images(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/file/results.json: cannot be written"):
        client(None, query=tmp_path / "no", gallery=None, output=tmp_path / "file")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--streaming"],
            "--streaming: only gRPC can stream\n  found: http (-i)\n"
            "  want:  -i grpc, with Triton's gRPC port (by default 8001); or without --streaming",
        ),
        (["--mean", "0.5"], "--mean: found alone\n  want: --mean and --std, a number for each channel"),
        (["--mean", "0.5", "--std", "1", "1"], "--mean, --std: found 1 and 2 numbers, want as many of both"),
        (["--contract", "c.json", "--mean", "0.5"], "--contract and --mean: found both, want one of them"),
    ],
)
def test_arguments_that_contradict_each_other_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    line = ["client", "query", "-m", NAME, "--output_path", str(tmp_path), "--patience", "0"]
    assert main([*line, *words]) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


@pytest.mark.parametrize(
    "wrong",
    [["--mode", "Classification"], ["-i", "ftp"], ["-b", "0"], ["-b", "x"], ["--patience", "nan"], ["another", "word"]],
    ids=["mode", "protocol", "batch", "batch_word", "patience", "words"],
)
def test_what_the_client_does_not_know_is_a_usage_error(tmp_path: Path, wrong: list[str]) -> None:
    line = ["client", "query", "--test_dir", "test", "-m", NAME, "--output_path", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        main([*line, *wrong])
    assert caught.value.code == 2
