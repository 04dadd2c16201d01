"""The functions that draw a data set: walking people under cameras that differ, in Market-1501's layout.

- `draw_market` draws a data set into a new folder
- `ensure_market` draws it if its folder is absent, and else checks that the folder was drawn with equal parameters
- `contact_sheet` writes a picture of some persons of any Market-1501 tree

The same parameters, the seed among them, give the same images. Every person, distractor and junk image has random
numbers of its own (a child of the seed), so the images do not depend on how many processes draw them.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

from reid.console.progress import Progress
from reid.drawn.cameras import Camera, set_up_camera
from reid.drawn.contact_sheet import contact_sheet
from reid.drawn.looks import dress
from reid.drawn.photograph import photograph
from reid.drawn.plan import GALLERY, QUERY, TRAIN, Branch, Parameters, Subject, plan, random_numbers
from reid.errors import DatasetError
from reid.files.locks import made_in_turn
from reid.files.records import DamagedRecordError, parse_json, read_plain_file

__all__ = ["contact_sheet", "draw_market", "ensure_market"]

STAMP = "synthetic.json"
DRAWING = 1
"""Version of the drawing; raise it with every change that alters the images of an unchanged spec."""
SUBJECTS_AT_ONCE = 8
"""Number of subjects that are sent to a process together."""


def draw_market(
    root: Path,
    *,
    train_persons: int,
    test_persons: int,
    cameras: int,
    images_per_camera: int,
    distractors: int,
    junk: int,
    width: int,
    height: int,
    seed: int,
    workers: int,
) -> None:
    """Draws a data set into a new folder, with as many processes as `workers`.

    Every person is seen by about two thirds of the cameras, at least two, with `images_per_camera` images each on
    average; test persons have one query image under their first camera and by chance one under each of the others.
    `distractors` (0000: persons seen once) and `junk` (-1: badly cropped) are numbers of gallery images. The folder
    appears under its name when it is complete; width and height are those of an image in pixels.

    Raises DatasetError if the folder exists already or cannot be written, or if there are fewer than two cameras.
    """
    if root.exists():
        raise DatasetError(f"{root}: exists already; a data set is drawn into a new folder only")
    if cameras < 2:
        raise DatasetError(
            f"{root}: cannot draw a data set with cameras = {cameras}: every query needs a match under a second camera"
        )
    parameters = Parameters(
        train_persons, test_persons, cameras, images_per_camera, distractors, junk, width, height, seed
    )
    partial_root = root.with_name(root.name + ".partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    try:
        for split in (TRAIN, GALLERY, QUERY):
            (partial_root / split).mkdir(parents=True)
    except OSError as error:
        raise DatasetError(f"{partial_root}: cannot be written: {error.strerror}") from error
    subjects = plan(parameters)
    done = 0
    with Progress("drawing the data set", sum(len(subject.shots) for subject in subjects)) as progress:
        for drawn in _in_processes(partial(draw_subject, parameters, partial_root), subjects, workers=workers):
            done += drawn
            progress.update(done)
    (partial_root / STAMP).write_text(json.dumps(_stamp(parameters), indent=2) + "\n", encoding="utf-8")
    partial_root.rename(root)


def ensure_market(root: Path, *, workers: int, **parameters: int) -> bool:
    """Draws the data set of `draw_market` if `root` is absent; returns whether it did.

    A folder that was drawn with equal parameters is left as it is, whatever was done to its images since. Raises
    DatasetError if the folder was drawn with other parameters, or not by this project.
    """
    if not root.exists():
        with made_in_turn(root):
            if not root.exists():
                draw_market(root, workers=workers, **parameters)
                return True
    wanted, found = _stamp(Parameters(**parameters)), _read_stamp(root)
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        lines = "".join(f"  {name}: found {found.get(name)}, wanted {wanted[name]}\n" for name in differing)
        raise DatasetError(
            f"{root}: drawn with other parameters than dataset.synthetic asks for ({len(differing)} differ)\n{lines}"
            "  do: remove the folder to have it drawn again, or name another one in dataset.synthetic.root"
        )
    return False


def _read_stamp(root: Path) -> dict[str, int]:
    stamp = root / STAMP
    try:
        found = parse_json(read_plain_file(stamp), source=stamp)
    except FileNotFoundError:
        raise DatasetError(
            f"{root}: exists already, but was not drawn by this project: {STAMP} is not in it\n"
            "  do: name another folder in dataset.synthetic.root; to use this one, name its three folders in\n"
            "      dataset.train_dataset_dir, test_dataset_dir and query_dataset_dir, and set dataset.synthetic to null"
        ) from None
    except DamagedRecordError as error:
        raise DatasetError(f"{stamp}: {error.one_line}\n  do: remove {root} to have it drawn again") from None
    if not isinstance(found, dict):
        raise DatasetError(
            f"{stamp}: found {type(found).__name__}, wanted an object of parameters\n"
            f"  do: remove {root} to have it drawn again"
        )
    return found


def _stamp(parameters: Parameters) -> dict[str, int]:
    return {"drawing": DRAWING, **asdict(parameters)}


def draw_subject(parameters: Parameters, root: Path, subject: Subject) -> int:
    """Draws all images of a subject below `root`; returns their number."""
    rng = random_numbers(parameters.seed, subject.branch, subject.index, 1)
    looks = set_up_cameras(parameters.seed, parameters.cameras, parameters.height, parameters.width)
    person = dress(rng)
    for shot in subject.shots:
        camera = looks[shot.camera - 1]
        image = photograph(
            camera, person, rng, height=parameters.height, width=parameters.width, spoiled=subject.branch is Branch.JUNK
        )
        image.save(root / shot.file, quality=camera.quality)
    return len(subject.shots)


@lru_cache(maxsize=2)
def set_up_cameras(seed: int, cameras: int, height: int, width: int) -> tuple[Camera, ...]:
    """The cameras of a data set."""
    return tuple(
        set_up_camera(
            random_numbers(seed, Branch.CAMERA, index, 0), index=index, cameras=cameras, height=height, width=width
        )
        for index in range(cameras)
    )


def _in_processes(draw: Callable[[Subject], int], subjects: Sequence[Subject], *, workers: int) -> Iterator[int]:
    """draw(subject) of each subject, in order: in `workers` processes, or in this one if the set is small."""
    if min(workers, len(subjects) // SUBJECTS_AT_ONCE) <= 1:
        yield from map(draw, subjects)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield from pool.map(draw, subjects, chunksize=SUBJECTS_AT_ONCE)
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends this process when the parent is gone, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
