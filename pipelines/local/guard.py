"""Starts one command and ends it if the runner dies: `python guard.py [--container NAME] COMMAND…`.

Standard input is a pipe that the runner holds open. When the runner dies, in whatever way, the pipe closes and the
whole process group of the command is killed: no orphan continues to use the GPU, or to write into a results folder that
the next run uses. A container is no member of that group; if the command is `docker run --name NAME`, the container of
that name is removed, too. Standard library only.
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
            start_new_session=True,  # so that it is not killed with this process group
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
    """Runs the command; returns its exit status, 128 + n if signal n ended it."""
    # Handlers, because SIG_IGN would be inherited. The command is in this process group and gets the signals itself.
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
        remove(container)  # the docker client may have died without its container
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
