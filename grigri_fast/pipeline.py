"""From files to batches on the device. The only importer of DALI.

One graph with two back-ends. On CUDA, DALI decodes and warps on the GPU. On a CPU, DALI decodes and
OpenCV warps, which makes the loader 1.6 to 2.2 times as fast as DALI's own CPU operator does
(benchmarks/README.md) and is equal to it within one level (a test holds them together). Both get
the same maps (see ``geometry``), so training and evaluation differ only in the maps, and share one
pipeline.

Labels never come here: a batch carries the row numbers of its images.
"""

import contextlib
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from . import geometry
from .dataset import Header, read_header
from .errors import GrigriError

cv2.setNumThreads(1)  # the loader's own threads warp, an image each

_AHEAD = 2  # batches that wait ready while the device works on one
_GROUP_IMAGES = 64  # images decoded at a time by inspect ...
_GROUP_PIXELS = 64 * 2**20  # ... and at most this many pixels (192 MiB)


@dataclass(frozen=True)
class Batch:
    """Images on the device.

    Attributes:
        images_NHWC: uint8 RGB (N, size_px, size_px, 3); permuted to NCHW it is channels_last.
        rows_N: int64 row numbers of the data set (N).
    """

    images_NHWC: torch.Tensor
    rows_N: torch.Tensor


