"""SIGTERM while the main thread is in a long call of C code, as in a step of PyTorch."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reid.tracking.stage_run import stage_run
from reid.tracking.store import PARENT, connect

PROGRAM = """
import os, signal, time
from reid.tracking.stop_signal import told_of_sigterm

signal.signal(signal.SIGTERM, signal.default_int_handler)
with told_of_sigterm(lambda: print("told", flush=True)):
    child = os.fork()
    if not child:
        try:
            time.sleep(60)
        finally:
            os._exit(0)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(0.1)
    print("forked", flush=True)
    time.sleep(60)
"""


class Step:
    """A call of C code that no signal interrupts, and that `end` ends."""

    def __init__(self) -> None:
        self._mutex, self._c = ctypes.create_string_buffer(64), ctypes.CDLL(None)  # zeros: an unlocked pthread_mutex_t
        self._c.pthread_mutex_lock(self._mutex)

    def run(self) -> None:
        self._c.pthread_mutex_lock(self._mutex)

    def end(self) -> None:
        self._c.pthread_mutex_unlock(self._mutex)


def test_the_run_of_a_pod_that_is_stopped_is_ended_before_its_step_is_and_the_next_attempt_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for name, value in {"MLFLOW_TRACKING_URI": uri, "KFP_RUN_ID": "run-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    client, step = connect(uri), Step()
    seen: list[list[str]] = []

    def states() -> list[str]:
        places = [place.experiment_id for place in client.search_experiments()]
        return [f"{PARENT in run.data.tags}: {run.info.status}" for run in client.search_runs(places)]

    def watch() -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        give_up_at = time.monotonic() + 20
        while "RUNNING" in str(states()) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        seen.append(states())
        step.end()

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stage_run("train", tmp_path / "pod-1") as run:
            run.log_metrics({"loss": 1.0}, 1)
            run.flush()
            threading.Thread(target=watch).start()
            step.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [sorted(states) for states in seen] == [["False: KILLED", "True: KILLED"]]
    with stage_run("train", tmp_path / "pod-2") as run:
        run.flush()
        assert sorted(states()) == ["False: RUNNING", "True: RUNNING"]
    assert sorted(states()) == ["False: FINISHED", "True: FINISHED"]


def test_a_signal_to_a_forked_process_is_not_taken_for_ours() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "forked\n"
        process.terminate()
        assert process.stdout.readline() == "told\n"
