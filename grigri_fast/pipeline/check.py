"""Every image is checked before it is used: what cannot be decoded, and why."""

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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BetweenStepsError, GrigriError
from . import image_file
from .check_cache import CheckCache, FileCheck
from .decode import DECODER, Finding, groups_of

Result = TypeVar("Result")

SLOW_S = 30.0  # no images for so long is said ...
HANG_S = 600.0  # ... and for so long ends the program
POLL_S = 0.2  # how often who waits for images looks whether to give up

_GROUP_BYTES = 64 * 2**20  # files that are read at a time
_AHEAD = 3  # groups that the other process has been given
_REMEMBER_EVERY = 2048  # verdicts stored at a time
_MAX_CRASHES = 20  # in one group, without any file being checked


@dataclass(frozen=True)
class ImageCheck:
    """What :func:`check_images` found.

    Attributes:
        sizes_HW: decoded sizes (N, 2), after EXIF orientation; 1 x 1 for a bad file, and where
            nobody looked.
        crc32_N: checksum of the encoded bytes, int64 (N); -1 likewise.
        bad: reason by index, for each file that cannot be used.
        max_pixels: the limit that was asked for.
        digests: of the pixels, by index, for each good file, if they were asked for.
    """

    sizes_HW: NDArray[np.int64]
    crc32_N: NDArray[np.int64]
    bad: dict[int, str]
    max_pixels: int
    digests: dict[int, str] = field(default_factory=dict)


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
    """Look at every file, then decode it, and say what is wrong with which.

    First what the file is, then what its header claims, and only then a real decode, in another
    process: nothing blocks, never are more than ``max_pixels`` decoded, and a file that makes the
    decoder crash is a bad file and nothing more. Results are remembered by path, size and time of
    change, so a second check of 12,000 files takes a tenth of a second.

    Args:
        paths: image files.
        rows: which of them to look at, all by default.
        threads: CPU threads to read and decode with.
        max_pixels: larger images are refused before they are decoded.
        max_bad: stop looking when more files than this are bad.
        use_cache: use and store what earlier checks have found.
        digests: return digests of the pixels; all files are decoded for it.
        on_progress: called with the number of files done and of all.
        on_slow: told what is waited for, when no file could be checked for a while.

    Raises:
        BetweenStepsError: when a file system does not answer for ten minutes.
    """
    rows = np.arange(len(paths)) if rows is None else rows
    sizes_HW = np.ones((len(paths), 2), dtype=np.int64)
    crc32_N = np.full(len(paths), -1, dtype=np.int64)
    bad: dict[int, str] = {}
    digest_of: dict[int, str] = {}
    stamps: dict[int, image_file.Stamp] = {}
    for row in rows.tolist():
        try:
            stamps[row] = image_file.stamp(paths[row])
        except GrigriError as e:
            bad[row] = str(e)

    def enter(row: int, verdict: FileCheck) -> None:
        if verdict.reason:
            bad[row] = verdict.reason
        else:
            sizes_HW[row] = verdict.height_px, verdict.width_px
            crc32_N[row] = verdict.crc32

    with contextlib.ExitStack() as stack:
        verdicts = stack.enter_context(CheckCache(DECODER)) if use_cache else None
        if verdicts is not None and not digests:
            known = verdicts.known({paths[row]: stamp for row, stamp in stamps.items()})
            for row in stamps:
                verdict = known.get(paths[row])
                if verdict and verdict.height_px * verdict.width_px <= max_pixels:
                    enter(row, verdict)
        new: list[tuple[Path, image_file.Stamp, FileCheck]] = []

        def remember() -> None:
            if verdicts is not None:
                verdicts.remember(new)
            new.clear()

        stack.callback(remember)  # also what was found before Ctrl-C
        left = [row for row in stamps if crc32_N[row] < 0 and row not in bad]
        num_done = len(rows) - len(left)
        on_progress(num_done, len(rows))
        groups = groups_of(left, [stamps[row][0] for row in left], _GROUP_BYTES)
        options = (threads, max_pixels, int(digests))
        findings = _checked_elsewhere(paths, groups, options, on_slow)
        stack.enter_context(contextlib.closing(findings))
        while max_bad is None or len(bad) <= max_bad:
            group = next(findings, None)
            if group is None:
                break
            for found in group:
                verdict = FileCheck(found.crc32, found.height_px, found.width_px, found.reason)
                enter(found.row, verdict)
                if found.digest:
                    digest_of[found.row] = found.digest
                if found.lasts:
                    new.append((paths[found.row], stamps[found.row], verdict))
            if len(new) >= _REMEMBER_EVERY:
                remember()
            num_done += len(group)
            on_progress(num_done, len(rows))
    return ImageCheck(sizes_HW, crc32_N, dict(sorted(bad.items())), max_pixels, digest_of)


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


def merge(parts: Sequence[ImageCheck]) -> ImageCheck:
    """Return as one what several processes have found of different rows of the same files."""
    return ImageCheck(
        np.maximum.reduce([part.sizes_HW for part in parts]),
        np.maximum.reduce([part.crc32_N for part in parts]),
        dict(sorted((row, why) for part in parts for row, why in part.bad.items())),
        parts[0].max_pixels,
    )


