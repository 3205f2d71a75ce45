"""The process in which image files are decoded for the first time.

DALI 2.4.0 now and then ends the process by a segmentation fault in its thread pool when a file of
a batch cannot be decoded (about one in 3,000 of the damaged files of benchmarks/fuzz.py, another
one each time). So the training process decodes nothing that has not been decoded before in this
process, which may end; ``check`` starts it, and starts another one after a crash.

    python -P -m grigri_fast.pipeline.check_worker THREADS MAX_PIXELS DIGESTS ONE_BY_ONE

A line on stdin is a group of files: JSON, a list of [row, path]. A line on stdout is the answer:
JSON, a list of [row, fields of a :class:`FileCheck`]. stderr is a file of the parent's. The process
ends when stdin is closed.
"""

import hashlib
import itertools
import json
import os
import resource
import signal
import sys
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime.threads import file_pool
from . import image_file
from .decode import GROUP_FILES, GROUP_PIXELS, Pipeline, groups_of, image_graph, shape_graph
from .image_file import FileCheck

# What this process may take for a group, beyond what it has. A 16-bit PNG of 100 Mpx needs more
# than 16 bytes per pixel; one of 330 bytes, which claims 56 x 40, took 2.2 GiB.
_SPARE_BYTES = 256 * 2**20
_BYTES_PER_PIXEL = 24
_MAX_LOG_BYTES = 10_000

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
        """Yield row and result of each file: first what its header claims, then a real decode."""
        encoded: dict[int, NDArray[np.uint8]] = {}
        crc32: dict[int, int] = {}
        for row, content in contents.items():
            if isinstance(content, str):
                yield row, FileCheck(-1, reason=content, lasts=False)
            else:
                encoded[row], crc32[row] = content
        num_pixels: dict[int, int] = {}
        num_bytes = sum(map(len, encoded.values()))
        _limit_memory(0, num_bytes)
        shapes = self._run(self._shapes, list(encoded.values()))
        for row, shape in zip(encoded, shapes, strict=True):
            if isinstance(shape, str):
                yield row, FileCheck(crc32[row], reason=shape)
                continue
            height, width = map(int, shape[:2])
            claim = f"{width:,} x {height:,} pixels"
            if height < 1 or width < 1:
                yield row, FileCheck(crc32[row], reason=f"its header claims {claim}")
            elif height * width > self._max_pixels:
                reason = f"{claim}, more than the {self._max_pixels:,} of --max-pixels"
                yield row, FileCheck(crc32[row], reason=reason, lasts=False)
            else:
                num_pixels[row] = height * width
        for group in groups_of(list(num_pixels), list(num_pixels.values()), GROUP_PIXELS):
            _limit_memory(sum(num_pixels[row] for row in group), num_bytes)
            decoded = self._run(self._pixels, [encoded[row] for row in group])
            for row, image_HWC in zip(group, decoded, strict=True):
                if isinstance(image_HWC, str):
                    yield row, FileCheck(crc32[row], reason=image_HWC)
                    continue
                height, width = image_HWC.shape[:2]
                digest = _digest(image_HWC) if self._digests else ""
                yield row, FileCheck(crc32[row], height, width, digest=digest)

    def _read(self, files: list[tuple[int, Path]]) -> dict[int, Content]:
        contents: dict[int, Content] = {}
        for row, path in files:
            try:
                content = image_file.read(path, self._max_pixels)
                contents[row] = np.frombuffer(content, dtype=np.uint8), zlib.crc32(content)
            except GrigriError as e:
                contents[row] = str(e)
        return contents

    def _run(self, graph: Pipeline, encoded: list[NDArray[np.uint8]]) -> Iterator[NDArray | str]:
        """Yield what the graph returns for each file, or the reason why it returns nothing.

        One damaged file fails DALI's whole batch without a name, so a failed batch is halved until
        the culprits stand alone. A result is valid until the next is asked for.
        """
        if not encoded:
            return
        os.ftruncate(2, 0)  # stderr, where the decoders' C++ code says what is wrong
        os.lseek(2, 0, os.SEEK_SET)
        try:
            graph.feed_input("encoded", encoded)
            (results,) = graph.run()
        except RuntimeError:
            if len(encoded) == 1:
                yield _reason(os.pread(2, _MAX_LOG_BYTES, 0).decode(errors="replace"))
                return
            half = len(encoded) // 2
            yield from self._run(graph, encoded[:half])
            yield from self._run(graph, encoded[half:])
            return
        for i in range(len(results)):
            yield np.asarray(results[i])


def _reason(log: str) -> str:
    """Return the decoder's own words, such as "Premature end of JPEG data", if it had any."""
    line = next((line for line in log.splitlines() if "_decoder]" in line), "")
    words = line.partition("_decoder]")[2].strip()
    return f"cannot be decoded: {words}" if words else "cannot be decoded"


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
