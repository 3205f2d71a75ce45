"""Batches: which rows are in each, and which process takes which part of them.

All of it depends on seed, epoch and rows alone, so that an epoch can be repeated, and resumed after
any batch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Purpose = Literal["order", "crops", "colors", "mixing", "sampling"]


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

    If a single image is left of a batch, it joins the next one; that of the last, the one before.
    """
    if not batches:
        return []
    ends = np.cumsum([len(rows) for rows in batches])[:-1]
    is_good = ~np.isin(np.concatenate(batches), list(bad))  # of all at once: there may be many
    left = [rows[here] for rows, here in zip(batches, np.split(is_good, ends), strict=True)]
    for i in range(len(left)):
        if len(left[i]) == 1:
            before = next((j for j in range(i - 1, -1, -1) if len(left[j])), None)
            other = i + 1 if i + 1 < len(left) else i if before is None else before
            if other != i:
                left[other], left[i] = np.concatenate([left[other], left[i]]), left[i][:0]
    return left


def part_of_rank(rows: NDArray[np.intp], rank: int, size: int) -> NDArray[np.intp]:
    """Return the part of a batch that process ``rank`` of ``size`` takes, in the batch's order.

    No part has a single image, of which BatchNorm has no variance; so the last parts of a small
    batch may be empty.
    """
    parts = np.array_split(rows, max(1, min(size, len(rows) // 2)))
    return parts[rank] if rank < len(parts) else rows[:0]


def emptied(batch: Batch) -> Batch:
    """Return a batch without its images."""
    return replace(batch, images_NHWC=batch.images_NHWC[:0], rows_N=batch.rows_N[:0])


def join_small(
    batches: Iterable[tuple[Batch, bool]], min_images: int, in_place: bool, end: int
) -> Iterator[Batch]:
    """Yield the batches of an epoch; one that bad files have made too small joins the next one.

    Args:
        batches: the batches in order, each with whether it is the last.
        min_images: a batch with fewer images is too small.
        in_place: yield an empty batch in its place, so that their number stays the same.
        end: position of the end of the epoch. The last batch gets it, whatever its own is: rows
            that are in no batch are done when the last one is.
    """
    small: Batch | None = None
    for batch, is_last in batches:
        if small is not None:
            batch, small = _joined(small, batch), None
        if is_last:
            batch = replace(batch, position=end)
        elif in_place and 0 < len(batch.rows_N) < min_images:
            small, batch = replace(batch, dropped={}), emptied(batch)
        elif not in_place and len(batch.rows_N) < min_images:
            small = batch
            continue
        yield batch


def _joined(a: Batch, b: Batch) -> Batch:
    """Return two batches as one."""
    return Batch(
        torch.cat([a.images_NHWC, b.images_NHWC]),
        torch.cat([a.rows_N, b.rows_N]),
        b.position,
        a.dropped | b.dropped,
    )


def epoch_rng(
    seed: int,
    epoch: int,
    purpose: Purpose,
    position: int = 0,
) -> np.random.Generator:
    """Return the random generator of one purpose in one epoch: a function of its arguments alone.

    ``position``: that of a batch, where each batch has its own generator.
    """
    return np.random.default_rng([seed, epoch, get_args(Purpose).index(purpose), position])
