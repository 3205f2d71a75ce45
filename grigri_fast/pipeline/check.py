"""Every image is checked before it is used: what cannot be decoded, and why.

The checking itself happens in a process that may crash (``check_worker``). Here are its start, its
restart after a crash, and the result.
"""

import contextlib
import errno
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BetweenStepsError, GrigriError
from . import image_file, pillow
from .check_cache import CheckCache
from .decode import DECODER, GROUP_FILES, groups_of
from .image_file import FileCheck

Result = TypeVar("Result")

SLOW_S = 30.0  # after so long without an image the user reads why ...
HANG_S = 600.0  # ... and after so long the program ends
POLL_S = 0.2  # how often to ask whether to give up while waiting for images

DECODERS = f"{DECODER}-{pillow.version()}"
_WORKER = f"{__package__}.check_worker"
_ROOT = Path(__file__).parents[2]  # where the package is imported from
_GROUP_BYTES = 64 * 2**20  # files that are read at a time
_FIRST = 100  # files by which it is decided whether a check will need a process
_AT_A_TIME = 1024  # files that are looked up among the known ones
_AHEAD = 3  # groups that the worker has been given
_LOOKED_AT = 8 * GROUP_FILES  # files that are looked up at a time, by check_in_order
_MAX_CRASHES = 20  # in one group, without any file being checked


@dataclass(frozen=True)
class ImageCheck:
    """What :func:`check_images` returns.

    Attributes:
        sizes_HW: decoded sizes (N, 2), after EXIF orientation; 1 x 1 for files that are bad or were
            not checked.
        crc32_N: checksum of the encoded bytes, int64 (N); -1 likewise.
        bad: reason by index, for each file that cannot be used.
        max_pixels: the limit that was asked for.
        digests_N2: of the pixels of each good file, 16 bytes as uint64 (N, 2), 0 for the others;
            None unless they were asked for.
        by_pillow: the indices of the good files that Pillow decodes, since DALI refuses them or
            prints a line on stderr about each.
    """

    sizes_HW: NDArray[np.int64]
    crc32_N: NDArray[np.int64]
    bad: dict[int, str]
    max_pixels: int
    digests_N2: NDArray[np.uint64] | None = None
    by_pillow: set[int] = field(default_factory=set)

    def _enter(self, row: int, result: FileCheck) -> None:
        if result.reason:
            self.bad[row] = result.reason
            return
        self.sizes_HW[row] = result.height_px, result.width_px
        self.crc32_N[row] = result.crc32
        if result.by_pillow:
            self.by_pillow.add(row)
        if self.digests_N2 is not None:
            self.digests_N2[row] = np.frombuffer(bytes.fromhex(result.digest), dtype=np.uint64)


def check_images(
    paths: Sequence[Path],
    rows: NDArray[np.intp] | None = None,
    *,
    threads: int,
    max_pixels: int,
    max_bad: int | None = None,
    use_cache: bool = True,
    digests: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_slow: Callable[[str], None] = lambda text: None,
) -> ImageCheck:
    """Check every file: what it is, what its header claims, and whether it can be decoded.

    Files are decoded in another process: nothing blocks, no image of more than ``max_pixels`` is
    decoded, and a file that crashes the decoder is a bad file and nothing more. Good files are
    remembered by path and stamp (see ``runtime.files``), so checking 12,000 of them again takes a
    tenth of a second. Files that DALI refuses are tried with Pillow.

    Args:
        paths: image files.
        rows: which of them to check, all by default.
        threads: CPU threads to read and decode with.
        max_pixels: larger images are refused before they are decoded.
        max_bad: stop when more files than this are bad.
        use_cache: use and store remembered results.
        digests: return digests of the pixels; all files are decoded for it.
        on_progress: called with the number of files done and of all.
        on_slow: called with a line that says what is waited for, when no file could be checked for
            a while.

    Raises:
        BetweenStepsError: when a file system does not answer for ten minutes.
    """
    rows = np.arange(len(paths)) if rows is None else rows
    n = len(paths)
    digests_N2 = np.zeros((n, 2), dtype=np.uint64) if digests else None
    check = ImageCheck(np.ones((n, 2), np.int64), np.full(n, -1), {}, max_pixels, digests_N2)
    left, stamps = array("q"), array("q")  # rows to be decoded, and their stamps one by one
    with CheckCache(DECODERS, is_used=use_cache) as cache:
        for first in range(0, len(rows), _AT_A_TIME):
            some = rows[first : first + _AT_A_TIME].tolist()
            found, new = _looked_up(paths, some, None if digests else cache, max_pixels)
            for row, result in found.items():
                check._enter(row, result)
            left.extend(new)
            stamps.extend(number for stamp in new.values() for number in stamp)
        num_before = len(rows) - len(left)
        on_progress(num_before, len(rows))
        stamps_N4 = np.array(stamps).reshape(-1, len(image_file.Stamp._fields))
        groups = groups_of(left, stamps[:: stamps_N4.shape[1]], _GROUP_BYTES)
        job = _Job(paths, threads, max_pixels, digests, on_slow)
        with contextlib.closing(_check_groups(job, groups)) as checked:
            num_done = 0
            while max_bad is None or len(check.bad) <= max_bad:
                results = next(checked, None)
                if results is None:
                    break
                here = range(num_done, num_done + len(results))  # groups come in their order
                stamp_of = {left[i]: image_file.Stamp(*stamps_N4[i].tolist()) for i in here}
                for row, result in results:
                    check._enter(row, result)
                    cache.add(paths[row], stamp_of[row], result)
                num_done += len(results)
                on_progress(num_before + num_done, len(rows))
    return merge([check])


