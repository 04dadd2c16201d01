"""Each layout, read from a tiny tree that is laid out as its authors, torchreid and fast-reid have it."""

import json
from pathlib import Path

import pytest

from reid.data.file_names import file_names
from reid.data.layouts.layout import SPLITS, LayoutName, NamedImage
from reid.data.layouts.listed_files import Lines
from reid.data.layouts.table import LAYOUTS, ReadSet, read_set
from reid.data.market1501 import PersonImage
from tests.small_market import FOLDERS, NAMES, write_image, write_market

SIZE = (16, 32)


def read(
    layout: LayoutName,
    root: Path,
    *,
    file_name: str = "market1501",
    cameras: str = "file_name",
    splits: tuple[str, ...] = SPLITS,
) -> ReadSet:
    return read_set(layout, root, splits=splits, names=file_names(file_name, cameras=cameras))


def rows(found: ReadSet, split: str) -> list[tuple[str, int, int]]:
    """(file, person, camera) of each image."""
    listing = found.numbered.listings[split]
    assert not listing.faults and not found.splits[split].error and not listing.misnamed
    return [(image.file, image.person, image.camera) for image in listing.split.images]


def faults(found: ReadSet, split: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(fault.check, fault.message, fault.lines) for fault in found.numbered.listings[split].faults]


def write(root: Path, *files: str) -> None:
    for file in files:
        write_image(root / file, size=SIZE)


def test_market1501_keeps_its_numbers_its_junk_and_its_distractors(tmp_path: Path) -> None:
    found = read("market1501", write_market(tmp_path))
    assert [len(found.numbered.listings[split].split) for split in SPLITS] == [len(NAMES[split]) for split in SPLITS]
    assert rows(found, "gallery")[:2] == [("-1_c1s1_000001_01.jpg", -1, 1), ("0000_c2s1_000001_01.jpg", 0, 2)]
    assert found.numbered.listings["train"].root == tmp_path / FOLDERS["train"]
    assert found.numbered.renamed == {}


def test_dukemtmc_and_occluded_duke_have_markets_folders_and_names_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "bounding_box_train/0001_c2_f0046182.jpg", "query/0005_c2_f0046985.jpg")
    write(tmp_path, "bounding_box_test/0005_c5_f0051681.jpg", "bounding_box_test/7140_c8_f0056086.jpg")
    for layout in ("dukemtmc", "occluded_duke"):
        found = read(layout, tmp_path)
        assert rows(found, "train") == [("0001_c2_f0046182.jpg", 1, 2)]
        assert rows(found, "query") == [("0005_c2_f0046985.jpg", 5, 2)]
        assert rows(found, "gallery") == [("0005_c5_f0051681.jpg", 5, 5), ("7140_c8_f0056086.jpg", 7140, 8)]


def test_veri776_has_cameras_of_three_digits_and_a_vehicle_0_is_a_vehicle(tmp_path: Path) -> None:
    write(tmp_path, "image_train/0001_c001_00016450_0.jpg", "image_query/0002_c002_00030600_0.jpg")
    write(tmp_path, "image_test/0002_c019_00030670_0.jpg", "image_test/holiday.jpg")
    found = read("veri776", tmp_path)
    assert rows(found, "train") == [("0001_c001_00016450_0.jpg", 1, 1)]
    assert rows(found, "query") == [("0002_c002_00030600_0.jpg", 2, 2)]
    gallery = found.numbered.listings["gallery"]
    assert gallery.split.images == (PersonImage("0002_c019_00030670_0.jpg", 2, 19),)
    assert gallery.misnamed == ("holiday.jpg",)
    write(tmp_path, "image_train/0000_c003_00016450_0.jpg")
    again = read("veri776", tmp_path)  # 0 is a vehicle: 0, 1 and 2 become 1, 2 and 3
    assert [image.person for image in again.numbered.listings["train"].split.images] == [1, 2]
    assert rows(again, "query") == [("0002_c002_00030600_0.jpg", 3, 2)]
    assert again.numbered.renamed == {1: "0", 2: "1", 3: "2"}


