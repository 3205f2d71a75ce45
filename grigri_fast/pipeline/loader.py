"""From image files to batches on the device: read, decode, warp, batch.

Epochs are cut into batches here; another module makes the batches, ahead of the training step: on
a CPU with DALI and OpenCV (``host_batches``), on a GPU with DALI alone (``dali_batches``). Training
and evaluation differ only in the matrices (``affine``).

Decoded images may be kept (``cache``); they are then decoded in the first epoch and never again.
Pixels are the same with and without.

A batch carries the row numbers of its images; labels never come here.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import affine, device_cost, image_file
from .batching import Batch, cut_batches, drop_rows, epoch_rng, join_small, part_of_rank
from .cache import CachePlan, PixelCache
from .check import DECODERS, ImageCheck
from .dali_batches import DaliBatches
from .disk_cache import DiskCache
from .host_batches import HostBatches
from .reading import CheckedFiles


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
        host_warp: on a CPU, False lets DALI alone make the batches, by its operators for a CPU but
            otherwise as on a GPU; that is for tests.
        grows: whether paths and check of some rows come later; see :meth:`stream`.
        give_up: called before each batch and while waiting for it; if it returns True, the epoch
            ends early.
        on_slow: called with a line that says what is waited for, when there have been no images
            for a while, or why images cannot be kept on the disk.
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
        grows: bool = False,
        give_up: Callable[[], bool] = lambda: False,
        on_slow: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._size_px, self._batch_size = size_px, batch_size
        self._rank, self._num_ranks = rank, num_ranks
        by_dali = device.type == "cuda" or host_warp is False
        self._files = CheckedFiles(paths, checked, size_px, scales=not by_dali, grows=grows)
        kept: PixelCache | DiskCache | None = None
        if cache is not None and cache.place == "disk":
            kept = DiskCache(
                f"1-{'dali' if by_dali else 'host'}-{device.type}-{size_px}px-{DECODERS}"
                f"-torch-{torch.__version__}",
                image_file.identities(paths, checked.crc32_N),
                self._files.sizes_HW,
                cache.capacity_bytes,
                on_slow,
            )
        elif cache is not None and cache.place != "off":
            kept = PixelCache(len(paths), cache, device)
        setting: dict[str, Any] = {
            "batch_size": self._own_batch_size,
            "threads": threads,
            "cache": kept,
            "give_up": give_up,
            "on_slow": on_slow,
        }
        self._device_bytes = 0
        if device.type == "cuda":
            self._device_bytes = device_cost.device_bytes(
                checked.sizes_HW, size_px, self._own_batch_size, threads, keeps=kept is not None
            )
        self._batches: DaliBatches | HostBatches
        if by_dali:
            self._batches = DaliBatches(self._files, device=device, **setting)
        else:
            self._batches = HostBatches(self._files, **setting)

    @property
    def num_at_once(self) -> int:
        """Images that are read, decoded or waiting at the same time."""
        return self._batches.num_at_once

    @property
    def device_bytes(self) -> int:
        """GPU memory that making batches may take, without the cache; 0 on a CPU (an estimate)."""
        return self._device_bytes

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
                rng, self._files.sizes_HW, size_px, least_area, max_angle_deg
            )
        else:
            matrices = affine.whole_image_matrices(self._files.sizes_HW, size_px)
        batches = drop_rows(cut_batches(order, self._batch_size)[first:], bad)
        todo = [
            (first + i, part_of_rank(rows, self._rank, self._num_ranks))
            for i, rows in enumerate(batches, 1)
            if len(rows)
        ]
        end, shared = first + len(batches), self._num_ranks > 1
        with contextlib.closing(self._batches.make_ahead(todo, matrices, size_px)) as made:
            yield from join_small(made, min_images=2, in_place=shared, end=end)

    def eval_epoch(self, rows: NDArray[np.intp], size_px: int | None = None) -> Iterator[Batch]:
        """Yield every row exactly once, in order, whole images without randomness.

        ``size_px``: side of the output, by default the loader's.
        """
        size_px = size_px or self._size_px
        matrices = affine.whole_image_matrices(self._files.sizes_HW, size_px)
        todo = list(enumerate(cut_batches(rows, self._own_batch_size), 1))
        with contextlib.closing(self._batches.make_ahead(todo, matrices, size_px)) as made:
            yield from join_small(made, min_images=1, in_place=False, end=len(todo))

    def stream(self, batches: Iterable[NDArray[np.intp]]) -> Generator[Batch]:
        """Yield whole images of rows that are known only when ``batches`` yields them, in order.

        Each batch of rows has its batch, which is empty where none of its files is good. ``paths``
        and ``checked``, which the loader was made with, may be changed for the rows of a batch
        before it is yielded; so a row can be used again when its batch has come out.
        """
        size_px = self._size_px
        matrices = np.zeros((len(self._files), 2, 3), dtype=np.float32)

        def numbered() -> Iterator[tuple[int, NDArray[np.intp]]]:
            for position, rows in enumerate(batches, 1):
                self._files.renew(rows)
                sizes_HW = self._files.sizes_HW[rows]
                matrices[rows] = affine.whole_image_matrices(sizes_HW, size_px)
                yield position, rows

        with contextlib.closing(self._batches.make_ahead(numbered(), matrices, size_px)) as made:
            for batch, _ in made:
                yield batch

    def close(self) -> None:
        """Free the decoders, the threads and the cache."""
        self._batches.close()
