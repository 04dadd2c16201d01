"""The program of a rank that the task's process has started: `python -m reid.distributed.worker`.

It has no arguments. The environment, as torch's elastic agent sets it, says which rank it is, and the channel of the
task's process brings the request.
"""

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any

from reid.distributed.channel import SOCKET, Line, ToldRecords, described
from reid.distributed.group import INTERRUPTED, Group, first_line, is_about_connections, tell_nobody
from reid.distributed.joining import Place, place_of
from reid.errors import RankLost, ReidError


def main() -> int:
    """Does the part of one rank; returns the exit status: 0, a ReidError's own, 130 if it was stopped, else 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    os.dup2(2, 1)  # standard output belongs to the task; what libraries print goes to standard error
    place = place_of(os.environ) or Place(0, 1, 0, 1, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    line = Line(os.environ.pop(SOCKET), rank=place.rank)
    _log_to(line, place)
    try:
        _take_part(place, line)
    except KeyboardInterrupt:  # if all have stopped together, they have written their checkpoint
        line.tell("interrupted")
        return INTERRUPTED
    except ReidError as error:
        line.tell("error", **described(error))
        return error.exit_status
    except Exception as error:
        if not is_about_connections(error):
            traceback.print_exc()
        line.tell("failure", text=first_line(error))
        return 1
    line.tell("done")
    return 0


def _take_part(place: Place, line: Line) -> None:
    def ended(error: ReidError) -> None:
        line.tell("error", **described(error))
        os._exit(error.exit_status)

    group = Group(place, ended=ended if place.size > place.local_size else None)
    if not place.rank:
        group.set_request(line.request)
    request = group.next_request()
    if "function" not in request:
        if request["exit_status"]:
            raise RankLost("the first machine has ended before the ranks were needed; its log says why")
        group.part()
        return

    def call(name: str, /, **arguments: Any) -> None:
        line.tell("call", name=name, arguments=arguments)

    result = group.call(request, tell_nobody if place.rank else call)
    if not place.rank:
        line.tell("result", value=result)
    group.part()


def _log_to(line: Line, place: Place) -> None:
    """Sends rank 0's log to the task's process; of the other ranks, warnings go to standard error."""
    logging.captureWarnings(True)
    if place.rank:
        logging.basicConfig(level=logging.WARNING, format=f"rank {place.rank}: %(levelname)s %(message)s")
        return
    logging.basicConfig(level=logging.WARNING, handlers=[ToldRecords(line)])
    logging.getLogger("reid").setLevel(line.request["log_level"])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(status: int) -> None:
    """Ends this process without torch's own clearing up, which may wait for ranks that are gone."""
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    try:
        found = main()
    except KeyboardInterrupt:  # before the line is there, or a second time while the first one is handled
        found = INTERRUPTED
    except BaseException:
        traceback.print_exc()
        found = 1
    _end(found)
