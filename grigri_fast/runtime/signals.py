"""Signals that end the program: Ctrl-C, SIGTERM (schedulers), SIGHUP (a closed terminal)."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether a signal has asked to stop; training calls it between two steps.

    Attributes:
        signum: the signal's number, 0 while there has been none.
    """

    signum: int = 0

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.signum != 0


@contextlib.contextmanager
def raise_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise :class:`Interrupted`, as Ctrl-C raises KeyboardInterrupt."""

    def handler(signum: int, frame: object) -> None:
        raise Interrupted(signum)

    with _handlers({s: handler for s in _SIGNALS if s != signal.SIGINT}):
        yield


@contextlib.contextmanager
def deferred(say: Callable[[str], None] = lambda text: None) -> Iterator[Stop]:
    """Record the first signal, so that a step can be finished; end the process at the second.

    Python's own handlers wait until the main thread runs Python code, which it does not while a
    device hangs. So a thread reads the signals from the interpreter's wake-up descriptor. Ending
    at once is safe, since no file is ever half written (see ``files``). ``say`` is called from
    another thread with a message about the first signal.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread gets signals
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        is_second = False  # stop.signum may also come from another process of the training
        while number := os.read(reader, 1):
            if number[0] not in caught:
                continue
            if is_second:
                os._exit(128 + number[0])
            stop.signum, is_second = number[0], True
            # In a thread of its own: a terminal that does not read must not block the next signal.
            threading.Thread(target=tell, daemon=True).start()

    def tell() -> None:
        with contextlib.suppress(OSError):  # a terminal that is closed
            say("stopping after this step; a second Ctrl-C ends at once")

    thread = threading.Thread(target=listen, name="grigri-signals", daemon=True)
    with _handlers({s: lambda signum, frame: None for s in _SIGNALS}) as caught:
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread.start()
        try:
            yield stop
        finally:
            signal.set_wakeup_fd(before)
            os.close(writer)  # ends the thread
            thread.join()
            os.close(reader)


def wait_for_end(code: int, seconds: float) -> None:
    """Wait for a signal; it ends the process with exit code ``code``, and nothing is printed.

    For one of several processes that train, where another one has printed the reason.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.set_wakeup_fd(-1)  # that of ``deferred``, which would only record it
    try:
        with _handlers({s: lambda signum, frame: os._exit(code) for s in _SIGNALS}):
            time.sleep(seconds)
    finally:
        signal.set_wakeup_fd(before)


@contextlib.contextmanager
def _handlers(wanted: dict[signal.Signals, object]) -> Iterator[set[int]]:
    """Install handlers for a while; yield the signals. Those that nohup ignores stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield set()
        return
    before = {s: signal.getsignal(s) for s in wanted}
    caught = {s for s in wanted if before[s] != signal.SIG_IGN}
    for s in caught:
        signal.signal(s, wanted[s])
    try:
        yield {int(s) for s in caught}
    finally:
        for s in caught:
            signal.signal(s, before[s])
