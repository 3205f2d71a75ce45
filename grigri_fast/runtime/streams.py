"""stdout and stderr that cannot end the program: a full disk, a closed stream, a lost reader.

What a program says is worth less than what it does: a training of hours must not end because the
disk of its log is full. So errors of writing are remembered here instead of raised, and told once,
when the work is done.
"""

import contextlib
import errno
import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

EXIT_LOST_READER = 141  # 128 + SIGPIPE, as a shell reports it


class _Lossy(io.FileIO):
    """A file descriptor to write to; what cannot be written is lost without an exception.

    Attributes:
        error: the first error of writing.
        needs_reader: whether a pipe without a reader is an exception (BrokenPipeError).
    """

    def __init__(self, descriptor: int, name: str, needs_reader: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.name = name
        self.error: OSError | None = None
        self.needs_reader = needs_reader

    def write(self, data) -> int:
        """Write some bytes, or lose them."""
        while True:
            try:
                written = super().write(data)
            except OSError as e:
                self.error = self.error or e
                if e.errno == errno.EPIPE and self.needs_reader:
                    raise
                return len(data)
            if written is not None:
                return written
            select.select([], [self], [])  # a terminal that another program set to non-blocking


_stdout: _Lossy | None = None


def guard() -> None:
    """Put streams that do not raise in the place of ``sys.stdout`` and ``sys.stderr``.

    Descriptors that are closed (``>&-``, some daemons) are opened on /dev/null: otherwise the next
    file that is opened would get the number, and what is printed would go into it.
    """
    global _stdout
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    _stdout = _Lossy(1, "<stdout>", needs_reader=True)
    sys.stdout = _text(_stdout, sys.stdout)
    sys.stderr = _text(_Lossy(2, "<stderr>", needs_reader=False), sys.stderr)


def keep_going() -> None:
    """From now on the program goes on, too, when the reader of stdout has gone (``| head``)."""
    if _stdout is not None:
        _stdout.needs_reader = False


def has_lost_reader() -> bool:
    """Return whether who read stdout has gone."""
    return _stdout is not None and _stdout.error is not None and _stdout.error.errno == errno.EPIPE


def finish(code: int) -> int:
    """Return the exit code, when the work is done with ``code``: another one if output was lost.

    A line on stderr says why, unless ``code`` stands for an error of its own, or who read the
    output has gone, and knows.
    """
    if _stdout is None:
        return code
    _stdout.needs_reader = False
    sys.stdout.flush()
    if _stdout.error is None or code:
        return code
    if has_lost_reader():
        return EXIT_LOST_READER
    print(f"error: stdout: {_stdout.error.strerror}; what was printed is lost", file=sys.stderr)
    return 1


def _text(raw: _Lossy, like: TextIO | None) -> TextIO:
    """Return a text stream on a descriptor; what it cannot encode is escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding if like else "utf-8",
        errors="backslashreplace",  # file names need not be UTF-8
        line_buffering=raw.isatty() or raw.name == "<stderr>",
        write_through=getattr(like, "write_through", False),
    )


@contextlib.contextmanager
def without_logs() -> Iterator[None]:
    """Keep what libraries log, such as advice on their options, from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
