"""End to end, as TAO's sample: the data set from the web, a model from its checkpoint, server, client, figures."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from reid.cli.commands import main
from reid.data.market1501 import PersonImage, Split
from reid.errors import DatasetError
from reid.model.checkpoint import save_model
from reid.stages.start_client import sampled
from tests.archive_server import serving
from tests.drawn_persons import write_persons
from tests.exporting import contract_of, some_network
from tests.triton_server import free_ports, tritonserver, wait_ready

ROOT = Path(__file__).resolve().parents[2]

SPEC = """
results_dir: {folder}/results
dataset: {{num_classes: null, source: {{root: {folder}/data/market, url: "{url}", sha256: {sha256}}}}}
export: {{checkpoint: {folder}/model.pth}}
evaluate: {{checkpoint: {folder}/model.pth}}
re_ranking: {{k1: 4, k2: 2, num_query: 4}}
triton: {{backend: python, max_batch_size: 8, http_port: {http}, grpc_port: {grpc}, metrics_port: {metrics},
         sample_persons: 4}}
"""


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A spec of a checkpoint here, and of a data set on a web server; free ports."""
    folder = tmp_path_factory.mktemp("e2e")
    network = some_network()
    save_model(folder / "model.pth", network, contract=contract_of(network.settings), persons=[1, 2, 3, 4, 5])
    write_persons(folder / "market")
    with ZipFile(folder / "upload.zip", "w") as archive:
        for file in sorted((folder / "market").rglob("*.png")):
            archive.write(file, f"Market-1501/{file.relative_to(folder / 'market')}")
    content = (folder / "upload.zip").read_bytes()
    http, grpc, metrics = free_ports(3)
    with serving(content) as server:
        places = {"folder": folder, "url": server.url, "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "spec.yaml").write_text(SPEC.format(**places, http=http, grpc=grpc, metrics=metrics))
        yield folder / "spec.yaml"


@pytest.fixture(scope="module")
def started(spec_file: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`reid start_server`, ready."""
    path = f"{tritonserver()}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    log = spec_file.with_name("log")
    command = [sys.executable, "-m", "reid", "start_server", "-e", str(spec_file)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        wait_ready(port_of(spec_file, "http"), process, log)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def port_of(spec_file: Path, name: str) -> int:
    return int(spec_file.read_text().partition(f"{name}_port: ")[2].partition(",")[0])


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_sample_goes_through_the_server_to_map_curve_and_sheet(
    started: "subprocess.Popen[bytes]",
    spec_file: Path,
    protocol: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["start_client", "-e", str(spec_file), f"triton.protocol={protocol}"]
    assert main([*line, f"results_dir={tmp_path}"]) == 0
    results = tmp_path / "start_client"
    metrics = json.loads((results / "metrics.json").read_text())
    assert (metrics["persons"], metrics["queries"], metrics["gallery"], metrics["headline"]) == (4, 8, 16, "reranked")
    rows = json.loads((results / "results.json").read_text())
    assert len(rows) == 8 + 16
    assert len({Path(row["img_path"]).name[:4] for row in rows}) == 4
    for name in ("cmc_curve.png", "sampled_matches.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")
    assert f"re-ranked mAP {100 * metrics['reranked_mAP']:.1f} (" in capsys.readouterr().out
    assert started.poll() is None


@pytest.mark.slow
def test_a_second_server_at_the_ports_of_the_first_is_refused(
    started: "subprocess.Popen[bytes]",
    spec_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", f"{tritonserver()}:{os.environ['PATH']}")
    assert main(["start_server", "-e", str(spec_file)]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        f"error: triton.http_port: port {port_of(spec_file, 'http')} of 127.0.0.1 is taken",
        "  found: the server triton 2.51.0",
        "  want:  another port, or the other program stopped",
    ]
    assert started.poll() is None


@pytest.mark.slow
def test_all_persons_through_the_server_score_as_the_evaluation_of_the_checkpoint(
    started: "subprocess.Popen[bytes]", spec_file: Path, tmp_path: Path
) -> None:
    line = ["-e", str(spec_file), "triton.sample_persons=null", f"results_dir={tmp_path}"]
    assert main(["start_client", *line]) == 0
    assert main(["evaluate", *line]) == 0
    ours, theirs = (json.loads((tmp_path / task / "metrics.json").read_text()) for task in ("start_client", "evaluate"))
    for name in ("mAP", "rank1", "rank5", "reranked_mAP", "reranked_rank1", "queries", "gallery"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9), name  # ranks only, no near-ties here
    assert started.poll() is None


@pytest.mark.slow
def test_the_server_stops_when_it_is_asked_to(started: "subprocess.Popen[bytes]", spec_file: Path) -> None:
    """The last test of the module: the server is gone after it."""
    log = spec_file.with_name("log").read_text()
    assert "Triton is ready: http://localhost:" in log
    started.send_signal(signal.SIGINT)
    assert started.wait(60) == 0
    assert main(["start_client", "-e", str(spec_file), "triton.patience_s=0.5"]) == 2
    assert not (spec_file.parent / "results" / "start_client" / "results.json").exists()


def split_of(*images: tuple[int, int]) -> Split:
    return Split(
        Path("/images"), tuple(PersonImage(f"{row}.jpg", person, camera) for row, (person, camera) in enumerate(images))
    )


QUERY = split_of((1, 1), (2, 1), (3, 1), (4, 1), (1, 2))
GALLERY = split_of((1, 2), (2, 2), (3, 1), (4, 3), (4, 1), (0, 1), (-1, 1))
"""Person 3 is seen by one camera only."""


def test_a_sample_is_of_persons_that_can_be_found_and_the_same_for_the_same_seed() -> None:
    seen = set()
    for seed in range(20):
        query, gallery = sampled(QUERY, GALLERY, persons=2, rng=np.random.default_rng(seed))
        again = sampled(QUERY, GALLERY, persons=2, rng=np.random.default_rng(seed))
        assert (query, gallery) == again
        persons = set(query.person.tolist())
        assert len(persons) == 2
        assert set(gallery.person.tolist()) == persons
        assert [image for image in QUERY.images if image.person in persons] == list(query.images)
        seen |= persons
    assert seen == {1, 2, 4}


def test_more_persons_than_there_are_is_all_who_can_be_found_and_null_is_every_image() -> None:
    query, gallery = sampled(QUERY, GALLERY, persons=100, rng=np.random.default_rng(0))
    assert (set(query.person.tolist()), set(gallery.person.tolist())) == ({1, 2, 4}, {1, 2, 4})
    assert sampled(QUERY, GALLERY, persons=None, rng=np.random.default_rng(0)) == (QUERY, GALLERY)


def test_nobody_to_be_found_is_an_error() -> None:
    with pytest.raises(DatasetError) as caught:
        sampled(QUERY, split_of((3, 1), (0, 2)), persons=2, rng=np.random.default_rng(0))
    nobody = "/images: none of 5 queries has an image of its person in another camera in /images"
    assert str(caught.value) == f"{nobody}\n  if there is one camera only, or cameras are unknown: dataset.cameras=none"
    with pytest.raises(DatasetError) as caught:
        sampled(QUERY, split_of((9, 1), (0, 2)), persons=2, rng=np.random.default_rng(0))
    assert str(caught.value) == nobody
