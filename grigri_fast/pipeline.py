"""From files to batches on the device.

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
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from . import files, geometry, imagefile
from .decode import image_graph
from .errors import GrigriError
from .inspection import POLL_S, Inspection, inspect, patiently

cv2.setNumThreads(1)  # the loader's own threads warp, an image each

_MORE = 3  # images in a batch beyond batch_size: one each by cut, by without, and by a drop
_AHEAD = 2  # batches that wait ready while the device works on one
_LEAVE_S = 5.0  # how long a batch that is being made is waited for when an epoch is left


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
        found: Inspection,
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
                return ready.get(timeout=POLL_S)

            waiting = {"give_up": self._give_up, "on_slow": self._on_slow}
            while not self._give_up():
                item = patiently(next_one, lambda: self._reading, **waiting)
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
            bad = self._to_blame(encoded, rows, maps)
            if not bad:
                raise
            dropped |= bad
            good = ~np.isin(rows, list(bad))
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

    def _to_blame(
        self, encoded: list, rows: NDArray[np.intp], maps: NDArray[np.float32]
    ) -> dict[int, str]:
        """Return the files that a failed batch is to be blamed on, if it is not all of them.

        They could be decoded when they were checked, so it is the disk, or a decoder on the GPU
        that can do less than the one on the CPU.
        """
        found = inspect(self._paths, rows, threads=1, max_pixels=self._max_pixels, remembered=False)
        bad = dict(found.bad)
        for i, row in enumerate(rows.tolist() if not bad else []):
            try:
                self._run_graph(encoded[i : i + 1], rows[i : i + 1], maps[i : i + 1])
            except RuntimeError:
                bad[row] = f"cannot be decoded on {self._device.type}"
        return bad if len(bad) < len(rows) or found.bad else {}

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
            content = files.read_bytes(path, imagefile.max_bytes(self._max_pixels))
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
