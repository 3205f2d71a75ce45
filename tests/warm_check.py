"""The process that checks images, forked from one that has its libraries loaded.

A cold one imports DALI for longer than it checks the photographs of a test.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from warm_process import CONTEXT, set_up_child

from grigri_fast.pipeline import check

COLD_START = check._Process.start


def start(command: Sequence[str]) -> check._Process:
    """Start ``check_worker`` with the options of a command, as ``check`` does by itself."""
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
    popen: Any = WarmChecker(command, f"/proc/{os.getpid()}/fd/{stderr.fileno()}")
    return check._Process(popen, stderr)


class WarmChecker:
    """The process, with what ``check`` uses of ``subprocess.Popen``."""

    def __init__(self, command: Sequence[str], stderr: str) -> None:
        its_stdin, stdin = CONTEXT.Pipe(duplex=False)
        stdout, its_stdout = CONTEXT.Pipe(duplex=False)
        arguments = (command, dict(os.environ), its_stdin, its_stdout, stderr)
        self._process = CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        self.stdin = os.fdopen(os.dup(stdin.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(stdout.fileno()), "rb")
        for end in (its_stdin, stdin, stdout, its_stdout):
            end.close()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode


def _run(
    command: Sequence[str],
    environment: dict[str, str],
    stdin: Connection,
    stdout: Connection,
    stderr: str,
) -> None:
    """Be the process."""
    places = [stdin.fileno(), stdout.fileno(), os.open(stderr, os.O_RDWR)]
    set_up_child(dict(enumerate(places)), environment)
    stdin.close()
    stdout.close()
    sys.argv = list(command[3:])

    from grigri_fast.pipeline import check_worker

    check_worker.main()
