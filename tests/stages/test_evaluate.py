import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid.choice import ON_THE_TEST_IMAGES
from reid.cli.tasks import run_task
from reid.contract import Contract
from reid.data.evaluated import evaluated_images
from reid.data.market1501 import JUNK, Manifest, PersonImage, Split, TestSet, TrainSet, list_folder
from reid.deploy.onnx_export import export_onnx
from reid.embeddings import Embeddings
from reid.errors import DatasetError
from reid.model.checkpoint import load_model, save_model
from reid.model.embedder import build_embedder
from reid.spec import Experiment, load_spec
from reid.stages.evaluate import evaluate
from reid.stages.gen_trt_engine import gen_trt_engine
from reid.stages.outcome import Outcome
from reid.thresholds import Thresholds
from reid.tracking.pipeline_run import open_pipeline_run
from reid.tracking.stage_run import StageRun, stage_run
from reid.tracking.store import connect
from tests.drawn_persons import write_persons
from tests.networks import network_settings
from tests.small_market import FOLDERS, write_image, write_market

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """dataset.json of the small market, and a model directory with an untrained network."""
    return prepare(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The same after one evaluation under "out"; for tests that only look."""
    folder = prepare(tmp_path_factory.mktemp("finished"))
    return folder, run_evaluate(folder)


def prepare(tmp_path: Path) -> Path:
    root = write_market(tmp_path / "market")
    splits = {name: list_folder(root / folder).split for name, folder in FOLDERS.items()}
    Manifest(fingerprint="f" * 64, **splits).save(tmp_path / "dataset.json")
    prepare_model(tmp_path)
    return tmp_path


def prepare_model(folder: Path) -> Path:
    (folder / "model").mkdir()
    network = build_embedder(**network_settings())
    save_model(folder / "model" / "reid_model_best.pth", network, contract=CONTRACT, persons=[1, 2, 3, 4, 5])
    return folder / "model"


def a_spec(folder: Path, *overrides: str) -> Experiment:
    text = f"results_dir: {folder / 'results'}\ndataset:\n  val_batch_size: 3\n  num_classes: 5\n"
    return load_spec(text=text, overrides=list(overrides))


def run_evaluate(
    folder: Path, *overrides: str, out: str = "out", run: StageRun | None = None, model: Path | None = None
) -> Outcome:
    return evaluate(
        a_spec(folder, *overrides),
        dataset=folder / "dataset.json",
        model=model or folder / "model",
        results=folder / out / "results",
        report=folder / out / "report.html",
        run=run or StageRun.none(),
    )


def test_one_pass_gives_plain_and_reranked_figures_and_every_file(finished):
    workplace, outcome = finished
    results = workplace / "out" / "results"
    assert sorted(entry.name for entry in results.iterdir()) == [
        "camera_pairs.csv",
        "cmc_curve.png",
        "cmc_curve.svg",
        "embeddings.npz",
        "metrics.json",
        "per_query.csv",
        "sampled_matches.png",
        "thresholds.json",
    ]
    ranking = ["mAP", "rank1", "rank5", "rank10", "mINP", "mAP_low", "mAP_high", "rank1_low", "rank1_high"]
    assert set(outcome.metrics) == {
        *ranking,
        *(f"reranked_{name}" for name in ranking),
        *("valid_queries", "queries", "gallery", "images_per_second", "rerank_seconds"),
    }
    assert (outcome.metrics["queries"], outcome.metrics["gallery"]) == (2, 4)  # junk is dropped, the distractor stays
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert json.loads((results / "metrics.json").read_text()) == {
        "headline": "reranked",
        "evaluated_images": evaluated_images(Manifest.load(workplace / "dataset.json")),
        "chosen_on_test": "unknown",
        "data_sets": [["market", "f" * 64]],
        **outcome.metrics,
    }
    assert len(outcome.lines) == 2
    shown = {name: f"{100 * value:.1f}" for name, value in outcome.metrics.items()}
    mAP, rank1 = (
        "{} ({}\u2013{})".format(*(shown[f"reranked_{name}{end}"] for end in ("", "_low", "_high")))
        for name in ("mAP", "rank1")
    )
    assert outcome.lines[0] == f"re-ranked: mAP {mAP}, rank-1 {rank1}"
    assert (workplace / "out" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_the_onnx_and_the_engine_give_torchs_figures(on_cpu, tmp_path):
    folder = tmp_path
    write_persons(folder, train=1, test=6)
    loaded = load_model(prepare_model(folder) / "reid_model_best.pth")
    onnx = folder / "m.onnx"
    export_onnx(loaded.network, onnx, contract=CONTRACT, settings=loaded.settings, opset=18, overwrite=False)
    gen_trt_engine(a_spec(folder), onnx=onnx, engine=folder / "engine", run=StageRun.none())
    torchs = run_evaluate(folder, out="torch").metrics
    assert 0.1 < torchs["mAP"] < 1
    measured = {"images_per_second", "rerank_seconds"}
    for file, runner in (
        (onnx, "ONNX Runtime, FP32"),
        (folder / "engine" / "model.engine", "tensorrt 11.0.of-the-tests, FP32"),
    ):
        found = run_evaluate(folder, out=f"by {file.suffix}", model=file).metrics
        for name in torchs.keys() - measured:
            assert found[name] == pytest.approx(torchs[name], abs=1e-6), name
        assert runner in (folder / f"by {file.suffix}" / "report.html").read_text()


def test_the_headline_follows_the_switch_and_both_are_computed_all_the_same(workplace):
    reranked = run_evaluate(workplace, "re_ranking.re_ranking=true", out="a")
    plain = run_evaluate(workplace, "re_ranking.re_ranking=false", out="b")
    assert reranked.parameters["mAP"] == reranked.metrics["mAP"]
    assert plain.parameters == reranked.parameters  # the thresholds are those of the plain ranking
    assert plain.lines[0].startswith("plain: mAP ")
    assert json.loads((workplace / "b" / "results" / "metrics.json").read_text())["headline"] == "plain"


def test_the_untrained_network_is_scored_where_its_embeddings_lie_beside_the_model(workplace):
    manifest = Manifest.load(workplace / "dataset.json")
    # vectors that find every person at once: an axis for each
    parts = [
        Embeddings([str(path) for path in split.paths], split.person, split.camera, axes(split.person))
        for split in (manifest.query, manifest.gallery.without_junk())
    ]
    Embeddings.joined(*parts).save_npz(workplace / "model" / "untrained_embeddings.npz")
    outcome = run_evaluate(workplace)
    assert outcome.metrics["untrained_mAP"] == 1.0
    assert outcome.metrics["untrained_reranked_rank1"] == 1.0
    sure = "100.0 (15.8\u2013100.0)"  # two persons: 0.025 ** 0.5 = 0.158
    assert outcome.lines[2] == f"untrained: mAP {sure}, rank-1 {sure}; re-ranked mAP {sure}, rank-1 {sure}"
    assert outcome.metrics["untrained_mAP_low"] == pytest.approx(0.158, abs=0.001)
    assert "by training" in (workplace / "out" / "report.html").read_text()


def axes(person: np.ndarray) -> np.ndarray:
    return np.eye(8, dtype=np.float32)[person]


def test_untrained_embeddings_of_other_images_are_left_out_with_a_warning(workplace, caplog):
    foreign = Embeddings(["/other/1.jpg"], np.ones(1, np.int64), np.ones(1, np.int64), np.ones((1, 4), np.float32))
    foreign.save_npz(workplace / "model" / "untrained_embeddings.npz")
    outcome = run_evaluate(workplace)
    assert "untrained_mAP" not in outcome.metrics
    assert "untrained_embeddings.npz is of other images; the untrained network is not scored" in caplog.text


def test_the_embeddings_are_kept_for_query_and_gallery_without_junk(finished):
    workplace, _ = finished
    kept = Embeddings.load_npz(workplace / "out" / "results" / "embeddings.npz")
    manifest = Manifest.load(workplace / "dataset.json")
    wanted = manifest.query.paths + manifest.gallery.without_junk().paths
    assert kept.paths == [str(path) for path in wanted]
    assert JUNK not in kept.person


def test_every_query_is_a_line_of_the_csv(finished):
    workplace, _ = finished
    with (workplace / "out" / "results" / "per_query.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["query"]).name for row in rows] == ["0004_c1s1_000001_00.jpg", "0005_c2s1_000001_00.jpg"]
    assert all(int(row["plain_first_match_rank"]) >= 1 for row in rows)


def test_thresholds_say_how_many_pairs_they_come_from(finished):
    workplace, outcome = finished
    text = (workplace / "out" / "results" / "thresholds.json").read_text()
    record = json.loads(text)
    # 2 queries x 4 images, less the own-camera image of person 4; each query has one match
    assert (record["same_person_pairs"], record["different_person_pairs"]) == (2, 5)
    best = record["thresholds"][0]
    assert best["name"] == "best F1"
    assert best["cosine"] == pytest.approx(1 - best["distance"] / 2)
    checkpoint = workplace / "model" / "reid_model_best.pth"
    assert record["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert record["measured_on"].startswith("the 2 query and 4 gallery images of the test set (data fingerprint ")
    assert Thresholds.from_json(text).to_json() == outcome.parameters["thresholds"]  # as the pipeline hands them on


def test_where_no_threshold_can_be_judged_the_pipeline_is_handed_none(tmp_path):
    prepare_model(tmp_path)
    for folder, names in {"query": ["0001_c1s1_000001_00.jpg"], "gallery": ["0001_c2s1_000001_01.jpg"]}.items():
        for name in names:
            write_image(tmp_path / folder / name)
    splits = [list_folder(tmp_path / name).split for name in ("query", "gallery")]
    Manifest("f" * 64, Split(tmp_path, ()), *splits).save(tmp_path / "dataset.json")
    assert run_evaluate(tmp_path).parameters["thresholds"] == ""
    assert json.loads((tmp_path / "out" / "results" / "thresholds.json").read_text())["thresholds"] == []


def test_plots_are_also_written_where_the_spec_asks_for_them(workplace):
    run_evaluate(
        workplace,
        f"evaluate.output_cmc_curve_plot={workplace / 'mine' / 'cmc.pdf'}",
        f"evaluate.output_sampled_matches_plot={workplace / 'mine' / 'matches.svg'}",
    )
    assert (workplace / "mine" / "cmc.pdf").read_bytes().startswith(b"%PDF")
    assert (workplace / "mine" / "matches.svg").read_bytes().startswith(b"<?xml")


def test_rows_and_columns_of_the_sheet_and_ranks_of_the_curve_are_the_specs(workplace):
    run_evaluate(workplace, "re_ranking.num_query=2", "re_ranking.max_rank=3", out="wide")
    run_evaluate(workplace, "re_ranking.num_query=1", "re_ranking.max_rank=3", out="low")
    run_evaluate(workplace, "re_ranking.num_query=1", "re_ranking.max_rank=1", out="one")
    sizes = {}
    for out in ("wide", "low", "one"):
        with Image.open(workplace / out / "results" / "sampled_matches.png") as sheet:
            sizes[out] = sheet.size
    assert sizes["wide"][1] > sizes["low"][1]
    assert "rank-1</th><th>mINP" in (workplace / "one" / "report.html").read_text()


def test_a_second_run_over_the_first_gives_the_same_pictures(workplace):
    run_evaluate(workplace)
    names = ["cmc_curve.png", "cmc_curve.svg", "sampled_matches.png", "per_query.csv", "thresholds.json"]
    before = {name: (workplace / "out" / "results" / name).read_bytes() for name in names}
    run_evaluate(workplace)
    assert {name: (workplace / "out" / "results" / name).read_bytes() for name in names} == before


def test_the_report_says_on_what_the_best_checkpoint_was_chosen_if_the_model_says_it(workplace):
    file = workplace / "model" / "reid_model_best.pth"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["reid"]["chosen_on"] = "12 held-out training persons, 143 images"
    torch.save(checkpoint, file)
    outcome = run_evaluate(workplace)
    said = "The best checkpoint was chosen on other persons than these: 12 held-out training persons, 143 images."
    assert f'<p class="choice note"><span class="tone">{said}</span></p>' in (workplace / "out/report.html").read_text()
    metrics = json.loads((workplace / "out/results/metrics.json").read_text())
    assert metrics["chosen_on"] == "12 held-out training persons, 143 images"
    assert metrics["chosen_on_test"] == "no"
    assert len(outcome.lines) == 2


@pytest.mark.parametrize(
    ("fingerprint", "answer", "said"),
    [
        ("f" * 64, "yes", "The best checkpoint was chosen on these images, so the figures are too good."),
        (
            "e" * 64,
            "unknown",
            "The best checkpoint was chosen on the query and gallery images of the data set that it was trained on; if "
            "these are among them, the figures are too good.",
        ),
    ],
)
def test_figures_on_the_images_of_the_choice_are_said_to_be_too_good(workplace, fingerprint, answer, said):
    file = workplace / "model" / "reid_model_best.pth"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["reid"] |= {"chosen_on": ON_THE_TEST_IMAGES, "chosen_fingerprint": fingerprint}
    torch.save(checkpoint, file)
    outcome = run_evaluate(workplace)
    assert (
        f'<p class="choice warning"><span class="tone">{said}</span></p>' in (workplace / "out/report.html").read_text()
    )
    assert json.loads((workplace / "out/results/metrics.json").read_text())["chosen_on_test"] == answer
    assert outcome.lines[-1] == said


@pytest.mark.slow
def test_the_onnx_and_the_engine_of_a_checkpoint_say_what_it_was_chosen_on_too(on_cpu, workplace):
    file, onnx = workplace / "model" / "reid_model_best.pth", workplace / "m.onnx"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["reid"] |= {"chosen_on": ON_THE_TEST_IMAGES, "chosen_fingerprint": "f" * 64}
    torch.save(checkpoint, file)
    loaded = load_model(file)
    form = {"contract": CONTRACT, "settings": loaded.settings, "opset": 18, "overwrite": False}
    export_onnx(loaded.network, onnx, **form, choice=loaded.choice)
    gen_trt_engine(a_spec(workplace), onnx=onnx, engine=workplace / "engine", run=StageRun.none())
    for model in (onnx, workplace / "engine" / "model.engine"):
        run_evaluate(workplace, model=model)
        metrics = json.loads((workplace / "out/results/metrics.json").read_text())
        assert (metrics["chosen_on"], metrics["chosen_on_test"]) == (ON_THE_TEST_IMAGES, "yes"), model


@pytest.fixture(scope="module")
def of_two_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The main set beside a further one of the same persons, but one, in a folder of its own."""
    folder = prepare(tmp_path_factory.mktemp("sets"))
    root = write_market(folder / "shop")
    (root / "query" / "0005_c2s1_000001_00.jpg").unlink()
    write_image(root / "bounding_box_test" / "0004_c3s1_000001_01.jpg")
    main = Manifest.load(folder / "dataset.json")
    shop = TestSet("shop", "a" * 64, list_folder(root / "query").split, list_folder(root / "bounding_box_test").split)
    parts = (TrainSet("market", 0, 4), TrainSet("shop", 4, 2))
    sets = replace(main, train_sets=parts, test_sets=(shop,), trained_on=("shop",))
    sets.save(folder / "dataset.json")
    return folder, run_evaluate(folder)


def test_a_further_test_set_is_scored_as_if_it_were_the_only_one(of_two_sets, finished, tmp_path):
    folder, outcome = of_two_sets
    shop = Manifest.load(folder / "dataset.json").test_sets[0]
    alone = prepare(tmp_path)
    main = Manifest.load(alone / "dataset.json")
    Manifest("a" * 64, main.train, shop.query, shop.gallery).save(alone / "dataset.json")
    (alone / "model/reid_model_best.pth").write_bytes((folder / "model/reid_model_best.pth").read_bytes())
    wanted = run_evaluate(alone).metrics
    for name in ("mAP", "rank1", "reranked_mAP", "reranked_rank1", "queries", "gallery"):
        assert outcome.metrics[f"{name}_shop"] == pytest.approx(wanted[name])
    assert (outcome.metrics["queries"], outcome.metrics["queries_shop"]) == (2, 1)
    written = Embeddings.load_npz(folder / "out/results/embeddings_shop.npz")
    assert written.paths == [str(path) for path in [*shop.query.paths, *shop.gallery.without_junk().paths]]
    assert len(Embeddings.load_npz(folder / "out/results/embeddings.npz")) == len(main.query) + len(main.gallery) - 1
    assert json.loads((folder / "out/results/metrics.json").read_text())["mAP_shop"] == outcome.metrics["mAP_shop"]
    assert outcome.lines[-1].startswith("test set shop: mAP ")
    assert "mAP_low_shop" not in outcome.metrics  # of one person nothing can be said


def test_the_report_has_a_table_of_training_sets_by_test_sets_only_if_there_are_several(of_two_sets, finished):
    page = (of_two_sets[0] / "out/report.html").read_text()
    assert "Training sets by test sets" in page
    assert "Trained on market (4 images), shop (2 images)." in page
    assert '<tr class="main"><td>main</td><td>no</td>' in page
    assert "<tr><td>shop</td><td>yes</td>" in page
    assert "Training sets by test sets" not in (finished[0] / "out/report.html").read_text()
    assert [name for name in finished[1].metrics if name.startswith("mAP_")] == ["mAP_low", "mAP_high"]


def test_a_further_test_set_without_any_match_is_an_error_that_names_its_folder(workplace):
    main = Manifest.load(workplace / "dataset.json")
    strangers = Split(workplace / "strangers", (PersonImage("0009_c1s1_000001_01.jpg", 9, 1),))
    replace(main, test_sets=(TestSet("shop", "a" * 64, main.query, strangers),)).save(workplace / "dataset.json")
    with pytest.raises(DatasetError, match="none of 2 queries has an image of its person in another camera"):
        run_evaluate(workplace)


def test_a_gallery_without_any_match_is_a_data_error_before_anything_is_embedded(workplace):
    other = workplace / "strangers"
    write_image(other / "0009_c1s1_000001_01.jpg")
    manifest = Manifest.load(workplace / "dataset.json")
    gallery = list_folder(other).split
    Manifest("0" * 64, manifest.train, manifest.query, gallery).save(workplace / "dataset.json")
    with pytest.raises(DatasetError) as caught:
        run_evaluate(workplace)
    assert str(caught.value) == (
        f"{manifest.query.root}: none of 2 queries has an image of its person in another camera in the gallery\n"
        f"  gallery: {other}, 1 images without junk\n"
        "  first: 0004_c1s1_000001_00.jpg\n"
        "  want:  at least one; without it neither mAP nor CMC is defined"
    )
    assert not (workplace / "out").exists()


def test_a_set_of_one_camera_is_scored_as_soon_as_the_spec_says_that_cameras_are_unknown(tmp_path):
    # each person once as a query and once in the gallery; nobody is left out as a view of the query's own camera
    root, model = tmp_path / "shop", prepare_model(tmp_path)
    for person in (4, 5):
        write_image(root / "query" / f"{person:04d}_c1s1_000001_01.jpg")
        write_image(root / "gallery" / f"{person:04d}_c1s1_000002_01.jpg")
    of_shop = [f"dataset.query_dataset_dir={root}/query", f"dataset.test_dataset_dir={root}/gallery"]
    of_shop += [f"evaluate.checkpoint={model}", "re_ranking.k1=2", "re_ranking.k2=1"]
    with pytest.raises(DatasetError) as caught:
        run_task("evaluate", a_spec(tmp_path, *of_shop))
    assert str(caught.value) == (
        f"{root}/query: none of 2 queries has an image of its person in another camera in the gallery\n"
        f"  gallery: {root}/gallery, 2 images without junk\n"
        "  first: 0004_c1s1_000001_01.jpg\n"
        "  want:  at least one; without it neither mAP nor CMC is defined\n"
        "  if there is one camera only, or cameras are unknown: dataset.cameras=none"
    )
    outcome = run_task("evaluate", a_spec(tmp_path, *of_shop, "dataset.cameras=none"))
    assert outcome.metrics["mAP"] >= 0.5  # of two gallery images the match is first or second
    rows = list(csv.DictReader((tmp_path / "results" / "evaluate" / "per_query.csv").read_text().splitlines()))
    assert [(row["person"], row["camera"]) for row in rows] == [("4", "1"), ("5", "1")]
    assert "against 2 gallery images of 1 camera" in (tmp_path / "results" / "evaluate" / "report.html").read_text()


@pytest.mark.slow
def test_mlflow_gets_both_cmc_curves_and_the_report(workplace, monkeypatch):
    pipeline = open_pipeline_run(
        tracking_uri=f"sqlite:///{workplace}/mlflow.db",
        experiment="tests",
        run_name="one",
        tags={},
        params={},
        results_dir=workplace,
    )
    run_id = pipeline.start_stage("evaluate", workplace / "evaluate")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", pipeline.tracking_uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with stage_run("evaluate", workplace / "evaluate") as run:
        metrics = run_evaluate(workplace, run=run).metrics
        run.log_outcome(metrics)
    client = connect(pipeline.tracking_uri)
    assert client.get_run(run_id).data.tags["chosen_on_test"] == "unknown"
    for name in ("cmc", "reranked_cmc"):
        history = client.get_metric_history(run_id, name)
        assert [row.step for row in history] == list(range(1, 11))
        assert history[-1].value == 1.0
    (model,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert (model.name, model.source_run_id) == ("reid_model_best", run_id)
    shown = {row.key: (row.value, row.dataset_name, row.dataset_digest) for row in model.metrics}
    assert shown == {name: (value, "market", "f" * 8) for name, value in metrics.items()}
    assert [entry.path for entry in client.list_artifacts(run_id, "evaluate")] == [
        "evaluate/camera_pairs.csv",
        "evaluate/cmc_curve.png",
        "evaluate/per_query.csv",
        "evaluate/report.html",
        "evaluate/sampled_matches.png",
        "evaluate/thresholds.json",
    ]
