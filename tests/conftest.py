"""Ctrl-C reaches what the tests start, also where the tests themselves were started in the background of a shell."""

import signal

# A background job of a shell without job control ignores SIGINT, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
