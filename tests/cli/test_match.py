"""`reid match`: the cosine of two images, the verdict by a known threshold, and what is said without one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.cli.commands import main
from reid.cli.match import DIFFERENT
from reid.data.image_file import read_picture
from reid.deploy.onnx import OnnxModel
from reid.thresholds import Threshold, Thresholds, name_of_rate
from tests.tiny_onnx import write_mean_colour

RED, ALSO_RED, BLUE = "red.png", "also red.jpg", "blue.bmp"
KNOWN = Thresholds(
    (
        Threshold("equal error", 0.5, 0.95, 0.05, 0.5),
        Threshold(name_of_rate(1e-2), 0.9, 0.875, 0.0095, 0.75),
        Threshold(name_of_rate(1e-3), 0.99, 0.75, 0.0009, 0.9),
    ),
    "4 query and 9 gallery images",
    12,
    20_000,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one network, of which one knows thresholds, and images of one colour each."""
    folder = tmp_path_factory.mktemp("match")
    write_mean_colour(folder / "judges.onnx", thresholds=KNOWN)
    write_mean_colour(folder / "plain.onnx")
    for name, colour in ((RED, (250, 30, 20)), (ALSO_RED, (240, 40, 20)), (BLUE, (10, 20, 240))):
        Image.new("RGB", (50, 120), colour).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(["match", *arguments]) == status
    out, err = capsys.readouterr()
    return out if not status or status == DIFFERENT else err


def cosine(first: str, second: str) -> float:
    model = OnnxModel(Path("plain.onnx"))
    resized = [np.asarray(read_picture(name).resize((32, 64), Image.Resampling.BILINEAR)) for name in (first, second)]
    one, other = model(model.contract.preprocess(np.stack(resized))).astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_two_images_are_judged_at_the_usual_rate(capsys: pytest.CaptureFixture[str]) -> None:
    alike, apart = cosine(RED, ALSO_RED), cosine(RED, BLUE)
    assert alike > 0.99 > apart
    assert said(capsys, RED, ALSO_RED, BLUE, "--model", "judges.onnx") == (
        f"same person        {alike:7.4f}  {RED}  {ALSO_RED}\n"
        f"different persons  {apart:7.4f}  {RED}  {BLUE}\n"
        "\n"
        "same person: cosine of 0.9900 or more; at most 0.1 % of the pairs of different persons reach that, and 75.0 % "
        "of the pairs of one person\n"
        "measured on 4 query and 9 gallery images\n"
    )


def test_pairs_another_rate_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pairs", "--json", "--model", "judges.onnx", "--false-match-rate", "0.01"]
    found = json.loads(said(capsys, RED, BLUE, BLUE, BLUE, *options))
    assert found["pairs"] == [
        {"first": RED, "second": BLUE, "cosine": pytest.approx(cosine(RED, BLUE), abs=1e-6), "same_person": False},
        {"first": BLUE, "second": BLUE, "cosine": pytest.approx(1.0, abs=1e-6), "same_person": True},
    ]
    assert found["threshold"] == {
        "name": "1 % let in",
        "cosine": 0.9,
        "true_match_rate": 0.875,
        "false_match_rate": 0.0095,
        "precision": 0.75,
        "measured_on": "4 query and 9 gallery images",
    }
    assert (found["model"], found["data_type"]) == ("judges.onnx", "FP32")


def test_without_a_threshold_there_is_the_cosine_and_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = (
        "the model of a training, or its ONNX file exported after reid evaluate on images of known persons; or "
        "--threshold COSINE"
    )
    assert said(capsys, RED, BLUE, "--model", "plain.onnx") == (
        f"{cosine(RED, BLUE):.4f}  {RED}  {BLUE}\n\nno verdict: the model knows no threshold; want {wanted}\n"
    )
    found = json.loads(said(capsys, RED, BLUE, "--model", "plain.onnx", "--json"))
    assert (found["threshold"], found["pairs"][0]["same_person"]) == (None, None)
    text = said(capsys, RED, BLUE, "--model", "plain.onnx", "--exit-status", status=2)
    assert text.endswith(f"error: the model knows no threshold\n  want: {wanted}\n")
    text = said(capsys, RED, BLUE, "--model", "plain.onnx", "--false-match-rate", "0.01", status=2)
    wanted = wanted.removesuffix("; or --threshold COSINE")
    assert text.endswith(f"error: false match rate 0.01: the model knows no threshold\n  want: {wanted}\n")


