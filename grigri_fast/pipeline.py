"""From files to batches on the device. The only importer of DALI.

One graph with two back-ends. On CUDA, DALI decodes and warps on the GPU. On a CPU, DALI decodes and
OpenCV warps, which makes the loader 1.6 to 2.2 times as fast as DALI's own CPU operator does
(benchmarks/README.md) and is equal to it within one level (a test holds them together). Both get
the same maps (see ``geometry``), so training and evaluation differ only in the maps, and share one
pipeline.

Labels never come here: a batch carries the row numbers of its images.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import queue
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali import __version__ as dali_version

from . import files, geometry, imagefile
from .errors import BetweenStepsError, GrigriError
from .verdicts import Verdict, Verdicts

cv2.setNumThreads(1)  # the loader's own threads warp, an image each

Result = TypeVar("Result")

_MORE = 3  # images in a batch beyond batch_size: one each by cut, by without, and by a drop
_AHEAD = 2  # batches that wait ready while the device works on one
_SLOW_S = 30.0  # no images for so long is said ...
_HANG_S = 600.0  # ... and for so long ends the program
_POLL_S = 0.2  # how often who waits for images looks whether to give up
_LEAVE_S = 5.0  # how long a batch that is being made is waited for when an epoch is left

_GROUP_IMAGES = 64  # files checked at a time by inspect ...
_GROUP_BYTES = 64 * 2**20  # ... and at most this many bytes ...
_GROUP_PIXELS = 64 * 2**20  # ... and so many pixels decoded at a time (192 MiB)
_REMEMBER_EVERY = 2048  # verdicts stored at a time


@dataclass(frozen=True)
class Batch:
    """Images on the device.

    Attributes:
        images_NHWC: uint8 RGB (N, size_px, size_px, 3); permuted to NCHW it is channels_last.
        rows_N: int64 row numbers of the data set (N).
        position: how many of the epoch's batches are done when this one is.
        dropped: reason by row, for files of this batch that have turned bad; N is smaller by them,
            and may be 0.
    """

    images_NHWC: torch.Tensor
    rows_N: torch.Tensor
    position: int = 0
    dropped: dict[int, str] = field(default_factory=dict)


def cut(rows: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    """Return ``rows`` in batches of ``batch_size``, the last one smaller if need be.

    A single image left over joins the batch before it: BatchNorm cannot train on one image.
    """
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def without(batches: list[NDArray[np.intp]], bad: Iterable[int]) -> list[NDArray[np.intp]]:
    """Return the batches without the ``bad`` rows: as many of them, some smaller or empty.

    A batch of which a single image is left gives it to the next one, the last to the one before.
    """
    bad = list(bad)
    left = [rows[~np.isin(rows, bad)] for rows in batches]
    for i in range(len(left)):
        if len(left[i]) == 1:
            before = [j for j in range(i) if len(left[j])]
            other = i + 1 if i + 1 < len(left) else before[-1] if before else i
            if other != i:
                left[other], left[i] = np.concatenate([left[other], left[i]]), left[i][:0]
    return left


def usable_threads() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


# --------------------------------------------------------------------------------- the graph


@pipeline_def
def image_graph(device: Literal["gpu", "cpu"], size_px: int, shrink: bool, warp: bool):
    """Encoded bytes -> decode (-> shrink) (-> warp) -> uint8 HWC.

    Fed by name with ``encoded`` (uint8 bytes), and where they are asked for ``shrunk_HW``
    (float32, 2) and ``maps`` (float32, 2 x 3).
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
    if warp:
        maps = fn.external_source(name="maps", dtype=types.FLOAT, ndim=2)
        images = fn.warp_affine(
            images, matrix=maps, size=(size_px, size_px), interp_type=types.INTERP_LINEAR
        )
    return images


