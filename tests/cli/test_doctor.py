"""`reid doctor`: planted faults are on the page, and the proposed corrections mend the data set."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.cli.commands import main
from reid.data.corrections import CorrectionsFile
from tests.small_market import FOLDERS
from tests.tiny_onnx import write_mean_colour

WRONG = "0002_c1s1_000009_01.png"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Persons of one colour each: 1 to 6 to train on, 7 and 8 to test on; an image of person 5 is labelled person 2."""
    rng = np.random.default_rng(1)
    for person in range(1, 9):
        colour = rng.uniform(30, 225, 3)
        for camera in (1, 2):
            for frame in range(3):
                split = "train" if person < 7 else "query" if frame == 0 else "gallery"
                pixels = np.clip(colour + rng.normal(0, 6, (64, 32, 3)), 0, 255).astype(np.uint8)
                file = tmp_path / "data" / FOLDERS[split] / f"{person:04d}_c{camera}s1_00000{frame}_01.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    train = tmp_path / "data" / FOLDERS["train"]
    (train / "0005_c1s1_000000_01.png").rename(train / WRONG)
    write_mean_colour(tmp_path / "model.onnx")
    path = tmp_path / "spec.yaml"
    model = "model: {input_width: 32, input_height: 64, backbone: timm/test_resnet}"
    path.write_text(
        f"{model}\nresults_dir: {tmp_path}/results\n"
        f"dataset: {{root: {tmp_path}/data, num_classes: null, batch_size: 16}}\n"
    )
    return path


def test_the_page_the_table_and_corrections_that_validate_applies(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "-e", str(spec), "--model", str(tmp_path / "model.onnx")]) == 0
    folder = tmp_path / "results" / "doctor"
    said = capsys.readouterr().out
    assert "train: 36 images; 1 suspected label, 0 pairs of persons who may be one, 0 who may be two" in said
    assert (
        "query and gallery: 12 images; 0 suspected labels, 0 pairs of persons who may be one, 0 who may be two" in said
    )
    (row,) = csv.DictReader((folder / "suspects.csv").read_text().splitlines())
    assert (row["group"], row["kind"], row["image"]) == ("train", "wrong label", f"train/{WRONG}")
    assert (row["person"], row["other_person"]) == ("2", "5")
    page = (folder / "suspects.html").read_text()
    assert "labelled person 2, but nearer to person 5" in page
    assert not re.search(r"https?://|url\(|@import", page)
    assert page.count("<figure") == 3
    corrections = folder / "corrections.csv"
    assert CorrectionsFile(corrections).corrections == ()
    corrections.write_text(corrections.read_text().replace("#train", "train"))
    assert main(["validate", "-e", str(spec), f"dataset.corrections={corrections}"]) == 0
    assert f"train: 1 correction by {corrections}: 1 of another person" in capsys.readouterr().out


def test_without_a_spec_there_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(tmp_path / "model.onnx")]) == 2
    assert capsys.readouterr().err == "error: no spec: want -e SPEC, which says where the data set is\n"