def check_in_order(
    paths: Sequence[Path],
    *,
    threads: int,
    max_pixels: int,
    on_slow: Callable[[str], None] = lambda text: None,
) -> Generator[tuple[int, FileCheck]]:
    """Yield the position and the result of each file, in order, as :func:`check_images` checks it.

    Files are checked some hundred ahead of what is taken from it, and no more, in the process that
    may crash. So the first results come at once, and memory does not depend on their number.

    Raises:
        BetweenStepsError: when a file system does not answer for ten minutes.
    """
    results: dict[int, FileCheck] = {}
    stamps: dict[int, image_file.Stamp] = {}  # of the files in the other process

    def groups() -> Iterator[list[int]]:
        for first in range(0, len(paths), _LOOKED_AT):
            rows = range(first, min(first + _LOOKED_AT, len(paths)))
            found, left = _looked_up(paths, rows, cache, max_pixels)
            results.update(found)
            stamps.update(left)
            yield from groups_of(list(left), [stamp[0] for stamp in left.values()], _GROUP_BYTES)
            if not left:
                yield []

    job = _Job(paths, threads, max_pixels, False, on_slow)
    done = 0
    with (
        CheckCache(DECODERS) as cache,
        contextlib.closing(_check_groups(job, groups())) as checked,
    ):
        for some in checked:
            for row, result in some:
                results[row] = result
                cache.add(paths[row], stamps.pop(row), result)
            while done in results:
                yield done, results.pop(done)
                done += 1


def _looked_up(
    paths: Sequence[Path], rows: Iterable[int], cache: CheckCache | None, max_pixels: int
) -> tuple[dict[int, FileCheck], dict[int, image_file.Stamp]]:
    """Return results of files that are known (or none), and stamps of those to be decoded."""
    found: dict[int, FileCheck] = {}
    left: dict[int, image_file.Stamp] = {}
    path_of = {row: paths[row] for row in rows}
    for row, path in path_of.items():
        try:
            left[row] = image_file.stamp(path)
        except GrigriError as e:
            found[row] = FileCheck(-1, reason=str(e))
    known = cache.known({path_of[row]: stamp for row, stamp in left.items()}) if cache else {}
    for row in list(left):
        result = known.get(path_of[row])
        if result and result.height_px * result.width_px <= max_pixels:
            found[row] = result
            del left[row]
    return found, left


def merge(parts: Sequence[ImageCheck]) -> ImageCheck:
    """Return as one the checks of different rows of the same files; bad files are sorted."""
    digests = [part.digests_N2 for part in parts if part.digests_N2 is not None]
    return ImageCheck(
        np.maximum.reduce([part.sizes_HW for part in parts]),
        np.maximum.reduce([part.crc32_N for part in parts]),
        dict(sorted((row, why) for part in parts for row, why in part.bad.items())),
        parts[0].max_pixels,
        np.maximum.reduce(digests) if digests else None,
        {row for part in parts for row in part.by_pillow},
    )


def forget(path: Path) -> None:
    """Forget what is remembered of a file, so that it is checked again the next time."""
    with CheckCache(DECODERS) as cache:
        cache.forget(path)


