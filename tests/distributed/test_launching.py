import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reid.distributed.agent import run_agent
from reid.distributed.joining import Machine
from reid.distributed.launching import run_on_ranks
from reid.distributed.ranks import SINGLE_PROCESS
from reid.errors import ArtifactError, RankLost

REPOSITORY = Path(__file__).parents[2]
LINGERING = """
import sys
from reid.distributed.launching import run_on_ranks
run_on_ranks(f"tests.rank_work:{sys.argv[2]}", {"folder": sys.argv[1]}, local=2)
"""


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def own(*, ranks: Any, tell: Any, known: list[Any]) -> int:
    known += [ranks, tell]
    return os.getpid()


def test_one_rank_starts_nothing_and_leaves_the_environment():
    before, known = dict(os.environ), []
    assert run_on_ranks(f"{__name__}:own", {}, local=1, known={"known": known}) == os.getpid()
    assert known[0] is SINGLE_PROCESS
    assert (known[0].rank, known[0].size, known[0].local_rank, known[0].machines) == (0, 1, 0, 1)
    assert (known[0].share(5), known[0].any(True), known[0].any(False)) == (5, True, False)
    assert dict(os.environ) == before


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_share_vote_and_give_their_rows_to_the_first(tmp_path, size):
    before, handlers = dict(os.environ), [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    run_on_ranks("tests.rank_work:talk", {"folder": str(tmp_path)}, local=size)
    assert dict(os.environ) == before
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    heard = [eval((tmp_path / f"{rank}").read_text()) for rank in range(size)]
    assert [told[:3] for told in heard] == [[{"of": 0}, True, False]] * size
    # 7 rows in batches of 3, in turn: rows 0-2 of rank 0, 3-5 of rank 1, 6 of rank 2, or of rank 0 again
    assert [row[0] for row in heard[0][3]] == [0, 0, 0, 1, 1, 1, 2 % size]


@pytest.mark.slow
def test_the_first_rank_tells_the_task_what_it_logs_and_returns(caplog, capfd):
    caplog.set_level(logging.INFO, "reid")
    noted: list[dict[str, Any]] = []
    found: list[Any] = []

    def run() -> None:  # as a notebook's or a server's thread would, where no handler of a signal can be set
        heard = {"noted": lambda **values: noted.append(values)}
        found.append(run_on_ranks("tests.rank_work:report", {"number": 7}, local=2, heard=heard))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [{"rank": 0, "sum": 7.5, "parent": os.getpid()}]
    assert noted == [{"rank": 0, "number": 7}]
    assert [record.getMessage() for record in caplog.records if record.name == "reid.tests"] == ["a line of rank 0"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_what_the_task_does_with_a_message_may_fail():
    def refuse(**_: Any) -> None:
        raise ArtifactError("the disk is full")

    with pytest.raises(ArtifactError, match=r"^the disk is full$"):
        run_on_ranks("tests.rank_work:report", {"number": 7}, local=2, heard={"noted": refuse})


@pytest.mark.parametrize(
    ("function", "kind", "texts"),
    [
        pytest.param("refuse", ArtifactError, {"rank 1: this is wrong\n  want: that"}, marks=pytest.mark.slow),
        pytest.param("refuse_alone", ArtifactError, {"only here"}, marks=pytest.mark.slow),
        ("die", RankLost, {"rank 1 of 2 was killed by SIGKILL; its last messages, if any, are above"}),
        pytest.param(
            "stumble",
            RankLost,
            {"rank 1 of 2 failed: ZeroDivisionError: rank 1 divided; its last messages, if any, are above"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_ends_one_rank_ends_all_and_is_named(function, kind, texts, capfd):
    with pytest.raises(kind) as error:
        run_on_ranks(f"tests.rank_work:{function}", {}, local=2)
    assert str(error.value) in texts
    assert type(error.value) is kind
    assert error.value.exit_status == (1 if kind is RankLost else 2)
    said = capfd.readouterr().err
    assert ("Traceback" in said) == (function == "stumble")
    assert "ChildFailedError" not in said


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + 120
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    return int(path.read_text())


def gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(process)


def lingering(folder: Path, how: str = "linger") -> tuple["subprocess.Popen[bytes]", list[int]]:
    task = subprocess.Popen([sys.executable, "-c", LINGERING, str(folder), how], cwd=REPOSITORY, stderr=subprocess.PIPE)
    return task, [wait_for(folder / f"{rank}", task) for rank in range(2)]


@pytest.mark.slow
def test_a_signal_to_the_task_reaches_all_ranks_at_once(tmp_path):
    task, ranks = lingering(tmp_path)
    time.sleep(0.5)  # they write their number before they sleep
    began = time.monotonic()
    task.send_signal(signal.SIGTERM)
    said = task.communicate()[1].decode()
    assert time.monotonic() - began < 10
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert [(tmp_path / f"{rank}").read_text() for rank in range(2)] == ["stopped"] * 2
    assert not any(alive(rank) for rank in ranks)


@pytest.mark.slow
def test_a_second_interrupt_ends_the_ranks_at_once(tmp_path):
    task, ranks = lingering(tmp_path, "stay")
    began = time.monotonic()
    task.send_signal(signal.SIGINT)
    time.sleep(1)
    assert task.poll() is None
    task.send_signal(signal.SIGINT)
    said = task.communicate()[1].decode()
    assert time.monotonic() - began < 15  # the first one alone leaves them 20 s
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not any(alive(rank) for rank in ranks)


@pytest.mark.slow
def test_the_ranks_end_with_the_task_even_if_it_is_killed(tmp_path):
    task, ranks = lingering(tmp_path)
    task.kill()
    task.communicate()
    assert all(gone(rank) for rank in ranks)


def test_a_machine_that_waits_for_the_others_heeds_signals_and_names_who_is_missing():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine = Machine(number=0, count=2, local_size=1, address="127.0.0.1", port=port)
    import torch.distributed.run  # noqa: F401 - the signal is meant to come when all is imported

    timer = threading.Timer(1, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_agent({}, {}, machine, 1, meeting_s=600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine = Machine(number=0, count=2, local_size=1, address="127.0.0.1", port=port)
    with pytest.raises(RankLost) as error:
        run_agent({}, {}, machine, 1, meeting_s=1)
    assert str(error.value) == (
        f"the 2 machines cannot meet at 127.0.0.1:{port}\n"
        "  found: Timed out after 2 seconds waiting for clients. 1/2 clients joined.\n"
        "  want:  the same task on each machine, and an address and a port of machine 0 that all can reach"
    )
