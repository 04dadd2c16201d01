"""Starts one command and outlives nobody: `python guard.py COMMAND…`, with standard input a pipe that the runner
holds open.

When the runner dies, however it dies, the pipe closes and the whole process group of the command is killed: no
orphan goes on using the GPU or writing into a results folder that the next run has taken over. Standard library
only; works wherever pipes and process groups do.
"""

import os
import signal
import subprocess
import sys
import threading


def kill_group_at_end_of(stream: int) -> None:
    """Blocks until the other end of the pipe is closed, then kills this process and everything it started."""
    while os.read(stream, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """The command's exit status; 128 + n where signal n ended it."""
    # Handlers, for SIG_IGN would be inherited. The command gets the runner's signals itself, as a member of the group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        task = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {sys.argv[1]}: {error.strerror}\n")
        return 127
    threading.Thread(target=kill_group_at_end_of, args=(sys.stdin.fileno(),), daemon=True).start()
    status = task.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
