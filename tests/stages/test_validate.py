import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from reid.data.market_folders import HOW_TO_GET
from reid.errors import DatasetError, SpecError
from reid.spec import Experiment, load_spec
from reid.spec.facts import STAGES
from reid.spec.slices import stage_slice
from reid.stages.outcome import Outcome
from reid.stages.validate import validate
from reid.tracking.stage_run import StageRun
from tests.small_market import write_image, write_market

SYNTHETIC = {
    "train_persons": 3,
    "test_persons": 2,
    "cameras": 2,
    "images_per_camera": 2,
    "distractors": 2,
    "junk": 2,
    "width": 32,
    "height": 64,
    "seed": 7,
}


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return write_market(tmp_path / "market")


def _spec(market: Path, *overrides: str) -> Experiment:
    return load_spec(
        text="{}",
        overrides=[
            f"results_dir={market.parent}/results",
            f"dataset.train_dataset_dir={market}/bounding_box_train",
            f"dataset.query_dataset_dir={market}/query",
            f"dataset.test_dataset_dir={market}/bounding_box_test",
            "dataset.num_classes=null",
            "dataset.batch_size=8",
            *overrides,
        ],
    )


def _validate(spec: Experiment, out: Path) -> Outcome:
    return validate(
        spec,
        report=out / "report.html",
        summary=out / "summary.md",
        findings=out / "findings.json",
        run=StageRun.none(),
    )


def test_a_good_data_set_gives_three_reports_figures_and_slices(market: Path, tmp_path: Path) -> None:
    spec = _spec(market)
    outcome = _validate(spec, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "findings.json",
        "report.html",
        "summary.md",
    ]
    assert outcome.metrics == {
        "train_images": 6,
        "train_persons": 3,
        "train_cameras": 2,
        "query_images": 2,
        "query_persons": 2,
        "query_cameras": 2,
        "gallery_images": 5,
        "gallery_persons": 2,
        "gallery_cameras": 2,
        "junk": 1,
        "distractors": 1,
        "errors": 0,
        "warnings": 0,
        "skipped_images": 0,
    }
    slices = {f"{stage}_spec" for stage in STAGES[1:]}
    assert set(outcome.parameters) == {"fingerprint", "evaluation_fingerprint", *slices}
    assert outcome.parameters["evaluate_spec"] == stage_slice(spec, "evaluate")
    assert (tmp_path / "results" / "store" / "index.json").exists()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (
            ["dataset.batch_size=16"],
            "dataset.batch_size: a batch of 16 images, 4 of a person, needs 4 persons; "
            "found: 3 persons in the training split; want: dataset.batch_size=12 or less",
        ),
        (
            ["dataset.validation_persons=2"],
            "dataset.validation_persons: 2: 2 persons held out leave 1 to train on; found: a batch has 2 persons "
            "(dataset.batch_size / dataset.num_instances); want: dataset.validation_persons=null",
        ),
        (
            ["dataset.validation_persons=4", "dataset.sampler=softmax"],
            "dataset.validation_persons: 4: 4 persons cannot be held out; found: 3 of 3 training persons are seen by "
            "at least two cameras; want: dataset.validation_persons=null to choose the best checkpoint on the test "
            "images",
        ),
    ],
)
def test_persons_that_do_not_suffice_for_the_training_are_an_error_of_its_check(
    market: Path, tmp_path: Path, fields: list[str], what: str
) -> None:
    with pytest.raises(DatasetError) as error:
        _validate(_spec(market, *fields), tmp_path / "out")
    assert str(error.value) == (
        f"the data set has 1 error\n  too few to train: {what}\n  all findings: {tmp_path}/out/report.html"
    )
    assert json.loads((tmp_path / "out" / "findings.json").read_text())["findings"][0]["check"] == "too few to train"