def warp_on_host(image_HWC: NDArray[np.uint8], map_23: NDArray, out_HWC: NDArray[np.uint8]) -> None:
    """Fill ``out_HWC`` with the image seen through a map; beyond its edge, the edge goes on."""
    cv_map = map_23.astype(np.float64)
    # OpenCV's coordinate (0, 0) is the centre of the first pixel, ours is its corner.
    cv_map[:, 2] += cv_map[:, :2] @ (0.5, 0.5) - 0.5
    cv2.warpAffine(
        image_HWC,
        cv_map,
        (out_HWC.shape[1], out_HWC.shape[0]),
        dst=out_HWC,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


@pipeline_def
def shape_graph():
    """Encoded bytes (``encoded``) -> (height, width, channels) as they will be decoded."""
    return fn.peek_image_shape(fn.external_source(name="encoded", dtype=types.UINT8, ndim=1))


# -------------------------------------------------------------------------------- the loader


class ImageLoader:
    """Reads, decodes and warps images in a background thread, ahead of who consumes them.

    Every byte that is decoded is one that :func:`inspect` has checked: a file that is gone, or
    whose content is another one by now, is dropped from its batch and named there; the others
    are unharmed.

    Args:
        paths: image files; row i is ``paths[i]``.
        found: what :func:`inspect` said of them.
        size_px: side of the square output.
        batch_size: images in a batch (a batch may hold a few more, see :func:`cut`).
        device: where batches end up.
        threads: CPU threads for reading, decoding and warping.
        host_warp: warp with OpenCV instead of in the graph; by default on a CPU.
        give_up: asked before each batch and while waiting for it; if it returns True, the epoch
            ends early.
        on_slow: told what is waited for, when there have been no images for a while.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        found: "Inspection",
        *,
        size_px: int,
        batch_size: int,
        device: torch.device,
        threads: int,
        host_warp: bool | None = None,
        give_up: Callable[[], bool] = lambda: False,
        on_slow: Callable[[str], None] = lambda text: None,
    ) -> None:
        on_gpu = device.type == "cuda"
        self._paths, self._sizes_HW, self._crc32_N = paths, found.sizes_HW, found.crc32_N
        self._size_px, self._max_pixels = size_px, found.max_pixels
        self._device, self._threads, self._batch_size = device, threads, batch_size
        self._give_up, self._on_slow = give_up, on_slow
        self._reading: set[Path] = set()
        self._shrink = geometry.needs_shrinking(found.sizes_HW, size_px)
        self._host_warp = not on_gpu if host_warp is None else host_warp
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grigri-image")
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._pipe = image_graph(
            device="gpu" if on_gpu else "cpu",
            size_px=size_px,
            shrink=self._shrink,
            warp=not self._host_warp,
            batch_size=batch_size + _MORE,
            num_threads=threads,
            device_id=(device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
        )
        self._pipe.build()

    def train_epoch(
        self,
        rows: NDArray[np.intp],
        *,
        seed: int,
        epoch: int,
        augment: bool,
        bad: Iterable[int] = (),
        first: int = 0,
    ) -> Iterator[Batch]:
        """Yield every row once, in an order and with maps that seed and epoch decide.

        Args:
            rows: the rows of the training part.
            seed, epoch: decide the order of all rows and the pixels of each, nothing else does.
            augment: random maps; otherwise those of evaluation.
            bad: rows that are left out; the others keep their place and their pixels.
            first: batches that were done before (``Batch.position``).
        """
        order = geometry.epoch_rng(seed, epoch, "order").permutation(rows)
        if augment:
            rng = geometry.epoch_rng(seed, epoch, "maps")
            maps = geometry.random_maps(rng, self._sizes_HW, self._size_px)
        else:
            maps = geometry.whole_image_maps(self._sizes_HW, self._size_px)
        batches = without(cut(order, self._batch_size)[first:], bad)
        return self._run_ahead(batches, maps, first, min_images=2)

    def eval_epoch(self, rows: NDArray[np.intp]) -> Iterator[Batch]:
        """Yield every row exactly once, in order, whole images without randomness."""
        maps = geometry.whole_image_maps(self._sizes_HW, self._size_px)
        return self._run_ahead(cut(rows, self._batch_size), maps, 0, min_images=1)

    def close(self) -> None:
        """Free the pipeline and its threads."""
        self._pool.shutdown(wait=False)  # a thread may hang
        del self._pipe

    def _run_ahead(
        self,
        row_batches: list[NDArray[np.intp]],
        maps: NDArray[np.float32],
        first: int,
        min_images: int,
    ) -> Iterator[Batch]:
        """Yield the batches while a thread makes the next ones; closing ends the thread."""
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=_AHEAD)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                with contextlib.suppress(queue.Full):
                    return ready.put(item, timeout=0.1)

        def produce() -> None:
            try:
                dropped: dict[int, str] = {}
                left = np.empty(0, dtype=np.intp)  # too few for a batch: they join the next one
                filled = [i for i, rows in enumerate(row_batches) if len(rows)]
                for i in filled:
                    if stop.is_set():
                        return
                    rows = np.concatenate([left, row_batches[i]])
                    images_NHWC, rows_N, good = self._make(rows, maps[rows], dropped)
                    is_last = i == filled[-1]
                    if len(good) < min_images and not is_last:
                        left = good
                        continue
                    position = first + (len(row_batches) if is_last else i + 1)
                    put(Batch(images_NHWC, rows_N, position, dropped))
                    dropped, left = {}, left[:0]
                put(None)
            except BaseException as e:
                put(e)  # raised again where the batches are consumed

        thread = threading.Thread(target=produce, name="grigri-loader", daemon=True)
        thread.start()
        try:

            def next_one() -> Batch | BaseException | None:
                return ready.get(timeout=_POLL_S)

            waiting = {"give_up": self._give_up, "on_slow": self._on_slow}
            while not self._give_up():
                item = _patiently(next_one, self._reading, **waiting)
                if item is None:
                    break
                if isinstance(item, BaseException):
                    raise item
                if self._stream is not None:
                    item.images_NHWC.record_stream(torch.cuda.current_stream(self._device))
                    item.rows_N.record_stream(torch.cuda.current_stream(self._device))
                yield item
        finally:
            stop.set()
            thread.join(_LEAVE_S)  # one that hangs is left behind

    def _make(
        self, rows: NDArray[np.intp], maps: NDArray[np.float32], dropped: dict[int, str]
    ) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.intp]]:
        """Return the images and their rows on the device, and the rows here.

        Files that are bad go to ``dropped`` with their reason.
        """
        encoded: list[NDArray[np.uint8]] = []
        for row, content in zip(rows, self._pool.map(self._read, rows), strict=True):
            if isinstance(content, str):
                dropped[int(row)] = content
            else:
                encoded.append(content)
        good = np.array([row not in dropped for row in rows.tolist()], dtype=bool)
        rows, maps = rows[good], maps[good]
        shape = (len(rows), self._size_px, self._size_px, 3)
        if not len(rows):
            nothing = torch.empty(shape, dtype=torch.uint8, device=self._device)
            return nothing, torch.empty(0, dtype=torch.int64, device=self._device), rows
        try:
            images, maps = self._run_graph(encoded, rows, maps)
        except RuntimeError:
            # What was decoded once should be decoded again; if one file is to blame, name it.
            found = inspect(
                self._paths, rows, threads=1, max_pixels=self._max_pixels, remembered=False
            )
            if not found.bad:
                raise
            dropped |= found.bad
            good = ~np.isin(rows, list(found.bad))
            return self._make(rows[good], maps[good], dropped)
        if self._stream is not None:
            return *self._copy_on_gpu(images, shape, rows), rows
        rows_N = torch.from_numpy(rows)
        if not self._host_warp:
            return torch.from_numpy(np.array(images.as_tensor())), rows_N, rows
        batch_NHWC = np.empty(shape, dtype=np.uint8)

        def warp_every(first: int) -> None:
            for i in range(first, len(rows), self._threads):
                warp_on_host(np.asarray(images[i]), maps[i], batch_NHWC[i])

        list(self._pool.map(warp_every, range(self._threads)))
        return torch.from_numpy(batch_NHWC), rows_N, rows

    def _run_graph(self, encoded: list, rows: NDArray[np.intp], maps: NDArray[np.float32]):
        """Return the graph's output, and the maps from there where they are still to be done."""
        self._pipe.feed_input("encoded", encoded)
        if self._shrink:
            shrunk_HW, maps = geometry.shrink_first(maps, self._sizes_HW[rows])
            self._pipe.feed_input("shrunk_HW", shrunk_HW.astype(np.float32))
        if not self._host_warp:
            self._pipe.feed_input("maps", maps)
        (images,) = self._pipe.run()
        return images, maps

    def _read(self, row: int) -> NDArray[np.uint8] | str:
        """Return a file's bytes if they are those that were checked, else why they are not."""
        path = self._paths[row]
        self._reading.add(path)
        try:
            content = files.read_bytes(path)
        except GrigriError as e:
            return str(e)
        finally:
            self._reading.discard(path)
        if zlib.crc32(content) != self._crc32_N[row]:
            return "its content has changed since it was checked"
        return np.frombuffer(content, dtype=np.uint8)

    def _copy_on_gpu(
        self, images, shape: tuple[int, ...], rows: NDArray[np.intp]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and rows in PyTorch's memory, out of DALI's, which is used again."""
        from nvidia.dali.plugin.pytorch import feed_ndarray

        with torch.cuda.stream(self._stream):
            batch_NHWC = torch.empty(shape, dtype=torch.uint8, device=self._device)
            feed_ndarray(images.as_tensor(), batch_NHWC, cuda_stream=self._stream)
            rows_N = torch.from_numpy(rows).to(self._device)
        self._stream.synchronize()  # of this thread only; the training step goes on meanwhile
        return batch_NHWC, rows_N


def _patiently(
    poll: Callable[[], Result],
    reading: set[Path],
    give_up: Callable[[], bool],
    on_slow: Callable[[str], None],
) -> Result | None:
    """Return what ``poll`` returns once it no longer times out; notice where that takes long.

    Args:
        poll: raises queue.Empty or TimeoutError after a moment without a result.
        reading: the files that threads are reading now.
        give_up: where it returns True, the result is None.
        on_slow: told from time to time what is waited for.

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
        if now_s - said_s < _SLOW_S:
            continue
        said_s = now_s
        names = [str(path) for path in list(reading)[:3]]
        what = f"no images for {now_s - start_s:.0f} s; " + (
            f"being read: {', '.join(names)}" if names else "no file is being read"
        )
        if now_s - start_s >= _HANG_S:
            raise BetweenStepsError(f"{what}: does the disk or the network still answer?")
        on_slow(what)


# --------------------------------------------------------------------------- checking images


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found.

    Attributes:
        sizes_HW: decoded sizes (N, 2), after EXIF orientation; 1 x 1 for a bad file, and where
            nobody looked.
        crc32_N: checksum of the encoded bytes, int64 (N); -1 likewise.
        bad: reason by index, for each file that cannot be used.
        max_pixels: the limit that was asked for.
    """

    sizes_HW: NDArray[np.int64]
    crc32_N: NDArray[np.int64]
    bad: dict[int, str]
    max_pixels: int


def inspect(
    paths: Sequence[Path],
    rows: NDArray[np.intp] | None = None,
    *,
    threads: int,
    max_pixels: int = imagefile.MAX_PIXELS,
    max_bad: int | None = None,
    remembered: bool = True,
    on_progress: Callable[[int], None] = lambda done: None,
    on_image: Callable[[int, NDArray[np.uint8]], None] | None = None,
    on_slow: Callable[[str], None] = lambda text: None,
) -> Inspection:
    """Look at every file, then decode it, and say what is wrong with which.

    First what the file is, then what its header claims, and only then a real decode: nothing
    blocks, and never are more than ``max_pixels`` decoded. Verdicts are remembered by path, size
    and time of change, so a second look at 12,000 files takes a tenth of a second.

    Args:
        paths: image files.
        rows: which of them to look at, all by default.
        threads: CPU threads to read and decode with.
        max_pixels: larger images are refused before they are decoded.
        max_bad: stop looking when more files than this are bad.
        remembered: use and store remembered verdicts.
        on_progress: called with the number of files done.
        on_image: called with the index and the decoded pixels (H, W, 3) of each good file; all
            files are decoded for it.
        on_slow: told what is waited for, when no file could be read for a while.
    """
    rows = np.arange(len(paths)) if rows is None else rows
    found = Inspection(
        np.ones((len(paths), 2), dtype=np.int64),
        np.full(len(paths), -1, dtype=np.int64),
        {},
        max_pixels,
    )
    stamps: dict[int, imagefile.Stamp] = {}
    for row in rows.tolist():
        try:
            stamps[row] = imagefile.stamp(paths[row])
        except GrigriError as e:
            found.bad[row] = str(e)

    def done() -> int:
        return len(found.bad) + int((found.crc32_N >= 0).sum())

    def enter(row: int, verdict: Verdict) -> None:
        if verdict.reason:
            found.bad[row] = verdict.reason
        else:
            found.sizes_HW[row] = verdict.height_px, verdict.width_px
            found.crc32_N[row] = verdict.crc32

    checker = _Checker(paths, threads, max_pixels)
    with contextlib.ExitStack() as stack:
        stack.callback(checker.close)
        verdicts = stack.enter_context(Verdicts(f"dali-{dali_version}")) if remembered else None
        if verdicts is not None and on_image is None:
            known = verdicts.known({paths[row]: stamp for row, stamp in stamps.items()})
            for row in stamps:
                verdict = known.get(paths[row])
                if verdict and verdict.height_px * verdict.width_px <= max_pixels:
                    enter(row, verdict)
            on_progress(done())
        new: list[tuple[Path, imagefile.Stamp, Verdict]] = []

        def remember() -> None:
            if verdicts is not None:
                verdicts.remember(new)
            new.clear()

        stack.callback(remember)  # also what was found before Ctrl-C
        open_rows = [r for r in stamps if found.crc32_N[r] < 0 and r not in found.bad]
        groups = _groups(open_rows, [stamps[r][0] for r in open_rows], _GROUP_BYTES)
        for contents in checker.read_ahead(groups, on_slow):
            if max_bad is not None and len(found.bad) > max_bad:
                break
            for row, verdict, lasts in checker.check(contents, on_image):
                enter(row, verdict)
                if lasts:
                    new.append((paths[row], stamps[row], verdict))
            if len(new) >= _REMEMBER_EVERY:
                remember()
            on_progress(done())
    return dataclasses.replace(found, bad=dict(sorted(found.bad.items())))


Content = tuple[NDArray[np.uint8], int] | str  # a file's bytes and their CRC-32, or what is wrong


class _Checker:
    """Reads and decodes files for :func:`inspect`, a group at a time."""

    def __init__(self, paths: Sequence[Path], threads: int, max_pixels: int) -> None:
        self._paths, self._threads, self._max_pixels = paths, threads, max_pixels
        self._reading: set[Path] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grigri-check")

    @functools.cached_property
    def _graphs(self) -> tuple[Pipeline, Pipeline]:
        """The graphs that return shapes and pixels; not built where all verdicts are known."""
        size = {"batch_size": _GROUP_IMAGES, "num_threads": self._threads, "device_id": None}
        shapes = shape_graph(**size, prefetch_queue_depth=1)
        pixels = image_graph(
            device="cpu", size_px=0, shrink=False, warp=False, **size, prefetch_queue_depth=1
        )
        shapes.build()
        pixels.build()
        return shapes, pixels

    def read_ahead(
        self, groups: Iterator[list[int]], on_slow: Callable[[str], None]
    ) -> Iterator[dict[int, Content]]:
        """Yield each group's files, read and summed while the group before is decoded."""
        waiting: list[Future[dict[int, Content]]] = []
        for group in itertools.chain(groups, [[]]):
            shares = [group[i :: self._threads] for i in range(self._threads)]
            reading = [self._pool.submit(self._read, share) for share in shares]
            contents: dict[int, Content] = {}
            for future in waiting:
                poll = functools.partial(future.result, timeout=_POLL_S)
                contents |= _patiently(poll, self._reading, lambda: False, on_slow)
            if contents:
                yield contents
            waiting = reading

    def check(
        self,
        contents: dict[int, Content],
        on_image: Callable[[int, NDArray[np.uint8]], None] | None,
    ) -> Iterator[tuple[int, Verdict, bool]]:
        """Yield row, verdict, and whether the verdict lasts as long as the file's content."""
        shapes, pixels = self._graphs
        encoded: dict[int, NDArray[np.uint8]] = {}
        crc32: dict[int, int] = {}
        for row, content in contents.items():
            if isinstance(content, str):
                yield row, Verdict(-1, reason=content), False
            else:
                encoded[row], crc32[row] = content
        size: dict[int, int] = {}
        for row, shape in zip(encoded, _each(shapes, list(encoded.values())), strict=True):
            if isinstance(shape, str):
                yield row, Verdict(crc32[row], reason=shape), True
                continue
            height, width = map(int, shape[:2])
            if height < 1 or width < 1:
                reason = f"its header claims {width:,} x {height:,} pixels"
                yield row, Verdict(crc32[row], reason=reason), True
            elif height * width > self._max_pixels:
                reason = (
                    f"{width:,} x {height:,} pixels, more than the {self._max_pixels:,} of"
                    f" --max-pixels"
                )
                yield row, Verdict(crc32[row], reason=reason), False
            else:
                size[row] = height * width
        for group in _groups(list(size), list(size.values()), _GROUP_PIXELS):
            decoded = _each(pixels, [encoded[row] for row in group])
            for row, image_HWC in zip(group, decoded, strict=True):
                if isinstance(image_HWC, str):
                    yield row, Verdict(crc32[row], reason=image_HWC), True
                    continue
                if on_image is not None:
                    on_image(row, image_HWC)
                yield row, Verdict(crc32[row], *image_HWC.shape[:2]), True

    def close(self) -> None:
        """End the threads; one that hangs is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, rows: list[int]) -> dict[int, Content]:
        contents: dict[int, Content] = {}
        for row in rows:
            self._reading.add(self._paths[row])
            try:
                content = imagefile.read(self._paths[row], self._max_pixels)
                contents[row] = np.frombuffer(content, dtype=np.uint8), zlib.crc32(content)
            except GrigriError as e:
                contents[row] = str(e)
            self._reading.discard(self._paths[row])
        return contents


def _groups(rows: list[int], weights: list[int], limit: int) -> Iterator[list[int]]:
    """Yield the rows in groups of at most 64 whose weights together stay below a limit."""
    group: list[int] = []
    total = 0
    for row, weight in zip(rows, weights, strict=True):
        if group and (len(group) == _GROUP_IMAGES or total + weight > limit):
            yield group
            group, total = [], 0
        group.append(row)
        total += weight
    if group:
        yield group


def _each(graph: Pipeline, encoded: list[NDArray[np.uint8]]) -> Iterator[NDArray | str]:
    """Yield what the graph returns for each file, or the reason why it returns nothing.

    One damaged file fails DALI's whole batch without a name, so a failed batch is halved until
    the culprits stand alone. A result is valid until the next is asked for.
    """
    if not encoded:
        return
    try:
        with _stderr_of_decoders() as said:
            graph.feed_input("encoded", encoded)
            (results,) = graph.run()
    except RuntimeError:
        if len(encoded) == 1:
            yield _reason(said())
            return
        half = len(encoded) // 2
        yield from _each(graph, encoded[:half])
        yield from _each(graph, encoded[half:])
        return
    for i in range(len(results)):
        yield np.asarray(results[i])


@contextlib.contextmanager
def _stderr_of_decoders() -> Iterator[Callable[[], str]]:
    """Catch what the decoders' C++ code prints on stderr; yield a function that returns it."""
    with tempfile.TemporaryFile() as file:
        text = b""
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: text.decode(errors="replace")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            text = file.read()


def _reason(said: str) -> str:
    """Return the decoder's own words, such as "Premature end of JPEG data", if it had any."""
    line = next((line for line in said.splitlines() if "_decoder]" in line), "")
    words = line.partition("_decoder]")[2].strip()
    return f"cannot be decoded: {words}" if words else "cannot be decoded"
