"""Batches: which rows are in each, in which order, and which process takes which part.

All of it is a function of seed, epoch and the rows alone, so that an epoch can be repeated, or
resumed after any batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray


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


def cut_batches(rows: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    """Return ``rows`` in batches of ``batch_size``, the last one smaller if need be.

    A single image left over joins the batch before it: BatchNorm cannot train on one image.
    """
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def drop_rows(batches: list[NDArray[np.intp]], bad: Iterable[int]) -> list[NDArray[np.intp]]:
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


def part_of_rank(rows: NDArray[np.intp], rank: int, size: int) -> NDArray[np.intp]:
    """Return the part of a batch that process ``rank`` of ``size`` takes, in the batch's order.

    None has a single image, of which BatchNorm has no variance; so some parts of a small batch are
    empty, the last ones.
    """
    parts = np.array_split(rows, max(1, min(size, len(rows) // 2)))
    return parts[rank] if rank < len(parts) else rows[:0]


def emptied(batch: Batch) -> Batch:
    """Return a batch without its images."""
    return replace(batch, images_NHWC=batch.images_NHWC[:0], rows_N=batch.rows_N[:0])


def joined(a: Batch, b: Batch) -> Batch:
    """Return two batches as one."""
    return Batch(
        torch.cat([a.images_NHWC, b.images_NHWC]),
        torch.cat([a.rows_N, b.rows_N]),
        b.position,
        a.dropped | b.dropped,
    )


_PURPOSES = ("order", "maps", "colors", "mixing", "sampling")


def epoch_rng(
    seed: int,
    epoch: int,
    purpose: Literal["order", "maps", "colors", "mixing", "sampling"],
    position: int = 0,
) -> np.random.Generator:
    """Return the generator of one purpose in one epoch: what it draws depends on nothing else.

    ``position`` is that of a batch, where each batch draws for itself.
    """
    key = [seed, epoch, _PURPOSES.index(purpose)]
    return np.random.default_rng([*key, position])
