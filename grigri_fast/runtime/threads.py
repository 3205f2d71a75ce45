"""Threads that read files: on a disk that does not answer they hang, and nothing can end them.

At its exit the interpreter waits for every thread of a pool, so the program would hang with them.
Pools that may do so are made here, and the program ends with :func:`leave`.
"""

import atexit
import contextlib
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

_running: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


def file_pool(num_threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool for work on files that may wait for a disk or a server for ever.

    The names of its threads begin with ``name``, for a debugger.
    """
    return ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=_register)


def _register() -> None:
    """Take note of the thread that runs this, before its first task."""
    _running.add(threading.current_thread())


def leave(code: int, at_once: bool = False) -> NoReturn:
    """End the process with an exit code, without waiting for a thread of a file pool that runs.

    Pools are shut down when their work is done, without waiting for a task that hangs: a thread
    that is still alive here is one that hangs, or whose task was given up just now. With
    ``at_once`` it waits for nothing else either.

    What is registered with ``atexit`` is done, but the interpreter is not taken down: to free each
    object of PyTorch takes a second or two, in which the user waits (benchmarks/README.md, log).
    """
    if not at_once and not any(thread.is_alive() for thread in _running):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the other threads
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a shell's >&- closes it
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(code)
