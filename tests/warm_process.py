"""The command in a process of its own that has its libraries loaded already.

A cold ``python -m grigri_fast train`` imports PyTorch and DALI for five seconds. Here a server
process imports them once and forks a child for each command (``multiprocessing``'s forkserver). The
server never runs a DALI pipeline, since one that is inherited through a fork hangs.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# What a training imports, also late: three quarters of a small one's time, where each child does.
CONTEXT.set_forkserver_preload(
    [
        "grigri_fast.training.trainer",
        "grigri_fast.cli.main",
        "grigri_fast.cli.progress",
        "grigri_fast.pipeline.check_worker",
        "grigri_fast.reporting.html",
        "grigri_fast.reporting.plots",
        "pydantic",
        "skmultilearn.model_selection.iterative_stratification",
        "torchvision",
    ]
)


class WarmProcess:
    """The command ``grigri-fast`` with some words, with the methods of ``subprocess.Popen``.

    Args:
        words: of the command line.
        program: Python code that runs before the command.
        file_size_limit: most bytes of a file that the process may write, as ``ulimit -f`` sets it.
    """

    def __init__(
        self, words: list[str], program: str = "", file_size_limit: int | None = None
    ) -> None:
        streams = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        writers = [writer for _, writer in streams]
        arguments = (words, program, file_size_limit, str(Path.cwd()), dict(os.environ), *writers)
        self._process = CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        self.stdout, self.stderr = (
            os.fdopen(os.dup(reader.fileno()), encoding="utf-8") for reader, _ in streams
        )
        for ends in streams:
            for end in ends:
                end.close()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("grigri-fast", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        texts = {}

        def read(name: str) -> None:
            texts[name] = getattr(self, name).read()

        readers = [threading.Thread(target=read, args=(n,)) for n in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        self.stdout.close()
        self.stderr.close()
        return texts["stdout"], texts["stderr"]

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def set_up_child(streams: dict[int, int], environment: dict[str, str]) -> None:
    """Give a forked child its standard streams and its environment.

    Args:
        streams: by number (0: stdin), the descriptor that takes its place.
        environment: all of it.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the server ignores it
    for number, descriptor in streams.items():
        os.dup2(descriptor, number)
        name = ("stdin", "stdout", "stderr")[number]
        mode, buffering = "r" if number == 0 else "w", 1 if number == 2 else -1
        stream = os.fdopen(number, mode, buffering, encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(environment)


def _run(
    words: list[str],
    program: str,
    file_size_limit: int | None,
    folder: str,
    environment: dict[str, str],
    stdout: Connection,
    stderr: Connection,
) -> None:
    """Be the command, in the child."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_up_child({1: stdout.fileno(), 2: stderr.fileno()}, environment)
    stdout.close()
    stderr.close()
    os.chdir(folder)
    if file_size_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))
    sys.argv = ["grigri-fast", *words]
    exec(program, {"__name__": "__main__"})

    from grigri_fast.cli.main import entry

    entry()


START: Callable[..., WarmProcess] = WarmProcess
