from pathlib import Path

import numpy as np
import pytest

from reid.contract import Contract
from reid.data.market1501 import Manifest, list_folder
from reid.errors import ArtifactError, DatasetError
from reid.library import embed, open_model, score
from reid.model.checkpoint import load_model, save_model
from reid.model.embedder import build_embedder
from reid.spec import load_spec
from reid.stages.evaluate import evaluate
from reid.tracking.stage_run import StageRun
from tests.networks import network_settings
from tests.small_market import FOLDERS, write_image, write_market

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    network = build_embedder(**network_settings())
    save_model(tmp_path / "model" / "reid_model_best.pth", network, contract=CONTRACT, persons=[1, 2, 3, 4, 5])
    return tmp_path / "model"


def test_a_folder_is_embedded_as_the_network_embeds_each_image(tmp_path: Path, model: Path) -> None:
    folder = write_market(tmp_path / "market") / FOLDERS["gallery"]
    (folder / "Thumbs.db").touch()
    found = embed(open_model(str(model), device="cpu"), str(folder))
    assert found.paths == sorted(str(path) for path in folder.glob("*.jpg"))
    assert found.person.tolist() == [-1, 0, 4, 4, 5]
    assert found.camera.tolist() == [1, 2, 1, 2, 1]
    assert found.vectors.shape == (5, 16)
    alone = embed(open_model(model / "reid_model_best.pth", device="cpu"), folder, batch_size=1)
    assert np.abs(found.vectors - alone.vectors).max() < 1e-5  # float32 sums in another order
    assert load_model(model / "reid_model_best.pth").contract == CONTRACT


def test_the_scores_are_those_of_the_evaluate_stage(tmp_path: Path, model: Path) -> None:
    market = write_market(tmp_path / "market")
    splits = {name: list_folder(market / folder).split for name, folder in FOLDERS.items()}
    Manifest(fingerprint="f" * 64, **splits).save(tmp_path / "dataset.json")
    (tmp_path / "evaluate").mkdir()
    outcome = evaluate(
        load_spec(text=f"results_dir: {tmp_path / 'results'}\n"),
        dataset=tmp_path / "dataset.json",
        model=model,
        results=tmp_path / "evaluate",
        report=tmp_path / "evaluate.html",
        run=StageRun.none(),
    )
    opened = open_model(model)
    scored = score(embed(opened, market / FOLDERS["query"]), embed(opened, market / FOLDERS["gallery"]))
    assert len(scored.gallery) == 4  # junk is left out
    for prefix, ranking in (("", scored.plain), ("reranked_", scored.reranked)):
        for name, value in ranking.metrics(prefix).items():
            assert value == pytest.approx(outcome.metrics[name], abs=1e-12)


def test_images_without_a_camera_in_their_names_match_across_query_and_gallery(tmp_path: Path, model: Path) -> None:
    for folder in ("query", "gallery"):
        for person in (1, 2):
            write_image(tmp_path / folder / f"{person}-{folder}.png", format="PNG")
    opened = open_model(model, device="cpu")
    pattern = r"(?P<person>\d+)-.*"
    query, gallery = (
        embed(opened, tmp_path / folder, file_name=pattern, unknown_camera=camera)
        for folder, camera in (("query", 1), ("gallery", 2))
    )
    assert score(query, gallery).plain.scores.valid_queries == 2
    with pytest.raises(DatasetError):
        score(query, embed(opened, tmp_path / "gallery", file_name=pattern))


def test_what_cannot_be_embedded_is_said_at_once(tmp_path: Path, model: Path) -> None:
    opened = open_model(model, device="cpu")
    write_image(tmp_path / "images" / "holiday.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        embed(opened, tmp_path / "images")
    assert str(caught.value) == (
        f"{tmp_path / 'images'}: 1 of 1 images are not named as Market-1501 names them; "
        "want PPPP_cCsS_FFFFFF_NN.jpg, e.g. 0002_c1s1_000451_03.jpg, or set dataset.file_name\n"
        "  first: holiday.jpg"
    )
    with pytest.raises(DatasetError) as caught:
        embed(opened, tmp_path / "empty")
    assert str(caught.value) == f"{tmp_path / 'empty'}: no image in this folder"
    with pytest.raises(ArtifactError) as missing:
        open_model(tmp_path / "none.pth")
    assert str(missing.value).startswith(f"{tmp_path / 'none.pth'}: no model")