def msmt17(root: Path, *, train: str = "train", test: str = "test") -> Path:
    """Train and test numbered from 0, apart; list_val.txt belongs to the training."""
    lists = {
        "list_train.txt": (train, ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_15_x_0015_0.jpg 1"]),
        "list_val.txt": (train, ["0001/0001_001_03_x_0016_0.jpg 1"]),
        "list_query.txt": (test, ["0000/0000_000_02_x_0015_0.jpg 0"]),
        "list_gallery.txt": (test, ["0000/0000_001_07_x_0015_0.jpg 0", "0001/0001_000_07_x_0017_0.jpg 1"]),
    }
    for name, (folder, lines) in lists.items():
        write(root / folder, *(line.split()[0] for line in lines))
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    return root


def test_msmt17_is_read_from_its_lists_and_its_test_persons_are_others(tmp_path: Path) -> None:
    for root, place in (
        (msmt17(tmp_path / "plain"), tmp_path / "plain"),
        (msmt17(tmp_path / "above" / "MSMT17_V1").parent, tmp_path / "above" / "MSMT17_V1"),
    ):
        found = read("msmt17", root)
        # train 0 and 1 become 1 and 2, test 0 and 1 become 3 and 4; the camera is the third part of the name
        assert rows(found, "train") == [
            ("0000/0000_000_01_0303morning_0015_0.jpg", 1, 1),
            ("0001/0001_000_15_x_0015_0.jpg", 2, 15),
            ("0001/0001_001_03_x_0016_0.jpg", 2, 3),
        ]
        assert rows(found, "query") == [("0000/0000_000_02_x_0015_0.jpg", 3, 2)]
        assert rows(found, "gallery") == [
            ("0000/0000_001_07_x_0015_0.jpg", 3, 7),
            ("0001/0001_000_07_x_0017_0.jpg", 4, 7),
        ]
        assert found.numbered.listings["train"].root == place / "train"


def test_msmt17_v2_has_other_folders_and_may_come_without_list_val(tmp_path: Path) -> None:
    root = msmt17(tmp_path / "MSMT17_V2", train="mask_train_v2", test="mask_test_v2")
    (root / "list_val.txt").unlink()
    found = read("msmt17", tmp_path)
    assert len(rows(found, "train")) == 2
    assert found.numbered.listings["gallery"].root == root / "mask_test_v2"
    msmt17(tmp_path / "MSMT17_V1")
    assert read("msmt17", tmp_path).splits["train"].error == (
        f"{tmp_path}: found MSMT17_V1 and MSMT17_V2; want one of them as the root"
    )


def test_a_list_with_bad_lines_and_missing_images_says_file_and_line(tmp_path: Path) -> None:
    root = msmt17(tmp_path)
    file = root / "list_query.txt"
    file.write_text(
        f"{file.read_text()}\n0000/0000_000_02_x_0015_0.jpg\n0009/0009_000_02_x_0015_0.jpg 9\n"
        "0000/nocamera.jpg 0\n0000/0000_000_02_x_0015_0.jpg 0\n../0000_000_02_x_0015_0.jpg 0\n"
    )
    found = read("msmt17", root)
    assert faults(found, "query") == [
        (
            "bad line",
            "some lines cannot be read; want FILE PERSON, e.g. 0000/0000_000_01_0303morning_0015_0.jpg 0",
            (f"{file}:3: '0000/0000_000_02_x_0015_0.jpg'", f"{file}:5: '0000/nocamera.jpg 0'"),
        ),
        (
            "missing image",
            f"some images that are listed are not in {root}/test",
            (f"{file}:4: 0009/0009_000_02_x_0015_0.jpg",),
        ),
        ("listed twice", "some images are listed more than once", (f"{file}:6: 0000/0000_000_02_x_0015_0.jpg",)),
        (
            "bad path",
            f"some paths do not lie below {root}/test; want them relative to that folder, without ..",
            (f"{file}:7: '../0000_000_02_x_0015_0.jpg'",),
        ),
    ]
    assert len(found.numbered.listings["query"].split) == 1
    file.unlink()
    assert read("msmt17", root).splits["query"].error == (
        f"{file}: no such list file; want train and test (V1), or mask_train_v2 and mask_test_v2 (V2), beside "
        "list_train.txt, list_query.txt and list_gallery.txt"
    )


def cuhk03(root: Path, kind: str = "labeled") -> Path:
    """The split as torchreid writes it: paths of another machine, train persons from 0, test persons by number."""
    split = {
        "train": [["1_001_1_01.png", 0, 0], ["1_001_2_06.png", 0, 1], ["1_003_1_01.png", 1, 0]],
        "query": [["1_002_1_01.png", 2, 0]],
        "gallery": [["1_002_2_06.png", 2, 1], ["5_001_1_01.png", 1400, 0]],
    }
    for entries in split.values():
        write(root / f"images_{kind}", *(name for name, *_ in entries))
    content = {name: [[f"/home/x/images/{file}", *more] for file, *more in rows] for name, rows in split.items()}
    (root / f"splits_new_{kind}.json").write_text(json.dumps([{**content, "num_train_pids": 2}]))
    return root


def test_cuhk03_is_read_from_the_split_that_torchreid_writes(tmp_path: Path) -> None:
    found = read("cuhk03", cuhk03(tmp_path))
    # train 0 and 1 become 1 and 2; test 2 and 1400 become 3 and 4; cameras 0 and 1 become 1 and 2
    assert rows(found, "train") == [("1_001_1_01.png", 1, 1), ("1_001_2_06.png", 1, 2), ("1_003_1_01.png", 2, 1)]
    assert rows(found, "query") == [("1_002_1_01.png", 3, 1)]
    assert rows(found, "gallery") == [("1_002_2_06.png", 3, 2), ("5_001_1_01.png", 4, 1)]
    assert found.numbered.renamed == {1: "0", 2: "1", 3: "2", 4: "1400"}


def test_cuhk03_of_two_kinds_is_told_apart_by_naming_the_split(tmp_path: Path) -> None:
    cuhk03(cuhk03(tmp_path), "detected")
    assert read("cuhk03", tmp_path).splits["train"].error == (
        f"{tmp_path}: found splits_new_detected.json and splits_new_labeled.json; want one of them as the root: "
        f"{tmp_path}/splits_new_detected.json"
    )
    found = read("cuhk03", tmp_path / "splits_new_detected.json")
    assert found.numbered.listings["query"].root == tmp_path / "images_detected"


def test_cuhk03_without_a_split_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "cuhk03_new_protocol_config_labeled.mat").write_bytes(b"")
    assert read("cuhk03", tmp_path).splits["train"].error == (
        f"{tmp_path}: found cuhk03_new_protocol_config_labeled.mat, which are not read here; want images_detected and "
        "splits_new_detected.json, or images_labeled and splits_new_labeled.json (torchreid writes them: "
        "torchreid.data.datasets.image.CUHK03(root=FOLDER))"
    )
    split = cuhk03(tmp_path) / "splits_new_labeled.json"
    split.write_text('[{"train": [["a.png", "0", 0]], "query": [], "gallery": []}]')
    assert faults(read("cuhk03", tmp_path), "train")[0][2] == (f"{split}: train[0]: ['a.png', '0', 0]",)
    split.write_text("[{]")
    assert read("cuhk03", tmp_path).splits["train"].error.startswith(f"{split}:1: not JSON: ")


