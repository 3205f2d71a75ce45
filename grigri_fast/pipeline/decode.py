"""Encoded bytes -> pixels by DALI; and the process in which files are decoded for the first time.

DALI 2.4.0 now and then ends the process by a segmentation fault in its thread pool when a file of
a batch cannot be decoded (about one in 3,000 of the damaged files of benchmarks/fuzz.py, another
one each time). So nothing is decoded here that has not been decoded before in a process of its own
(:func:`serve`), which may end; see ``inspection``.
"""

import functools
import hashlib
import itertools
import json
import os
import resource
import signal
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, backend, fn, pipeline_def, types
from nvidia.dali import __version__ as dali_version

from ..errors import GrigriError
from ..runtime.threads import file_pool
from . import image_file

DECODER = f"dali-{dali_version}"
GROUP_FILES = 64  # files decoded at a time ...
GROUP_PIXELS = 64 * 2**20  # ... and at most so many pixels (192 MiB)

# What the process below may take for a group, beyond what it has. A 16-bit PNG of 100 Mpx needs
# more than 16 bytes per pixel; one of 330 bytes, which claims 56 x 40, took 2.2 GiB.
_SPARE_BYTES = 256 * 2**20
_BYTES_PER_PIXEL = 24


@pipeline_def
def image_graph(device: Literal["gpu", "cpu"], shrink: bool):
    """Encoded bytes -> decode (-> shrink, anti-aliased) -> uint8 RGB, HWC.

    Fed by name with ``encoded`` (uint8 bytes) and, where it is asked for, ``shrunk_HW`` (float32,
    2).
    """
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    if device == "gpu":
        # hw_decoder_load=0: the H100's JPEG hardware has returned corrupted pixels when buffers
        # were reused (pytorch/vision 9606). Padding 0: no 16 MiB per thread in advance. Fancy
        # upsampling is what the CPU decoder does.
        images = fn.decoders.image(
            encoded,
            device="mixed",
            output_type=types.RGB,
            hw_decoder_load=0.0,
            jpeg_fancy_upsampling=True,
            device_memory_padding=0,
            host_memory_padding=0,
        )
    else:
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    if shrink:
        shrunk_HW = fn.external_source(name="shrunk_HW", dtype=types.FLOAT, ndim=1)
        images = fn.resize(images, size=shrunk_HW, antialias=True)
    return images


def release_unused_memory() -> None:
    """Let DALI give back what it keeps for later."""
    backend.ReleaseUnusedMemory()


@pipeline_def
def files_graph(files: list[str]):
    """Files -> decode -> uint8 RGB, HWC: DALI by itself, with its own reader, on a CPU."""
    encoded, _ = fn.readers.file(files=files)
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB)


@pipeline_def
def shape_graph():
    """Encoded bytes (``encoded``) -> (height, width, channels) as they will be decoded."""
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1))


# -------------------------------------------------------------------------------- checking


class Finding(NamedTuple):
    """What checking a file showed.

    Attributes:
        row: its number.
        crc32: checksum of the encoded bytes, -1 where they could not be read.
        height_px, width_px: decoded size, after EXIF orientation.
        reason: why the file cannot be used, or "".
        lasts: whether that holds for as long as the file's content.
        digest: of the pixels, if it was asked for.
    """

    row: int
    crc32: int
    height_px: int = 0
    width_px: int = 0
    reason: str = ""
    lasts: bool = True
    digest: str = ""


Content = tuple[NDArray[np.uint8], int] | str  # a file's bytes and their CRC-32, or what is wrong
OnImage = Callable[[int, NDArray[np.uint8]], object]