def without(rows: NDArray[np.intp], bad: Iterable[int]) -> NDArray[np.intp]:
    """Return ``rows`` without those in ``bad``, in their order."""
    return rows[~np.isin(rows, list(bad))]


def require_few(bad: dict[Path, str], num_images: int, max_bad: float) -> None:
    """Raise GrigriError if more than the share ``max_bad`` of the images are bad, or all are.

    Args:
        bad: reason by path.
        num_images: how many images there are in all.
        max_bad: share from 0 to 1; 0 allows none.
    """
    if not bad or (len(bad) <= int(max_bad * num_images) and len(bad) < num_images):
        return
    path, reason = next(iter(bad.items()))
    advice = "`grigri-fast data check` names them all"
    if all(reason == os.strerror(errno.ENOENT) for reason in bad.values()):
        advice = "say where the images are with --images, or remove their labels"
    if not max_bad:
        raise GrigriError(f"{path}: {reason}; {advice}")
    raise GrigriError(
        f"{len(bad):,} of {num_images:,} images cannot be used, more than --max-bad {max_bad:g}"
        f" allows; the first is {path}: {reason}; {advice}"
    )


def wait_for(
    poll: Callable[[], Result],
    being_read: Callable[[], Iterable[Path]],
    on_slow: Callable[[str], None],
    give_up: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Call ``poll`` until it no longer times out, and return its result.

    Args:
        poll: raises queue.Empty or TimeoutError after a moment without a result.
        being_read: returns the files that are being read.
        on_slow: called from time to time with a line that says what is waited for.
        give_up: where it returns True, the result is None.

    Raises:
        BetweenStepsError: when there has been no result for ten minutes.
    """
    start_s = said_s = time.monotonic()
    while True:
        with contextlib.suppress(queue.Empty, TimeoutError):
            return poll()
        if give_up():
            return None
        now_s = time.monotonic()
        if now_s - said_s < SLOW_S:
            continue
        said_s = now_s
        names = [str(path) for path in list(being_read())[:3]]
        what = f"no images for {now_s - start_s:.0f} s; " + (
            f"being read: {', '.join(names)}" if names else "no file is being read"
        )
        if now_s - start_s >= HANG_S:
            raise BetweenStepsError(f"{what}: does the disk or the network still answer?")
        on_slow(what)


# ------------------------------------------------------------- the process that may crash


Results = list[tuple[int, FileCheck]]  # rows, and what checking their files showed


@dataclass(frozen=True)
class _Job:
    """What all workers of one check are given."""

    paths: Sequence[Path]
    threads: int
    max_pixels: int
    digests: bool
    on_slow: Callable[[str], None]


def _check_groups(job: _Job, groups: Iterable[list[int]]) -> Generator[Results]:
    """Yield the results of each group; those of a group at which a worker crashes, one by one.

    Groups are taken when there is room for them. An empty one has an empty result.
    """
    source = iter(groups)
    again: deque[list[int]] = deque()  # after a crash
    sent: deque[list[int]] = deque()
    with contextlib.closing(_Worker(job)) as worker:
        while True:
            while len(sent) < _AHEAD:
                group = again.popleft() if again else next(source, None)
                if group is None:
                    worker.end_input()
                    break
                sent.append(group)
                worker.send(group)
            if not sent:
                return
            results = worker.receive(sent[0]) if sent[0] else []
            if results is not None:
                sent.popleft()
                yield results
                continue
            suspects = sent.popleft()
            again.extendleft(reversed(sent))
            sent.clear()
            yield from _check_one_by_one(job, suspects)


def _check_one_by_one(job: _Job, rows: list[int]) -> Iterator[Results]:
    """Yield the result of each file; one that crashes a worker, and then a fresh one too, is bad.

    A fresh one, since a crash may be the late effect of the file before (see ``check_worker``).
    """
    num_answers = num_crashes = 0
    with contextlib.closing(_Worker(job, one_by_one=True)) as worker:
        for row in rows:
            for _ in range(2):
                worker.send([row])
                results = worker.receive([row])
                if results is not None:
                    num_answers += 1
                    break
                num_crashes += 1
            if not num_answers and num_crashes >= _MAX_CRASHES:
                raise RuntimeError(f"the process that decodes keeps ending by {worker.ended_by}")
            reason = f"crashes the decoder ({worker.ended_by})"
            yield results or [(row, FileCheck(-1, reason=reason))]


@dataclass(frozen=True)
class _Process:
    """A process of ``check_worker``, and the file that is its stderr."""

    popen: subprocess.Popen[bytes]
    stderr: IO[bytes]

    @classmethod
    def start(cls, command: Sequence[str]) -> "_Process":
        others = os.environ.get("PYTHONPATH")
        search_path = f"{_ROOT}{os.pathsep}{others}" if others else str(_ROOT)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": search_path},
        )
        return cls(popen, stderr)


_started: dict[tuple[str, ...], _Process] = {}  # by command: they wait for their first group


def _command(threads: int, max_pixels: int, digests: bool, one_by_one: bool) -> tuple[str, ...]:
    # -P: nothing is imported from the current folder. The worker gets this very package.
    options = (threads, max_pixels, digests, one_by_one)
    return (sys.executable, "-P", "-m", _WORKER, *(str(int(option)) for option in options))


def start_early(paths: Sequence[Path], *, threads: int, max_pixels: int) -> None:
    """Start the process that checks files while the caller still does other things.

    The next :func:`check_images` with these options takes it. It is not started where the first
    files are known already. If nobody takes it, it ends with this process.
    """
    first: dict[Path, image_file.Stamp] = {}
    for path in paths[:_FIRST]:
        with contextlib.suppress(GrigriError):
            first[path] = image_file.stamp(path)
    with CheckCache(DECODERS) as cache:
        is_new = len(cache.known(first)) < len(first)
    command = _command(threads, max_pixels, digests=False, one_by_one=False)
    if is_new and command not in _started:
        _started[command] = _Process.start(command)


class _Worker:
    """A process that checks files, ``check_worker``; it is started again after a crash.

    Attributes:
        ended_by: name of the signal that has ended the last process that crashed.
    """

    def __init__(self, job: _Job, one_by_one: bool = False) -> None:
        self._job = job
        self._command = _command(job.threads, job.max_pixels, job.digests, one_by_one)
        self._process: subprocess.Popen[bytes] | None = None
        self.ended_by = ""

    def send(self, rows: list[int]) -> None:
        """Give it a group; if it has ended, :meth:`receive` will say so.

        An empty group has no answer; it lets the worker answer the one before, which it does only
        when it has the next one to read ahead.
        """
        if self._process is None and not rows:
            return
        if self._process is None:
            self._buffer = b""
            process = _started.pop(self._command, None) or _Process.start(self._command)
            self._process, self._stderr = process.popen, process.stderr
            assert self._process.stdin and self._process.stdout
            self._stdin, self._stdout = self._process.stdin, self._process.stdout
        # Absolute: it may have been started early, in another folder.
        line = json.dumps([(row, str(self._job.paths[row].absolute())) for row in rows]) + "\n"
        with contextlib.suppress(OSError):
            self._stdin.write(line.encode())
            self._stdin.flush()

    def end_input(self) -> None:
        """Tell it that no group follows."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._stdin.close()

    def receive(self, rows: list[int]) -> Results | None:
        """Return the results of a group, None if the process has crashed before them.

        Raises:
            RuntimeError: if it ended by an error of its own; the message has its stderr.
        """
        while b"\n" not in self._buffer:
            piece = wait_for(
                self._read, lambda: [self._job.paths[row] for row in rows], self._job.on_slow
            )
            if not piece:
                self._crashed()
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return [(row, FileCheck(*fields)) for row, fields in json.loads(line)]

    def close(self) -> None:
        """End the process, if it has not ended, and free what belongs to it."""
        if self._process is not None:
            self._process.kill()
            self.end_input()
            self._stdout.close()
            self._process.wait()
            self._stderr.close()
            self._process = None

    def _crashed(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        size = os.fstat(self._stderr.fileno()).st_size
        said = os.pread(self._stderr.fileno(), 3000, max(0, size - 3000)).decode(errors="replace")
        self.close()
        if code >= 0:
            raise RuntimeError(f"the process that decodes ended with code {code}: {said}")
        self.ended_by = signal.Signals(-code).name

    def _read(self) -> bytes:
        """Return the next bytes of its answers, b"" at their end."""
        descriptor = self._stdout.fileno()
        if not select.select([descriptor], [], [], POLL_S)[0]:
            raise TimeoutError
        return os.read(descriptor, 2**16)
