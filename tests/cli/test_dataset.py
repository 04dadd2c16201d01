from pathlib import Path

import pytest

from reid.cli.commands import main
from tests.mot_films import walk, write_film


def test_crops_prints_what_was_taken_and_the_fields_of_the_spec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*walk([1, 2, 3], frames=11), "1,9,80,10,16,64,1,7,1"]
    film = write_film(tmp_path / "film", rows, frames=11)
    assert main(["dataset", "crops", f"{tmp_path}/market", str(film), "--same-camera"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("crops\n  train images ")
    assert text.endswith(
        # frames 1 and 11 are taken, so 9 of 11 are not: 27 boxes of 3 persons; class 7 is no pedestrian
        "camera 1: film: 6 of 34 boxes taken, 27 between the frames that are taken, 1 of another class\n"
        f"dataset.train_dataset_dir={tmp_path}/market/bounding_box_train\n"
        f"dataset.query_dataset_dir={tmp_path}/market/query\n"
        f"dataset.test_dataset_dir={tmp_path}/market/bounding_box_test\n"
        "dataset.cameras=none (needed: matches under the query's own camera count)\n"
    )


def test_a_bad_row_ends_crops_with_status_2_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = write_film(tmp_path / "film", ["1,1,2,2,3,3"], frames=1)
    (film / "gt" / "gt.txt").write_text("1,1,2,2,3\n")
    assert main(["dataset", "crops", f"{tmp_path}/market", str(film)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {film}/gt/gt.txt, line 1\n  found: 1,1,2,2,3\n")
    assert not (tmp_path / "market").exists()


@pytest.mark.parametrize(
    "option, found",
    [
        (("--every", "0"), "argument --every: found 0; want: a number at least 1"),
        (("--every", "1.5"), "argument --every: found 1.5; want: a number at least 1"),
        (("--padding", "nan"), "argument --padding: found nan; want: a number from 0 to 1"),
        (("--min-visibility", "2"), "argument --min-visibility: found 2; want: a number from 0 to 1"),
        (("--classes", "person"), "argument --classes: found person; want: whole numbers, e.g. 1,7, or any"),
    ],
)
def test_an_option_out_of_its_range_is_an_error(
    capsys: pytest.CaptureFixture[str], option: tuple[str, str], found: str
) -> None:
    with pytest.raises(SystemExit) as status:
        main(["dataset", "crops", "root", "film", *option])
    assert status.value.code == 2
    assert found in capsys.readouterr().err
