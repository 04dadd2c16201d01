"""The journal on disk and the thread that sends it, without MLflow."""

import json
import logging
import time
from pathlib import Path

import pytest

from reid.errors import TrackingError
from reid.tracking import journal, sender
from reid.tracking.journal import Address, Journal
from reid.tracking.sender import Sender


def points(journal: Journal) -> list[tuple[dict[str, float], int]]:
    return [(record["metrics"], record["step"]) for record in journal.after(0)[0]]


def test_a_step_that_is_done_again_after_a_resume_is_written_once(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append_metrics({"loss": 2.0}, 10)
    first.append_metrics({"loss": 1.5, "rate": 7.0}, 20)
    first.close()
    again = Journal(tmp_path)  # another process, which went back to step 10
    again.append_metrics({"loss": 1.5, "grad": 3.0}, 20)
    again.append_metrics({"loss": 1.0}, 30)
    again.close()
    assert points(again) == [
        ({"loss": 2.0}, 10),
        ({"loss": 1.5, "rate": 7.0}, 20),
        ({"grad": 3.0}, 20),
        ({"loss": 1.0}, 30),
    ]


def test_a_line_that_a_kill_cut_off_costs_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append_metrics({"loss": 2.0}, 1)
    journal.close()
    with journal.path.open("ab") as stream:
        stream.write(b'{"metrics": {"loss": 1.')
    assert len(journal.after(0)[0]) == 1
    again = Journal(tmp_path)
    again.append_metrics({"loss": 0.5}, 3)
    again.close()
    assert points(again) == [({"loss": 2.0}, 1), ({"loss": 0.5}, 3)]


def test_reading_resumes_where_it_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(5):
        journal.append_metrics({"loss": 1.0}, step)
    head, middle = journal.after(0, limit=3)
    tail, end = journal.after(middle)
    journal.close()
    assert [record["step"] for record in head + tail] == [0, 1, 2, 3, 4]
    assert end == journal.size()


def test_an_address_survives_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    address = Address("http://store", "train", run_id="a", parent_id="b", sent={"a": 12})
    address.save(tmp_path)
    assert Address.load(tmp_path) == address
    (tmp_path / journal.ADDRESS).write_text('{"store": ')
    assert Address.load(tmp_path) is None


def test_a_password_of_the_store_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address("https://me:s3:cret@store/x", "train", run_id="a")
    address.save(tmp_path)
    assert json.loads((tmp_path / journal.ADDRESS).read_text())["store"] == "https://me:***@store/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.store)
    assert Address.load(tmp_path) == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://other")
    loaded = Address.load(tmp_path)
    assert loaded is not None and loaded.store == "https://me:***@store/x"


class Post:
    """A store that can be shut; counts what it is asked."""

    def __init__(self) -> None:
        self.queue, self.got, self.tries = 0, 0, 0
        self.open = True

    def send(self) -> int:
        self.tries += 1
        if not self.open:
            raise TrackingError("MLflow at http://x: gone")
        sent, self.queue = self.queue, 0
        self.got += sent
        return sent

    def waiting(self) -> bool:
        return bool(self.queue)


def test_a_store_that_is_gone_for_a_while_gets_all_of_it_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(sender, "BACK_OFF_S", (0.05, 0.1))
    caplog.set_level(logging.INFO)
    post = Post()
    post.open = False
    sending = Sender(post.send, waiting=post.waiting, kept_in=tmp_path)
    post.queue = 7
    sending.wake()
    while post.tries < 4:
        time.sleep(0.01)
    post.open = True
    assert sending.close()
    assert post.got == 7
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"MLflow at http://x: gone; figures are kept in {tmp_path} and sent when it answers again"),
        ("INFO", "MLflow answers again; what was kept is being sent"),
    ]


def test_the_end_of_a_stage_waits_for_a_gone_store_only_so_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sender, "GIVE_UP_S", 0.5)
    post = Post()
    post.open, post.queue = False, 1
    sending = Sender(post.send, waiting=post.waiting, kept_in=tmp_path)
    started = time.monotonic()
    assert not sending.close()
    assert 0.5 <= time.monotonic() - started < 2
    assert post.queue == 1