def test_folders_of_persons_may_have_any_name(tmp_path: Path) -> None:
    write(tmp_path, "train/bert/1.jpg", "train/anna/1.jpg", "train/anna/2.jpg", "query/carl/1.jpg")
    write(tmp_path, "gallery/carl/2.jpg", "gallery/dora/1.jpg", "gallery/-1/1.jpg")
    found = read("folders", tmp_path)
    # anna, bert, carl and dora; no camera in the names: query 1, gallery 2
    assert rows(found, "train") == [("anna/1.jpg", 1, 1), ("anna/2.jpg", 1, 1), ("bert/1.jpg", 2, 1)]
    assert rows(found, "query") == [("carl/1.jpg", 3, 1)]
    assert rows(found, "gallery") == [("-1/1.jpg", -1, 2), ("carl/2.jpg", 3, 2), ("dora/1.jpg", 4, 2)]
    assert found.numbered.renamed == {1: "anna", 2: "bert", 3: "carl", 4: "dora"}
    assert found.splits["query"].names.without_cameras.startswith("the files' names give no camera: queries count")


def test_folders_of_markets_files_have_their_cameras_and_keep_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, "train/0002/0002_c1s1_000451_03.jpg", "train/0007/0007_c3s1_000451_03.jpg")
    write(tmp_path, "query/0010/0010_c6s1_000451_03.jpg", "gallery/0010/0010_c2s1_000451_03.jpg")
    found = read("folders", tmp_path)
    assert rows(found, "train") == [("0002/0002_c1s1_000451_03.jpg", 2, 1), ("0007/0007_c3s1_000451_03.jpg", 7, 3)]
    assert rows(found, "query") == [("0010/0010_c6s1_000451_03.jpg", 10, 6)]
    assert found.numbered.renamed == {}
    unknown = read("folders", tmp_path, cameras="none")
    assert (rows(unknown, "query")[0][2], rows(unknown, "gallery")[0][2]) == (1, 2)