def test_a_script_learns_the_verdict_from_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, RED, ALSO_RED, "--model", "judges.onnx", "--exit-status").startswith("same person")
    assert said(capsys, RED, ALSO_RED, BLUE, "--model", "judges.onnx", "--exit-status", status=DIFFERENT)
    mine = said(capsys, RED, BLUE, "--model", "plain.onnx", "--threshold", "-1", "--exit-status")
    assert mine.endswith("\n\nsame person: cosine of -1.0000 or more, by --threshold\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([RED], f"{RED}: nothing to compare with\n  want: two images or more"),
        ([RED, "none.jpg"], "{folder}/none.jpg: no such file\n  want: an image file"),
        ([RED, "."], "{folder}: a folder\n  want: an image file"),
        ([RED, "plain.onnx"], "{folder}/plain.onnx: cannot be read: not an image"),
        ([RED, BLUE, RED, "--pairs"], f"--pairs: 3 images, and {RED} has no partner\n  want: A B, C D, ..."),
        ([RED, BLUE, "--threshold", "1.5"], "--threshold 1.5: no cosine\n  want: -1 to 1"),
        (
            [RED, BLUE, "--false-match-rate", "0.0001"],
            "false match rate 0.0001: no threshold is known, of 20,000 pairs of different persons\n"
            "  want: one of 0.01, 0.001",
        ),
    ],
)
def test_a_mistake_is_a_sentence(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], error: str
) -> None:
    text = said(capsys, *arguments, "--model", "judges.onnx", status=2)
    assert text[text.index("error: ") :] == f"error: {error.format(folder=folder)}\n"


def test_a_rate_that_is_no_share_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["match", RED, BLUE, "--false-match-rate", "5"])
    assert "5: want a share between 0 and 1, e.g. 0.001" in capsys.readouterr().err


def test_few_images_give_the_threshold_that_they_can(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    few = Thresholds(KNOWN.rows[:1], "3 images", 2, 5)
    model = write_mean_colour(folder / "few.onnx", thresholds=few)
    assert said(capsys, RED, ALSO_RED, "--model", str(model)).endswith(
        "same person: cosine of 0.5000 or more; 5.00 % of the pairs of different persons reach that, and 95.0 % of the "
        "pairs of one person\nmeasured on 3 images (equal error; too few images for a rate of false matches)\n"
    )


def test_the_model_of_a_spec_is_taken_and_has_to_be_as_the_spec_says(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "spec.yaml").write_text("dataset: {pixel_mean: [0.5, 0.5, 0.5]}\n")
    model = "inference.checkpoint=judges.onnx"
    assert said(capsys, RED, model, ALSO_RED, "-e", "spec.yaml", "train.seed=3").startswith("same person ")
    text = said(capsys, RED, BLUE, "-e", "spec.yaml", model, "dataset.pixel_mean=[0.4,0.4,0.4]", status=2)
    assert "judges.onnx: made for dataset.pixel_mean [0.5, 0.5, 0.5]\n" in text


@pytest.mark.slow
def test_an_onnx_file_is_run_without_torch(folder: Path) -> None:
    program = (
        "import sys; from reid.cli.commands import main; "
        f"status = main(['match', {RED!r}, {BLUE!r}, '--model', 'judges.onnx']); "
        "assert not {'torch', 'mlflow', 'onnx', 'numba'} & set(sys.modules), sys.modules.keys(); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("different persons")