def test_a_second_run_gives_the_same_bytes(market: Path, tmp_path: Path) -> None:
    assert _validate(_spec(market), tmp_path / "one") == _validate(_spec(market), tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_fingerprint_follows_the_bytes_and_not_the_place(market: Path, tmp_path: Path) -> None:
    before = _validate(_spec(market), tmp_path / "out").parameters["fingerprint"]
    moved = shutil.copytree(market, tmp_path / "elsewhere" / "market")
    assert _validate(_spec(moved), tmp_path / "out").parameters["fingerprint"] == before
    Image.new("RGB", (32, 64)).save(market / "query" / "0004_c1s1_000001_00.jpg")
    assert _validate(_spec(market), tmp_path / "out").parameters["fingerprint"] != before


def test_errors_are_all_told_after_the_reports_are_written(market: Path, tmp_path: Path) -> None:
    write_image(market / "query" / "holiday.jpg")
    (market / "bounding_box_train" / "0001_c1s1_000001_01.jpg").write_bytes(b"")
    with pytest.raises(DatasetError) as error:
        _validate(_spec(market, "dataset.num_classes=751"), tmp_path / "out")
    assert str(error.value) == (
        "the data set has 3 errors\n"
        "  bad name: query: 1 of 3 images are not named as Market-1501 names them; "
        "want PPPP_cCsS_FFFFFF_NN.jpg, e.g. 0002_c1s1_000451_03.jpg, or set dataset.file_name\n"
        "    first: query/holiday.jpg\n"
        "  unreadable image: train: 1 of 6 images cannot be read\n"
        "    first: train/0001_c1s1_000001_01.jpg: empty file\n"
        "  num_classes: dataset.num_classes is 751, but train shows 3 persons; "
        "set dataset.num_classes=3, or null to have them counted\n"
        f"  all findings: {tmp_path}/out/report.html"
    )
    assert json.loads((tmp_path / "out" / "findings.json").read_text())["errors"] == 3
    assert "Not usable yet: 3 errors, 0 warnings." in (tmp_path / "out" / "summary.md").read_text()
    assert "Not usable yet: 3 errors, 0 warnings." in (tmp_path / "out" / "report.html").read_text()


OWN = r"dataset.file_name=(?P<person>\d+)-(?P<camera>\d+)_.*"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Two persons to learn from and one to find, under names like 12-3_left.jpg."""
    for file in (
        *("bounding_box_train/1-1_left.jpg", "bounding_box_train/1-2_right.jpg"),
        *("bounding_box_train/20-1_left.jpg", "bounding_box_train/20-2_x.jpg"),
        *("query/300-1_left.jpg", "bounding_box_test/300-2_left.jpg", "bounding_box_test/0-2_nobody.png"),
    ):
        write_image(tmp_path / "shop" / file, format="PNG" if file.endswith("png") else "JPEG")
    return tmp_path / "shop"


def test_other_file_names_are_read_by_their_own_pattern(shop: Path, tmp_path: Path) -> None:
    outcome = _validate(_spec(shop, OWN), tmp_path / "out")
    assert (outcome.metrics["warnings"], outcome.metrics["distractors"]) == (0, 1)
    other = _validate(_spec(shop, r"dataset.file_name=(?P<person>\d+)-.*"), tmp_path / "other")
    assert other.parameters["fingerprint"] != outcome.parameters["fingerprint"]
    slices = [f"{stage}_spec" for stage in STAGES[1:] if stage not in ("manifest", "evaluate")]
    assert [name for name in slices if outcome.parameters[name] != other.parameters[name]] == []
    told = json.loads((tmp_path / "other" / "findings.json").read_text())["findings"]
    assert [(finding["severity"], finding["message"]) for finding in told if finding["check"] == "unknown cameras"] == [
        (
            "note",
            "dataset.file_name has no camera: queries count as camera 1, gallery images as camera 2; "
            "every gallery image of a query's person is a match",
        )
    ]


def test_a_pattern_that_matches_nothing_is_told_with_the_first_names(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        _validate(_spec(shop, r"dataset.file_name=(?P<person>[a-z]+).*"), tmp_path / "out")
    want = (
        "named as dataset.file_name says; want (?P<person>[a-z]+).* to match the whole name without its ending, "
        "person as digits"
    )
    assert str(error.value) == (
        "the data set has 3 errors\n"
        f"  bad name: train: none of 4 images is {want}; found 1-1_left.jpg, 1-2_right.jpg, 20-1_left.jpg\n"
        "    first: train/1-1_left.jpg\n"
        f"  bad name: query: none of 1 image is {want}; found 300-1_left.jpg\n"
        "    first: query/300-1_left.jpg\n"
        f"  bad name: gallery: none of 2 images is {want}; found 0-2_nobody.png, 300-2_left.jpg\n"
        "    first: gallery/0-2_nobody.png\n"
        f"  all findings: {tmp_path}/out/report.html"
    )


def test_a_missing_folder_is_told_with_the_way_to_get_the_data_set(market: Path, tmp_path: Path) -> None:
    shutil.rmtree(market / "bounding_box_train")
    with pytest.raises(DatasetError) as error:
        _validate(_spec(market), tmp_path / "out")
    assert str(error.value) == (
        "the data set has 1 error\n"
        f"  cannot be listed: train: no such folder: {market}/bounding_box_train (dataset.train_dataset_dir)\n"
        f"  all findings: {tmp_path}/out/report.html\n" + HOW_TO_GET
    )
    assert (tmp_path / "out" / "report.html").exists()


def test_a_file_name_that_is_no_text_does_not_break_the_reports(market: Path, tmp_path: Path) -> None:
    write_image(market / "query" / "a.jpg").rename(market / "query" / "caf\udce9.jpg")
    with pytest.raises(DatasetError):
        _validate(_spec(market), tmp_path / "out")
    assert "query/caf\\\\udce9.jpg" in (tmp_path / "out" / "summary.md").read_text()


def test_html_and_markup_in_a_file_name_are_text_in_the_reports(market: Path, tmp_path: Path) -> None:
    write_image(market / "query" / "a.jpg").rename(market / "query" / "<img src=x onerror=alert(1)>|`.jpg")
    with pytest.raises(DatasetError):
        _validate(_spec(market), tmp_path / "out")
    summary, page = ((tmp_path / "out" / name).read_text() for name in ("summary.md", "report.html"))
    assert r"query/&lt;img src=x onerror=alert(1)&gt;\|\`.jpg" in summary
    assert "<img src=x" not in summary + page


def _synthetic(root: Path, *overrides: str) -> Experiment:
    figures = [f"dataset.synthetic.{name}={value}" for name, value in SYNTHETIC.items()]
    return _spec(root, f"dataset.synthetic.root={root}", *figures, *overrides)


def test_an_absent_synthetic_data_set_is_drawn_once(tmp_path: Path) -> None:
    outcome = _validate(_synthetic(tmp_path / "drawn"), tmp_path / "out")
    assert (outcome.metrics["train_persons"], outcome.metrics["query_persons"]) == (3, 2)
    assert (outcome.metrics["junk"], outcome.metrics["distractors"]) == (2, 2)
    changed = next((tmp_path / "drawn" / "bounding_box_train").iterdir())
    Image.new("RGB", (32, 64)).save(changed)
    again = _validate(_synthetic(tmp_path / "drawn"), tmp_path / "out")
    assert again.parameters["fingerprint"] != outcome.parameters["fingerprint"]  # not drawn over


def test_a_drawn_data_set_that_lost_a_folder_is_not_called_market_1501(tmp_path: Path) -> None:
    root = tmp_path / "drawn"
    _validate(_synthetic(root), tmp_path / "out")
    shutil.rmtree(root / "query")
    with pytest.raises(DatasetError) as error:
        _validate(_synthetic(root), tmp_path / "out")
    assert str(error.value) == (
        "the data set has 1 error\n"
        f"  cannot be listed: query: no such folder: {root}/query (dataset.query_dataset_dir)\n"
        f"  all findings: {tmp_path}/out/report.html\n"
        f"remove {root} to have the data set drawn again"
    )


def test_weights_that_timm_does_not_know_are_refused_before_anything_is_done(market: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        _validate(_spec(market, "model.backbone=timm/test_resnet.no_such"), tmp_path / "out")
    assert str(error.value) == (
        "model.backbone: timm/test_resnet.no_such: Invalid pretrained tag (no_such) for test_resnet."
    )
    assert not (tmp_path / "out").exists()
    _validate(_spec(market, "model.backbone=timm/test_resnet.r160_in1k"), tmp_path / "out")


def test_the_stage_imports_neither_torch_nor_mlflow_nor_kfp() -> None:
    code = (
        "import sys, reid.stages.validate\n"
        "heavy = {'torch', 'mlflow', 'kfp', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_training_images_that_cannot_be_read_are_left_out_and_counted_where_the_spec_says_so(market, tmp_path):
    bad = sorted((market / "bounding_box_train").iterdir())[0]
    bad.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="unreadable image: train: 1 of"):
        _validate(_spec(market), tmp_path)
    outcome = _validate(_spec(market, "dataset.corrupt_images=skip"), tmp_path)
    assert outcome.metrics["skipped_images"] == 1
    assert outcome.metrics["train_images"] == 5
    told = json.loads((tmp_path / "findings.json").read_text())["findings"]
    (finding,) = (entry for entry in told if entry["check"] == "unreadable image")
    assert finding["severity"] == "warning"
    assert finding["message"] == "train: 1 of 6 images cannot be read; left out"


def test_a_query_image_that_cannot_be_read_is_an_error_whatever_the_spec_says(market, tmp_path):
    sorted((market / "query").iterdir())[0].write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="unreadable image: query: 1 of"):
        _validate(_spec(market, "dataset.corrupt_images=skip"), tmp_path)


def _csv_set(root: Path) -> Path:
    """A data set by a CSV: persons anna and bert to train on, 7 to test on, under two doors."""
    rows = ["path,person,camera,split"]
    for person, split in (("anna", "train"), ("bert", "train"), ("7", "query"), ("7", "gallery")):
        for door in ("in", "out") if split == "train" else ("in",) if split == "query" else ("out",):
            write_image(root / f"{split}-{person}-{door}.jpg", size=(16, 32))
            rows.append(f"{split}-{person}-{door}.jpg,{person},{door},{split}")
    (root / "images.csv").write_text("".join(f"{row}\n" for row in rows))
    return root / "images.csv"


def test_a_data_set_of_another_layout_is_checked_alike(tmp_path: Path) -> None:
    file = _csv_set(tmp_path / "mine")
    fields = ["dataset.layout=csv", f"dataset.root={file}", "dataset.num_classes=null", "dataset.batch_size=8"]
    size = "model: {input_width: 16, input_height: 32}"
    spec = load_spec(text=f"{{results_dir: {tmp_path}/results, {size}}}", overrides=fields)
    outcome = _validate(spec, tmp_path / "out")
    figures = {name: outcome.metrics[name] for name in ("train_images", "train_persons", "train_cameras", "errors")}
    assert figures == {"train_images": 4, "train_persons": 2, "train_cameras": 2, "errors": 0}
    notes = [finding["message"] for finding in json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]]
    assert notes == [
        f"{file}: the persons are numbered anew, from 1; the examples say which person had which name",
    ]
    with (tmp_path / "mine" / "images.csv").open("a") as rows:
        rows.write("absent.jpg,9,in,query\nquery-7-in.jpg,9,in,nowhere\n")
    (tmp_path / "mine" / "train-anna-in.jpg").write_bytes(b"")
    with pytest.raises(DatasetError) as error:
        _validate(spec, tmp_path / "out")
    assert str(error.value) == (
        "the data set has 3 errors\n"
        "  bad row: train: some rows cannot be read; want a path, a person, a camera if there is such a column, and "
        "train, query or gallery as the split\n"
        f"    first: {file}:9: path=query-7-in.jpg, person=9, split=nowhere, camera=in\n"
        f"  missing image: query: some images that are listed are not in {tmp_path}/mine\n"
        f"    first: {file}:8: absent.jpg\n"
        "  unreadable image: train: 1 of 4 images cannot be read\n"
        "    first: train/train-anna-in.jpg: empty file\n"
        f"  all findings: {tmp_path}/out/report.html"
    )


def test_several_sets_are_all_in_the_reports_and_in_the_figures(market: Path, tmp_path: Path) -> None:
    file = _csv_set(tmp_path / "mine")
    spec = load_spec(
        text=f"results_dir: {tmp_path}/results",
        overrides=[
            f"dataset.root={market}",
            "dataset.num_classes=null",
            "dataset.batch_size=8",
            f"dataset.train_sets=[{{name: market, root: {market}}}, {{name: mine, root: {file}, layout: csv}}]",
            f"dataset.test_sets=[{{name: doors, root: {file}, layout: csv}}]",
        ],
    )
    outcome = _validate(spec, tmp_path / "out")
    # 6 images of 3 persons under 2 cameras of market, 4 of 2 under 2 of the CSV
    for name, figure in {
        "train_images": 10, "train_persons": 5, "train_cameras": 4, "mine_train_images": 4, "query_images": 2,
        "doors_query_images": 1, "doors_gallery_persons": 1,
    }.items():  # fmt: skip
        assert outcome.metrics[name] == figure, name
    assert outcome.lines[0].startswith("market train 6 images of 3 persons under 2 cameras; mine train 4 images")
    splits = json.loads((tmp_path / "out" / "findings.json").read_text())["splits"]
    assert outcome.parameters["evaluation_fingerprint"] != outcome.parameters["fingerprint"]
    assert list(splits) == ["market train", "mine train", "query", "gallery", "doors query", "doors gallery"]
    assert "mine: Training" in (tmp_path / "out" / "report.html").read_text()
