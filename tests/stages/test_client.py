"""`reid client` against a real Triton server: its JSON is the one of `reid inference`."""

import json
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
from reid.model.checkpoint import save_model
from reid.spec import load_spec
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
    rows, others = read_json(found), read_json(wanted)
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
    ],
    ids=["the seed's own line", "grpc", "one request at a time", "the defaults"],
)
def test_the_json_is_that_of_inference_row_for_row(
    served: Served, inferred: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server = {"http": served.server.http, "grpc": served.server.grpc}
    assert main(arguments(served, tmp_path, *(word.format(**server) for word in more))) == 0
    assert_same_rows(tmp_path / "results.json", inferred)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert capsys.readouterr().out.splitlines()[-1] == f"24 embeddings of width 16: {tmp_path}/results.json"


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
        f"  query: no such folder: {tmp_path}/no (query_dir)\n  gallery: no such folder: {tmp_path}/none (--test_dir)\n"
    )
    assert main(["client", f"{tmp_path}/query", "--test_dir", f"{tmp_path}/empty", *line]) == 2
    shown = capsys.readouterr().err
    assert f"no image in {tmp_path}/empty (--test_dir)" in shown
    assert "1 of 1 images cannot be read" in shown


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
    assert len(json.loads((tmp_path / "results.json").read_text())) == 24


@pytest.mark.parametrize(
    "wrong",
    [["--mode", "Classification"], ["-i", "ftp"], ["-b", "0"], ["another", "word"]],
    ids=["mode", "protocol", "batch", "words"],
)
def test_what_the_client_does_not_know_is_a_usage_error(tmp_path: Path, wrong: list[str]) -> None:
    line = ["client", "query", "--test_dir", "test", "-m", NAME, "--output_path", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        main([*line, *wrong])
    assert caught.value.code == 2
