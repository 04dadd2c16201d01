"""Archives that are no Market-1501, are damaged, or mean harm: none leaves a file, inside the folder or outside."""

import stat
import struct
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from reid.data.unpack import unpack
from reid.errors import DatasetError
from tests.small_market import FOLDERS, NAMES, zip_market


def refusal(archive: Path) -> str:
    """What is said; and nothing is there after it but the archive."""
    folder = archive.parent
    with pytest.raises(DatasetError) as caught:
        unpack(archive, folder / "market", stamp={})
    assert [path.name for path in folder.iterdir()] == [archive.name]
    return str(caught.value)


def with_member(archive: Path, info: ZipInfo | str, content: bytes = b"harm") -> Path:
    with ZipFile(zip_market(archive), "a", ZIP_DEFLATED) as file:
        file.writestr(info, content, ZIP_DEFLATED)
    return archive


@pytest.mark.parametrize("above", ["", "Market-1501-v15.09.15/", "a/b/"])
def test_the_three_folders_images_come_out_wherever_they_lie(tmp_path: Path, above: str) -> None:
    unpack(zip_market(tmp_path / "m.zip", above=above), tmp_path / "market", stamp={"source.json": "{}"})
    found = {path.relative_to(tmp_path / "market").as_posix() for path in (tmp_path / "market").rglob("*.*")}
    assert found == {"source.json"} | {f"{FOLDERS[split]}/{name}" for split in FOLDERS for name in NAMES[split]}


@pytest.mark.parametrize(
    "name", ["../query/0001_c1s1_000001_00.jpg", "/etc/query/0001_c1s1_000001_00.jpg", "a\\..\\..\\b.jpg", "C:/x.jpg"]
)
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    archive = with_member(tmp_path / "m.zip", name)
    assert refusal(archive) == f"{archive}: not safe to unpack: {name!r} leads out of the archive"


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = ZipInfo("Market-1501-v15.09.15/query/0001_c1s1_000001_00.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive = with_member(tmp_path / "m.zip", link, b"/etc/passwd")
    assert refusal(archive) == f"{archive}: not safe to unpack: {link.filename!r} leads out of the archive"


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_a_pipe_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    member = ZipInfo("query/0001_c1s1_000001_00.jpg")
    member.create_system, member.external_attr = 3, (kind | 0o666) << 16
    assert "leads out of the archive" in refusal(with_member(tmp_path / "m.zip", member))


@pytest.mark.parametrize("name", ["", ".", "./", "//"])
def test_a_member_without_a_name_is_no_image(tmp_path: Path, name: str) -> None:
    member = ZipInfo("x")
    member.filename = name
    archive = with_member(tmp_path / "m.zip", member)
    if name == "//":
        assert "leads out of the archive" in refusal(archive)
    else:
        unpack(archive, tmp_path / "market", stamp={})
        without = zip_market(tmp_path / "n.zip", without="query")
        with ZipFile(without, "a") as file:
            file.writestr(member, b"")
        with pytest.raises(DatasetError, match="no images in query"):
            unpack(without, tmp_path / "other", stamp={})


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    archive = zip_market(tmp_path / "m.zip", above="")
    content = archive.read_bytes()
    start = content.index(b"PK\x01\x02")
    directory, end = content[start : content.rindex(b"PK\x05\x06")], content[content.rindex(b"PK\x05\x06") :]
    count = struct.unpack_from("<H", end, 8)[0]
    many = 20
    end = end[:8] + struct.pack("<HHII", many * count, many * count, many * len(directory), start) + end[20:]
    archive.write_bytes(content[:start] + many * directory + end)
    assert refusal(archive).startswith(f"{archive}: not safe to unpack: its members overlap: ")


def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    name = "Market-1501-v15.09.15/query/0001_c1s1_000001_00.png"
    archive = with_member(tmp_path / "m.zip", name, bytes(10 << 20))
    with ZipFile(archive) as file:
        packed = file.getinfo(name).compress_size
    assert refusal(archive) == f"{archive}: not safe to unpack: {name!r} grows from {packed:,} to 10,485,760 bytes"


def test_an_archive_of_something_else_says_what_is_in_it(tmp_path: Path) -> None:
    archive = zip_market(tmp_path / "m.zip", without="query")
    assert refusal(archive) == (
        f"{archive}: not an archive of Market-1501: no images in query\n  found: Market-1501-v15.09.15, __MACOSX\n"
        "  want:  the folders bounding_box_train, bounding_box_test, query"
    )


def test_two_data_sets_in_one_archive_are_refused(tmp_path: Path) -> None:
    archive = with_member(tmp_path / "m.zip", "other/query/0001_c1s1_000001_00.jpg")
    assert refusal(archive) == f"{archive}: more than one data set: Market-1501-v15.09.15, other\n  want: one"


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"<html>")
    assert refusal(tmp_path / "m.zip") == f"{tmp_path}/m.zip: damaged, or no zip file: File is not a zip file"


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_bytes(content: bytes) -> bytes:
    """Within the first image's data; its header stays."""
    at = content.index(b".jpg") + 300
    return content[:at] + bytes(byte ^ 255 for byte in content[at : at + 20]) + content[at + 20 :]


def understate(content: bytes) -> bytes:
    """An image that claims, in the directory at the end, to be shorter than it is."""
    entry = content.index(b"PK\x01\x02", content.rindex(b"bounding_box_train") - 60)
    size = struct.unpack_from("<I", content, entry + 24)[0]
    return content[: entry + 24] + struct.pack("<I", size - 100) + content[entry + 28 :]


def encrypt(content: bytes) -> bytes:
    """An image that claims to be encrypted."""
    entry = content.index(b"PK\x01\x02", content.rindex(b"bounding_box_train") - 60)
    return content[: entry + 8] + b"\x01" + content[entry + 9 :]


@pytest.mark.parametrize("damage", [truncate, flip_bytes, understate, encrypt])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    archive = zip_market(tmp_path / "m.zip")
    archive.write_bytes(damage(archive.read_bytes()))
    assert refusal(archive).startswith(f"{archive}: damaged, or no zip file: ")
