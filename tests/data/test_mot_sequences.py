from pathlib import Path

import pytest

from reid.data.mot_sequences import WANTED, Box, find_sequences, read_sequence
from reid.errors import DatasetError
from tests.mot_films import write_film


def refusal(folder: Path) -> str:
    with pytest.raises(DatasetError) as error:
        read_sequence(folder)
    return str(error.value)


@pytest.mark.parametrize(
    "row, box",
    [
        ("1,7,10,20.5,30,40,1,1,0.86014", Box(1, 7, 10, 20.5, 30, 40, kind=1, visibility=0.86014)),  # MOT16, 17, 20
        ("1,7,10,20,30,40,0,8,1", Box(1, 7, 10, 20, 30, 40, considered=False, kind=8)),
        ("1,7,10,20,30,40,1,-1,-1,-1", Box(1, 7, 10, 20, 30, 40)),  # AI City
        ("1,7,10,20,30,40,1,-9.45,30.1,0", Box(1, 7, 10, 20, 30, 40)),  # MOT15: places in the world
        ("1,7,10,20,30,40,1,-1,-1", Box(1, 7, 10, 20, 30, 40)),
        (" 1, 7, -10, -20, 30, 40", Box(1, 7, -10, -20, 30, 40)),
        ("1.0,0,1e1,20,30,40,1", Box(1, 0, 10, 20, 30, 40)),
    ],
)
def test_a_row_is_a_box(tmp_path: Path, row: str, box: Box) -> None:
    sequence = read_sequence(write_film(tmp_path / "film", [row, ""][:1], frames=1))
    assert sequence.boxes == (box,)
    assert (sequence.name, sequence.frames) == ("film", {1: tmp_path / "film" / "img1" / "000001.png"})


@pytest.mark.parametrize(
    "row",
    [
        "1,7,10,20,30",
        "1,7,10,20,30,40,1,1,1,1,1",
        "1;7;10;20;30;40",
        "1,7,10,20,30,",
        "1,7,10,nan,30,40",
        "1.5,7,10,20,30,40",
        "1,-1,10,20,30,40,1,1,1",  # a row of det.txt
        "1,7,10,20,0,40",
        "1,7,10,20,30,-40",
        "1,7,10,20,30,40,1,1,2",
        "1,7,10,20,30,40,1,1.5,1",
        "frame,id,left,top,width,height",
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: str) -> None:
    film = write_film(tmp_path / "film", ["1,1,2,2,3,3"], frames=1)
    (film / "gt" / "gt.txt").write_text(f"1,1,2,2,3,3\n\n{row}\n{row}\n")
    assert refusal(film) == (f"{film}/gt/gt.txt, line 3\n  found: {row}\n  want:  {WANTED}\n  and 1 more such lines")


def test_a_frame_without_an_image_and_a_person_twice_in_a_frame_are_errors(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a", ["1,1,2,2,3,3", "9,1,2,2,3,3"], frames=2)
    assert refusal(film) == (
        f"{film}/gt/gt.txt, line 2\n  found: frame 9, of which there is no image\n  want:  frames 1 to 2, 2 images"
    )
    film = write_film(tmp_path / "b", ["1,1,2,2,3,3", "1,1,20,20,3,3"], frames=1)
    assert refusal(film) == (
        f"{film}/gt/gt.txt, line 2\n  found: identity 1 for the second time in frame 1\n"
        "  want:  one box of each person in a frame"
    )


def test_seqinfo_says_where_the_frames_are_and_a_name_may_be_more_than_its_number(tmp_path: Path) -> None:
    info = "[Sequence]\nname=x\nimDir=pictures\nimExt=.png\nseqLength=2\n"
    film = write_film(
        tmp_path / "film", ["2,1,2,2,3,3"], frames=2, images="pictures", name="frame_{:03d}.png", info=info
    )
    for other in ("frame_002.txt", "._frame_002.png", "frame_003.jpg", "cover.png"):
        (film / "pictures" / other).write_bytes(b"")
    assert {number: path.name for number, path in read_sequence(film).frames.items()} == {
        1: "frame_001.png",
        2: "frame_002.png",
    }


def test_frames_that_are_missing_or_ambiguous_are_errors(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film", ["1,1,2,2,3,3"], frames=1)
    (film / "img1" / "1.png").write_bytes(b"")
    assert refusal(film) == f"{film}/img1/1.png: has the number of 000001.png\n  want: one image a frame"
    for path in (film / "img1").iterdir():
        path.unlink()
    assert refusal(film) == f"{film}/img1: no frame\n  want: images named by their number, e.g. 000001.jpg"
    (film / "img1").rmdir()
    assert refusal(film) == (
        f"{film}/img1: no such folder\n  want: the frames as images, e.g. from a video: "
        f"ffmpeg -i VIDEO -start_number 1 -qscale:v 2 {film}/img1/%06d.jpg"
    )
    (film / "seqinfo.ini").write_text("imDir=img1")
    assert refusal(film).startswith(f"{film}/seqinfo.ini: cannot be read: File contains no section headers.")


def test_a_folder_of_sequences_stands_for_them_all_in_order(tmp_path: Path) -> None:
    films = [write_film(tmp_path / "train" / name, ["1,1,2,2,3,3"], frames=1) for name in ("b", "a")]
    (tmp_path / "train" / "notes").mkdir()
    assert find_sequences([tmp_path / "train"]) == [films[1], films[0]]
    assert find_sequences(films) == films
    for folders, message in (
        ([tmp_path / "gone"], f"{tmp_path}/gone: no such folder\n"),
        ([films[0] / "img1"], f"{films[0]}/img1: neither it nor a folder in it has a gt/gt.txt\n"),
        ([films[0], tmp_path / "train"], f"{films[0]}: named twice\n"),
    ):
        with pytest.raises(DatasetError) as error:
            find_sequences(folders)
        assert str(error.value).startswith(message)