def test_folders_with_a_pattern_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, "train/a/cam3-x.jpg", "train/b/x.jpg", "query/c/cam4-x.jpg", "gallery/c/cam5-x.jpg")
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "train" / "empty").mkdir()
    found = read("folders", tmp_path, file_name=r"cam(?P<camera>\d+)-(?P<person>.*)")
    train = found.numbered.listings["train"]
    assert train.split.images == (PersonImage("a/cam3-x.jpg", 1, 3),)
    assert (train.misnamed, train.strays) == (("b/x.jpg",), ("Thumbs.db", "empty/"))
    assert rows(found, "gallery") == [("c/cam5-x.jpg", 2, 5)]


def test_persons_that_are_not_parted_are_not_parted_by_chance(tmp_path: Path) -> None:
    write(tmp_path, "anna/1.jpg", "bert/1.jpg")
    assert read("folders", tmp_path).splits["train"].error == (
        f"{tmp_path}: found 2 folders, first anna, none of them train, query or gallery; want the folders train, query "
        "and gallery, and in each a folder for each person: move the persons to train on into train, and of each other "
        "person some images into query, the others into gallery"
    )


def test_a_csv_says_path_person_camera_and_split(tmp_path: Path) -> None:
    write(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg")
    (tmp_path / "mine.csv").write_text(
        "split, person ,path,camera,more\ntrain,Änne,images/1.jpg,door,x\ntrain,0,images/2.jpg,hall,\n"
        'query,"Smith, J",images/3.jpg,door,\ngallery,"Smith, J",images/4.jpg,hall,\ngallery,-1,images/5.jpg,hall,\n',
        encoding="utf-8",
    )
    for root in (tmp_path, tmp_path / "mine.csv"):
        found = read("csv", root)
        # in the order of the texts: 0, Smith, Änne; cameras door and hall
        assert rows(found, "train") == [("images/1.jpg", 3, 1), ("images/2.jpg", 1, 2)]
        assert rows(found, "query") == [("images/3.jpg", 2, 1)]
        assert rows(found, "gallery") == [("images/4.jpg", 2, 2), ("images/5.jpg", -1, 2)]
        assert found.numbered.renamed == {1: "0", 2: "Smith, J", 3: "Änne"}
    assert rows(read("csv", tmp_path, splits=("train",)), "train") == [("images/1.jpg", 2, 1), ("images/2.jpg", 1, 2)]


def test_a_csv_without_cameras(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "a.csv").write_text("path,person,split\n1.jpg,7,train\n2.jpg,9,query\n3.jpg,9,gallery\n")
    found = read("csv", tmp_path)
    assert (rows(found, "query"), rows(found, "gallery")) == ([("2.jpg", 9, 1)], [("3.jpg", 9, 2)])
    assert found.splits["query"].names.without_cameras.startswith("the CSV has no column camera: queries count")


def test_what_is_wrong_with_a_csv_is_said_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg")
    file = tmp_path / "a.csv"
    file.write_text("path,person,camera,split\n1.jpg,7,1,train\n1.jpg,7,1,test\n2.jpg,7,1,query\n1.jpg,,1,gallery\n")
    found = read("csv", tmp_path)
    wanted = (
        "some rows cannot be read; want a path, a person, a camera if there is such a column, and train, query or "
        "gallery as the split"
    )
    assert faults(found, "train") == [
        ("bad row", wanted, (f"{file}:3: path=1.jpg, person=7, split=test, camera=1",)),
    ]
    assert faults(found, "query") == [
        ("missing image", f"some images that are listed are not in {tmp_path}", (f"{file}:4: 2.jpg",)),
    ]
    assert faults(found, "gallery") == [
        ("bad row", wanted, (f"{file}:5: path=1.jpg, person=, split=gallery, camera=1",)),
    ]
    file.write_text("file,id,split\n")
    assert read("csv", tmp_path).splits["query"].error == (
        f"{file}:1: no column path, person; found file, id, split; want path, person, camera, split"
    )
    (tmp_path / "b.csv").write_text("")
    assert read("csv", tmp_path).splits["query"].error == (
        f"{tmp_path}: found a.csv, b.csv; want a CSV file with the columns path, person, camera, split, or the folder "
        "of one such file"
    )


def test_a_list_without_images_is_named(tmp_path: Path) -> None:
    root = msmt17(tmp_path)
    (root / "list_query.txt").write_text("\n")
    found = read("msmt17", root)
    assert found.splits["query"].error == f"{root}/list_query.txt: lists no image of this split"
    (tmp_path / "list.csv").write_text("path,person,split\n")
    assert read("csv", tmp_path).splits["train"].error == f"{tmp_path}/list.csv: lists no image of this split"


def test_a_split_without_persons_folders_says_what_it_has(tmp_path: Path) -> None:
    for folder in ("train/anna/left", "query", "gallery"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path, "query/1.jpg", "query/2.jpg")
    found = read("folders", tmp_path)
    ends = "an image ends in .jpg, .jpeg, .jfif, .png, .bmp, .webp, .tif, .tiff"
    want = f"want in {tmp_path} the folders train, query and gallery, and in each a folder for each person"
    assert [found.splits[split].error for split in SPLITS] == [
        f"{tmp_path}/train: no person's folder has an image; found 1 other name, first anna/left/; {ends}; {want}",
        f"{tmp_path}/query: no person's folder has an image; found 2 other names, first 1.jpg; {ends}; {want}",
        f"{tmp_path}/gallery: no person's folder has an image; found nothing; {ends}; {want}",
    ]


def test_a_root_that_is_not_there_says_what_it_should_hold(tmp_path: Path) -> None:
    for layout, row in LAYOUTS.items():
        found = read(layout, tmp_path / "absent")
        assert {part.error for part in found.splits.values()} == {f"no such folder: {tmp_path}/absent; want {row.tree}"}


def test_folders_of_an_operating_system_are_nobody(tmp_path: Path) -> None:
    write(tmp_path, *(f"{split}/{person}/0001_c1_1.jpg" for split in SPLITS for person in ("anna", "@eaDir", ".trash")))
    assert {image.person for image in read("folders", tmp_path).splits["train"].images} == {"anna"}


@pytest.mark.parametrize("name", ["a\ud800.jpg", "a\0.jpg"])
def test_a_listed_name_that_no_file_can_have_is_a_fault(tmp_path: Path, name: str) -> None:
    lines = Lines(tmp_path)
    lines.take("list:1", NamedImage(name, "1", "1"))
    assert list(lines.bad) == [("bad path", "some paths are no names of files")]
