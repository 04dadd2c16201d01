"""Learning of SIGTERM at once, even while the main thread computes.

Python runs a signal's handler in the main thread, between two steps of its own code; a training step of PyTorch is one
such step and may take seconds. A deleted pod has less: its container ends within a second of the signal. But the signal
itself is noted at once, as a byte in a socket, and a thread that waits for this byte can act.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def told_of_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` in a thread when SIGTERM arrives inside the block; the signal's handler runs as ever.

    Signals of forked processes do not count. Does nothing in another thread than the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def wait() -> None:
        while numbers := reading.recv(64):
            if signal.SIGTERM in numbers:
                act()
                return

    thread = threading.Thread(target=wait, name="stop signal", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    _open.append(writing)
    try:
        yield
    finally:
        _open.remove(writing)
        signal.set_wakeup_fd(before)
        writing.close()
        thread.join()
        reading.close()


_open: list[socket.socket] = []
"""Where the signals of this process are noted now."""


def _forget_in_forked_process() -> None:
    if _open:  # for example in a loader process: PyTorch ends it by SIGTERM, which would be taken for ours
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_forked_process)
