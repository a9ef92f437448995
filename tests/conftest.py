"""For all tests: signals as a terminal would leave them."""

from __future__ import annotations

import signal

# Whoever runs the tests in a script's background has them ignore Ctrl-C, and so would every server and command that they start
# and then stop that way: an ignored signal is inherited, a handler is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
