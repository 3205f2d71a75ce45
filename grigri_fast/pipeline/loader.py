"""From image files to batches on the device: read, decode, warp, batch.

A batch is one task of one thread: read the files, decode them with DALI (which also shrinks large
originals), and sample each image once through its affine matrix (``affine``, ``warp``). Several
tasks run side by side and ahead of the training step; on a CPU that is 1.3 times as fast as threads
that share each batch (benchmarks/README.md). CUDA and CPU differ only in the decoder's device and
in what warps; training and evaluation differ only in the matrices.

Decoded images may be kept (``cache``); they are then decoded in the first epoch and never again.
Pixels are the same with and without.

A batch carries the row numbers of its images; labels never come here.
"""

import contextlib
import ctypes
import functools
import queue
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files
from ..runtime.threads import file_pool
from . import affine, image_file, pillow, warp
from .batching import Batch, cut_batches, drop_rows, epoch_rng, join_small, part_of_rank
from .cache import CachePlan, PixelCache
from .check import POLL_S, ImageCheck, check_images, forget, wait_for
from .decode import (
    GROUP_FILES,
    GROUP_PIXELS,
    Pipeline,
    groups_of,
    image_graph,
    release_unused_memory,
)

_AHEAD = 2  # batches that wait ready while the device works on one
_LEAVE_S = 5.0  # how long to wait for unfinished batches when an epoch is left