def cut(rows: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    """Return ``rows`` in batches of ``batch_size``, the last one smaller if need be.

    A single image left over joins the batch before it: BatchNorm cannot train on one image.
    """
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


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


# -------------------------------------------------------------------------------- the loader


class ImageLoader:
    """Reads, decodes and warps images in a background thread, ahead of who consumes them.

    Args:
        paths: image files; row i is ``paths[i]``.
        sizes_HW: their decoded sizes (len(paths), 2), from :func:`inspect`.
        size_px: side of the square output.
        batch_size: images in a batch (a batch may hold one more, see :func:`cut`).
        device: where batches end up.
        threads: CPU threads for reading, decoding and warping.
        host_warp: warp with OpenCV instead of in the graph; by default on a CPU.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sizes_HW: NDArray[np.int64],
        *,
        size_px: int,
        batch_size: int,
        device: torch.device,
        threads: int,
        host_warp: bool | None = None,
    ) -> None:
        on_gpu = device.type == "cuda"
        self._paths, self._sizes_HW, self._size_px = paths, sizes_HW, size_px
        self._device, self._threads, self._batch_size = device, threads, batch_size
        self._shrink = geometry.needs_shrinking(sizes_HW, size_px)
        self._host_warp = not on_gpu if host_warp is None else host_warp
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grigri-image")
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._pipe = image_graph(
            device="gpu" if on_gpu else "cpu",
            size_px=size_px,
            shrink=self._shrink,
            warp=not self._host_warp,
            batch_size=batch_size + 1,
            num_threads=threads,
            device_id=(device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
        )
        self._pipe.build()

    def train_epoch(
        self, rows: NDArray[np.intp], *, seed: int, epoch: int, augment: bool
    ) -> Iterator[Batch]:
        """Yield every row once, in an order and with maps that seed and epoch decide."""
        order = geometry.epoch_rng(seed, epoch, "order").permutation(rows)
        if augment:
            rng = geometry.epoch_rng(seed, epoch, "maps")
            maps = geometry.random_maps(rng, self._sizes_HW, self._size_px)
        else:
            maps = geometry.whole_image_maps(self._sizes_HW, self._size_px)
        return self._run_ahead(cut(order, self._batch_size), maps)

    def eval_epoch(self, rows: NDArray[np.intp]) -> Iterator[Batch]:
        """Yield every row exactly once, in order, whole images without randomness."""
        maps = geometry.whole_image_maps(self._sizes_HW, self._size_px)
        return self._run_ahead(cut(rows, self._batch_size), maps)

    def close(self) -> None:
        """Free the pipeline and its threads."""
        self._pool.shutdown()
        del self._pipe

    def _run_ahead(
        self, row_batches: list[NDArray[np.intp]], maps: NDArray[np.float32]
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
                for rows in row_batches:
                    if stop.is_set():
                        return
                    put(self._make(rows, maps[rows]))
                put(None)
            except BaseException as e:
                put(e)  # raised again where the batches are consumed

        thread = threading.Thread(target=produce, name="grigri-loader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if self._stream is not None:
                    item.images_NHWC.record_stream(torch.cuda.current_stream(self._device))
                    item.rows_N.record_stream(torch.cuda.current_stream(self._device))
                yield item
        finally:
            stop.set()
            thread.join()

    def _make(self, rows: NDArray[np.intp], maps: NDArray[np.float32]) -> Batch:
        """Return one batch on the device."""
        try:
            encoded = list(self._pool.map(_read, [self._paths[r] for r in rows]))
            self._pipe.feed_input("encoded", encoded)
            if self._shrink:
                shrunk_HW, maps = geometry.shrink_first(maps, self._sizes_HW[rows])
                self._pipe.feed_input("shrunk_HW", shrunk_HW.astype(np.float32))
            if not self._host_warp:
                self._pipe.feed_input("maps", maps)
            (images,) = self._pipe.run()
        except (RuntimeError, OSError) as e:
            culprit = self._culprit(rows)
            if culprit is None:
                raise
            raise culprit from e
        if self._stream is not None:
            return self._copy_on_gpu(images, rows)
        if not self._host_warp:
            return Batch(torch.from_numpy(np.array(images.as_tensor())), torch.from_numpy(rows))
        batch_NHWC = np.empty((len(rows), self._size_px, self._size_px, 3), dtype=np.uint8)

        def warp_every(first: int) -> None:
            for i in range(first, len(rows), self._threads):
                warp_on_host(np.asarray(images[i]), maps[i], batch_NHWC[i])

        list(self._pool.map(warp_every, range(self._threads)))
        return Batch(torch.from_numpy(batch_NHWC), torch.from_numpy(rows))

    def _copy_on_gpu(self, images, rows: NDArray[np.intp]) -> Batch:
        """Return a batch in PyTorch's memory, copied out of DALI's before that is used again."""
        from nvidia.dali.plugin.pytorch import feed_ndarray

        shape = (len(rows), self._size_px, self._size_px, 3)
        with torch.cuda.stream(self._stream):
            batch_NHWC = torch.empty(shape, dtype=torch.uint8, device=self._device)
            feed_ndarray(images.as_tensor(), batch_NHWC, cuda_stream=self._stream)
            rows_N = torch.from_numpy(rows).to(self._device)
        self._stream.synchronize()  # of this thread only; the training step goes on meanwhile
        return Batch(batch_NHWC, rows_N)

    def _culprit(self, rows: NDArray[np.intp]) -> GrigriError | None:
        """Return the error that names the file of a failed batch which cannot be decoded."""
        paths = [self._paths[r] for r in rows]
        found = inspect(paths, threads=1)
        return found.error(paths) if found.bad else None


def _read(path: Path) -> NDArray[np.uint8]:
    return np.fromfile(path, dtype=np.uint8)


# --------------------------------------------------------------------------- checking images


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found.

    Attributes:
        sizes_HW: decoded sizes (N, 2), after EXIF orientation; 0 for a bad file.
        headers: the files' headers (N), None for a bad one.
        bad: reason by index, for each file that cannot be used.
    """

    sizes_HW: NDArray[np.int64]
    headers: list[Header | None]
    bad: dict[int, str]

    def error(self, paths: Sequence[Path]) -> GrigriError:
        """Return the error that names the first bad file."""
        i, reason = next(iter(self.bad.items()))
        more = f" (and {len(self.bad) - 1} more)" if len(self.bad) > 1 else ""
        return GrigriError(
            f"{paths[i]}: {reason}{more}; `grigri-fast data check` lists every file that cannot be"
            f" used: mend it, or remove it and its labels"
        )


def inspect(
    paths: Sequence[Path],
    *,
    threads: int,
    on_progress: Callable[[int], None] = lambda done: None,
    on_image: Callable[[int, NDArray[np.uint8]], None] = lambda i, pixels: None,
) -> Inspection:
    """Look at every file's header, then decode it, and say what is wrong with which.

    Args:
        paths: image files.
        threads: CPU threads to decode with.
        on_progress: called with the number of files done.
        on_image: called with the index and the decoded pixels (H, W, 3) of each good file.
    """
    sizes_HW = np.zeros((len(paths), 2), dtype=np.int64)
    headers: list[Header | None] = [None] * len(paths)
    bad: dict[int, str] = {}
    for i, path in enumerate(paths):
        try:
            headers[i] = read_header(path)
        except GrigriError as e:
            bad[i] = str(e)
    decoder = image_graph(
        device="cpu",
        size_px=0,
        shrink=False,
        warp=False,
        batch_size=_GROUP_IMAGES,
        num_threads=threads,
        device_id=None,
        prefetch_queue_depth=1,
    )
    decoder.build()
    done = len(bad)
    for group in _groups(headers):
        readable, encoded = [], []
        for i in group:
            try:
                encoded.append(_read(paths[i]))
                readable.append(i)
            except OSError as e:
                bad[i] = e.strerror or str(e)
        for i, pixels in zip(readable, _decode(decoder, encoded), strict=True):
            if isinstance(pixels, str):
                bad[i] = pixels
            else:
                sizes_HW[i] = pixels.shape[:2]
                on_image(i, pixels)
        done += len(group)
        on_progress(done)
    for i in bad:
        headers[i] = None
    return Inspection(sizes_HW, headers, dict(sorted(bad.items())))


def _groups(headers: Iterable[Header | None]) -> Iterator[list[int]]:
    """Yield the indices of the good files in groups that fit the memory together."""
    group: list[int] = []
    pixels = 0
    for i, header in enumerate(headers):
        if header is None:
            continue
        size = header.width_px * header.height_px
        if group and (len(group) == _GROUP_IMAGES or pixels + size > _GROUP_PIXELS):
            yield group
            group, pixels = [], 0
        group.append(i)
        pixels += size
    if group:
        yield group


def _decode(decoder, encoded: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8] | str]:
    """Yield each image's pixels, or the reason why it has none.

    One damaged file fails DALI's whole batch without a name, so a failed batch is halved until
    the culprits stand alone. Pixels are valid until the next is asked for.
    """
    if not encoded:
        return
    try:
        with _stderr_of_decoders() as said:
            decoder.feed_input("encoded", encoded)
            (images,) = decoder.run()
    except RuntimeError:
        if len(encoded) == 1:
            yield _reason(said())
            return
        half = len(encoded) // 2
        yield from _decode(decoder, encoded[:half])
        yield from _decode(decoder, encoded[half:])
        return
    for i in range(len(images)):
        yield np.asarray(images[i])


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
