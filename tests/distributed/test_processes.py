import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reid.distributed import processes as rank_processes
from reid.distributed.processes import started
from reid.distributed.ranks import SINGLE_PROCESS
from reid.errors import ArtifactError, TrainingError
from tests import rank_work

REPOSITORY = Path(__file__).parents[2]
LINGERING = """
import sys
from reid.distributed.processes import started
from tests.rank_work import linger
with started(2, "tests.rank_work:linger", {"folder": sys.argv[1]}) as ranks:
    linger(folder=sys.argv[1], ranks=ranks)
"""


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_one_rank_starts_nothing_and_leaves_the_environment():
    before = dict(os.environ)
    with started(1, "no.module:nothing", {}) as ranks:
        assert ranks is SINGLE_PROCESS
        assert (ranks.rank, ranks.size, ranks.share(5), ranks.any(True), ranks.any(False)) == (0, 1, 5, True, False)
        assert dict(os.environ) == before


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_share_vote_and_give_their_rows_to_the_first(tmp_path, size):
    before = dict(os.environ)
    with started(size, "tests.rank_work:talk", {"folder": str(tmp_path)}) as ranks:
        rank_work.talk(folder=str(tmp_path), ranks=ranks)
    assert dict(os.environ) == before
    assert not torch.distributed.is_initialized()
    heard = [eval((tmp_path / f"{rank}").read_text()) for rank in range(size)]
    assert [told[:3] for told in heard] == [[{"of": 0}, True, False]] * size
    # 7 rows in batches of 3, in turn: rows 0-2 of rank 0, 3-5 of rank 1, 6 of rank 2, or of rank 0 again
    assert [row[0] for row in heard[0][3]] == [0, 0, 0, 1, 1, 1, 2 % size]


def test_an_error_of_another_rank_is_raised_by_the_first():
    with pytest.raises(ArtifactError) as error, started(3, "tests.rank_work:refuse", {}) as ranks:
        rank_work.refuse(ranks=ranks)
    assert str(error.value) in {f"rank {rank}: this is wrong\n  want: that" for rank in (1, 2)}


def test_a_rank_that_was_killed_is_named():
    with pytest.raises(TrainingError) as error, started(2, "tests.rank_work:die", {}) as ranks:
        rank_work.die(ranks=ranks)
    assert str(error.value) == "rank 1 of 2 was killed by SIGKILL; its last messages, if any, are above"


def test_ranks_that_do_not_end_with_the_first_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_processes, "END_S", 0.5)
    with (
        pytest.raises(TrainingError) as error,
        started(2, "tests.rank_work:linger", {"folder": str(tmp_path)}) as ranks,
    ):
        ranks.share(1)
    assert str(error.value) == (
        "rank 1 of 2 has not ended, 0.5 s after rank 0 was done\n"
        "  want:  all ranks to end together; what was written before is kept, run the task again"
    )
    assert error.value.__cause__ is None


def test_an_error_of_the_first_rank_alone_is_raised_as_it_is(tmp_path):
    mistake = ArtifactError("only here")
    with (
        pytest.raises(ArtifactError) as error,
        started(2, "tests.rank_work:linger", {"folder": str(tmp_path)}) as ranks,
    ):
        ranks.share(1)
        raise mistake
    assert error.value is mistake
    assert error.value.__cause__ is None


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(process)


@pytest.mark.slow
def test_the_others_end_with_the_first_whatever_ends_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), started(2, "tests.rank_work:linger", {"folder": str(tmp_path)}) as ranks:
        ranks.share(1)
        other = wait_for(tmp_path / "1")
        raise KeyboardInterrupt
    assert gone(other)
    (tmp_path / "1").unlink()
    first = subprocess.Popen([sys.executable, "-c", LINGERING, str(tmp_path)], cwd=REPOSITORY)
    other = wait_for(tmp_path / "1")
    wait_for(tmp_path / "0")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert gone(other)
