import json
import logging
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reid.distributed import channel
from reid.distributed.channel import Channel

REPOSITORY = Path(__file__).parents[2]
RANK = """
import logging, os, signal, sys
from reid.distributed.channel import Line, ToldRecords

line = Line(sys.argv[1], rank=0)
logging.basicConfig(handlers=[ToldRecords(line)])
logger = logging.getLogger("reid.tests")


class Socket:  # a signal arrives while the line sends
    def sendall(self, message):
        if b"noted" in message:
            signal.raise_signal(signal.SIGTERM)
        real.sendall(message)

    def detach(self):
        return real.detach()


real, line._socket = line._socket, Socket()
signal.signal(signal.SIGTERM, lambda *_: logger.warning("a signal"))
line.tell("call", name="noted", arguments={"number": 1})
if not os.fork():
    logger.warning("of a loader")
    os._exit(0 if real.fileno() < 0 else 1)
status = os.waitstatus_to_exitcode(os.wait()[1])
line.tell("result", value=status)
line.tell("done")
os._exit(0)
"""


def test_a_rank_logs_in_a_signals_handler_and_in_a_forked_process(caplog: pytest.LogCaptureFixture) -> None:
    noted: list[int] = []
    line = Channel({"log_level": logging.INFO}, {"noted": lambda *, number: noted.append(number)})
    rank = subprocess.run(
        [sys.executable, "-c", RANK, line.path], cwd=REPOSITORY, stderr=subprocess.PIPE, timeout=60, check=False
    )
    line.close()
    assert rank.returncode == 0, rank.stderr.decode()
    assert (noted, line.result, line.lost) == ([1], 0, [])
    assert [record.getMessage() for record in caplog.records if record.name == "reid.tests"] == ["a signal"]
    assert rank.stderr.decode() == "WARNING of a loader\n"  # it has no part in the line


def test_a_result_is_heard_however_long_the_calls_before_it_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LAST_WORDS_S", 0.2)
    line = Channel({}, {"noted": lambda: time.sleep(0.6)})
    told: list[dict[str, Any]] = [{"rank": 0}, {"kind": "call", "name": "noted", "arguments": {}}]
    told += [{"kind": "result", "value": 7}, {"kind": "done"}]
    with socket.socket(socket.AF_UNIX) as rank:
        rank.connect(line.path)
        rank.sendall("".join(json.dumps(message) + "\n" for message in told).encode())
        rank.recv(100)
    line.close()
    assert line.result == 7
    assert not Path(line.path).parent.exists()
