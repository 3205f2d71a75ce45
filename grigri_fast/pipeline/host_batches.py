"""Batches made on the host: a batch is one task of one thread, by DALI and OpenCV.

A thread reads the files, decodes them with DALI (which also shrinks large originals), and samples
each image once through its affine matrix (``affine``, ``warp``). Several tasks run side by side and
ahead of the training step; on a CPU that is 1.3 times as fast as threads that share each batch
(benchmarks/README.md).
"""

import ctypes
import functools
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.threads import file_pool
from . import reading, warp
from .batching import Batch
from .cache import PixelCache
from .check import POLL_S, wait_for
from .decode import GROUP_FILES, GROUP_PIXELS, Pipeline, groups_of, image_graph
from .disk_cache import DiskCache
from .reading import PROBE, PROBE_HW, CheckedFiles, Encoded

_AHEAD = 2  # batches that wait ready while the device works on one


class _Decoder:
    """A graph of DALI's that is used by one thread at a time.

    It has the executor that needs no thread of its own, which runs no more after an error; so the
    graph is made again then.
    """

    def __init__(self, shrink: bool) -> None:
        self._shrink = shrink
        self._graph = self._make()

    def _make(self) -> Pipeline:
        graph = image_graph(
            device="cpu",
            shrink=self._shrink,
            batch_size=GROUP_FILES,
            num_threads=1,
            device_id=None,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        graph.build()
        return graph

    def run(self, encoded: list[NDArray[np.uint8]], sizes_HW: NDArray[np.int64]) -> Any:
        """Return DALI's list of the decoded images, which is valid until the next call.

        Raises:
            RuntimeError: if one of them cannot be decoded.
        """
        try:
            self._graph.feed_input("encoded", encoded)
            if self._shrink:
                self._graph.feed_input("shrunk_HW", sizes_HW.astype(np.float32))
            (images,) = self._graph.run()
        except RuntimeError:
            self._graph = self._make()
            raise
        return images


class HostBatches:
    """Makes batches on a CPU, each in a thread.

    Args:
        files: the images.
        batch_size: images in a batch.
        threads: how many batches are made side by side.
        cache: where decoded images are kept.
        give_up, on_slow: see :class:`ImageLoader`.
    """

    def __init__(
        self,
        files: CheckedFiles,
        *,
        batch_size: int,
        threads: int,
        cache: PixelCache | DiskCache | None,
        give_up: Callable[[], bool],
        on_slow: Callable[[str], None],
    ) -> None:
        self._files, self._cache = files, cache
        self._give_up, self._on_slow = give_up, on_slow
        self._num_tasks = threads
        self._group_pixels = GROUP_PIXELS // threads
        self.num_at_once = (threads + _AHEAD) * batch_size
        self._pool = file_pool(threads, "grigri-image")
        self._decoders: queue.Queue[_Decoder] = queue.Queue()
        for _ in range(threads):
            self._decoders.put(_Decoder(files.shrink))

    def close(self) -> None:
        """Free the decoders, the threads and the cache."""
        self._pool.shutdown(wait=False, cancel_futures=True)  # a thread may hang
        if self._cache is not None:
            self._cache.close()
        self._cache = None
        self._decoders = queue.Queue()

    def make_ahead(
        self,
        numbered: Iterable[tuple[int, NDArray[np.intp]]],
        matrices: NDArray[np.float32],
        size_px: int,
    ) -> Generator[tuple[Batch, bool]]:
        """Yield the batches in order, and whether it is the last, while threads make the next ones.

        Args:
            numbered: position and rows of each batch.
            matrices: of all rows of the data set.
            size_px: side of the output.
        """
        todo = iter(numbered)
        coming: deque[Future[Batch]] = deque()
        if self._cache is not None:
            self._cache.refresh()
        try:
            while True:
                for position, rows in todo:
                    task = (rows, matrices[rows], size_px, position)
                    coming.append(self._pool.submit(self._make_batch, *task))
                    if len(coming) == self._num_tasks + _AHEAD:
                        break
                if not coming or self._give_up():
                    return
                batch = wait_for(
                    functools.partial(coming[0].result, POLL_S),
                    lambda: self._files.being_read,
                    on_slow=self._on_slow,
                    give_up=self._give_up,
                )
                if batch is None:
                    return
                coming.popleft()
                yield batch, not coming
        finally:
            for future in coming:
                future.cancel()
            wait(coming, reading.LEAVE_S)  # one that hangs is left behind
            if self._cache is not None:
                self._cache.save()

    # ------------------------------------------------------------------ in a thread of the pool

    def _make_batch(
        self, rows: NDArray[np.intp], matrices: NDArray[np.float32], size_px: int, position: int
    ) -> Batch:
        """Return the batch of those rows that can be used."""
        pixels, dropped = self._load(rows)
        good = np.array([row in pixels for row in rows.tolist()], dtype=bool)
        rows, matrices = rows[good], matrices[good]
        images_NHWC = np.empty((len(rows), size_px, size_px, 3), dtype=np.uint8)
        sizes_HW = self._files.sizes_HW[rows].tolist()
        images = [
            pixels[row].numpy().reshape(*size, 3)
            for row, size in zip(rows.tolist(), sizes_HW, strict=True)
        ]
        warp.on_host(images, matrices, images_NHWC)
        return Batch(torch.from_numpy(images_NHWC), torch.from_numpy(rows), position, dropped)

    def _load(self, rows: NDArray[np.intp]) -> tuple[dict[int, torch.Tensor], dict[int, str]]:
        """Return by row the decoded pixels, uint8 RGB (P, 3), or why a file is bad."""
        pixels: dict[int, torch.Tensor] = {}
        if self._cache is not None:
            pixels = self._cache.get(rows, self._files.sizes_HW[rows].prod(1))
        dropped: dict[int, str] = {}
        left = [row for row in dict.fromkeys(rows.tolist()) if row not in pixels]
        num_pixels = self._files.num_pixels(left)  # not yet shrunk
        for some in groups_of(left, num_pixels, self._group_pixels):
            contents, bad = self._files.read(some)
            dropped |= bad
            pixels |= self._keep({row: c for row, c in contents.items() if c.ndim == 3})
            group = [row for row, content in contents.items() if content.ndim == 1]
            if not group:
                continue
            try:
                pixels |= self._decode(group, contents)
            except RuntimeError as e:
                rescued, bad = self._files.rescue(
                    group, contents, e, self._decode, self._decodes, "cpu"
                )
                dropped |= bad
                for part in rescued:
                    pixels |= part
        return pixels, dropped

    def _decode(self, rows: list[int], contents: Encoded) -> dict[int, torch.Tensor]:
        """Return the pixels of a group; raise RuntimeError if one cannot be decoded."""
        decoder = self._decoders.get()
        try:
            images = decoder.run([contents[row] for row in rows], self._files.sizes_HW[rows])
            self._files.require_checked_sizes(rows, [shape[:2] for shape in images.shape()])
            return self._copy_out(images, rows)
        finally:
            self._decoders.put(decoder)

    def _decodes(self) -> bool:
        """Return whether an image that is surely good can be decoded."""
        decoder = self._decoders.get()
        try:
            decoder.run([PROBE], PROBE_HW)
        except RuntimeError:
            return False
        finally:
            self._decoders.put(decoder)
        return True

    def _copy_out(self, images: Any, rows: list[int]) -> dict[int, torch.Tensor]:
        """Return DALI's pixels in PyTorch's memory, since DALI uses its own again; cache them."""
        return self._put(
            rows, lambda out_P3: images.copy_to_external(ctypes.c_void_p(out_P3.data_ptr()))
        )

    def _keep(self, pixels: dict[int, NDArray[np.uint8]]) -> dict[int, torch.Tensor]:
        """Return pixels as :meth:`_copy_out` does."""
        parts = [image_HWC.reshape(-1, 3) for image_HWC in pixels.values()]
        if not parts:
            return {}
        return self._put(list(pixels), lambda out_P3: np.concatenate(parts, out=out_P3.numpy()))

    def _put(
        self, rows: list[int], fill: Callable[[torch.Tensor], object]
    ) -> dict[int, torch.Tensor]:
        """Return the pixels of some images, which ``fill`` writes; in the cache if they fit."""
        num_pixels = self._files.sizes_HW[rows].prod(1)
        total = int(num_pixels.sum())
        cache = self._cache
        place = cache.reserve(total) if cache is not None else None
        if cache is not None and place is not None:
            pixels_P3 = cache.room(place)
        else:
            pixels_P3 = torch.empty((total, 3), dtype=torch.uint8)
        fill(pixels_P3)
        if cache is not None and place is not None:
            cache.enter(rows, num_pixels, place, pixels_P3)
        return dict(zip(rows, pixels_P3.split(num_pixels.tolist()), strict=True))