class Checker:
    """Reads files and decodes them, a group at a time.

    Args:
        threads: CPU threads to read and decode with.
        max_pixels: larger images are refused before they are decoded.
        digests: whether to return digests of the pixels.
        allow: told before each group how many pixels and encoded bytes it has.
    """

    def __init__(
        self,
        threads: int,
        max_pixels: int,
        digests: bool = False,
        allow: Callable[[int, int], None] = lambda num_pixels, num_bytes: None,
    ) -> None:
        self._threads, self._max_pixels, self._digests = threads, max_pixels, digests
        self._allow = allow
        self._pool = file_pool(threads, "grigri-check")

    def build(self) -> None:
        """Build the graphs, which is done at the first check otherwise."""
        _ = self._graphs

    @functools.cached_property
    def _graphs(self) -> tuple[Pipeline, Pipeline]:
        size = {"batch_size": GROUP_FILES, "num_threads": self._threads, "device_id": None}
        shapes = shape_graph(**size, prefetch_queue_depth=1)
        pixels = image_graph(device="cpu", shrink=False, **size, prefetch_queue_depth=1)
        shapes.build()
        pixels.build()
        return shapes, pixels

    def read_ahead(self, groups: Iterable[dict[int, Path]]) -> Iterator[dict[int, Content]]:
        """Yield each group's files, read and summed while the group before is decoded."""
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

    def check(
        self, contents: dict[int, Content], on_image: OnImage = lambda row, pixels: None
    ) -> Iterator[Finding]:
        """Yield what is found of each file: first what its header claims, then a real decode."""
        shapes, pixels = self._graphs
        encoded: dict[int, NDArray[np.uint8]] = {}
        crc32: dict[int, int] = {}
        for row, content in contents.items():
            if isinstance(content, str):
                yield Finding(row, -1, reason=content, lasts=False)
            else:
                encoded[row], crc32[row] = content
        num_pixels: dict[int, int] = {}
        num_bytes = sum(map(len, encoded.values()))
        self._allow(0, num_bytes)
        for row, shape in zip(encoded, _each(shapes, list(encoded.values())), strict=True):
            if isinstance(shape, str):
                yield Finding(row, crc32[row], reason=shape)
                continue
            height, width = map(int, shape[:2])
            claim = f"{width:,} x {height:,} pixels"
            if height < 1 or width < 1:
                yield Finding(row, crc32[row], reason=f"its header claims {claim}")
            elif height * width > self._max_pixels:
                reason = f"{claim}, more than the {self._max_pixels:,} of --max-pixels"
                yield Finding(row, crc32[row], reason=reason, lasts=False)
            else:
                num_pixels[row] = height * width
        for group in groups_of(list(num_pixels), list(num_pixels.values()), GROUP_PIXELS):
            self._allow(sum(num_pixels[row] for row in group), num_bytes)
            decoded = _each(pixels, [encoded[row] for row in group])
            for row, image_HWC in zip(group, decoded, strict=True):
                if isinstance(image_HWC, str):
                    yield Finding(row, crc32[row], reason=image_HWC)
                    continue
                on_image(row, image_HWC)
                height, width = image_HWC.shape[:2]
                digest = _digest(image_HWC) if self._digests else ""
                yield Finding(row, crc32[row], height, width, digest=digest)

    def _read(self, files: list[tuple[int, Path]]) -> dict[int, Content]:
        contents: dict[int, Content] = {}
        for row, path in files:
            try:
                content = image_file.read(path, self._max_pixels)
                contents[row] = np.frombuffer(content, dtype=np.uint8), zlib.crc32(content)
            except GrigriError as e:
                contents[row] = str(e)
        return contents


def groups_of(rows: list[int], weights: list[int], limit: int) -> Iterator[list[int]]:
    """Yield the rows in groups of at most 64 whose weights together stay below a limit."""
    group: list[int] = []
    total = 0
    for row, weight in zip(rows, weights, strict=True):
        if group and (len(group) == GROUP_FILES or total + weight > limit):
            yield group
            group, total = [], 0
        group.append(row)
        total += weight
    if group:
        yield group


def _digest(image_HWC: NDArray[np.uint8]) -> str:
    digest = hashlib.blake2b(repr(image_HWC.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image_HWC))
    return digest.hexdigest()


def _each(graph: Pipeline, encoded: list[NDArray[np.uint8]]) -> Iterator[NDArray | str]:
    """Yield what the graph returns for each file, or the reason why it returns nothing.

    One damaged file fails DALI's whole batch without a name, so a failed batch is halved until
    the culprits stand alone. A result is valid until the next is asked for.
    """
    if not encoded:
        return
    _forget_stderr()
    try:
        graph.feed_input("encoded", encoded)
        (results,) = graph.run()
    except RuntimeError:
        if len(encoded) == 1:
            yield _reason(_stderr())
            return
        half = len(encoded) // 2
        yield from _each(graph, encoded[:half])
        yield from _each(graph, encoded[half:])
        return
    for i in range(len(results)):
        yield np.asarray(results[i])


def _reason(said: str) -> str:
    """Return the decoder's own words, such as "Premature end of JPEG data", if it had any."""
    line = next((line for line in said.splitlines() if "_decoder]" in line), "")
    words = line.partition("_decoder]")[2].strip()
    return f"cannot be decoded: {words}" if words else "cannot be decoded"


# The decoders' C++ code says on stderr what is wrong; in the process below that is a file.


def _forget_stderr() -> None:
    if _stderr_is_a_file:
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)


def _stderr() -> str:
    return os.pread(2, 10_000, 0).decode(errors="replace") if _stderr_is_a_file else ""


_stderr_is_a_file = False


# ---------------------------------------------------------------------- a process of its own


def serve() -> None:
    """Check groups of files for a parent process until it closes stdin.

    ``argv``: threads, max_pixels, digests (0 or 1). A line on stdin: JSON, a list of [row, path]. A
    line on stdout: JSON, a list of :class:`Finding`. One group is read ahead, so the parent sends
    the next one before it waits for an answer. stderr is a file of the parent's.
    """
    global _stderr_is_a_file
    _stderr_is_a_file = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threads, max_pixels, digests, one_by_one = map(int, sys.argv[1:5])
    checker = Checker(threads, max_pixels, bool(digests), allow=_allow)
    checker.build()
    groups = ({row: Path(path) for row, path in json.loads(line)} for line in sys.stdin)
    read = checker.read_one_by_one if one_by_one else checker.read_ahead
    try:
        for contents in read(groups):
            print(json.dumps(list(checker.check(contents))), flush=True)
    except MemoryError:
        os.abort()  # as C++ does; the parent finds out which file it was


def _allow(num_pixels: int, num_bytes: int) -> None:
    """Limit what this process may take from now on to what honest images need."""
    status = Path("/proc/self/status").read_text()
    in_use_kib = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmData:"))
    limit = in_use_kib * 1024 + _SPARE_BYTES + _BYTES_PER_PIXEL * num_pixels + 2 * num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
