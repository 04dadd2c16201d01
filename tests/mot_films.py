"""Films in MOTChallenge's layout, in which every person is a rectangle of one colour."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SIZE = (120, 100)


def colour(identity: int) -> tuple[int, int, int]:
    return 40 * (identity % 6), 30 * (identity % 7), 200 - 20 * (identity % 9)


def write_film(
    folder: Path, rows: Sequence[str], *, frames: int, images: str = "img1", name: str = "{:06d}.png", info: str = ""
) -> Path:
    """`frames` images and gt/gt.txt with these rows; the boxes of rows that can be drawn are drawn."""
    (folder / "gt").mkdir(parents=True)
    (folder / images).mkdir()
    (folder / "gt" / "gt.txt").write_text("".join(f"{row}\n" for row in rows))
    if info:
        (folder / "seqinfo.ini").write_text(info)
    pictures = {frame: Image.new("RGB", SIZE, "white") for frame in range(1, frames + 1)}
    for row in rows:
        frame, identity, left, top, width, height = (round(float(field)) for field in row.split(",")[:6])
        if frame in pictures:
            pictures[frame].paste(colour(identity), (left, top, left + width, top + height))
    for frame, picture in pictures.items():
        picture.save(folder / images / name.format(frame))
    return folder


def walk(identities: Sequence[int], *, frames: int) -> list[str]:
    """Rows of persons who stand side by side, 16 x 64 pixels each, in every frame."""
    return [
        f"{frame},{identity},{18 * place + 2},20,16,64,1,1,1"
        for frame in range(1, frames + 1)
        for place, identity in enumerate(identities)
    ]