def wait_for(
    poll: Callable[[], Result],
    waited_for: Callable[[], Iterable[Path]],
    on_slow: Callable[[str], None],
    give_up: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Return what ``poll`` returns once it no longer times out; notice where that takes long.

    Args:
        poll: raises queue.Empty or TimeoutError after a moment without a result.
        waited_for: returns the files that are being read.
        on_slow: told from time to time what is waited for.
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
        names = [str(path) for path in list(waited_for())[:3]]
        what = f"no images for {now_s - start_s:.0f} s; " + (
            f"being read: {', '.join(names)}" if names else "no file is being read"
        )
        if now_s - start_s >= HANG_S:
            raise BetweenStepsError(f"{what}: does the disk or the network still answer?")
        on_slow(what)


# ---------------------------------------------------------------------- in another process


def _checked_elsewhere(
    paths: Sequence[Path],
    groups: Iterable[list[int]],
    options: tuple[int, int, int],
    on_slow: Callable[[str], None],
) -> Iterator[list[Finding]]:
    """Yield the findings on each group; a child process that ends is replaced.

    The files of the group that it was at are checked one by one then.
    """
    todo = deque(groups)
    sent: deque[list[int]] = deque()
    child: _Child | None = None
    try:
        while todo or sent:
            child = child or _Child(options)
            while todo and len(sent) < _AHEAD:
                sent.append(todo.popleft())
                child.send(paths, sent[-1])
            if not todo:
                child.no_more()
            found = child.receive(paths, sent[0], on_slow)
            if found is not None:
                sent.popleft()
                yield found
                continue
            child.ended_by()
            child = None
            suspects = sent.popleft()
            todo.extendleft(reversed(sent))
            sent.clear()
            yield from _one_by_one(paths, suspects, options, on_slow)
    finally:
        if child is not None:
            child.kill()


def _one_by_one(
    paths: Sequence[Path],
    rows: list[int],
    options: tuple[int, int, int],
    on_slow: Callable[[str], None],
) -> Iterator[list[Finding]]:
    """Yield the findings on each file; one with which a child ends, and a fresh one too, is bad.

    Fresh, since a crash may be the late effect of the file before (see ``decode``).
    """
    child: _Child | None = None
    answers = crashes = 0
    try:
        for row in rows:
            found, ended_by = None, ""
            for _ in range(2):
                child = child or _Child(options, one_by_one=True)
                child.send(paths, [row])
                found = child.receive(paths, [row], on_slow)
                if found is not None:
                    answers += 1
                    break
                ended_by = child.ended_by()
                child = None
                crashes += 1
            if not answers and crashes >= _MAX_CRASHES:
                raise RuntimeError(f"the process that decodes keeps ending by {ended_by}")
            yield found or [Finding(row, -1, reason=f"crashes the decoder ({ended_by})")]
    finally:
        if child is not None:
            child.kill()


class _Child:
    """A process that checks files: :func:`decode.serve`.

    Args:
        options: threads, max_pixels and digests.
        one_by_one: do not read ahead; the parent sends nothing before it has an answer.
    """

    def __init__(self, options: tuple[int, int, int], one_by_one: bool = False) -> None:
        package = Path(__file__).parent.parent
        program = (
            f"import sys; sys.path.insert(0, {str(package.parent)!r});"
            f" from {package.name}.pipeline.decode import serve; serve()"
        )
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            # -P: nothing is imported from the current folder.
            [sys.executable, "-P", "-c", program, *map(str, options), str(int(one_by_one))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._buffer = b""

    def send(self, paths: Sequence[Path], rows: list[int]) -> None:
        """Give it a group; if it has ended, :meth:`receive` will say so."""
        line = json.dumps([(row, str(paths[row])) for row in rows]) + "\n"
        with contextlib.suppress(OSError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def no_more(self) -> None:
        """Say that no group follows."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def receive(
        self, paths: Sequence[Path], rows: list[int], on_slow: Callable[[str], None]
    ) -> list[Finding] | None:
        """Return the findings on a group, None if the process has ended before them."""
        while b"\n" not in self._buffer:
            piece = wait_for(self._read, lambda: [paths[row] for row in rows], on_slow)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return [Finding(*fields) for fields in json.loads(line)]

    def ended_by(self) -> str:
        """Return the name of the signal that has ended it.

        Raises:
            RuntimeError: if it was an error of its own, with what it said.
        """
        code = self._process.wait()
        size = os.fstat(self._stderr.fileno()).st_size
        said = os.pread(self._stderr.fileno(), 3000, max(0, size - 3000)).decode(errors="replace")
        self.kill()
        if code >= 0:
            raise RuntimeError(f"the process that decodes ended with code {code}: {said}")
        return signal.Signals(-code).name

    def kill(self) -> None:
        """End it, if it has not ended, and free what belongs to it."""
        self._process.kill()
        self.no_more()
        self._process.stdout.close()
        self._process.wait()
        self._stderr.close()

    def _read(self) -> bytes:
        """Return the next bytes of its answers, b"" at their end."""
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], POLL_S)[0]:
            raise TimeoutError
        return os.read(descriptor, 2**16)
