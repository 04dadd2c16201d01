"""Starts one command and outlives nobody: `python guard.py [--container NAME] COMMAND…`, with standard input a pipe
that the runner holds open.

When the runner dies, however it dies, the pipe closes and the whole process group of the command is killed: no
orphan goes on using the GPU or writing into a results folder that the next run has taken over. A container is no member
of that group; where the command is `docker run --name NAME`, the container of that name ends with it too. Standard
library only; works wherever pipes and process groups do.
"""

import os
import signal
import subprocess
import sys
import threading

REMOVE_TIMEOUT_S = 30.0


def remove(container: str | None) -> None:
    """Kills and removes the container of this name, if there is one."""
    if container is None:
        return
    command = ["docker", "rm", "--force", container]
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REMOVE_TIMEOUT_S,
            check=False,
            start_new_session=True,  # it is to end what this group has begun, not to end with it
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"container {container} may still be there: {error}\n")


def kill_group_at_end_of(stream: int, container: str | None) -> None:
    """Blocks until the other end of the pipe is closed, then kills this process and everything it started."""
    while os.read(stream, 1):
        pass
    remove(container)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """The command's exit status; 128 + n where signal n ended it."""
    # Handlers, for SIG_IGN would be inherited. The command gets the runner's signals itself, as a member of the group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    command, container = sys.argv[1:], None
    if command[0] == "--container":
        container, command = command[1], command[2:]
    try:
        task = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127
    threading.Thread(target=kill_group_at_end_of, args=(sys.stdin.fileno(), container), daemon=True).start()
    status = task.wait()
    if status:
        remove(container)  # docker's client may have died, and not what it watched
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