class ImageLoader:
    """Reads, decodes and warps images in background threads, ahead of the training step.

    Only bytes that :func:`check_images` has checked are decoded: a file that is gone, or whose
    content has changed since, is dropped from its batch and named there; the others are unharmed.

    Args:
        paths: image files; row i is ``paths[i]``.
        checked: what :func:`check_images` returned for them.
        size_px: side of the square output, the largest where an epoch has another one.
        batch_size: images in a batch (a few more in some, see :func:`cut_batches`), over all
            processes.
        device: where batches end up.
        threads: CPU threads for reading, decoding and warping.
        cache: what :func:`plan_cache` returns; without it nothing is kept.
        rank, num_ranks: of several processes that share each batch of a training epoch, which one
            this is; see :func:`part_of_rank`.
        host_warp: warp with OpenCV instead of on the device; by default on a CPU.
        give_up: called before each batch and while waiting for it; if it returns True, the epoch
            ends early.
        on_slow: called with a line that says what is waited for, when there have been no images
            for a while.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        checked: ImageCheck,
        *,
        size_px: int,
        batch_size: int,
        device: torch.device,
        threads: int,
        cache: CachePlan | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        host_warp: bool | None = None,
        give_up: Callable[[], bool] = lambda: False,
        on_slow: Callable[[str], None] = lambda text: None,
    ) -> None:
        on_gpu = device.type == "cuda"
        self._paths, self._checked = paths, checked
        self._by_pillow = set(checked.by_pillow)
        self._sizes_HW = affine.working_sizes(checked.sizes_HW, size_px)
        self._shrink = bool((self._sizes_HW != checked.sizes_HW).any())
        self._size_px, self._device, self._batch_size = size_px, device, batch_size
        self._rank, self._num_ranks = rank, num_ranks
        self._give_up, self._on_slow = give_up, on_slow
        self._being_read: set[Path] = set()
        self._host_warp = not on_gpu if host_warp is None else host_warp
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        # On a CPU every thread decodes a batch of its own. On a GPU one decoder uses all threads
        # and memory once, while another thread reads the next batch's files.
        num_decoders, self._num_tasks = (1, 2) if on_gpu else (threads, threads)
        self._group_pixels = GROUP_PIXELS // num_decoders
        self._pool = file_pool(self._num_tasks, "grigri-image")
        self._decoders: queue.Queue[Pipeline] = queue.Queue()
        for _ in range(num_decoders):
            graph = image_graph(
                device="gpu" if on_gpu else "cpu",
                shrink=self._shrink,
                batch_size=GROUP_FILES,
                num_threads=threads // num_decoders,
                device_id=(device.index or 0) if on_gpu else None,
                prefetch_queue_depth=1,
                exec_async=False,
                exec_pipelined=False,
            )
            graph.build()
            self._decoders.put(graph)
        self._cache = None
        if cache is not None and cache.place != "off":
            with self._on_stream():
                self._cache = PixelCache(len(paths), cache, device)

    @property
    def num_at_once(self) -> int:
        """Images that are read, decoded or waiting at the same time."""
        return (self._num_tasks + _AHEAD) * self._own_batch_size

    @property
    def _own_batch_size(self) -> int:
        return -(-self._batch_size // self._num_ranks)

    def train_epoch(
        self,
        rows: NDArray[np.intp],
        *,
        seed: int,
        epoch: int,
        augment: bool,
        bad: Iterable[int] = (),
        first: int = 0,
        size_px: int | None = None,
        least_area: float = affine.LEAST_AREA,
        max_angle_deg: float = affine.MAX_ANGLE_DEG,
    ) -> Iterator[Batch]:
        """Yield every row once, in an order and with crops that depend on seed and epoch.

        Several processes take parts of the same batches, and each yields as many batches, of which
        some may be empty.

        Args:
            rows: the rows of the training part.
            seed, epoch: the order of all rows and the pixels of each depend on these alone.
            augment: random crops, flips and rotations; otherwise images as in evaluation.
            bad: rows that are left out; the others keep their place and their pixels.
            first: batches that were done before (``Batch.position``).
            size_px: side of the output, by default the loader's.
            least_area, max_angle_deg: ranges of the crops and rotations.
        """
        size_px = size_px or self._size_px
        order = epoch_rng(seed, epoch, "order").permutation(rows)
        if augment:
            rng = epoch_rng(seed, epoch, "crops")
            matrices = affine.random_matrices(
                rng, self._sizes_HW, size_px, least_area, max_angle_deg
            )
        else:
            matrices = affine.whole_image_matrices(self._sizes_HW, size_px)
        batches = drop_rows(cut_batches(order, self._batch_size)[first:], bad)
        todo = [
            (first + i, part_of_rank(rows, self._rank, self._num_ranks))
            for i, rows in enumerate(batches, 1)
            if len(rows)
        ]
        end, shared = first + len(batches), self._num_ranks > 1
        with contextlib.closing(self._make_ahead(todo, matrices, size_px)) as made:
            yield from join_small(made, min_images=2, in_place=shared, end=end)

    def eval_epoch(self, rows: NDArray[np.intp], size_px: int | None = None) -> Iterator[Batch]:
        """Yield every row exactly once, in order, whole images without randomness.

        ``size_px``: side of the output, by default the loader's.
        """
        size_px = size_px or self._size_px
        matrices = affine.whole_image_matrices(self._sizes_HW, size_px)
        todo = list(enumerate(cut_batches(rows, self._own_batch_size), 1))
        with contextlib.closing(self._make_ahead(todo, matrices, size_px)) as made:
            yield from join_small(made, min_images=1, in_place=False, end=len(todo))

    def close(self) -> None:
        """Free the decoders, the threads and the cache."""
        self._pool.shutdown(wait=False, cancel_futures=True)  # a thread may hang
        self._cache = None
        self._decoders = queue.Queue()
        if self._device.type == "cuda":
            release_unused_memory()

    def _make_ahead(
        self,
        numbered: list[tuple[int, NDArray[np.intp]]],
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
                    lambda: self._being_read,
                    on_slow=self._on_slow,
                    give_up=self._give_up,
                )
                if batch is None:
                    return
                coming.popleft()
                if self._stream is not None:
                    batch.images_NHWC.record_stream(torch.cuda.current_stream(self._device))
                    batch.rows_N.record_stream(torch.cuda.current_stream(self._device))
                yield batch, not coming
        finally:
            for future in coming:
                future.cancel()
            wait(coming, _LEAVE_S)  # one that hangs is left behind

    # ------------------------------------------------------------------ in a thread of the pool

    def _make_batch(
        self, rows: NDArray[np.intp], matrices: NDArray[np.float32], size_px: int, position: int
    ) -> Batch:
        """Return the batch of those rows that can be used."""
        pixels, dropped = self._load(rows)
        good = np.array([row in pixels for row in rows.tolist()], dtype=bool)
        rows, matrices = rows[good], matrices[good]
        images_NHWC = self._warp(rows, [pixels[row] for row in rows.tolist()], matrices, size_px)
        return Batch(images_NHWC, self._to_device(rows), position, dropped)

    def _load(self, rows: NDArray[np.intp]) -> tuple[dict[int, torch.Tensor], dict[int, str]]:
        """Return by row the decoded pixels, uint8 RGB (P, 3), or why a file is bad."""
        pixels: dict[int, torch.Tensor] = {}
        if self._cache is not None:
            pixels = self._cache.get(rows, self._sizes_HW[rows].prod(1))
        contents: dict[int, NDArray[np.uint8]] = {}
        dropped: dict[int, str] = {}
        for row in rows.tolist():
            if row not in pixels:
                try:
                    contents[row] = self._read(row)
                except GrigriError as e:
                    dropped[row] = str(e)
        num_pixels = self._checked.sizes_HW[list(contents)].prod(1).tolist()  # not yet shrunk
        for group in groups_of(list(contents), num_pixels, self._group_pixels):
            pixels |= self._decode(group, contents, dropped)
        return pixels, dropped

    def _read(self, row: int) -> NDArray[np.uint8]:
        """Return a file's bytes; of one that Pillow decodes, its pixels as a file for DALI.

        Raises:
            GrigriError: if they are not those that were checked; the message is the reason alone.
        """
        path = self._paths[row]
        self._being_read.add(path)
        try:
            content = files.read_bytes(path, image_file.max_bytes(self._checked.max_pixels))
        finally:
            self._being_read.discard(path)
        if zlib.crc32(content) != self._checked.crc32_N[row]:
            forget(path)
            raise GrigriError("its content has changed since it was checked")
        if row in self._by_pillow:
            content = pillow.as_ppm(content)
        return np.frombuffer(content, dtype=np.uint8)

    def _decode(
        self, rows: list[int], contents: dict[int, NDArray[np.uint8]], dropped: dict[int, str]
    ) -> dict[int, torch.Tensor]:
        """Return the pixels of a group; files that are bad after all go to ``dropped``."""
        decoder = self._decoders.get()
        try:
            images = self._run_graph(decoder, rows, [contents[row] for row in rows])
            return self._copy_out(images, rows)
        except RuntimeError:
            bad, rescued = self._find_bad(decoder, rows, contents)
            if not bad and not rescued:
                raise
        finally:
            self._decoders.put(decoder)
        dropped |= bad
        good = [row for row in rows if row not in bad]
        return self._decode(good, contents, dropped) if good else {}

    def _run_graph(
        self, decoder: Pipeline, rows: list[int], encoded: list[NDArray[np.uint8]]
    ) -> Any:
        """Return DALI's list of the decoded images, which is valid until the next call.

        Raises:
            RuntimeError: if one of them cannot be decoded.
        """
        sizes_HW = self._sizes_HW[rows]
        decoder.feed_input("encoded", encoded)
        if self._shrink:
            decoder.feed_input("shrunk_HW", sizes_HW.astype(np.float32))
        (images,) = decoder.run()
        if not np.array_equal([shape[:2] for shape in images.shape()], sizes_HW):
            raise RuntimeError("decoded to another size than when it was checked")
        return images

    def _copy_out(self, images: Any, rows: list[int]) -> dict[int, torch.Tensor]:
        """Return the pixels in PyTorch's memory, since DALI uses its own again; cache them."""
        num_pixels = self._sizes_HW[rows].prod(1)
        total = int(num_pixels.sum())
        cache = self._cache
        place = cache.reserve(total) if cache is not None else None
        cached_P3 = cache.pixels_P3[place] if cache is not None and place is not None else None
        with self._on_stream():
            if cached_P3 is not None and cached_P3.device.type == self._device.type:
                pixels_P3 = cached_P3
            else:
                pixels_P3 = torch.empty((total, 3), dtype=torch.uint8, device=self._device)
            to = ctypes.c_void_p(pixels_P3.data_ptr())
            if self._stream is None:
                images.copy_to_external(to)
            else:
                on = ctypes.c_void_p(self._stream.cuda_stream)
                images.copy_to_external(to, on, non_blocking=True)
                self._stream.synchronize()  # a thread of the loader waits, not the step
        if cache is not None and place is not None:
            if cached_P3 is not pixels_P3:
                cache.pixels_P3[place] = pixels_P3
            cache.enter(rows, num_pixels, place)
        return dict(zip(rows, pixels_P3.split(num_pixels.tolist()), strict=True))

    def _find_bad(
        self, decoder: Pipeline, rows: list[int], contents: dict[int, NDArray[np.uint8]]
    ) -> tuple[dict[int, str], set[int]]:
        """Return the files that made a group fail, with reasons, and those that Pillow rescues.

        They could be decoded when they were checked, so it is the disk, or a decoder on the GPU
        that can do less than the one on the CPU; then what Pillow decodes takes the place of the
        file in ``contents``. If all fail, it is no file's fault, and none is returned.
        """
        bad = check_images(
            self._paths,
            np.array(rows, dtype=np.intp),
            threads=1,
            max_pixels=self._checked.max_pixels,
            use_cache=False,
        ).bad
        if bad:
            return bad, set()
        rescued: set[int] = set()
        for row in rows:
            try:
                self._run_graph(decoder, [row], [contents[row]])
            except RuntimeError:
                try:
                    ppm = pillow.as_ppm(contents[row].tobytes())
                    self._run_graph(decoder, [row], [np.frombuffer(ppm, dtype=np.uint8)])
                except (GrigriError, RuntimeError):
                    bad[row] = f"cannot be decoded on {self._device.type}"
                else:
                    contents[row] = np.frombuffer(ppm, dtype=np.uint8)
                    rescued.add(row)
        self._by_pillow |= rescued
        return (bad, rescued) if len(bad) < len(rows) else ({}, set())

    def _warp(
        self,
        rows: NDArray[np.intp],
        pixels: list[torch.Tensor],
        matrices: NDArray[np.float32],
        size_px: int,
    ) -> torch.Tensor:
        """Return the output images, uint8 (N, size_px, size_px, 3)."""
        sizes_HW = self._sizes_HW[rows]
        if self._host_warp:
            images_NHWC = np.empty((len(rows), size_px, size_px, 3), dtype=np.uint8)
            sizes = sizes_HW.tolist()
            images = [p.numpy().reshape(*size, 3) for p, size in zip(pixels, sizes, strict=True)]
            warp.on_host(images, matrices, images_NHWC)
            return torch.from_numpy(images_NHWC)
        if not len(rows):
            shape = (0, size_px, size_px, 3)
            return torch.empty(shape, dtype=torch.uint8, device=self._device)
        firsts = np.cumsum(sizes_HW.prod(1)) - sizes_HW.prod(1)
        with self._on_stream():
            pixels_P3 = torch.cat([p.to(self._device) for p in pixels])
            warped_NHWC = warp.on_device(
                pixels_P3,
                self._to_device(firsts),
                self._to_device(sizes_HW),
                self._to_device(matrices),
                affine.taps(matrices),
                size_px,
            )
            if self._stream is not None:
                self._stream.synchronize()  # a thread of the loader waits, not the step
        return warped_NHWC

    def _to_device(self, array: NDArray) -> torch.Tensor:
        with self._on_stream():
            return torch.from_numpy(array).to(self._device)

    def _on_stream(self) -> contextlib.AbstractContextManager:
        """Return the context in which the loader's work is given to the GPU, if there is one."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
