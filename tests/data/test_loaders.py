"""The processes that load batches: their signals, and their room in shared memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data import loaders
from reid.data.loaders import fitting_processes
from tests.plain_data import plain_data

ROOT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")


def test_a_signal_to_the_group_of_a_rank_misses_its_loader_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "MEMORY_SHARE", 0)
    pixels = np.zeros((8, 4, 2, 3), np.uint8)
    data = plain_data(pixels, np.arange(8) // 2, batch_size=4, num_instances=2, num_workers=1)
    batches = iter(data.train_dataloader())
    next(batches)
    (loader,) = batches._workers  # type: ignore[attr-defined]
    assert os.getpgid(loader.pid) == loader.pid != os.getpgrp()


@pytest.mark.parametrize(
    ("pages", "asked_of_ranks", "used"),
    # a batch of three pages and of one is 4 pages; each process has 2 batches under way, the training holds 3
    [
        (28, (2, 1), 2),
        (27, (2, 1), 1),
        (20, (2, 1), 1),
        (19, (2, 1), 0),
        (0, (2, 1), 0),
        (0, (0, 1), 0),
        (55, (2, 2), 1),
    ],
)
def test_only_as_many_processes_are_used_as_there_is_shared_memory_for(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pages: int,
    asked_of_ranks: tuple[int, int],
    used: int,
) -> None:
    monkeypatch.setattr(loaders, "_free_bytes", lambda _folder: pages * PAGE)
    asked, ranks = asked_of_ranks
    batch = (torch.zeros(3 * PAGE - 1, dtype=torch.uint8), (torch.zeros(1), None, (1, 2)))
    assert fitting_processes(asked, batch=batch, ranks=ranks) == used
    assert len(caplog.messages) == (used < asked)


def test_the_warning_names_the_room_and_how_to_get_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loaders, "_free_bytes", lambda _folder: 64 << 20)
    assert fitting_processes(4, batch=(torch.zeros(25 << 20, dtype=torch.uint8),), ranks=1) == 0
    assert caplog.messages == [
        "dataset.num_workers: 0 of 4 loader processes are used, for /dev/shm has too little room: 67.1 MB are free, "
        "288.4 MB are wanted\n  give the container more, e.g. docker run --shm-size=320m, or shared_memory in the "
        "cluster file; or choose a smaller dataset.batch_size"
    ]


def test_without_a_folder_of_shared_memory_nothing_limits_the_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loaders, "SHARED_MEMORY", tmp_path / "none")
    assert fitting_processes(4, batch=(torch.zeros(9),), ranks=1) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("checked", "status"), [(True, 0), (False, 2)])
def test_a_training_does_not_wait_for_ever_with_little_shared_memory(
    tmp_path: Path, checked: bool, status: int
) -> None:
    """In a real /dev/shm of 256 KiB; unchecked, as if the room went away after the check."""
    if os.geteuid() != 0:
        pytest.skip("it needs root, to mount a file system")
    program = (
        "import sys; from reid.data import loaders; loaders.MEMORY_SHARE = 0;"
        + ("" if checked else "loaders._free_bytes = lambda _folder: None;")
        + "from reid.cli.commands import main; from tests.drawn_persons import write_persons; from pathlib import Path;"
        f"write_persons(Path('{tmp_path}/data'), train=8, test=4); sys.exit(main(sys.argv[1:]))"
    )
    script = 'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "$@"'
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"results_dir: {tmp_path}\nmodel: {{backbone: timm/test_resnet, pretrain_choice: '', input_width: 32, "
        "input_height: 64, feat_dim: 32}\ntrain: {num_epochs: 1}\n"
        f"dataset: {{num_classes: null, root: {tmp_path}/data, batch_size: 16, num_instances: 4, num_workers: 2}}\n"
    )
    command = ["unshare", "--mount", "bash", "-c", script, "bash", sys.executable, "-c", program]
    done = subprocess.run(
        [*command, "train", "-e", str(spec)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if checked:
        assert "dataset.num_workers: 0 of 2 loader processes are used, for /dev/shm has too little" in done.stderr
    else:
        assert "a loader process of the training images ends: unable to" in done.stderr
        assert "dataset.num_workers: a loader process of the training images has ended\n" in done.stderr
