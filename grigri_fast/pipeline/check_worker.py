"""The process in which image files are decoded for the first time.

A damaged file can end the process that decodes it: by the memory that it asks for, or by an error
in a decoder, as when DALI 2.4.0 gets it with 31 others or more (``decode.GROUP_FILES``). So the
training process decodes nothing that has not been decoded before in this process, which may end;
``check`` starts it, and starts another one after a crash.

    python -P -m grigri_fast.pipeline.check_worker THREADS MAX_PIXELS DIGESTS ONE_BY_ONE

A line on stdin is a group of files: JSON, a list of [row, path]. A line on stdout is the answer:
JSON, a list of [row, fields of a :class:`FileCheck`]. stderr is a file of the parent's. The process
ends when stdin is closed.
"""

import hashlib
import itertools
import json
import os
import re
import resource
import signal
import sys
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime.threads import file_pool
from . import image_file, pillow
from .decode import GROUP_FILES, GROUP_PIXELS, Pipeline, groups_of, image_graph, shape_graph
from .image_file import FileCheck

# What this process may take for a group, beyond what it has. A 16-bit PNG of 100 Mpx needs more
# than 16 bytes per pixel; one of 330 bytes, which claims 56 x 40, took 2.2 GiB.
_SPARE_BYTES = 256 * 2**20
_BYTES_PER_PIXEL = 24
_MAX_LOG_BYTES = 10_000
_UNREADABLE = "cannot be decoded"  # how a reason begins that says no more than that

Content = tuple[NDArray[np.uint8], int] | str  # a file's bytes and their CRC-32, or what is wrong


class Checker:
    """Reads files and decodes them, a group at a time, in a process whose stderr is a file.

    Args:
        threads: CPU threads to read and decode with.
        max_pixels: larger images are refused before they are decoded.
        digests: whether to return digests of the pixels.
    """

    def __init__(self, threads: int, max_pixels: int, digests: bool = False) -> None:
        self._threads, self._max_pixels, self._digests = threads, max_pixels, digests
        self._pool = file_pool(threads, "grigri-check")
        size = {"batch_size": GROUP_FILES, "num_threads": threads, "device_id": None}
        self._shapes = shape_graph(**size, prefetch_queue_depth=1)
        self._pixels = image_graph(device="cpu", shrink=False, **size, prefetch_queue_depth=1)
        self._shapes.build()
        self._pixels.build()

    def read_ahead(self, groups: Iterable[dict[int, Path]]) -> Iterator[dict[int, Content]]:
        """Yield each group's files, read while the group before is decoded."""
        waiting: list[Future[dict[int, Content]]] = []
        for group in itertools.chain(groups, [{}]):
            items = list(group.items())
            shares = [items[i :: self._threads] for i in range(self._threads)]
            reading = [self._pool.submit(self._read, share) for share in shares]
            contents: dict[int, Content] = {}
            for future in waiting:
                contents |= future.result()
            if contents:
                yield contents
            waiting = reading

    def read_one_by_one(self, groups: Iterable[dict[int, Path]]) -> Iterator[dict[int, Content]]:
        """Yield each group's files; the next group is not touched before it is asked for."""
        return (self._read(list(group.items())) for group in groups)

    def check(self, contents: dict[int, Content]) -> Iterator[tuple[int, FileCheck]]:
        """Yield row and result of each file: first what its header claims, then a real decode.

        What DALI refuses, or reads only with a line on stderr, Pillow gets to read.
        """
        encoded: dict[int, NDArray[np.uint8]] = {}
        crc32: dict[int, int] = {}
        for row, content in contents.items():
            if isinstance(content, str):
                yield row, FileCheck(-1, reason=content)
            else:
                encoded[row], crc32[row] = content
        num_bytes = sum(map(len, encoded.values()))
        _limit_memory(0, num_bytes)
        # For Pillow, by row: what is on stderr about a file, and DALI's result if it has one.
        others = {row: "" for row in encoded if not is_for_dali(encoded[row])}
        by_dali: dict[int, FileCheck] = {}
        num_pixels: dict[int, int] = {}
        left = [row for row in encoded if row not in others]
        for row, read in zip(left, self._run(self._shapes, encoded, left), strict=True):
            if read.result is None:
                others[row] = read.log
                continue
            result = self._judge_size(crc32[row], *map(int, read.result[:2]))
            if result.reason:
                yield row, result
            else:
                num_pixels[row] = result.height_px * result.width_px
        for group in groups_of(list(num_pixels), list(num_pixels.values()), GROUP_PIXELS):
            _limit_memory(sum(num_pixels[row] for row in group), num_bytes)
            for row, read in zip(group, self._run(self._pixels, encoded, group), strict=True):
                if read.result is None or read.log:
                    others[row] = read.log
                if read.result is not None:
                    by_dali[row] = self._result(crc32[row], read.result)
                    if not read.log:
                        yield row, by_dali[row]
        for row, result in self._check_by_pillow(others, encoded, crc32, num_bytes):
            yield row, by_dali.get(row, result) if result.reason else result

    def _check_by_pillow(
        self,
        others: dict[int, str],
        encoded: dict[int, NDArray[np.uint8]],
        crc32: dict[int, int],
        num_bytes: int,
    ) -> Iterator[tuple[int, FileCheck]]:
        """Yield what Pillow makes of each file; ``others``: what is on stderr about it."""

        def refused(row: int, error: GrigriError) -> FileCheck:
            return FileCheck(crc32[row], reason=_better_reason(str(error), others[row]))

        def decode(row: int) -> tuple[int, FileCheck]:
            try:
                pixels_HWC = pillow.decode(encoded[row].tobytes())
            except GrigriError as e:
                return row, refused(row, e)
            return row, self._result(crc32[row], pixels_HWC)._replace(by_pillow=True)

        num_pixels: dict[int, int] = {}
        for row in others:
            try:
                width, height = pillow.size_px(encoded[row].tobytes())
            except GrigriError as e:
                yield row, refused(row, e)
                continue
            claim = self._judge_size(crc32[row], height, width)
            if claim.reason:
                yield row, claim
            else:
                num_pixels[row] = height * width
        for group in groups_of(list(num_pixels), list(num_pixels.values()), GROUP_PIXELS):
            _limit_memory(sum(num_pixels[row] for row in group), num_bytes)
            yield from self._pool.map(decode, group)

    def _judge_size(self, crc32: int, height: int, width: int) -> FileCheck:
        """Return the size that a header claims, or why such an image is not decoded."""
        claim = f"{width:,} x {height:,} pixels"
        if height < 1 or width < 1:
            return FileCheck(crc32, reason=f"its header claims {claim}")
        if height * width > self._max_pixels:
            reason = f"{claim}, more than the {self._max_pixels:,} of --max-pixels"
            return FileCheck(crc32, reason=reason)
        return FileCheck(crc32, height, width)

    def _result(self, crc32: int, image_HWC: NDArray[np.uint8]) -> FileCheck:
        height, width = image_HWC.shape[:2]
        digest = _digest(image_HWC) if self._digests else ""
        return FileCheck(crc32, height, width, digest=digest)

    def _read(self, files: list[tuple[int, Path]]) -> dict[int, Content]:
        contents: dict[int, Content] = {}
        for row, path in files:
            try:
                content = image_file.read(path, self._max_pixels)
                contents[row] = np.frombuffer(content, dtype=np.uint8), zlib.crc32(content)
            except GrigriError as e:
                contents[row] = str(e)
        return contents

    def _run(
        self, graph: Pipeline, encoded: dict[int, NDArray[np.uint8]], rows: list[int]
    ) -> Iterator["_Read"]:
        """Yield what the graph makes of each file.

        One damaged file fails DALI's whole batch without a name, so a failed batch is halved until
        the culprits stand alone. Of a batch with lines on stderr each file is read by itself, to
        know which one they are about. A result is valid until the next is asked for.
        """
        if not rows:
            return
        os.ftruncate(2, 0)  # stderr, where the decoders' C++ code says what is wrong
        os.lseek(2, 0, os.SEEK_SET)
        try:
            graph.feed_input("encoded", [encoded[row] for row in rows])
            (results,) = graph.run()
        except RuntimeError:
            results = None
        log = os.pread(2, _MAX_LOG_BYTES, 0).decode(errors="replace").strip()
        if len(rows) == 1:
            result = None if results is None else np.asarray(results[0])
            yield _Read(result, log)
        elif results is None:
            half = len(rows) // 2
            yield from self._run(graph, encoded, rows[:half])
            yield from self._run(graph, encoded, rows[half:])
        elif log:
            for row in rows:
                yield from self._run(graph, encoded, [row])
        else:
            for i in range(len(results)):
                yield _Read(np.asarray(results[i]))


