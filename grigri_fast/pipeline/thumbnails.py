"""Small images of photographs, for pages and for comparing them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .batching import Batch
from .check import ImageCheck, check_images, without
from .loader import ImageLoader

_BATCH_SIZE = 32


def load_thumbnails(
    paths: Sequence[Path],
    rows_N: NDArray[np.intp],
    *,
    size_px: int,
    threads: int,
    max_pixels: int,
) -> tuple[ImageCheck, Iterator[Batch]]:
    """Check some files; return the check, and the good ones whole, squeezed to ``size_px``.

    The batches are made on the CPU while they are iterated over. A file that is gone or changed
    since the check is not decoded but named in a batch's ``dropped``.
    """
    checked = check_images(paths, rows_N, threads=threads, max_pixels=max_pixels)

    def batches() -> Iterator[Batch]:
        good_N = without(rows_N, checked.bad)
        if not len(good_N):
            return
        loader = ImageLoader(
            paths,
            checked,
            size_px=size_px,
            batch_size=_BATCH_SIZE,
            device=torch.device("cpu"),
            threads=threads,
        )
        try:
            yield from loader.eval_epoch(good_N)
        finally:
            loader.close()

    return checked, batches()