class _Read(NamedTuple):
    """What DALI makes of a file, None if it refuses it, and what is on stderr about it."""

    result: NDArray | None
    log: str = ""


def is_for_dali(encoded: NDArray[np.uint8]) -> bool:
    """Return whether DALI may get a file: not the formats and the TIFFs that it cannot read."""
    name = image_file.format_of(encoded[:32].tobytes())
    if name == "TIFF":
        return not pillow.is_better(encoded.tobytes())
    return name not in ("HEIC", "AVIF")


def _better_reason(by_pillow: str, log: str) -> str:
    """Return of the reasons of two decoders the one that says more.

    DALI's decoders of JPEG know best what is wrong, like "Premature end of JPEG data"; of the
    others, and of the parsers that look at the header, Pillow has the plainer words.
    """
    if not by_pillow.startswith(_UNREADABLE):
        return by_pillow
    said = [r"jpeg\w*_decoder"]
    if not re.search("truncated|damaged", by_pillow):
        said += [r"\w+_decoder", r"\w+_parser"]
    for who in said:
        if words := re.search(rf"\[\w*{who}\]\s*(.+)", log):
            return f"{_UNREADABLE}: {words[1].strip()}"
    return by_pillow


def _digest(image_HWC: NDArray[np.uint8]) -> str:
    digest = hashlib.blake2b(repr(image_HWC.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image_HWC).data)
    return digest.hexdigest()


def _limit_memory(num_pixels: int, num_bytes: int) -> None:
    """Limit what this process may take from now on to what honest images need."""
    status = Path("/proc/self/status").read_text()
    in_use_kib = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmData:"))
    limit = in_use_kib * 1024 + _SPARE_BYTES + _BYTES_PER_PIXEL * num_pixels + 2 * num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main() -> None:
    """Check groups of files for the parent process until it closes stdin.

    One group is read ahead, so the parent sends the next one before it waits for an answer; not so
    with ONE_BY_ONE.
    """
    threads, max_pixels, digests, one_by_one = map(int, sys.argv[1:5])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    checker = Checker(threads, max_pixels, bool(digests))
    groups = ({row: Path(path) for row, path in json.loads(line)} for line in sys.stdin)
    read = checker.read_one_by_one if one_by_one else checker.read_ahead
    try:
        for contents in read(groups):
            print(json.dumps(list(checker.check(contents))), flush=True)
    except MemoryError:
        os.abort()  # as C++ does; the parent finds out which file it was


if __name__ == "__main__":
    main()
